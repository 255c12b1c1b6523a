"""Any data set that is here as a source of pictures to import: so it becomes one's own, and can be curated."""

import io
from dataclasses import dataclass

from PIL import Image

from dlkit.catalog.datasets import dataset_entry
from dlkit.data.dataset import open_dataset
from dlkit.data.labels import Labelled
from dlkit.data.layouts import image_path
from dlkit.data.plans import Plan
from dlkit.data.sources import File, Source, check_size, shown
from dlkit.data.split import ArraySplit, FileSplit, Split
from dlkit.data.versions import open_version
from dlkit.errors import DatasetError, ImageError


@dataclass(frozen=True)
class Place:
    """Where a picture lies: a split of the data set, and which of its pictures."""

    split: Split
    index: int


class Copied(Source):
    """Pictures of a data set that is here."""

    def __init__(self, title: str, files: tuple[File, ...]) -> None:
        self.title, self.files, self.left_out = title, files, ()

    def read(self, file: File, limit: int) -> bytes:
        """Return the file as it is; a picture that lies in an array becomes a PNG."""
        if isinstance(file.place, Place):
            return _png(file.place.split.read(file.place.index))
        check_size(file, limit)
        try:
            content: bytes = file.place.read_bytes()
        except OSError as error:
            raise ImageError(f"{file.name} cannot be opened.", "cannot be opened") from error
        return content


def open_copy(name: str) -> tuple[Copied, Plan]:
    """Return the pictures of a data set, and the plan to import them as they are, under the licence that they have.

    Raises UnknownChoice, and DatasetError where it has not been fetched or is damaged.
    """
    entry = dataset_entry(name)
    try:
        pictures = _of_version(name) if entry.folder else _of_splits(name)
    except OSError as error:
        raise DatasetError(f"{entry.title} is damaged ({error.strerror}), so it cannot be copied.") from error
    plan = Plan(entry.title, "data set", pictures, (), (), entry.licence, entry.source)
    return Copied(entry.title, tuple(one.file for one in pictures)), plan


def _of_version(name: str) -> tuple[Labelled, ...]:
    """Return the pictures of an imported set, those kept for testing among them."""
    version = open_version(name)
    return tuple(
        Labelled(File(one.name, one.bytes, version.folder / image_path(one.digest)), one.label, one.split)
        for one in version.pictures
    )


def _of_splits(name: str) -> tuple[Labelled, ...]:
    dataset = open_dataset(name)
    return tuple(
        Labelled(_file(split, index), dataset.classes[split.labels[index]], title)
        for title, split in (("train", dataset.train), ("val", dataset.val))
        for index in range(len(split))
    )


def _file(split: Split, index: int) -> File:
    if isinstance(split, FileSplit):
        path = split.folder / split.names[index]
        return File(shown(split.names[index]), path.stat().st_size, path)
    assert isinstance(split, ArraySplit), "there is no third kind"
    return File(f"{split.name(index)}.png", split.images[0].nbytes, Place(split, index))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
