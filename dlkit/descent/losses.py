"""What is descended on: surfaces from a formula, and sums over examples. Values, gradients, Hessians; all exact."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.formulas import Formula
from dlkit.catalog.jets import Jet
from dlkit.catalog.surfaces import Point, SurfaceEntry

Array = NDArray[np.float64]
Domain = tuple[float, float, float, float]


@dataclass(frozen=True)
class Look:
    """What is seen at N places: `value` (N,), `gradient` (N, 2), `hessian` (N, 2, 2) or None; nan: not defined."""

    value: Array
    gradient: Array
    hessian: Array | None = None


class Loss(Protocol):
    """A function of two parameters, with what is known of it; `examples` are how many it is a sum over, or None."""

    @property
    def domain(self) -> Domain: ...
    @property
    def minima(self) -> tuple[Point, ...]: ...
    @property
    def examples(self) -> int | None: ...

    def look(self, points: Array, *, bends: bool = False, batch: NDArray[np.int64] | None = None) -> Look:
        """Look at `points` (N, 2); with Hessians if `bends`; over the examples of `batch` only, where it is a sum."""


@dataclass(frozen=True)
class Surface:
    """The surface of a formula, turned about the middle of its domain by `degrees`."""

    formula: Formula
    domain: Domain
    minima: tuple[Point, ...] = ()
    others: tuple[Point, ...] = ()
    degrees: float = 0.0
    examples: None = field(default=None, init=False)

    @classmethod
    def of(cls, entry: SurfaceEntry, degrees: float = 0.0) -> "Surface":
        """Return a surface of the catalog; turned, it gets a square domain that its start is in."""
        if not degrees % 360:
            return cls(entry.formula, entry.domain, entry.minima, entry.others)
        left, right, low, high = entry.domain
        middle = ((left + right) / 2, (low + high) / 2)
        half = max((right - left) / 2, (high - low) / 2, 1.05 * math.dist(entry.start, middle))
        domain = (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
        turned = cls(entry.formula, domain, (), (), degrees)
        return cls(
            entry.formula,
            domain,
            tuple(turned.turn(point) for point in entry.minima),
            tuple(turned.turn(point) for point in entry.others),
            degrees,
        )

    def turn(self, point: Point) -> Point:
        """Return where a point of the formula lies on the turned surface."""
        if not self.degrees:
            return point
        x, y = self._middle + self._turning @ (np.asarray(point) - self._middle)
        return float(x), float(y)

    @property
    def _middle(self) -> Array:
        left, right, low, high = self.domain
        return np.array(((left + right) / 2, (low + high) / 2))

    @property
    def _turning(self) -> Array:
        angle = math.radians(self.degrees)
        return np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))

    def look(self, points: Array, *, bends: bool = False, batch: NDArray[np.int64] | None = None) -> Look:
        """Look at `points` (N, 2): see `Loss`."""
        assert batch is None, "a surface has no examples"
        turning = self._turning if self.degrees else None
        if turning is not None:
            points = self._middle + (points - self._middle) @ turning  # the inverse, from the right
        x, y = Jet.variables(points, bends=bends)
        with np.errstate(all="ignore"):
            found = self.formula({"x": x, "y": y})
        if not isinstance(found, Jet):  # a formula without x and y
            found = 0.0 * x + found
        gradient, hessian = found.slope.T, None
        if found.bend is not None:
            hessian = found.bend[[0, 1, 1, 2]].T.reshape(-1, 2, 2)
        if turning is not None:
            gradient = gradient @ turning.T
            hessian = None if hessian is None else turning @ hessian @ turning.T
        value = np.where(np.isfinite(found.value), found.value, np.nan)
        return Look(value, np.where(np.isnan(value)[:, None], np.nan, gradient), hessian)


@dataclass(frozen=True)
class FiniteSum:
    """The mean loss of a model with two parameters over some examples: slope w and bias b of a line.

    "line": half the squared distance of w·x + b from y, least squares. "logistic": cross-entropy of sigmoid(w·x + b)
    with y, which is 0 or 1. So a minibatch differs from the whole because its examples do.
    """

    kind: Literal["line", "logistic"]
    inputs: tuple[float, ...]
    targets: tuple[float, ...]
    domain: Domain = (-4.0, 4.0, -4.0, 4.0)

    @classmethod
    def of(cls, kind: Literal["line", "logistic"], points: Sequence[Point]) -> "FiniteSum":
        """Return the sum over examples (input, target), on a square about 0 that its minimum is well within."""
        inputs, targets = zip(*points, strict=True)
        made = cls(kind, inputs, targets)
        half = max([4.0, *(1.5 * abs(value) for point in made.minima for value in point)])
        return replace(made, domain=(-half, half, -half, half))

    def deviation(self, point: Point, batch: int) -> Array:
        """Return the standard deviation (2,) of the gradient of `batch` examples, drawn without putting back.

        √(S²/B · (N − B)/(N − 1)), with S² the variance of the examples' own gradients (Cochran 1977, Sampling
        techniques, theorem 2.2).
        """
        places = range(self.examples)
        singles = [self.look(as_points([point]), batch=np.array([place])).gradient[0] for place in places]
        share = (self.examples - batch) / (batch * (self.examples - 1))
        deviation: Array = np.asarray(singles).std(0) * math.sqrt(share)
        return deviation

    @property
    def examples(self) -> int:
        return len(self.inputs)

    @property
    def minima(self) -> tuple[Point, ...]:
        """Return the one minimum; none where the examples have none: one place only, or classes that a point parts."""
        best = _fitted(self)
        return () if best is None else (best,)

    def look(self, points: Array, *, bends: bool = False, batch: NDArray[np.int64] | None = None) -> Look:
        """Look at `points` (N, 2) = (w, b): see `Loss`."""
        inputs, targets = np.asarray(self.inputs), np.asarray(self.targets)
        if batch is not None:
            inputs, targets = inputs[batch], targets[batch]
        design = np.stack((inputs, np.ones_like(inputs)))  # (2, examples)
        with np.errstate(all="ignore"):
            outputs = points @ design
            if self.kind == "line":
                errors = outputs - targets
                losses, weights = errors**2 / 2, np.ones_like(errors)
            else:
                chances = 1 / (1 + np.exp(-outputs))
                losses, errors = np.logaddexp(0, outputs) - targets * outputs, chances - targets
                weights = chances * (1 - chances)
            gradient = errors @ design.T / len(inputs)
            hessian = np.einsum("ne,ie,je->nij", weights, design, design) / len(inputs) if bends else None
        return Look(losses.mean(1), gradient, hessian)


def _fitted(loss: FiniteSum) -> Point | None:
    """Return the minimum by damped Newton steps; None where it runs away, or the Hessian stays singular."""
    point = np.zeros((1, 2))
    for _ in range(100):
        at = loss.look(point, bends=True)
        assert at.hessian is not None
        if np.linalg.cond(at.hessian[0]) > 1e12 or np.abs(point).max() > 1e3:
            return None
        step = np.linalg.solve(at.hessian[0], at.gradient[0])
        while loss.look(point - step).value[0] > at.value[0] and np.abs(step).max() > 1e-12:
            step /= 2
        point = point - step
        if np.abs(step).max() < 1e-12:
            break
    return float(point[0, 0]), float(point[0, 1])


def is_inside(points: Array, domain: Domain) -> NDArray[np.bool_]:
    """Tell which of `points` (…, 2) lie in the domain, whose border is part of it."""
    left, right, low, high = domain
    x, y = points[..., 0], points[..., 1]
    return (x >= left) & (x <= right) & (y >= low) & (y <= high)


def grid(domain: Domain, count: int) -> tuple[Array, Array, Array]:
    """Return `count` places along x, as many along y, and all (count², 2), row by row from the lowest y."""
    left, right, low, high = domain
    across, up = np.linspace(left, right, count), np.linspace(low, high, count)
    points = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    return across, up, points


def known_value(loss: Loss) -> float | None:
    """Return the value at the known minima; None where none is known."""
    if not loss.minima:
        return None
    return float(loss.look(np.asarray(loss.minima, dtype=float)).value.min())


def as_points(points: Sequence[Point]) -> Array:
    """Return points as an array (N, 2)."""
    return np.asarray(points, dtype=float).reshape(-1, 2)
