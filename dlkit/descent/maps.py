"""Maps: where each start ends, how the rate decides, and the curvature at a point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.surfaces import Point
from dlkit.descent.losses import Array, Loss, as_points, grid, is_inside, known_value, newton_step
from dlkit.descent.race import FARTHEST, Chance, Competitor, Group, walk
from dlkit.descent.verdicts import NEAR, TARGET, decay, edge

SWEPT = 60  # rates


@dataclass(frozen=True)
class Basins:
    """Where starts on a grid end: `ends` names each start's minimum by its place in `minima`; −1: in none.

    `ends` is (count, count), the rows along y.
    """

    across: Array
    up: Array
    ends: NDArray[np.int64]
    minima: tuple[Point, ...]


def basins(loss: Loss, competitor: Competitor, count: int, steps: int, chance: Chance | None = None) -> Basins:
    """Return the basins of `count` × `count` starts after `steps` steps."""
    across, up, starts = grid(loss.domain, count)
    group = Group(loss, competitor, starts, steps, keeps=False)
    for _ in walk(loss, [group], chance or Chance()):
        pass
    ends, minima = _sorted_by_minimum(loss, group.points)
    return Basins(across, up, ends.reshape(count, count), minima)


def _sorted_by_minimum(loss: Loss, points: Array) -> tuple[NDArray[np.int64], tuple[Point, ...]]:
    """Return for each point (N, 2) which minimum it is near, by Newton's step, and the minima, the lowest first.

    Near: a hundredth of the domain's diagonal; who moves about a minimum is in its basin, too.
    """
    left, right, low, high = loss.domain
    diagonal = float(np.hypot(right - left, high - low))
    ends = np.full(len(points), -1)
    is_there = np.isfinite(points).all(1) & (np.abs(points) <= FARTHEST).all(1)
    now = points[is_there]
    is_near = np.ones(len(now), bool)
    with np.errstate(all="ignore"):
        for _ in range(20):
            look = loss.look(now, bends=True)
            assert look.hessian is not None
            step, has_one, _ = newton_step(look.gradient, look.hessian)
            is_near &= has_one
            step[~is_near] = 0.0
            now = now + step
            is_near &= np.linalg.norm(now - points[is_there], axis=1) < 1e-2 * diagonal
    is_near &= np.linalg.norm(step, axis=1) < 1e-3 * NEAR * diagonal
    found: list[Array] = []
    numbers = np.full(len(now), -1)
    for place in np.flatnonzero(is_near):
        if numbers[place] >= 0:
            continue
        same = is_near & (np.linalg.norm(now - now[place], axis=1) < NEAR * diagonal)
        numbers[same] = len(found)
        found.append(now[place])
    ends[is_there] = numbers
    if not found:
        return ends, ()
    order = np.argsort(loss.look(np.asarray(found)).value, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    ends = np.where(ends >= 0, ranks[ends], -1)
    return ends, tuple((float(found[place][0]), float(found[place][1])) for place in order)


@dataclass(frozen=True)
class Sweep:
    """Steps to the target against the rate; nan: not reached. `diverged` (N,) tells where a path ran away.

    `edge`: the constant rate from which a rule leaves the minimum that most rates lead to, where that is known.
    """

    rates: Array
    steps: Array
    is_diverged: NDArray[np.bool_]
    target: float | None
    edge: float | None


def sweep(
    loss: Loss,
    competitor: Competitor,
    start: Point,
    steps: int,
    low: float = 1e-4,
    high: float = 10.0,
    chance: Chance | None = None,
) -> Sweep:
    """Try SWEPT rates, logarithmically spaced, from one start; each is a row of one walk."""
    rates = np.geomspace(low, high, SWEPT)
    group = Group(loss, replace(competitor, learning_rate=1.0), np.repeat(as_points([start]), SWEPT, 0), steps)
    group.rates = group.rates[:, None, None] * rates[None, :, None]
    reached, best = np.full(SWEPT, np.nan), known_value(loss)
    target = None if best is None else best + TARGET
    for _ in walk(loss, [group], chance or Chance(), is_shared=True):
        pass
    values, points = group.kept()
    if target is not None:
        is_there = values <= target
        reached = np.where(is_there.any(0), is_there.argmax(0), np.nan)
    is_lost = ~(np.isfinite(points[-1]).all(1) & (np.abs(points[-1]) <= FARTHEST).all(1))
    return Sweep(rates, reached, is_lost, target, _edge_at_minimum(loss, competitor, points[-1]))


def _edge_at_minimum(loss: Loss, competitor: Competitor, ends: Array) -> float | None:
    """Return the edge at the known minimum that most of `ends` (N, 2) are nearest to."""
    settings = competitor.all_settings()
    limit = edge(competitor.rule, settings)
    if limit is None or not loss.minima or competitor.schedule != "constant":
        return None
    ends = ends[is_inside(ends, loss.domain)]
    apart = np.linalg.norm(ends[:, None] - as_points(loss.minima), axis=2)
    nearest = np.bincount(apart.argmin(1), minlength=len(loss.minima)).argmax() if len(ends) else 0
    bends, _ = curvature(loss, loss.minima[nearest])
    steepest = float(bends[1]) + decay(competitor)
    return limit / steepest if steepest > 0 else None


def curvature(loss: Loss, point: Point) -> tuple[Array, Array]:
    """Return the Hessian's eigenvalues (2,), the smaller first, and its eigenvectors (2, 2), one in each column."""
    hessian = loss.look(as_points([point]), bends=True).hessian
    assert hessian is not None
    if not np.isfinite(hessian).all():
        return np.full(2, np.nan), np.full((2, 2), np.nan)
    values, vectors = np.linalg.eigh(hessian[0])
    return values, vectors


def curvatures(loss: Loss, points: Array) -> Array:
    """Return for each of `points` (N, 2) the smaller and the larger curvature and the larger one's angle, (N, 3).

    The angle is in radians from the first axis; nan where the loss is not defined.
    """
    hessians = loss.look(points, bends=True).hessian
    assert hessians is not None
    found = np.full((len(points), 3), np.nan)
    is_there = np.isfinite(hessians).all((1, 2))
    values, vectors = np.linalg.eigh(hessians[is_there])
    found[is_there] = np.column_stack((values, np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])))
    return found


def condition(curvatures: Sequence[float] | Array) -> float:
    """Return the ratio of the larger to the smaller curvature, without signs; infinity where one is 0."""
    small, large = sorted(abs(float(value)) for value in curvatures)
    return large / small if small else float("inf")


def kind_of(curvatures: Sequence[float] | Array) -> str:
    """Name the kind of a point by its curvatures, the smaller first; it may be a slope, too."""
    small, large = float(curvatures[0]), float(curvatures[1])
    if not (np.isfinite(small) and np.isfinite(large)):
        return "not defined"
    if small > 0:
        return "curved up"
    if large < 0:
        return "curved down"
    return "saddle" if small < 0 < large else "flat one way"
