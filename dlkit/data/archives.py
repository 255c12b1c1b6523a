"""Unpack an official archive, entry by entry, trusting none of its names.

Python's own tar filter was bypassed more than once (CVE-2025-4517, CVE-2025-4330) and older Pythons lack the repairs,
so the rule is ours and short: only regular files and folders, only below the target. One bad entry refuses the archive.
"""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dlkit.errors import DatasetError

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Entry:
    """One name in an archive; `content` is None for a folder."""

    name: str
    content: IO[bytes] | None


def is_archive(name: str) -> bool:
    """Tell by the ending whether `unpack` knows the file."""
    return name.endswith((".tar.gz", ".tgz", ".zip"))


def unpack(archive: Path, folder: Path, leave_out: Collection[str] = ()) -> Iterator[int]:
    """Unpack all but the files called as in `leave_out` into `folder`; yield the archive's bytes read so far.

    Raises DatasetError for an archive that is damaged, or that holds a link, a device or a name that leads elsewhere.
    """
    try:
        with archive.open("rb") as raw:
            for entry in _zip_entries(raw) if archive.name.endswith(".zip") else _tar_entries(raw):
                target = folder / _safe_path(entry.name)
                if target.name not in leave_out:
                    _write(entry, target)
                yield raw.tell()
    except _DAMAGED as error:
        raise DatasetError(f"{archive.name} is damaged and cannot be unpacked ({error}). Fetch it again.") from error


def _tar_entries(raw: IO[bytes]) -> Iterator[Entry]:
    with tarfile.open(fileobj=raw, mode="r|gz") as archive:
        for member in archive:
            if not (member.isreg() or member.isdir()):
                raise _refused(member.name, "neither a file nor a folder")
            yield Entry(member.name, archive.extractfile(member))


def _zip_entries(raw: IO[bytes]) -> Iterator[Entry]:
    with zipfile.ZipFile(raw) as archive:
        for member in archive.infolist():
            kind = member.external_attr >> 28  # the file type bits of a Unix mode; 0 where the archive has none
            if kind not in (0, 0o04, 0o10):
                raise _refused(member.filename, "neither a file nor a folder")
            with _opened(archive, member) as content:
                yield Entry(member.filename, content)


@contextmanager
def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes] | None]:
    if member.is_dir():
        yield None
    else:
        with archive.open(member) as content:
            yield content


def _safe_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(character in name for character in "\\:\0"):
        raise _refused(name, "a name that leads out of the folder")
    return path


def _refused(name: str, what: str) -> DatasetError:
    return DatasetError(
        f"The archive was refused: {name[:60]!r} is {what}. It is not the official archive; do not use it."
    )


def _write(entry: Entry, target: Path) -> None:
    if entry.content is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as output:  # x: a name that comes twice is not written over
        shutil.copyfileobj(entry.content, output, 1 << 20)
