"""Bring pictures of one's own into the data folder: every one checked, kept by its content, visible when all are there.

A set is a folder that nobody has named: `images/DIGEST` with the files as they came, `manifest-1.json` with classes,
splits and names, `set.json`, by which the catalog knows it, and what was seen of each image, with a thumbnail. A later
version is another manifest over the same images.
"""

import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dlkit import files, machine
from dlkit.catalog.imported import RECORD_FORMAT, RECORD_NAME
from dlkit.data.copies import copies_among
from dlkit.data.duplicates import least_of_groups
from dlkit.data.images import check_picture, image_digest
from dlkit.data.labels import Labelled
from dlkit.data.layouts import image_path, manifest_name
from dlkit.data.looks import Album, Seen, album_writer, look_at
from dlkit.data.manifests import Picture, record_version, write_manifest
from dlkit.data.plans import Plan
from dlkit.data.shelf import check_room, free_name, names_alone, staging, sweep_imports
from dlkit.data.sources import FEW, Folder, Ledger, LeftOut, Source
from dlkit.data.split import draw_validation, groups_to_draw
from dlkit.data.zips import Zip
from dlkit.errors import DatasetError, ImageError
from dlkit.settings import settings

VAL_SHARE = 0.2
HANDFUL = 8  # pictures that a thread takes at a time: handing over costs as much as checking a small one
KEPT_NAMES = 1000  # of files that were left out, for each reason


@dataclass(frozen=True)
class ImportProgress:
    """How many of how many pictures were looked at; `phase` is "checking" or "keeping"."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Report:
    """What came of an import: pictures in each split, what was left out of all that were found, and remarks."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    found: int
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Return the whole truth, one sentence each, what was imported first."""
        parts = [f"{self.counts[split]:,} {word}" for split, word in _SPLIT_WORDS.items() if self.counts.get(split)]
        first = f"{self.name}: {len(self.classes):,} classes, {', '.join(parts)}."
        told = [one.sentence(self.found if one.what == "images" else None) for one in self.left_out]
        return [first, *told, *self.remarks]


_SPLIT_WORDS = {"train": "images to learn from", "val": "to be checked with", "test": "kept for testing"}


@dataclass(frozen=True)
class Kept:
    """One picture that was checked and written; `size` in bytes."""

    planned: Labelled
    digest: str
    size: int
    width: int
    height: int
    is_first_of_many: bool

    def picture(self) -> Picture:
        """Return the row of a manifest that it becomes once it has a split."""
        planned = self.planned
        assert planned.split is not None, "every picture is given one"
        return Picture(self.digest, planned.label, planned.split, planned.file.name, self.size, self.width, self.height)


Results = list[tuple[Labelled, tuple[Kept, Seen] | ImageError]]


def open_source(path: Path) -> Source:
    """Return the folder or the zip at `path`, to be closed; DatasetError where it is neither."""
    return Folder(path) if os.path.isdir(path) else Zip(path)  # unlike Path.is_dir it takes any name


def import_pictures(
    source: Source,
    plan: Plan,
    name: str,
    *,
    seed: int = 0,
    val_share: float = VAL_SHARE,
    identity: str | None = None,
) -> Generator[ImportProgress, None, Report]:
    """Check and keep the pictures of a plan as the data set `name`; to cancel is to stop asking.

    Pictures without a split are divided by class, copies of one staying together, also those that are resized,
    compressed again or mirrored, unless that would leave a class nothing to be checked with. `identity`, 32 digits that
    nobody else uses, becomes the folder's name: by it an asker knows whether the set is there already.

    Raises DatasetError where the name is taken, the room for imports is used up, or too little is left of the pictures,
    and DiskFullError; after each of them, and after it was cancelled, nothing of the set is left.
    """
    name = free_name(name)
    check_room(plan)
    sweep_imports()
    identity = identity or secrets.token_hex(16)
    with staging(identity) as folder:
        try:
            kept, ledger = yield from keep_all(source, plan, folder)
            yield ImportProgress("keeping", len(plan.pictures), len(plan.pictures))
            kept, remarks = _divided(plan, kept, ledger, _groups(folder, kept), val_share, seed)
            report = _report(name, plan, kept, ledger.close(), remarks)
            _write(folder, name, plan, kept, report, seed)
            with names_alone():
                free_name(name)  # somebody else may have been quicker
                os.replace(folder, folder.parent / identity)
            files.to_disk(folder.parent)
        except OSError as error:
            if error.errno in files.FULL:
                raise files.disk_full(folder.parent, plan.bytes, name) from error
            raise DatasetError(f"{name} could not be written ({error.strerror}). Check the data folder.") from error
    return report


def keep_all(source: Source, plan: Plan, folder: Path) -> Generator[ImportProgress, None, tuple[list[Kept], Ledger]]:
    """Check every picture in some threads, and write those that are whole; in the order of the plan."""
    ledger, kept, known, done = Ledger(plan.left_out), list[Kept](), set[str](), 0
    (folder / "images").mkdir()
    with album_writer(folder) as album:
        for handful in _in_threads(partial(_keep_some, source, folder), plan.pictures):
            for planned, result in handful:
                if isinstance(result, ImageError):
                    ledger.add(result.reason, planned.file.name, "images")
                    continue
                one, seen = result
                kept.append(one)
                if one.digest not in known:
                    album.add(seen)
                    known.add(one.digest)
            done += len(handful)
            yield ImportProgress("checking", done, len(plan.pictures))
    return kept, ledger


def _groups(folder: Path, kept: Sequence[Kept]) -> list[str]:
    """Return for each picture the least digest among its copies, so that it does not depend on names or order."""
    album = Album(folder)
    first = copies_among(album, album.rows_of(one.digest for one in kept))
    return least_of_groups([one.digest for one in kept], first)


def _in_threads(
    work: Callable[[Sequence[Labelled]], Results], pictures: Sequence[Labelled]
) -> Generator[Results, None, None]:
    """Yield what becomes of the pictures, a handful at a time and in order; only some are under way at a time."""
    count = machine.cores()
    pool, waiting = ThreadPoolExecutor(count), deque[Future[Results]]()
    try:
        for start in range(0, len(pictures), HANDFUL):
            waiting.append(pool.submit(work, pictures[start : start + HANDFUL]))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _keep_some(source: Source, folder: Path, pictures: Sequence[Labelled]) -> Results:
    results: Results = []
    for planned in pictures:
        try:
            results.append((planned, _keep(source, folder, planned)))
        except ImageError as error:
            results.append((planned, error))
    return results


def _keep(source: Source, folder: Path, planned: Labelled) -> tuple[Kept, Seen]:
    data = source.read(planned.file, round(settings().max_image_mb * 1e6))
    looks = check_picture(data, name=planned.file.name)
    digest = image_digest(data)
    with suppress(FileExistsError), (folder / image_path(digest)).open("xb", buffering=0) as file:
        file.write(data)  # unless a copy of it is there
    kept = Kept(planned, digest, len(data), looks.width, looks.height, looks.is_first_of_many)
    return kept, look_at(looks.small, digest, looks.width, looks.height)


def _divided(
    plan: Plan, kept: list[Kept], ledger: Ledger, groups: Sequence[str], val_share: float, seed: int
) -> tuple[list[Kept], tuple[str, ...]]:
    """Give every picture a split, and return remarks about classes; DatasetError where too little is left."""
    drawn = [(one, group) for one, group in zip(kept, groups, strict=True) if one.planned.split is None]
    labels = [one.planned.label for one, _ in drawn]
    names, chained = groups_to_draw(labels, [one.digest for one, _ in drawn], [group for _, group in drawn], val_share)
    is_val = draw_validation(labels, names, val_share, seed)
    splits = iter("val" if flag else "train" for flag in is_val)
    kept = [
        one if one.planned.split else replace(one, planned=replace(one.planned, split=next(splits))) for one in kept
    ]
    learnt = {one.planned.label for one in kept if one.planned.split == "train"}
    checked = {one.planned.label for one in kept if one.planned.split == "val"}
    kept = [one for one in kept if one.planned.label in learnt]
    if len(learnt) < 2 or not checked & learnt:
        raise DatasetError(_too_little(plan, len(learnt), ledger.close()))
    remarks = list(plan.remarks)
    if chained & learnt:
        remarks.append(too_alike(chained & learnt))
    if gone := set(plan.classes) - learnt:
        remarks.append(f"Nothing to learn from is left of these classes, so they are left out: {_some(gone)}.")
    if learnt - checked and not any("no image to be checked with" in remark for remark in remarks):
        remarks.append(f"These classes have no image to be checked with: {_some(learnt - checked)}.")
    if moving := [one.planned.file.name for one in kept if one.is_first_of_many]:
        remarks.append(f"Of animations and files of several pages the first picture is taken: {_some(moving)}.")
    return kept, tuple(remarks)


def too_alike(classes: Iterable[str]) -> str:
    """Say of classes that only the same files were kept together in them."""
    return (
        "Nearly all pictures of these classes are like another one, as in a film, so alike pictures are on both sides "
        f"of the split: {_some(classes)}."
    )


def _too_little(plan: Plan, classes: int, left_out: Sequence[LeftOut]) -> str:
    why = " ".join(one.sentence(len(plan.pictures)) for one in left_out if one.what == "images")
    if classes < 2:
        return f"Too few images of {plan.title} can be read: a classifier needs two classes or more. {why}".strip()
    told = f"Every class of {plan.title} has only one image that can be used, copies not counted."
    return f"{told} Each needs two: one to learn from, one to be checked with. {why}".strip()


def _report(
    name: str, plan: Plan, kept: Sequence[Kept], left_out: tuple[LeftOut, ...], remarks: tuple[str, ...]
) -> Report:
    classes = tuple(sorted({one.planned.label for one in kept}))
    counts = {split: sum(one.planned.split == split for one in kept) for split in _SPLIT_WORDS}
    found = len(plan.pictures) + sum(len(one.names) for one in plan.left_out if one.what == "images")
    return Report(name, classes, counts, found, left_out, remarks)


def _write(folder: Path, name: str, plan: Plan, kept: Sequence[Kept], report: Report, seed: int) -> None:
    """Write manifest and record, and wait until the images have reached the disk."""
    made_at, pictures = datetime.now(UTC).isoformat(timespec="seconds"), [one.picture() for one in kept]
    about = {
        "version": 1,
        "made_at": made_at,
        "made_by": f"import of {plan.title} ({plan.layout})",
        "seed": seed,
        "left_out": [asdict(_shortened(one)) for one in report.left_out],
        "remarks": report.remarks,
    }
    record: dict[str, Any] = {"format": RECORD_FORMAT, "name": name, "source": plan.title, "imported_at": made_at}
    if plan.licence:
        record |= {"licence": plan.licence, "credit": plan.credit}
    record["bytes"] = sum({picture.digest: picture.bytes for picture in pictures}.values())
    record["versions"] = [record_version(pictures, 1, made_at)]
    os.sync()  # thousands of files at once: quicker than one after the other
    files.write_whole(folder / manifest_name(1), write_manifest(pictures, about))
    files.write_whole(folder / RECORD_NAME, json.dumps(record, ensure_ascii=False).encode())


def _shortened(left_out: LeftOut) -> LeftOut:
    names = left_out.names[:KEPT_NAMES]
    return replace(left_out, names=names, unnamed=left_out.count - len(names))


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")
