"""File locks between processes of one machine: held until closed or until the process ends, however it ends."""

import fcntl
from pathlib import Path
from typing import IO


def try_lock(path: Path) -> IO[bytes] | None:
    """Take the lock and return its open file, which gives it back when closed; None where another holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock."""
    lock = try_lock(path)
    if lock is not None:
        lock.close()
    return lock is None
