"""The folder of imported data sets: names, room, building sites, deletion. Needs neither numpy nor Pillow.

While a set is made its folder is called `.ID.importing`; a lock beside it tells whether somebody still works on it.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dlkit import files, locks
from dlkit.catalog.datasets import DATASETS, DatasetEntry, dataset_entry
from dlkit.catalog.imported import VERSION_MARK, records
from dlkit.data.plans import Plan
from dlkit.data.sources import shown_part
from dlkit.errors import DatasetError
from dlkit.settings import settings

SPARE_BYTES = 200_000_000  # of the disk that an import leaves free
LONGEST_NAME = 60  # characters of a data set's name


def free_name(name: str) -> str:
    """Return the name as it will be shown; DatasetError where a set cannot be called so."""
    clean = shown_part(name)
    if not name.strip() or clean == "?" or len(name.strip()) > LONGEST_NAME or any(mark in clean for mark in "@,/"):
        raise DatasetError(
            f"A data set's name must have 1 to {LONGEST_NAME} letters and neither of {VERSION_MARK} , /; "
            f"got {name[:LONGEST_NAME]!r}."
        )
    if clean.casefold() in (known.casefold() for known in DATASETS):
        raise DatasetError(f"There is a data set called {clean} already. Choose another name, or delete that one.")
    return clean


def check_room(plan: Plan) -> None:
    """Raise DatasetError or DiskFullError where the pictures of a plan have no room."""
    check_space(plan.title, plan.bytes)


def check_space(title: str, needed: int) -> None:
    """Raise DatasetError or DiskFullError where imported sets have no room for so many bytes more."""
    used = sum(record["bytes"] for record in records().values())
    limit = settings().import_mb * 10**6
    if used + needed > limit:
        raise DatasetError(
            f"{title} needs {needed / 1e6:,.0f} MB, and imported data sets take {used / 1e6:,.0f} of "
            f"{limit / 1e6:,.0f} MB. Delete one, or raise DLKIT_IMPORT_MB."
        )
    folder, room = settings().folder("datasets"), round(1.1 * needed) + SPARE_BYTES
    if files.free_bytes(folder) < room:
        raise files.disk_full(folder, room, title)


def imported_entry(name: str) -> DatasetEntry:
    """Return the entry of an imported set or of one of its versions; DatasetError for one that was not imported."""
    entry = dataset_entry(name)
    if not entry.folder:
        raise DatasetError(f"{entry.title} was not imported, so it has no versions. Make a copy of it, and edit that.")
    return entry


def set_name(name: str) -> str:
    """Return the name of an imported set without the version: pets@2 -> pets; the errors are as in `imported_entry`."""
    return imported_entry(name).pinned.rpartition(VERSION_MARK)[0]


def pinned(name: str, number: int) -> str:
    """Return the name of one version: pets, 2 -> pets@2."""
    return f"{set_name(name)}{VERSION_MARK}{number}"


def sweep_imports() -> None:
    """Remove what imports have left whose process was killed, and sets whose deletion was interrupted."""
    folder = settings().folder("datasets")
    for leftover in [*folder.glob(".*.importing"), *folder.glob(".*.deleted")]:
        lock = locks.try_lock(_lock_path(leftover))
        if lock is not None:
            with lock:
                shutil.rmtree(leftover, ignore_errors=True)
                _lock_path(leftover).unlink(missing_ok=True)


def delete_import(name: str) -> None:
    """Remove an imported set with all its versions; DatasetError for one that was not imported.

    It is gone by one rename. Whether a run uses it is not looked at here.
    """
    entry = dataset_entry(name)
    if VERSION_MARK in name:
        raise DatasetError(
            f"{name} is one version, and none is deleted alone. Delete the whole set, by its name alone."
        )
    if not entry.folder:
        raise DatasetError(f"{entry.title} was not imported, so it cannot be deleted. Only imported data sets can.")
    folder = settings().folder("datasets")
    gone = folder / f".{entry.folder}.deleted"
    try:
        os.replace(folder / entry.folder, gone)
    except OSError as error:
        raise DatasetError(f"{entry.title} cannot be deleted ({error.strerror}). Check the data folder.") from error
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def staging(identity: str) -> Iterator[Path]:
    """Make the folder in which a set is built; it is gone afterwards unless it was renamed to its place."""
    folder = settings().folder("datasets") / f".{identity}.importing"
    lock = locks.try_lock(_lock_path(folder))
    if lock is None:  # of an attempt that was taken for dead
        raise DatasetError("This import is still under way. Look again when it has ended.")
    with lock:
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _lock_path(folder).unlink(missing_ok=True)


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


@contextmanager
def names_alone() -> Iterator[None]:
    """Let nobody else name a set meanwhile."""
    path = settings().folder("datasets") / ".names.lock"
    lock: IO[bytes] | None
    while (lock := locks.try_lock(path)) is None:
        time.sleep(0.02)
    with lock:
        yield
