"""Losses that are sums over examples: what a model of two parameters makes of some points, drawn or picked.

Both parameters are shown as x and y everywhere: the weight w across, the bias b upwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dlkit.catalog.surfaces import Point

MOST_POINTS = 60


@dataclass(frozen=True)
class SumEntry:
    """One model; `points` names the set of POINT_SETS that it begins with, `latex` is its loss."""

    name: Literal["line", "logistic"]
    title: str
    teaches: str
    latex: str
    points: str
    source: str
    rates: Mapping[str, float]
    start: Point = (-3.0, 3.0)


@dataclass(frozen=True)
class PointSet:
    """Examples (input, target) to pick."""

    name: str
    title: str
    points: tuple[Point, ...]


_ENTRIES = (
    SumEntry(
        "line",
        "Least squares: a line through points",
        "The loss is a mean over the points, so a batch of some of them gives another gradient: that is the noise of "
        "stochastic descent. w, the slope, goes along x here, b, the intercept, along y.",
        r"f(w, b) = \frac{1}{N}\sum_{i=1}^{N}\tfrac12\,(w\,x_i + b - y_i)^2",
        "noisy-line",
        "Bishop 2006, Pattern recognition and machine learning, chapter 3.1",
        {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "adagrad": 0.5, "rmsprop": 0.05, "adam": 0.1},
    ),
    SumEntry(
        "logistic",
        "Logistic regression: two classes of points",
        "Cross-entropy of σ(w·x + b) with the class, 0 or 1. Where one point parts the classes there is no minimum: "
        "the weight grows without end.",
        r"f(w, b) = -\frac{1}{N}\sum_{i=1}^{N}\big(y_i \log \sigma(w\,x_i + b)"
        r" + (1 - y_i)\log(1 - \sigma(w\,x_i + b))\big)",
        "overlapping-classes",
        "Bishop 2006, Pattern recognition and machine learning, chapter 4.3",
        {"sgd": 0.5, "momentum": 0.1, "nesterov": 0.1, "adagrad": 0.5, "rmsprop": 0.05, "adam": 0.1},
    ),
)

_SETS = (
    PointSet(
        "noisy-line",
        "A noisy line",
        (
            (-2.8, -1.9),
            (-2.2, -0.4),
            (-1.9, -1.1),
            (-1.3, 0.2),
            (-0.8, -0.6),
            (-0.4, 1.0),
            (0.1, 0.3),
            (0.6, 1.5),
            (0.9, 0.6),
            (1.4, 1.2),
            (1.8, 2.3),
            (2.1, 1.3),
            (2.5, 2.9),
            (2.9, 2.0),
        ),
    ),
    PointSet(
        "outlier",
        "A line and an outlier",
        ((-3, -1.6), (-2, -0.9), (-1, -0.5), (0, 0.1), (1, 0.4), (2, 1.1), (3, 1.4), (2.5, -3.5)),
    ),
    PointSet(
        "far-from-zero",
        "Far from zero",
        ((2.0, 0.2), (2.3, 0.8), (2.6, 0.9), (2.9, 1.6), (3.2, 1.4), (3.5, 2.2), (3.8, 2.1)),
    ),
    PointSet(
        "overlapping-classes",
        "Two classes that overlap",
        (
            (-3.1, 0),
            (-2.4, 0),
            (-1.7, 0),
            (-1.1, 0),
            (-0.2, 0),
            (0.9, 0),
            (-0.9, 1),
            (0.3, 1),
            (1.0, 1),
            (1.6, 1),
            (2.2, 1),
            (3.0, 1),
        ),
    ),
    PointSet(
        "parted-classes",
        "Two classes that a point parts",
        ((-3, 0), (-2.2, 0), (-1.5, 0), (-0.9, 0), (0.8, 1), (1.4, 1), (2.1, 1), (3.2, 1)),
    ),
)

SUMS: dict[str, SumEntry] = {entry.name: entry for entry in _ENTRIES}
POINT_SETS: dict[str, PointSet] = {one.name: one for one in _SETS}
