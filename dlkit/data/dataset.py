"""Data sets by name: is it here, bring it here, open it.

A fetched set lies in DLKIT_HOME/datasets/NAME, an imported one in a folder that nobody has named. Either appears there
by one rename, so what is visible is whole.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlkit import files
from dlkit.catalog.datasets import DatasetEntry, dataset_entry
from dlkit.data.archives import is_archive, unpack
from dlkit.data.fetch import FetchProgress, fetch, take_lock
from dlkit.data.layouts import LAYOUTS, Listing
from dlkit.data.split import FileSplit, Split
from dlkit.errors import DatasetError, UnknownChoice
from dlkit.settings import settings

SAMPLES = Path(__file__).parent.parent / "samples"
INDEX_NAME = ".index.json"  # the listing of a fetched set: reading it is quicker than listing 100,000 files again
INDEX_FORMAT = 1
_DAMAGES = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zlib.error)  # what a layout may raise


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classes and two splits. `fingerprint` changes when names, labels or sizes of the pictures do."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    fingerprint: str

    def split(self, name: str) -> Split:
        """Return the split called "train" or "val"."""
        if name not in ("train", "val"):
            raise UnknownChoice("split", name, ("train", "val"))
        return self.train if name == "train" else self.val

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of pictures of each class."""
        numbers = np.bincount(self.split(split).labels, minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))


def is_here(name: str) -> bool:
    """Tell whether the set can be opened without network; UnknownChoice for a name that the catalog does not have."""
    entry = dataset_entry(name)
    return not entry.files or _folder(entry).is_dir()


def prepare(name: str) -> Iterator[FetchProgress]:
    """Fetch and unpack a set unless it is here. To cancel is to stop asking; the next time goes on from there.

    Raises UnknownChoice, DownloadError (OfflineError among them), DiskFullError and DatasetError; after each of them
    nothing of the set is visible, and the same call may be repeated.
    """
    entry = dataset_entry(name)
    if is_here(name):
        return
    datasets = settings().folder("datasets")
    with (yield from take_lock(datasets / f".{name}.lock", name)):
        if is_here(name):  # another process has just brought it
            return
        downloads = datasets / f".{name}.download"
        for file in entry.files:
            yield from fetch(file, downloads)
        yield from _build(entry, downloads, datasets / f".{name}.unpacking")
        shutil.rmtree(downloads)


def open_dataset(name: str) -> Dataset:
    """Return a data set that is here.

    Raises UnknownChoice for a name that the catalog does not have, DatasetError for a set that has not been fetched or
    is damaged.
    """
    entry = dataset_entry(name)
    if not is_here(name):
        raise DatasetError(
            f"The data set {entry.title} must be fetched first ({entry.download_mb:,.0f} MB). "
            f"Press Fetch on the Data page, or run: python -m dlkit fetch {name}"
        )
    folder = _folder(entry)
    return _read_index(entry, folder) or _list(entry, folder)


def _folder(entry: DatasetEntry) -> Path:
    if entry.sample:
        return SAMPLES / entry.sample
    return settings().data_folder / "datasets" / (entry.folder or entry.name)


def _build(entry: DatasetEntry, downloads: Path, staging: Path) -> Iterator[FetchProgress]:
    """Unpack into `staging`, try whether it can be opened, and rename it to its place."""
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
    staging.mkdir()
    try:
        for file in entry.files:
            yield from _place(downloads / file.name, staging, entry)
        _write_index(staging, _list(entry, staging))
        os.replace(staging, _folder(entry))
    except OSError as error:
        if error.errno in files.FULL:
            needed = round(2e6 * entry.download_mb)  # no archive of the catalog unpacks to more
            raise files.disk_full(staging.parent, needed, f"unpacking {entry.title}") from error
        raise DatasetError(
            f"{entry.title} could not be unpacked into {staging.parent} ({error}). Check that it may be written."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _place(source: Path, staging: Path, entry: DatasetEntry) -> Iterator[FetchProgress]:
    total = source.stat().st_size
    if not is_archive(source.name):
        shutil.copy(source, staging)
        return
    for done in unpack(source, staging, entry.options.get("leave_out", ())):
        yield FetchProgress(source.name, done, total, "unpacking")


def _list(entry: DatasetEntry, folder: Path) -> Dataset:
    try:
        found = LAYOUTS[entry.layout](folder, entry.options)
        _check_labels(found)
        return Dataset(entry.name, found.classes, found.train, found.val, _fingerprint(found))
    except _DAMAGES as error:
        advice = "Delete it and import it again." if entry.folder else f"Delete {_folder(entry)} and fetch it again."
        raise DatasetError(f"{entry.title} is damaged ({error}). {advice}") from error


def _check_labels(found: Listing) -> None:
    for split in (found.train, found.val):
        if split.labels.min() < 0 or split.labels.max() >= len(found.classes):
            raise ValueError(f"there are {len(found.classes)} classes, but a label is {split.labels.max() + 1}")


def _fingerprint(found: Listing) -> str:
    digest = hashlib.sha256(json.dumps(found.classes).encode())
    for split in (found.train, found.val):
        names = [split.name(index) for index in range(len(split))]
        digest.update(json.dumps([names, split.labels.tolist(), split.sizes()]).encode())
    return digest.hexdigest()[:16]


def _write_index(folder: Path, dataset: Dataset) -> None:
    """Remember the listing of pictures in files; arrays are read as quickly as an index would be."""
    train, val = dataset.train, dataset.val
    if not (isinstance(train, FileSplit) and isinstance(val, FileSplit)):
        return
    index = {
        "format": INDEX_FORMAT,
        "classes": dataset.classes,
        "train": {"names": train.names, "labels": train.labels.tolist()},
        "val": {"names": val.names, "labels": val.labels.tolist()},
        "fingerprint": dataset.fingerprint,
    }
    (folder / INDEX_NAME).write_text(json.dumps(index))


def _read_index(entry: DatasetEntry, folder: Path) -> Dataset | None:
    """Return the remembered data set; None if there is no index of this format."""
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        if index["format"] != INDEX_FORMAT:
            return None
        train, val = (
            FileSplit(np.array(index[part]["labels"], dtype=np.int64), folder, tuple(index[part]["names"]))
            for part in ("train", "val")
        )
    except (OSError, ValueError, KeyError):
        return None
    return Dataset(entry.name, tuple(index["classes"]), train, val, index["fingerprint"])
