"""One part of a data set: labels in memory, pictures read one at a time from files or from an array."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dlkit.data.images import read_image

MOST_OF_SHARE = 2  # times its share that a class's validation may be, where copies must stay together


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
        """Return numbers for the fingerprint: the bytes of each file, its digest, or the shape of the array."""


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
class StoredSplit(FileSplit):
    """Pictures whose files are called by their content (SHA-256); `shown` is what they were called before."""

    shown: tuple[str, ...]

    def read(self, index: int) -> Image.Image:
        return read_image(self.folder / self.names[index], name=self.shown[index])

    def name(self, index: int) -> str:
        return self.shown[index]

    def sizes(self) -> list[int]:
        return [int(name.rpartition("/")[2][:15], 16) for name in self.names]  # tells more than the bytes of a file


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


def draw_validation(labels: Sequence[str], groups: Sequence[str], share: float, seed: int) -> list[bool]:
    """Return which pictures become validation: of each class about `share`, the same on every machine.

    Pictures of one group stay together. A class with two groups or more has one of them at least on either side; one
    with a single group is for training, and so is a group that would make validation more than twice its share, unless
    all are so large.
    """
    members: dict[str, dict[str, list[int]]] = {}
    for index, (label, group) in enumerate(zip(labels, groups, strict=True)):
        members.setdefault(label, {}).setdefault(group, []).append(index)
    is_val: dict[str, bool] = {}
    for label in sorted(members):
        of_class = members[label]
        wanted = _wanted(share, sum(map(len, of_class.values())))
        taken = sum(len(of_class[group]) for group in of_class if is_val.get(group))
        free = sorted((group for group in of_class if group not in is_val), key=lambda group: lot(group, seed))
        most = max(MOST_OF_SHARE * wanted, min((len(of_class[group]) for group in free), default=0))
        learns = any(not is_val[group] for group in of_class if group in is_val)
        for place, group in enumerate(free):
            is_last = place == len(free) - 1 and not learns
            fits = taken + len(of_class[group]) <= most
            is_val[group] = taken < wanted and fits and not is_last
            taken += len(of_class[group]) * is_val[group]
            learns |= not is_val[group]
    return [is_val[group] for group in groups]


def groups_to_draw(
    labels: Sequence[str], digests: Sequence[str], groups: Sequence[str], share: float, tested: Collection[str] = ()
) -> tuple[list[str], set[str]]:
    """Return groups for `draw_validation`, and the classes whose pictures are too alike to be kept together.

    `groups` are of pictures that are alike, each perhaps with the next one only, as in a film. Where they leave a class
    fewer than two, or none that is small enough for validation, its pictures are told apart by their digests alone.
    Groups that are `tested` are not there to be drawn.
    """
    members = defaultdict[str, list[tuple[str, str]]](list)
    for label, digest, group in zip(labels, digests, groups, strict=True):
        members[label].append((digest, group))
    chained = set[str]()
    for label, pictures in members.items():
        sizes = Counter(group for _, group in pictures if group not in tested)
        most = MOST_OF_SHARE * _wanted(share, len(pictures))
        is_swallowed = len(sizes) < 2 or min(sizes.values()) > most
        if is_swallowed and len({digest for digest, _ in pictures}) > len(sizes):
            chained.add(label)
    torn = {group for label, group in zip(labels, groups, strict=True) if label in chained}
    return [digest if group in torn else group for digest, group in zip(digests, groups, strict=True)], chained


def _wanted(share: float, count: int) -> int:
    """Return how many of a class's pictures should be validation."""
    return max(1, round(share * count))


def lot(name: str, seed: int) -> str:
    """Draw a lot that depends on nothing but the name and the seed, whatever the version of numpy."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
