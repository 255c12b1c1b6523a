"""Files that are either whole or the ones before: written aside, brought to the disk, put in place by one rename."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from dlkit.errors import DiskFullError

FULL = (errno.ENOSPC, errno.EDQUOT)


class HashingFile:
    """A writable binary file that counts and hashes what goes through it, a write that fails among it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Write all of `data` (bytes-like); return its length in bytes."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        self._digest.update(view)
        self._file.write(view)
        return len(view)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all that was written, in hexadecimal digits."""
        return self._digest.hexdigest()


def write_whole(path: Path, content: bytes | Callable[[HashingFile], Any]) -> HashingFile:
    """Write a file so that at every instant, also after a crash, `path` is what it was before or all of `content`.

    Returns the closed file with its `size` and `sha256`. Raises DiskFullError where there is no room, OSError else;
    after both no half of the new content is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    needed = len(content) if isinstance(content, bytes) else 0
    hashing: HashingFile | None = None
    try:
        with temporary.open("wb") as file:
            hashing = HashingFile(file)
            hashing.write(content) if isinstance(content, bytes) else content(hashing)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        to_disk(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(path.parent, hashing.size if hashing else needed) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)  # of a write that failed: on a full disk it would keep it full
    return hashing


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what a process that was killed has left of `write_whole`; nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the room on the disk under a folder, whether the folder is there already or not."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def disk_full(folder: Path, needed: int, what: str = "") -> DiskFullError:
    """Return the error that says how much room there is, how much is needed, and what for."""
    return DiskFullError(needed, free_bytes(folder), what)
