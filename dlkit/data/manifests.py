"""A version of an imported set on the disk: a manifest with its pictures, and what the set's record tells of it."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dlkit.data.layouts import MANIFEST_FORMAT, manifest_name
from dlkit.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a version: the SHA-256 that its file is called by, class, split, former name, bytes and pixels."""

    digest: str
    label: str
    split: str
    name: str
    bytes: int
    width: int
    height: int


def classes_of(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """Return the classes that pictures have, sorted: their order is the order of a model's outputs."""
    return tuple(sorted({picture.label for picture in pictures}))


def write_manifest(pictures: Sequence[Picture], about: Mapping[str, Any]) -> bytes:
    """Return the manifest of these pictures; `about` says which version it is and how it came to be."""
    classes = classes_of(pictures)
    labels = {label: number for number, label in enumerate(classes)}
    columns = {
        "sha256": [picture.digest for picture in pictures],
        "label": [labels[picture.label] for picture in pictures],
        "split": [picture.split for picture in pictures],
        "name": [picture.name for picture in pictures],
        "bytes": [picture.bytes for picture in pictures],
        "width": [picture.width for picture in pictures],
        "height": [picture.height for picture in pictures],
    }
    manifest = {"format": MANIFEST_FORMAT, **about, "classes": classes, "pictures": columns}
    return json.dumps(manifest, ensure_ascii=False).encode()


def read_manifest(folder: Path, version: int) -> tuple[Picture, ...]:
    """Return the pictures of a version, those kept for testing among them; DatasetError where it is damaged."""
    try:
        told = json.loads((folder / manifest_name(version)).read_bytes())
        if told["format"] != MANIFEST_FORMAT:
            raise ValueError(f"it is of format {told['format']}, not {MANIFEST_FORMAT}")
        columns, classes = told["pictures"], told["classes"]
        labels = (classes[number] for number in columns["label"])
        splits = map(sys.intern, columns["split"])
        sizes = (columns["bytes"], columns["width"], columns["height"])
        return tuple(map(Picture, columns["sha256"], labels, splits, columns["name"], *sizes))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DatasetError(f"Version {version} of this data set is damaged ({error}). Go on from another.") from error


def record_version(pictures: Sequence[Picture], number: int, made_at: str) -> dict[str, Any]:
    """Return what the set's record tells of a version, so that nobody needs the manifest for it."""
    counts = {split: sum(picture.split == split for picture in pictures) for split in ("train", "val", "test")}
    side = round(median(min(picture.width, picture.height) for picture in pictures))
    return {
        "number": number,
        "made_at": made_at,
        "classes": len(classes_of(pictures)),
        **counts,
        "image_size": side,
    }
