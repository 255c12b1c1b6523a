"""Points in the plane with their classes: drawn from the catalog, by hand, or read from a CSV file."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlkit.catalog.point_sets import POINT_SETS, Array, Labels
from dlkit.descent.losses import Domain
from dlkit.errors import DatasetError

FEWEST, MOST = 4, 5000  # points
MOST_CLASSES = 10
MOST_BYTES = 1_000_000
DOMAIN: Domain = (-1.3, 1.3, -1.3, 1.3)  # of the plots; whatever is read is scaled to -1 to 1


@dataclass(frozen=True, eq=False)
class Points:
    """`points` (N, 2) float64 from about -1 to 1 with `labels` (N,) int64, and what the classes are called.

    `is_test` (N,) says which of them are kept from the training.
    """

    points: Array
    labels: Labels
    classes: tuple[str, ...]
    is_test: np.ndarray

    def train(self) -> tuple[Array, Labels]:
        """Return what is learnt from."""
        return self.points[~self.is_test], self.labels[~self.is_test]

    def test(self) -> tuple[Array, Labels]:
        """Return what is kept from the training."""
        return self.points[self.is_test], self.labels[self.is_test]

    def is_same(self, other: "Points") -> bool:
        """Tell whether these are the same points of the same classes, with the same of them kept for the test."""
        arrays = ((self.points, other.points), (self.labels, other.labels), (self.is_test, other.is_test))
        return self.classes == other.classes and all(np.array_equal(*pair) for pair in arrays)

    def split(self, share: float, seed: int) -> "Points":
        """Return the same points with a share of each class kept for the test; of each class one at least is learnt."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        is_test = np.zeros(len(self.labels), bool)
        for label in range(len(self.classes)):
            own = order[self.labels[order] == label]
            is_test[own[: min(round(share * len(own)), len(own) - 1)]] = True
        return replace(self, is_test=is_test)


def drawn(name: str, count: int, classes: int, noise: float, seed: int) -> Points:
    """Return points of the catalog; the classes are called by their numbers."""
    points, labels = POINT_SETS[name].draw(seed, count, classes, noise)
    return Points(points, labels, tuple(map(str, range(classes))), np.zeros(count, bool))


def by_hand(rows: Iterable[Sequence[object]]) -> Points:
    """Return points (x, y, class) as they stand in the plot; DatasetError with the number of the point that is none."""
    return _checked([(f"Point {number}", row) for number, row in enumerate(rows, 1)])


def read_points(text: str) -> Points:
    """Read points as a link has them, "x,y,class; x,y,class"; DatasetError with the number of one that is none."""
    return by_hand([part.split(",") for part in text.split(";") if part.strip()])


def read_csv(data: bytes) -> Points:
    """Read lines of x, y and class; a first line of names may be there. Both axes are scaled to -1 to 1.

    Commas, semicolons or tabs stand between the cells. DatasetError with the line that cannot be read.
    """
    if len(data) > MOST_BYTES:
        raise DatasetError(f"The file may have {MOST_BYTES // 1000:,} kB; this one has {len(data) // 1000:,}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError("The file must be text in UTF-8; this one is not. Save it as CSV in UTF-8.") from None
    first = text.partition("\n")[0]
    mark = max(",;\t", key=first.count)
    try:
        lines = [row for row in csv.reader(text.splitlines(), delimiter=mark) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DatasetError(f"The file must be CSV; this one cannot be read ({error}).") from None
    has_names = bool(lines) and len(lines[0]) >= 2 and all(_number(cell) is None for cell in lines[0][:2])
    rows = [(f"Line {number}", row) for number, row in enumerate(lines, 1)]
    found = _checked(rows[1:] if has_names else rows)
    return replace(found, points=_scaled(found.points))


def _checked(rows: Sequence[tuple[str, Sequence[object]]]) -> Points:
    if not FEWEST <= len(rows) <= MOST:
        raise DatasetError(f"There must be from {FEWEST} to {MOST:,} points; got {len(rows):,}.")
    points, names = np.empty((len(rows), 2)), []
    for at, (where, row) in enumerate(rows):
        if len(row) != 3:
            raise DatasetError(f"{where} must have three cells, x, y and class, as in 0.5,-1.2,red; it has {len(row)}.")
        for axis, cell in enumerate(row[:2]):
            number = _number(cell)
            if number is None:
                raise DatasetError(f"{where}: {'xy'[axis]} must be a number; got {str(cell).strip()[:40]!r}.")
            points[at, axis] = number
        names.append(str(row[2]).strip())
        if not names[-1]:
            raise DatasetError(f"{where} must name a class in its third cell; that is empty.")
    classes = tuple(dict.fromkeys(sorted(names, key=lambda name: (_number(name) or 0.0, name))))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DatasetError(
            f"There must be from 2 to {MOST_CLASSES} classes to tell apart; got {len(classes)}. "
            "The class stands in the third cell of each line."
        )
    places = {name: label for label, name in enumerate(classes)}
    return Points(points, np.array([places[name] for name in names]), classes, np.zeros(len(rows), bool))


def _number(cell: object) -> float | None:
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < 1e100 else None


def _scaled(points: Array) -> Array:
    """Return points whose least and largest values along each axis are -1 and 1; 0 where all are the same."""
    low, high = points.min(0), points.max(0)
    half = (high - low) / 2
    scaled: Array = (points - (low + high) / 2) / np.where(half > 0, half, 1)
    return scaled
