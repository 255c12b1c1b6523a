"""The pictures that a benchmark works on: class folders, from a folder or a zip file of it, or the shipped sample."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlkit.data.archives import unpack
from dlkit.data.dataset import SAMPLES
from dlkit.data.layouts import PICTURE_ENDINGS
from dlkit.errors import DatasetError

FLOWERS_MINI = SAMPLES / "flowers_mini"
PARTS = ("train", "val")


@contextmanager
def class_folders(data: Path) -> Iterator[Path]:
    """Give the folder with train/CLASS/picture and val/CLASS/picture, unpacked for as long as it is needed.

    DatasetError where there is none in `data`, a folder or a zip file.
    """
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = data
        if data.is_file():
            folder = Path(name)
            for _ in unpack(data, folder):
                pass
        yield _root(folder).absolute()


def pictures_of(folder: Path, part: str) -> list[Path]:
    """Return the pictures of one part ("train" or "val"), class after class."""
    found = (folder / part).glob("*/*")
    return sorted(path for path in found if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith("."))


def describe(folder: Path) -> str:
    """Say how many pictures of how many classes there are."""
    classes = sum(path.is_dir() for path in (folder / PARTS[0]).iterdir())
    train, val = (len(pictures_of(folder, part)) for part in PARTS)
    return f"{train:,} + {val:,} pictures of {classes} classes"


def _root(folder: Path) -> Path:
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    for candidate in candidates:
        if all((candidate / part).is_dir() for part in PARTS):
            return candidate
    raise DatasetError("The data must be class folders, train/CLASS/*.jpg and val/CLASS/*.jpg, or a zip file of them.")
