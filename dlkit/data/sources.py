"""Where pictures to be imported come from: a folder, or files one by one; `dlkit.data.zips` has archives.

A source tells what files there are and reads one at a time. What a file is called says what class it is of and stands
in messages; no name ever becomes a path that is written to. Names that look the same are the same.
"""

import os
import stat
import threading
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dlkit.errors import DatasetError, ImageError
from dlkit.settings import settings

#: not all of these can be read, but each is reported by its name; many a picture has no ending
PICTURE_ENDINGS = frozenset(
    {
        *("", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".heic", ".heif", ".avif", ".svg"),
    }
)
TABLE_ENDINGS = frozenset((".csv", ".tsv"))
DEEPEST = 20  # folders within folders
LONGEST_NAME = 1000  # characters of a name with its folders
LONGEST_PART = 100  # characters of one folder or file as it is shown, and of a class
FEW = 3  # names that stand in a sentence
_JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
_ONE = {"are": "is", "have": "has", "hold": "holds", "lie": "lies", "name": "names", "link": "links"}


@dataclass(frozen=True, slots=True)
class File:
    """One file: its name with / between folders, its size in bytes as it is told, and where its source finds it."""

    name: str
    size: int
    place: Any

    @property
    def ending(self) -> str:
        """The ending in small letters, as in ".jpg"."""
        return ending_of(self.name)


@dataclass(frozen=True)
class LeftOut:
    """Files that are not imported, and why, as in "are damaged"; `what` they are: "images", "files" or "rows".

    `unnamed` is how many more they are than there are names: a manifest keeps only some.
    """

    reason: str
    names: tuple[str, ...]
    what: str = "files"
    unnamed: int = 0

    @property
    def count(self) -> int:
        """How many files they are."""
        return len(self.names) + self.unnamed

    def sentence(self, total: int | None = None) -> str:
        """Say how many of how many, why, and which."""
        number = f"{self.count:,}" + (f" of {total:,}" if total is not None else "")
        verb, _, rest = self.reason.partition(" ")
        is_one, is_singular = self.count == 1, (total or self.count) == 1
        what = self.what.removesuffix("s") if is_singular else self.what
        verb = _ONE.get(verb, verb) if is_one else verb
        shown = ", ".join(self.names[:FEW]) + (", …" if len(self.names) > FEW else ".")
        return f"{number} {what} {verb} {rest} and {'was' if is_one else 'were'} left out: {shown}"


class Ledger:
    """Collects what is left out, by reason, in the order in which reasons come up."""

    def __init__(self, known: Iterable[LeftOut] = ()) -> None:
        self._names: dict[tuple[str, str], list[str]] = {(one.reason, one.what): list(one.names) for one in known}

    def add(self, reason: str, name: str, what: str = "files") -> None:
        """Note one file."""
        self._names.setdefault((reason, what), []).append(name)

    def close(self) -> tuple[LeftOut, ...]:
        """Return all that was noted."""
        return tuple(LeftOut(reason, tuple(names), what) for (reason, what), names in self._names.items())


class Source(ABC):
    """Files to import; to be closed. `title` is what all is called, `left_out` what can be told by the names alone.

    `folders` are those that the source tells of by themselves: empty ones are known by nothing else.
    """

    title: str
    files: tuple[File, ...]
    folders: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...]

    @abstractmethod
    def read(self, file: File, limit: int) -> bytes:
        """Return the file's content, from any thread; ImageError where it is damaged or longer than `limit` bytes."""

    def close(self) -> None:  # noqa: B027, most sources have nothing open
        """Let go of what is open."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Folder(Source):
    """A folder with all below it. Links are not followed."""

    def __init__(self, folder: Path) -> None:
        self.title = shown_part(folder.resolve().name)
        ledger, files, folders = Ledger(), [], []
        for path, name in _walk(folder, ledger):
            try:
                found = os.stat(path, follow_symlinks=False)
            except OSError:
                ledger.add("cannot be opened", shown(name))
                continue
            if stat.S_ISDIR(found.st_mode):
                folders.append(shown(name))
            elif stat.S_ISLNK(found.st_mode):
                ledger.add("link elsewhere", shown(name))
            elif not stat.S_ISREG(found.st_mode):
                ledger.add("have no content to be read", shown(name))
            elif reason := why_not(name):
                ledger.add(reason, shown(name))
            else:
                files.append(File(shown(name), found.st_size, path))
                if len(files) > 2 * settings().import_files:
                    break  # it would be refused anyway
        check_count(self.title, len(files))
        self.files, self.left_out = tuple(sorted(files, key=lambda file: file.name)), ledger.close()
        self.folders = tuple(folders)

    def read(self, file: File, limit: int) -> bytes:
        """Return the content of a regular file; it may have been replaced by a link or a pipe since it was listed."""
        check_size(file, limit)
        try:
            descriptor = os.open(file.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as opened:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError("no regular file")
                return opened.read(limit)
        except OSError as error:
            raise ImageError(f"{file.name} cannot be opened.", "cannot be opened") from error


class Loose(Source):
    """Files as a browser sends them: each a name, with folders where it knows them, and an open file."""

    def __init__(self, title: str, uploads: Sequence[tuple[str, BinaryIO]]) -> None:
        self.title, self._lock = shown_part(title), threading.Lock()
        check_count(self.title, len(uploads))
        ledger, files = Ledger(), []
        for name, upload in uploads:
            if is_junk(name):
                continue
            if reason := why_not(name):
                ledger.add(reason, shown(name))
                continue
            files.append(File(shown(name), upload.seek(0, os.SEEK_END), upload))
        self.files, self.left_out = tuple(files), ledger.close()

    def read(self, file: File, limit: int) -> bytes:
        """Return the content of one upload."""
        check_size(file, limit)
        with self._lock:
            file.place.seek(0)
            content: bytes = file.place.read(limit)
        return content


def _walk(folder: Path, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield (path, name below the folder) of all that is in it, folder by folder."""
    for path, folders, names in os.walk(folder, onerror=lambda error: _unreadable(folder, error, ledger)):
        inside = os.path.relpath(path, folder).replace(os.sep, "/")
        folders[:] = sorted(name for name in folders if not is_junk(name))
        found = sorted([*names, *folders])
        if inside.count("/") >= DEEPEST and folders:
            ledger.add(f"lie deeper than {DEEPEST} folders", shown(inside), "folders")
            folders.clear()
        for name in found:
            if not is_junk(name):
                yield os.path.join(path, name), name if inside == "." else f"{inside}/{name}"


def _unreadable(folder: Path, error: OSError, ledger: Ledger) -> None:
    if error.filename == str(folder):
        raise DatasetError(f"{folder} cannot be opened. Check that it is a folder and may be read.") from error
    ledger.add("cannot be opened", shown(os.path.relpath(error.filename, folder)), "folders")


def check_count(title: str, count: int) -> None:
    """Raise DatasetError where there are more files than may be imported at once."""
    limit = settings().import_files
    if count > limit:
        raise DatasetError(
            f"{title} has {count:,} files; the limit is {limit:,}. Split it, remove files that are not images, "
            "or raise DLKIT_IMPORT_FILES."
        )


def check_size(file: File, limit: int) -> None:
    """Raise ImageError where a file says that it is longer than `limit` bytes."""
    if file.size > limit:
        text = f"{file.name} is larger than {limit / 1e6:g} MB, the limit for a picture."
        raise ImageError(text, f"are larger than {limit / 1e6:g} MB")


def why_not(name: str) -> str:
    """Return why a file of this name is not taken: it leads elsewhere, or is beyond measure; else an empty string."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or "\0" in name or not parts[0] or (len(parts[0]) > 1 and parts[0][1] == ":"):
        return "have a name that leads out of its folder"
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST:
        return f"have a name of more than {LONGEST_NAME:,} letters or {DEEPEST} folders"
    return ""


def is_junk(name: str) -> bool:
    """Tell whether a file is what systems leave in folders: hidden ones, __MACOSX, Thumbs.db."""
    parts = name.replace("\\", "/").split("/")
    return any(part.lower() in _JUNK or (part.startswith(".") and part not in (".", "..")) for part in parts)


def shown(name: str) -> str:
    """Return a name with its folders as it is shown and told apart: / between folders, each part harmless."""
    parts = (
        shown_part(part) for part in name[: 4 * LONGEST_NAME].replace("\\", "/").split("/") if part not in ("", ".")
    )
    text = "/".join(parts) or "?"
    return text if len(text) <= LONGEST_NAME else f"{text[:500]}…{text[-400:]}"


def shown_part(name: str) -> str:
    """Return a folder's, file's or class's name on one line, composed (NFC), without control and direction characters.

    It is at most LONGEST_PART long, its ending kept.
    """
    name = name if len(name) <= 2 * LONGEST_NAME else name[:LONGEST_NAME] + name[-LONGEST_NAME:]
    composed = unicodedata.normalize("NFC", name.encode(errors="replace").decode())
    text = " ".join("".join(letter if letter.isprintable() else " " * letter.isspace() for letter in composed).split())
    return (text if len(text) <= LONGEST_PART else f"{text[: LONGEST_PART - 21]}…{text[-20:]}") or "?"


def class_name(text: str) -> str:
    """Return the name of a class as it is shown, as an import has it; DatasetError where none can be called so."""
    clean = shown_part(text)
    if not text.strip() or len(text.strip()) > LONGEST_PART or (clean == "?" and text.strip() != "?"):
        raise DatasetError(f"A class's name must have 1 to {LONGEST_PART} letters; got {text[:40]!r}.")
    return clean


def ending_of(name: str) -> str:
    """Return a file's ending in small letters, as in ".jpg"; empty where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""
