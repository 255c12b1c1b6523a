"""A data set as the doctor sees it: its pictures in rows, what was seen of each, and what a network thinks of them.

What an import has not left beside the pictures is made up here, once: for an imported set in its folder, for all
versions of it; for any other in the folder `doctor`, by the set's fingerprint.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlkit import locks, machine
from dlkit.catalog.datasets import dataset_entry
from dlkit.data.dataset import Dataset, open_dataset
from dlkit.data.images import check_picture, looks_of
from dlkit.data.layouts import image_path, manifest_name
from dlkit.data.looks import LOOKS_NAME, Album, Seen, album_writer, look_at, pixel_digest
from dlkit.data.shelf import names_alone
from dlkit.data.sources import LeftOut
from dlkit.data.split import Split
from dlkit.data.versions import open_version
from dlkit.errors import ImageError
from dlkit.settings import settings

WAIT_SECONDS = 0.2  # between two looks whether somebody else is done
HANDFUL = 64  # pictures that are looked at between two reports


@dataclass(frozen=True, eq=False)
class Case:
    """The pictures of a data set, N rows: those of an imported version, of another set training, then validation.

    `labels` is int64 (N,), `splits` and `names` have a text for each. `album_rows`, int64 (N,), says where what was
    seen of each lies in `album`: −1 where nobody has looked yet. `version` is 0 of a set that was not imported.
    """

    name: str
    version: int
    folder: Path
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    names: tuple[str, ...]
    album: Album
    album_rows: np.ndarray
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def unseen(self) -> int:
        """How many pictures nobody has looked at."""
        return int((self.album_rows < 0).sum())

    def learnt_rows(self) -> np.ndarray:
        """Return the rows of training, then of validation, int64: the order of the opened data set's two splits."""
        return np.concatenate([np.flatnonzero(self.splits == split) for split in ("train", "val")])


def open_case(name: str) -> Case:
    """Return a data set that is here; raises what `open_dataset` and `open_version` do."""
    entry = dataset_entry(name)
    if not entry.folder:
        return _case_of_splits(name)
    version = open_version(name)
    places = {label: place for place, label in enumerate(version.classes)}
    album = Album(version.folder)
    return Case(
        version.name,
        version.number,
        version.folder,
        version.classes,
        np.array([places[picture.label] for picture in version.pictures], np.int64),
        np.array([picture.split for picture in version.pictures]),
        tuple(picture.name for picture in version.pictures),
        album,
        album.rows_of(picture.digest for picture in version.pictures),
        _left_out(version.folder),
    )


def traces(name: str, fingerprint: str) -> str:
    """Return a text that changes when more becomes known of the pictures of a set; it reads no file."""
    folder = _folder(name, fingerprint)
    states = [(path.name, path.stat()) for path in sorted([*folder.glob(LOOKS_NAME), *folder.glob("opinions-*.npz")])]
    return " ".join(f"{title} {state.st_size} {state.st_mtime_ns}" for title, state in states)


def look(name: str) -> Iterator[tuple[int, int]]:
    """Look at the pictures of a set that nobody has looked at yet; yields how many of how many are done.

    To cancel is to stop asking. A file that is damaged is seen as a picture of no pixels.
    """
    if dataset_entry(name).folder:
        yield from _look_at_version(name)
    elif open_case(name).unseen:
        yield from _look_at_splits(name)


def _case_of_splits(name: str) -> Case:
    dataset = open_dataset(name)
    folder = _folder(name, dataset.fingerprint)
    parts = {"train": dataset.train, "val": dataset.val}
    count, album = len(dataset.train) + len(dataset.val), Album(folder)
    is_seen = len(album.records) == count
    return Case(
        name,
        0,
        folder,
        dataset.classes,
        np.concatenate([part.labels for part in parts.values()]),
        np.repeat(list(parts), [len(part) for part in parts.values()]),
        tuple(part.name(index) for part in parts.values() for index in range(len(part))),
        album,
        np.arange(count) if is_seen else np.full(count, -1),
        (),
    )


def _folder(name: str, fingerprint: str) -> Path:
    """Return where what is known of a set lies."""
    imported = dataset_entry(name).folder
    return settings().data_folder / (f"datasets/{imported}" if imported else f"doctor/{fingerprint}")


def _left_out(folder: Path) -> tuple[LeftOut, ...]:
    """Return what the import has left out; nothing where its manifest cannot be read any more."""
    try:
        told = json.loads((folder / manifest_name(1)).read_bytes())["left_out"]
        return tuple(LeftOut(one["reason"], tuple(one["names"]), one["what"], one.get("unnamed", 0)) for one in told)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _look_at_version(name: str) -> Iterator[tuple[int, int]]:
    """Look at the files that the album of an imported set does not know, some at a time, as others may add to it."""
    version = open_version(name)
    digests = dict.fromkeys(picture.digest for picture in version.pictures)
    known = Album(version.folder).rows_of(digests)
    missing = [digest for digest, row in zip(digests, known, strict=True) if row < 0]

    def write(seen: list[Seen]) -> None:
        with names_alone(), album_writer(version.folder) as writer:
            for one in seen:
                writer.add(one)

    yield from _look_at(
        [partial(_seen_in_file, version.folder / image_path(digest), digest) for digest in missing], write
    )


def _look_at_splits(name: str) -> Iterator[tuple[int, int]]:
    """Look at all pictures of a set that was not imported; what was seen is there when all of it is.

    Who comes while somebody looks waits for that.
    """
    dataset, case = open_dataset(name), open_case(name)
    aside = case.folder.with_name(f".{case.folder.name}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    path = aside.with_name(f"{aside.name}.lock")
    while (lock := locks.try_lock(path)) is None:
        yield 0, len(case)
        time.sleep(WAIT_SECONDS)
    with lock:
        try:
            if open_case(name).unseen:
                yield from _fill_album(dataset, case.folder, aside)
        finally:
            path.unlink(missing_ok=True)


def _fill_album(dataset: Dataset, folder: Path, aside: Path) -> Iterator[tuple[int, int]]:
    """Look at all pictures, and put what was seen into `folder` when it is whole."""
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
    aside.mkdir()
    try:
        with album_writer(aside) as writer:

            def write(seen: list[Seen]) -> None:
                for one in seen:
                    writer.add(one)

            works = [
                partial(_seen_in_split, part, index)
                for part in (dataset.train, dataset.val)
                for index in range(len(part))
            ]
            yield from _look_at(works, write)
        folder.mkdir(exist_ok=True)
        for path in aside.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _look_at(works: Sequence[Callable[[], Seen]], write: Callable[[list[Seen]], None]) -> Iterator[tuple[int, int]]:
    with ThreadPoolExecutor(machine.cores()) as pool:
        for start in range(0, len(works), HANDFUL):
            write(list(pool.map(lambda work: work(), works[start : start + HANDFUL])))
            yield min(start + HANDFUL, len(works)), len(works)


def _seen_in_file(path: Path, digest: str) -> Seen:
    try:
        looks = check_picture(path)
    except ImageError:
        return _unreadable(digest)
    return look_at(looks.small, digest, looks.width, looks.height)


def _seen_in_split(part: Split, index: int) -> Seen:
    try:
        image = part.read(index)
    except ImageError:
        return _unreadable("00" * 32)
    looks = looks_of(image)
    return look_at(looks.small, pixel_digest(image), looks.width, looks.height)


def _unreadable(digest: str) -> Seen:
    return Seen(bytes.fromhex(digest), 0, 0, 0, 0, 0.0, b"", b"")
