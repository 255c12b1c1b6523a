"""Sets of points in the plane with classes, for networks that are small enough to be looked at while they learn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Draw = np.random.Generator


@dataclass(frozen=True)
class PointSetEntry:
    """One set; `place` puts labels (N,) of so many classes at points (N, 2), from about -1 to 1.

    `classes` are the least and the most that it may have.
    """

    name: str
    title: str
    summary: str
    classes: tuple[int, int]
    place: Callable[[Draw, Labels, int], Array]

    def draw(self, seed: int, count: int, classes: int, noise: float) -> tuple[Array, Labels]:
        """Return points (count, 2) and their labels (count,), as many of each class; `noise` is a deviation."""
        draw = np.random.default_rng(seed)
        labels = draw.permutation(np.arange(count) % classes)
        points = self.place(draw, labels, classes)
        return points + noise * draw.standard_normal(points.shape), labels


def _polar(radius: Array | float, angle: Array) -> Array:
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1)


def _circles(draw: Draw, labels: Labels, classes: int) -> Array:
    return _polar((labels + 1) / classes, draw.uniform(0, 2 * np.pi, len(labels)))


def _spiral(draw: Draw, labels: Labels, classes: int) -> Array:
    along = np.sqrt(draw.uniform(0.01, 1, len(labels)))  # as many points on each piece of an arm
    return _polar(along, 2 * np.pi * (1.25 * along + labels / classes))


def _xor(draw: Draw, labels: Labels, _: int) -> Array:
    across, up = draw.uniform(0.05, 1, (2, len(labels)))
    side = draw.choice((-1.0, 1.0), len(labels))
    return np.stack((side * across, np.where(labels == 1, -side, side) * up), -1)


def _moons(draw: Draw, labels: Labels, _: int) -> Array:
    angle = draw.uniform(0, np.pi, len(labels))
    upper = _polar(0.65, angle) - np.array((0.33, 0.16))
    return np.where((labels == 0)[:, None], upper, -upper)


def _blobs(draw: Draw, labels: Labels, classes: int) -> Array:
    middle = _polar(0.7, 2 * np.pi * labels / classes + np.pi / 4)
    return middle + 0.12 * draw.standard_normal(middle.shape)


_ENTRIES = (
    PointSetEntry(
        "circles",
        "Circles",
        "One class around another: no line parts them, and three units of a hidden layer can.",
        (2, 5),
        _circles,
    ),
    PointSetEntry(
        "spiral",
        "Spiral",
        "Arms wound about each other: hard for a small network, so width, depth and the optimizer show.",
        (2, 10),
        _spiral,
    ),
    PointSetEntry(
        "xor",
        "XOR",
        "Opposite quarters are one class: the smallest problem that a perceptron cannot solve.",
        (2, 2),
        _xor,
    ),
    PointSetEntry("moons", "Moons", "Two half rings, one reaching into the other.", (2, 2), _moons),
    PointSetEntry(
        "blobs", "Blobs", "Clusters apart from each other: a network without a hidden layer will do.", (2, 10), _blobs
    ),
)

POINT_SETS: dict[str, PointSetEntry] = {entry.name: entry for entry in _ENTRIES}
