"""A zip from anywhere, read without trusting anything in it.

The table of contents is read here and not by `zipfile`, which takes memory by what it claims, knows no overlap before
Python 3.11.8, and reads archives with something else before or behind them. Layout by APPNOTE 6.3.10 of PKWARE:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.

A table of contents that does not hold refuses the archive; an entry that cannot be read is left out and named.
"""

import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from dlkit.data.sources import File, Ledger, Source, check_count, check_size, is_junk, shown, shown_part, why_not
from dlkit.errors import DatasetError, ImageError

LARGEST_TABLE = 64 << 20  # bytes
LARGEST_RATIO = 100  # of what is unpacked to the archive; pictures are hardly packed at all
RATIO_FROM = 200_000_000  # bytes unpacked
STORED, DEFLATED = 0, 8
ENCRYPTED = 0x2041  # flags: encrypted, strongly encrypted, encrypted table of contents
UTF_8 = 0x800  # flag
UNICODE_PATH = 0x7075  # extra field of Info-ZIP
ZIP64 = 1  # extra field

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_OTHER_KINDS = (
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry lies: `offset` of its local header, and the `end` that it must not reach beyond."""

    offset: int
    end: int
    packed: int
    method: int
    crc: int
    raw_name: bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the table of contents."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    unpacked: int
    offset: int
    mode: int


class Zip(Source):
    """The files of a zip archive. Raises DatasetError for one that is no plain, whole and honest archive."""

    def __init__(self, archive: Path | BinaryIO, title: str | None = None) -> None:
        self._owns, self._lock = isinstance(archive, Path), threading.Lock()
        try:
            self._file: BinaryIO = archive.open("rb") if isinstance(archive, Path) else archive
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            raise DatasetError(f"{archive} cannot be opened. Check that it is there and may be read.") from error
        self.title = shown_part(title or (archive.name if isinstance(archive, Path) else "The archive"))
        try:
            self._list()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file where it was opened here."""
        if self._owns:
            self._file.close()

    def read(self, file: File, limit: int) -> bytes:
        """Return the content of one entry, unpacked and checked."""
        check_size(file, limit)
        place: Place = file.place
        try:
            return self._unpacked(place, file.size)
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise ImageError(f"{file.name} is damaged in the archive. Pack it again.", "are damaged") from error

    def _unpacked(self, place: Place, size: int) -> bytes:
        """Return the bytes; ValueError where anything contradicts the table of contents."""
        mark, _, _, method, *_, name_length, extra_length = _LOCAL.unpack(self._at(place.offset, _LOCAL.size))
        begin = place.offset + _LOCAL.size + name_length + extra_length
        name = self._at(place.offset + _LOCAL.size, name_length)
        if mark != b"PK\3\4" or method != place.method or name != place.raw_name or begin + place.packed > place.end:
            raise ValueError("the entry's own header says something else")
        if place.packed > size + size // 8 + 1024:
            raise ValueError("no packing makes it so much longer")
        content = self._at(begin, place.packed)
        if method == DEFLATED:
            unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            content = unpacking.decompress(content, size + 1)  # a byte more shows that the size is a lie
            if not unpacking.eof:
                raise ValueError("the packed data do not end where they should")
        if len(content) != size or zlib.crc32(content) != place.crc:
            raise ValueError("the content is not what was packed")
        return content

    def _at(self, offset: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            found = self._file.read(count)
        if len(found) != count:
            raise ValueError("the archive ends too early")
        return found

    def _list(self) -> None:
        """Read the table of contents."""
        self._size = self._file.seek(0, os.SEEK_END)
        try:
            begin, size, count = self._table()
            check_count(self.title, count // 2)  # macOS packs a second file beside each
            if size > LARGEST_TABLE:
                raise DatasetError(
                    f"The table of contents of {self.title} is {size / 1e6:.0f} MB; the limit is "
                    f"{LARGEST_TABLE / 1e6:.0f} MB. Split the archive."
                )
            entries = list(_entries(self._at(begin, size), count))
        except (OSError, ValueError, struct.error) as error:
            raise self._refused(
                "is damaged or cut off", "Make it again, or copy it again from where it came"
            ) from error
        ends = self._ends(entries, begin)
        self._check_ratio(entries)
        ledger, files, folders = Ledger(), [], []
        for entry, end in zip(entries, ends, strict=True):
            if is_junk(entry.name):
                continue
            if entry.name.endswith(("/", "\\")) or stat.S_ISDIR(entry.mode):
                folders.append(shown(entry.name))
                continue
            if reason := why_not(entry.name) or _why_unread(entry):
                ledger.add(reason, shown(entry.name))
                continue
            place = Place(entry.offset, end, entry.packed, entry.method, entry.crc, entry.raw_name)
            files.append(File(shown(entry.name), entry.unpacked, place))
        check_count(self.title, len(files))
        self.files, self.left_out = tuple(sorted(files, key=lambda file: file.name)), ledger.close()
        self.folders = tuple(folders)

    def _table(self) -> tuple[int, int, int]:
        """Return where the table of contents begins, its bytes, and how many entries it should have."""
        head = self._at(0, min(262, self._size))
        for mark, kind in _OTHER_KINDS:
            if head.startswith(mark):
                raise self._refused(f"is {kind}", "Only zip is read: unpack it, and make a zip or name the folder")
        if head[257:262] == b"ustar":
            raise self._refused("is a tar archive", "Only zip is read: unpack it, and make a zip or name the folder")
        tail = self._at(max(0, self._size - _END.size - _MAX_16), min(self._size, _END.size + _MAX_16))
        place = _end_in(tail)
        if not head.startswith((b"PK\3\4", b"PK\5\6")):
            what = "has something else before the archive" if place is not None else "is no zip archive"
            what = what if head else "is empty"
            raise self._refused(what, "Make a plain zip of the pictures")
        if place is None:
            raise ValueError("no end of the table of contents")
        end = self._size - len(tail) + place
        _, disk, first_disk, here, count, size, begin, _ = _END.unpack_from(tail, place)
        if _MAX_16 in (count, here, disk) or _MAX_32 in (size, begin):
            disk, first_disk, here, count, size, begin, end = self._end_64(end)
        if disk or first_disk or here != count:
            raise self._refused("is one of several parts", "Make one archive of all")
        if begin + size != end or count * _ENTRY.size > size:
            raise ValueError("the table of contents is not where it should be")
        return begin, size, count

    def _end_64(self, end: int) -> tuple[int, int, int, int, int, int, int]:
        """Return disk, first disk, entries here, all entries, bytes and begin of the table, and where that must end."""
        mark, _, place, _ = _LOCATOR.unpack(self._at(end - _LOCATOR.size, _LOCATOR.size))
        if mark != b"PK\6\7":
            raise ValueError("no record for large archives")
        mark, _, _, _, disk, first_disk, here, count, size, begin = _END_64.unpack(self._at(place, _END_64.size))
        if mark != b"PK\6\6":
            raise ValueError("no record for large archives")
        return disk, first_disk, here, count, size, begin, place

    def _ends(self, entries: list[_Entry], table: int) -> list[int]:
        """Return up to where each entry may reach; entries that lie over each other refuse the archive."""
        order = sorted(range(len(entries)), key=lambda index: entries[index].offset)
        ends = [table] * len(entries)
        for index, following in pairwise(order):
            ends[index] = entries[following].offset
        for entry, end in zip(entries, ends, strict=True):
            if entry.offset + _LOCAL.size + len(entry.raw_name) + entry.packed > end:
                raise self._refused("has entries that lie over each other", "Make it again with an ordinary program")
        return ends

    def _check_ratio(self, entries: list[_Entry]) -> None:
        """Refuse what unpacks to far more than pictures do."""
        unpacked = sum(entry.unpacked for entry in entries)
        if unpacked > RATIO_FROM and unpacked > LARGEST_RATIO * self._size:
            raise DatasetError(
                f"{self.title} would unpack from {self._size / 1e6:,.1f} to {unpacked / 1e6:,.0f} MB; the limit is "
                f"{LARGEST_RATIO} times its size. Pack the pictures alone, or name their folder."
            )

    def _refused(self, what: str, advice: str) -> DatasetError:
        return DatasetError(f"{self.title} {what}. {advice}.")


def _end_in(tail: bytes) -> int | None:
    """Return where the record lies with which the archive ends, comment and all; None where there is none."""
    place = tail.rfind(b"PK\5\6")
    while place >= 0:
        if len(tail) - place >= _END.size and place + _END.size + _END.unpack_from(tail, place)[-1] == len(tail):
            return place
        place = tail.rfind(b"PK\5\6", 0, place)
    return None


def _entries(table: bytes, count: int) -> Iterator[_Entry]:
    """Read the records; ValueError or struct.error where they are not exactly so many."""
    place = 0
    for _ in range(count):
        mark, made_by, _, flags, method, _, _, crc, packed, unpacked, *lengths, _, _, attributes, offset = (
            _ENTRY.unpack_from(table, place)
        )
        if mark != b"PK\1\2":
            raise ValueError("no record of an entry")
        name_end = place + _ENTRY.size + lengths[0]
        raw_name, extra = table[place + _ENTRY.size : name_end], table[name_end : name_end + lengths[1]]
        place = name_end + lengths[1] + lengths[2]
        if place > len(table):
            raise ValueError("a record is cut off")
        fields = _extra_fields(extra)
        if _MAX_32 in (packed, unpacked, offset):
            unpacked, packed, offset = _large(fields.get(ZIP64, b""), unpacked, packed, offset)
        name = _decoded(raw_name, flags, fields.get(UNICODE_PATH, b""))
        mode = attributes >> 16 if made_by >> 8 in (3, 19) else 0  # Unix and macOS; others have no such bits
        yield _Entry(name, raw_name, flags, method, crc, packed, unpacked, offset, mode)
    if place != len(table):
        raise ValueError("more records than there should be")


def _extra_fields(extra: bytes) -> dict[int, bytes]:
    """Return the extra fields by their number; what cannot be read ends them, as programs leave rubbish there."""
    fields: dict[int, bytes] = {}
    place = 0
    while place + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, place)
        fields.setdefault(number, extra[place + 4 : place + 4 + length])
        place += 4 + length
    return fields


def _large(field: bytes, *values: int) -> list[int]:
    """Return the values, those that did not fit into 32 bits from the field, where they stand in this order."""
    found, place = [], 0
    for value in values:
        if value == _MAX_32:
            (value,) = struct.unpack_from("<Q", field, place)
            place += 8
        found.append(value)
    return found


def _decoded(raw: bytes, flags: int, unicode_path: bytes) -> str:
    """Return a name as text: UTF-8 where it is that, else what Info-ZIP adds, else the letters of the first PCs."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    if not flags & UTF_8 and unicode_path[1:5] == struct.pack("<L", zlib.crc32(raw)):
        return unicode_path[5:].decode(errors="replace")
    return raw.decode("cp437")


def _why_unread(entry: _Entry) -> str:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "link elsewhere"
    if kind not in (0, stat.S_IFREG):
        return "have no content to be read"
    if entry.flags & ENCRYPTED or entry.method == 99:
        return "are encrypted"
    if entry.method not in (STORED, DEFLATED):
        return "are packed in a way that is not read here"
    return "are damaged" if entry.method == STORED and entry.packed != entry.unpacked else ""
