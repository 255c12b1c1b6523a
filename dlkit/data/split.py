"""One part of a data set: labels in memory, pictures read one at a time from files or from an array."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dlkit.data.images import read_image


@dataclass(frozen=True, eq=False)
class Split(ABC):
    """`labels` is int64 (N,): for each picture the index of its class."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def indices_of(self, label: int) -> np.ndarray:
        """Return the indices (int64, ascending) of the pictures of one class."""
        return np.flatnonzero(self.labels == label)

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return one picture as RGB; ImageError if its file is damaged."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what the picture is called: a file's name below the data set's folder, or "train 17"."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Return numbers for the fingerprint: the bytes of each file, or the shape of the array."""


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """Pictures in files; `names` are their paths below `folder`."""

    folder: Path
    names: tuple[str, ...]

    def read(self, index: int) -> Image.Image:
        return read_image(self.folder / self.names[index], name=self.names[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def sizes(self) -> list[int]:
        return [(self.folder / name).stat().st_size for name in self.names]


@dataclass(frozen=True, eq=False)
class ArraySplit(Split):
    """Pictures in one uint8 array, (N, H, W) grey or (N, H, W, 3) colour; `title` is "train" or "test"."""

    images: np.ndarray
    title: str

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.images[index])).convert("RGB")

    def name(self, index: int) -> str:
        return f"{self.title} {index}"

    def sizes(self) -> list[int]:
        return list(self.images.shape)
