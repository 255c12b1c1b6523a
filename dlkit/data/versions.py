"""The versions of an imported set: open one, edit it into the next, go back to an earlier one.

A version is written once and never changed. Its manifest comes first and the set's record, by which it is known, last:
so a version is there whole or not at all. Who edits names the version that they have seen; where somebody was quicker
the edit is refused, or put on top of the newest where that is asked for.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlkit import files
from dlkit.catalog.datasets import dataset_entry
from dlkit.catalog.imported import RECORD_NAME, records
from dlkit.data.edits import Edit, PictureEdit, apply_edits, check_pictures, check_rows
from dlkit.data.layouts import manifest_name
from dlkit.data.manifests import Picture, classes_of, read_manifest, record_version, write_manifest
from dlkit.data.shelf import check_space, imported_entry, names_alone, pinned, set_name
from dlkit.errors import DatasetError
from dlkit.settings import settings


@dataclass(frozen=True, eq=False)
class Version:
    """One version of the set `name`; `folder` has its images, and rows count `pictures` from 0."""

    name: str
    number: int
    folder: Path
    pictures: tuple[Picture, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return classes_of(self.pictures)

    def rows(self, split: str) -> list[int]:
        """Return the rows of one split, in the order that its pictures have in an opened data set."""
        return [row for row, picture in enumerate(self.pictures) if picture.split == split]

    def find(self, label: str = "", split: str = "", text: str = "") -> list[int]:
        """Return the rows of a class, of a split, and whose name has a text, capitals not counted; "" is any."""
        part = text.strip().casefold()
        return [
            row
            for row, picture in enumerate(self.pictures)
            if (not label or picture.label == label)
            and (not split or picture.split == split)
            and part in picture.name.casefold()
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return of each class how many pictures each split has."""
        found = Counter((picture.label, picture.split) for picture in self.pictures)
        return {name: {split: found[name, split] for split in ("train", "val", "test")} for name in self.classes}


@dataclass(frozen=True)
class Past:
    """What the record tells of a version: when and how it came to be, of which version, and how large it is."""

    number: int
    made_at: str
    change: str
    based_on: int | None
    classes: int
    train: int
    val: int
    test: int


def open_version(name: str) -> Version:
    """Return a version: `pets` is the newest, `pets@2` the second.

    UnknownChoice where there is no such set or version, DatasetError where it was not imported or is damaged.
    """
    entry = imported_entry(name)
    folder = settings().data_folder / "datasets" / entry.folder
    return Version(set_name(name), entry.version, folder, read_manifest(folder, entry.version))


def history(name: str) -> tuple[Past, ...]:
    """Return all versions of an imported set, the newest first."""
    record = records()[set_name(name)]
    return tuple(_past(told, record) for told in reversed(record["versions"]))


def edit(name: str, edits: Sequence[Edit], seen: int | None = None, on_top: bool = False) -> Version:
    """Make the next version of an imported set; its `change` in the `history` says in one sentence what it is.

    The rows of the edits are those of version `seen` (default: the newest). DatasetError where that is not the newest
    any more, unless `on_top`: then the pictures are looked for in the newest, and those that are gone are passed over.
    DatasetError, too, where an edit cannot be made, nothing would change or too little would be left, and
    DiskFullError; then all is as it was.
    """
    base = open_version(name if seen is None else pinned(name, seen))
    while True:
        top = open_version(base.name) if on_top else base
        carried = edits if top.number == base.number else [_carried(one, base, top) for one in edits]
        pictures, change = apply_edits(top.pictures, carried)
        try:
            return write_next(top, pictures, change)
        except DatasetError:
            if not on_top or newest(base.name) == top.number:
                raise  # else somebody was quicker just now


def restore(name: str, number: int, seen: int | None = None) -> Version:
    """Make an earlier version the newest again, as a version of its own; `seen` and the errors are as in `edit`."""
    base = open_version(name if seen is None else pinned(name, seen))
    earlier = open_version(pinned(name, number))
    if earlier.pictures == base.pictures:
        raise DatasetError(f"Version {number} is what {base.name} is now. Choose another one.")
    return write_next(base, earlier.pictures, f"As in version {number} again.")


def write_next(
    base: Version,
    pictures: Sequence[Picture],
    change: str,
    added_bytes: int = 0,
    bring: Callable[[Path], None] | None = None,
    made_by: str | None = None,
) -> Version:
    """Write the version after `base`; DatasetError where that is not the newest any more or the set is gone.

    `bring` moves new images, `added_bytes` of them, into the folder that it is given, when nobody else can be writing.
    By `made_by` an asker knows whether the version is there already.
    """
    check_pictures(pictures)
    number, made_at = base.number + 1, datetime.now(UTC).isoformat(timespec="seconds")
    told = {"made_at": made_at, "change": change, "based_on": base.number, "made_by": made_by}
    manifest = write_manifest(pictures, {"version": number, **told})
    check_space(base.name, len(manifest))
    with names_alone():
        if newest(base.name) != base.number:
            raise DatasetError(
                f"{base.name} has changed: version {newest(base.name)} is the newest, and this was version "
                f"{base.number}. Look at it again, or put the change on top of it."
            )
        try:
            record = json.loads((base.folder / RECORD_NAME).read_bytes())
            if bring is not None:
                bring(base.folder)
            files.write_whole(base.folder / manifest_name(number), manifest)
            record["versions"].append({**record_version(pictures, number, made_at), **told})
            record["bytes"] += added_bytes + len(manifest)
            files.write_whole(base.folder / RECORD_NAME, json.dumps(record, ensure_ascii=False).encode())
        except OSError as error:
            if error.errno in files.FULL:
                raise files.disk_full(base.folder, added_bytes + len(manifest), base.name) from error
            raise DatasetError(f"{base.name} cannot be changed ({error.strerror}). Check the data folder.") from error
    return Version(base.name, number, base.folder, tuple(pictures))


def is_made(made_by: str) -> bool:
    """Tell whether there is a set, or a version of one, that was made by whoever is called so."""
    known = records().values()
    return any(record["folder"] == made_by or made_by in map(_maker, record["versions"]) for record in known)


def newest(name: str) -> int:
    """Return the number of the newest version of an imported set; UnknownChoice where it is gone."""
    return dataset_entry(name).version


def _carried(edit: Edit, base: Version, top: Version) -> Edit:
    """Return an edit of one version as one of another: the same pictures, as far as they are there."""
    if not isinstance(edit, PictureEdit):
        return edit
    check_rows(edit.rows, len(base.pictures))
    keys, places = keys_of(base.pictures), {key: row for row, key in enumerate(keys_of(top.pictures))}
    return replace(edit, rows=[places[keys[row]] for row in edit.rows if keys[row] in places])


def keys_of(pictures: Sequence[Picture]) -> list[tuple[str, str, int]]:
    """Return by what each picture is known in every version: its digest, its name, and which of several such it is."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for picture in pictures:
        key = picture.digest, picture.name
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _maker(version: Mapping[str, Any]) -> str | None:
    return version.get("made_by")


def _past(told: Mapping[str, Any], record: Mapping[str, Any]) -> Past:
    return Past(
        number=told["number"],
        made_at=told["made_at"],
        change=told.get("change", f"Imported from {record['source']}."),
        based_on=told.get("based_on"),
        classes=told["classes"],
        train=told["train"],
        val=told["val"],
        test=told["test"],
    )
