"""More pictures for an imported set: checked as by an import, new by their content, on top of the newest version."""

import os
import secrets
from collections import defaultdict
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from dlkit.data.importing import VAL_SHARE, ImportProgress, Kept, Report, keep_all
from dlkit.data.layouts import image_path
from dlkit.data.looks import append_album
from dlkit.data.plans import Plan
from dlkit.data.shelf import check_room, staging, sweep_imports
from dlkit.data.sources import Ledger, Source
from dlkit.data.split import draw_validation
from dlkit.data.versions import Version, newest, open_version, write_next
from dlkit.errors import DatasetError


def add_pictures(
    source: Source, plan: Plan, name: str, *, seed: int = 0, val_share: float = VAL_SHARE, identity: str | None = None
) -> Generator[ImportProgress, None, Report]:
    """Check the pictures of a plan and make a version of the set `name` with the new ones; to cancel is to stop asking.

    A picture that is there already is left out and told, and so is one that is there as another class: relabel it
    where it is. What is there keeps its split. DatasetError where nothing is new, otherwise errors and `identity` are
    as in `import_pictures`.
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
                version = _put(base, _divided(new, val_share, seed), plan.title, folder, identity)
                break
            except DatasetError:
                if newest(name) == base.number:
                    raise  # else somebody has edited it just now
    added = f"{len(new):,} {'picture was' if len(new) == 1 else 'pictures were'} added from {plan.title}."
    counts = {split: len(version.rows(split)) for split in ("train", "val", "test")}
    found = len(plan.pictures) + sum(len(one.names) for one in plan.left_out if one.what == "images")
    return Report(name, version.classes, counts, found, left_out.close(), (*plan.remarks, added))


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


def _divided(new: list[Kept], val_share: float, seed: int) -> list[Kept]:
    """Give every picture a split."""
    drawn = [one for one in new if one.planned.split is None]
    is_val = draw_validation([one.planned.label for one in drawn], [one.digest for one in drawn], val_share, seed)
    splits = iter("val" if flag else "train" for flag in is_val)
    return [one if one.planned.split else replace(one, planned=replace(one.planned, split=next(splits))) for one in new]


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
