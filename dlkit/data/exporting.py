"""A version as a zip: split/class/name, with a table of file, label and split; made a part at a time, in little memory.

Names are made safe for every system and stay unlike where capitals do not count; the table has the classes as they are,
so the same classes, splits and pictures come of importing the zip. The same version always makes the same bytes.
"""

import csv
import io
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dlkit import files
from dlkit.data.images import ending_of_content
from dlkit.data.layouts import image_path
from dlkit.data.plans import EXPORTED_TABLE
from dlkit.data.versions import Version
from dlkit.errors import DatasetError
from dlkit.words import escape_csv

LONGEST_PART = 80  # bytes of a name in UTF-8: what the systems allow is reached by no path of three
ENTRY_BYTES = 400  # that an entry takes beside its picture, at most
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_LEADING = re.compile(r"^[-.~ ]")  # an option, a hidden file, a home
# of Windows, and what an import passes over
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\.|$)|__macosx$|desktop\.ini$", re.IGNORECASE)


def export_bytes(version: Version) -> int:
    """Return how many bytes the zip has at most."""
    return sum(picture.bytes + ENTRY_BYTES for picture in version.pictures)


def check_whole(version: Version) -> None:
    """Raise DatasetError where the file of a picture is not there any more."""
    there = {path.name for path in (version.folder / image_path("")).glob("*")}
    missing = next((picture.name for picture in version.pictures if picture.digest not in there), None)
    if missing is not None:
        raise DatasetError(f"{missing} is not there any more. Leave it out, then export again.")


def export_zip(version: Version, path: Path) -> None:
    """Write the zip, whole or not at all; DiskFullError where there is no room, DatasetError where it cannot be."""
    check_whole(version)
    if files.free_bytes(path.parent) < export_bytes(version):
        raise files.disk_full(path.parent, export_bytes(version), path.name)

    def write(file: files.HashingFile) -> None:
        for chunk in export_chunks(version):
            file.write(chunk)

    try:
        files.write_whole(path, write)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror}). Choose another place.") from error


def export_chunks(version: Version) -> Iterator[bytes]:
    """Yield the zip, a picture at a time; OSError where the file of one has just been deleted."""
    window, table = _Window(), io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(("file", "label", "split"))
    folders, names = _folders(version.classes), defaultdict[str, Unlike](Unlike)
    with zipfile.ZipFile(window, "w") as archive:
        for picture in sorted(version.pictures, key=lambda one: (one.split, one.label, one.name, one.digest)):
            data = (version.folder / image_path(picture.digest)).read_bytes()
            folder = f"{picture.split}/{folders[picture.label]}"
            stem = picture.name.rpartition("/")[2].rpartition(".")[0] or picture.name.rpartition("/")[2]
            name = f"{folder}/{names[folder].name(safe_part(stem))}{ending_of_content(data)}"
            archive.writestr(_entry(name), data)
            rows.writerow(map(escape_csv, (name, picture.label, picture.split)))
            yield window.drain()
        archive.writestr(_entry(EXPORTED_TABLE), table.getvalue().encode("utf-8-sig"))
    yield window.drain()


def safe_part(text: str) -> str:
    """Return a folder's or file's name that every system takes, without ending."""
    clean = _UNSAFE.sub("_", unicodedata.normalize("NFC", text))
    clean = clean.encode()[:LONGEST_PART].decode(errors="ignore").rstrip(" .")
    return f"_{clean}" if not clean or _LEADING.match(clean) or _RESERVED.match(clean) else clean


class Unlike:
    """Gives names that are told apart also where capitals and ways to write a letter do not count."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: defaultdict[str, int] = defaultdict(lambda: 1)

    def name(self, wanted: str) -> str:
        """Return the name, with a number behind it where it is taken."""
        name, folded = wanted, _folded(wanted)
        while (key := _folded(name)) in self._taken:
            self._numbers[folded] += 1
            name = f"{wanted} ({self._numbers[folded]})"
        self._taken.add(key)
        return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


class _Window:
    """A file that only keeps what was not drained yet, and so lets a zip of any size be made in little memory."""

    def __init__(self) -> None:
        self._part, self._start = io.BytesIO(), 0

    def write(self, data: bytes) -> int:
        return self._part.write(data)

    def tell(self) -> int:
        return self._start + self._part.tell()

    def seek(self, place: int) -> int:
        return self._start + self._part.seek(place - self._start)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def drain(self) -> bytes:
        part = self._part.getvalue()
        self._part, self._start = io.BytesIO(), self._start + len(part)
        return part


def _folders(classes: tuple[str, ...]) -> dict[str, str]:
    unlike = Unlike()
    return {label: unlike.name(safe_part(label)) for label in classes}


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry that tells nothing of when, where and by whom it was made."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    return entry
