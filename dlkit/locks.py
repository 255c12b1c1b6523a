"""File locks between processes of one machine: held until released or until the process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Take the lock and return its file descriptor; None where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Give the lock back."""
    os.close(descriptor)


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock."""
    descriptor = try_lock(path)
    if descriptor is not None:
        release(descriptor)
    return descriptor is None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for the block, waiting for it as long as it takes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
