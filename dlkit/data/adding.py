"""More pictures for an imported set: checked as by an import, new by their content, on top of the newest version."""

import os
import secrets
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dlkit.data.duplicates import duplicate_pairs, groups_of, least_of_groups
from dlkit.data.importing import VAL_SHARE, ImportProgress, Kept, Report, keep_all, too_alike
from dlkit.data.layouts import image_path
from dlkit.data.looks import RECORD, Album, append_album
from dlkit.data.plans import Plan
from dlkit.data.shelf import check_room, staging, sweep_imports
from dlkit.data.sources import Ledger, Source
from dlkit.data.split import draw_validation, groups_to_draw
from dlkit.data.versions import Version, newest, open_version, write_next
from dlkit.errors import DatasetError


def add_pictures(
    source: Source, plan: Plan, name: str, *, seed: int = 0, val_share: float = VAL_SHARE, identity: str | None = None
) -> Generator[ImportProgress, None, Report]:
    """Check the pictures of a plan and make a version of the set `name` with the new ones; to cancel is to stop asking.

    A picture that is there already is left out and told, and so is one that is there as another class: relabel it
    where it is. What is there keeps its split, and copies of it join it there. DatasetError where nothing is new,
    otherwise errors and `identity` are as in `import_pictures`.
    """
    name, identity = open_version(name).name, identity or secrets.token_hex(16)
    check_room(plan)
    sweep_imports()
    with staging(identity) as folder:
        kept, ledger = yield from keep_all(source, plan, folder)
        yield ImportProgress("keeping", len(plan.pictures), len(plan.pictures))
        os.sync()  # thousands of files at once: quicker than one after the other
        while True:
            base = open_version(name)
            new, left_out = _new(kept, base, Ledger(ledger.close()))
            if not new:
                why = " ".join(one.sentence() for one in left_out.close() if one.what == "images")
                raise DatasetError(f"Nothing of {plan.title} is new to {name}. {why}".strip())
            try:
                divided, chained = _divided(base, new, folder, val_share, seed)
                version = _put(base, divided, plan.title, folder, identity)
                break
            except DatasetError:
                if newest(name) == base.number:
                    raise  # else somebody has edited it just now
    added = f"{len(new):,} {'picture was' if len(new) == 1 else 'pictures were'} added from {plan.title}."
    counts = {split: len(version.rows(split)) for split in ("train", "val", "test")}
    found = len(plan.pictures) + sum(len(one.names) for one in plan.left_out if one.what == "images")
    remarks = (*plan.remarks, *([too_alike(chained)] if chained else []), added)
    return Report(name, version.classes, counts, found, left_out.close(), remarks)


def _new(kept: list[Kept], base: Version, ledger: Ledger) -> tuple[list[Kept], Ledger]:
    """Return the pictures that a version does not have; the others go into the ledger."""
    known = defaultdict[str, set[str]](set)
    for picture in base.pictures:
        known[picture.digest].add(picture.label)
    new = []
    for one in kept:
        labels, name = known[one.digest], one.planned.file.name
        if not labels:
            new.append(one)
        elif one.planned.label in labels:
            ledger.add("are there already", name, "images")
        else:
            ledger.add("are there as another class", f"{name} (as {min(labels)})", "images")
        labels.add(one.planned.label)
    return new, ledger


def _divided(base: Version, new: list[Kept], folder: Path, val_share: float, seed: int) -> tuple[list[Kept], set[str]]:
    """Give every picture a split: that of what it is a copy of, or one that is drawn for all copies of it.

    Returned, too, are the classes whose pictures are too alike to be kept together.
    """
    pictures = [(one.label, one.digest) for one in base.pictures] + [(one.planned.label, one.digest) for one in new]
    labels, digests = [label for label, _ in pictures], [digest for _, digest in pictures]
    groups, chained = groups_to_draw(labels, digests, _groups(base.folder, folder, digests), val_share)
    sides = dict[str, str]()
    for picture, group in zip(base.pictures, groups, strict=False):
        if sides.get(group) != "train":
            sides[group] = picture.split
    found = list(zip(new, groups[len(base.pictures) :], strict=True))
    drawn = [(one.planned.label, group) for one, group in found if group not in sides and not one.planned.split]
    flags = draw_validation([label for label, _ in drawn], [group for _, group in drawn], val_share, seed)
    sides |= {group: "val" if flag else "train" for (_, group), flag in zip(drawn, flags, strict=True)}
    divided = [
        replace(one, planned=replace(one.planned, split=one.planned.split or sides[group])) for one, group in found
    ]
    return divided, chained & {one.planned.label for one in new}


def _groups(base: Path, added: Path, digests: Sequence[str]) -> list[str]:
    """Return for each picture the least digest among its copies, by what was seen of it in either folder."""
    seen = dict[str, np.void]()
    for folder in (base, added):
        album = Album(folder)
        for digest, row in zip(digests, album.rows_of(digests), strict=True):
            if row >= 0 and album.records["width"][row]:
                seen[digest] = album.records[row]
    known = list(seen)
    first = groups_of(len(known), duplicate_pairs(np.array(list(seen.values()), RECORD)))
    names = dict(zip(known, least_of_groups(known, first), strict=True))
    return [names.get(digest, digest) for digest in digests]


def _put(base: Version, new: list[Kept], title: str, folder: Path, identity: str) -> Version:
    paths = [image_path(one.digest) for one in new]
    added = sum(one.size for one, path in zip(new, paths, strict=True) if not (base.folder / path).exists())

    def bring(target: Path) -> None:
        for path in paths:
            os.replace(folder / path, target / path)
        append_album(folder, target)

    change = f"{len(new):,} {'picture' if len(new) == 1 else 'pictures'} added from {title}."
    pictures = (*base.pictures, *(one.picture() for one in new))
    return write_next(base, pictures, change, added, bring, identity)
