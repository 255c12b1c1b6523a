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

FLAT = 1e-12  # a curvature, as a share of the larger one, that is rounding
LEVEL = 1e-14  # a slope that is rounding
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
        """Return a surface of the catalog; turned, it gets a square domain with its start and known points in it."""
        if not degrees % 360:
            return cls(entry.formula, entry.domain, entry.minima, entry.others)
        left, right, low, high = entry.domain
        middle = ((left + right) / 2, (low + high) / 2)
        kept = (entry.start, *entry.minima, *entry.others)
        half = max((right - left) / 2, (high - low) / 2, *(1.05 * math.dist(point, middle) for point in kept))
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
        x, y = self.middle + self._turning @ (np.asarray(point) - self.middle)
        return float(x), float(y)

    @property
    def middle(self) -> Array:
        """The point (2,) that it is turned about."""
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
            points = self.middle + (points - self.middle) @ turning  # the inverse, from the right
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
        """Return the one minimum; none where there is not one: inputs in one place, or classes that a point parts."""
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
    """Return the minimum; None where there is not one."""
    if loss.kind == "line":
        design = np.stack((loss.inputs, np.ones(loss.examples)), 1)
        (weight, bias), _, rank, _ = np.linalg.lstsq(design, np.asarray(loss.targets), rcond=None)
        return (float(weight), float(bias)) if rank == 2 else None
    point = np.zeros((1, 2))  # damped Newton steps: where classes are parted they run away
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


def newton_step(gradient: Array, hessian: Array) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the steps (N, 2) to the minimum of the parabola at N places, and where it has one, or a line of them.

    Curvatures are 0 where they are less than FLAT of the larger one. Along a flat direction no step is taken.
    """
    is_there = np.asarray(np.isfinite(hessian).all((1, 2)) & np.isfinite(gradient).all(1))
    curvatures, vectors = np.linalg.eigh(np.where(is_there[:, None, None], hessian, np.eye(2)))
    is_flat = np.abs(curvatures) <= FLAT * np.abs(curvatures).max(1, keepdims=True)
    slopes = np.einsum("nij,ni->nj", vectors, np.where(is_there[:, None], gradient, 0.0))
    lengths = np.where(is_flat, 0.0, slopes / np.where(is_flat, 1.0, curvatures))
    step = -np.einsum("nij,nj->ni", vectors, lengths)
    goes_up = curvatures > 0
    is_level = np.abs(slopes) <= FLAT * np.abs(slopes).max(1, keepdims=True) + LEVEL
    has_one = is_there & (goes_up & ~is_flat).all(1)
    has_line = is_there & goes_up[:, 1] & ~is_flat[:, 1] & is_flat[:, 0] & is_level[:, 0]
    return step, has_one, has_line


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
