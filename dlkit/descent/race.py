"""Paths of many optimizers from many starts at once, each step as torch.optim takes it.

All points are rows of one array, so a step looks at the loss once for all of them. Randomness is a function of (seed,
step): whoever races meets the same noise and the same minibatches, but for exact rules, which meet none. No point is
ever clamped, nor is a gradient.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.surfaces import Point
from dlkit.catalog.updates import DIRECTION, RULES, RuleEntry
from dlkit.descent.losses import Array, Look, Loss, as_points

FARTHEST = 1e6  # a point that is farther out in a coordinate has diverged
NOISE, MASK, BATCH, STARTS = range(4)  # what is drawn, each from a stream of its own
LEAST_CURVATURE = 1e-10  # of a step's change of gradient that L-BFGS learns from, as in torch


@dataclass(frozen=True)
class Competitor:
    """One optimizer with its settings; `settings` are those that differ from the rule's own.

    `batch`: so many examples a step, of a loss that is a sum over some; None: all of them.
    """

    rule: str
    learning_rate: float
    settings: Mapping[str, float] = field(default_factory=dict)
    schedule: str = "constant"
    batch: int | None = None

    @property
    def entry(self) -> RuleEntry:
        return RULES[self.rule]

    def all_settings(self) -> dict[str, float]:
        """Return all settings of the rule, those that were not given as they are by default."""
        return {**self.entry.settings, **self.settings}

    def rates(self, steps: int) -> Array:
        """Return the learning rate of each step (steps,), by the schedule; epochs of a tenth of them."""
        schedule = SCHEDULES[self.schedule]
        epoch = max(1, steps // 10)
        factors = [schedule.factor(step, steps, epoch, schedule.settings) for step in range(steps)]
        return self.learning_rate * np.asarray(factors, dtype=float)

    def cost(self, loss: Loss) -> float:
        """Return what a step costs, in gradients of the whole loss."""
        share = 1.0 if loss.examples is None or self.batch is None else min(1.0, self.batch / loss.examples)
        return self.entry.evaluations * (1.0 if self.entry.is_exact else share)

    def steps(self, loss: Loss, budget: float) -> int:
        """Return how many steps a budget of gradients of the whole loss allows."""
        return int(budget / self.cost(loss) + 1e-9)


@dataclass(frozen=True)
class Chance:
    """What makes gradients inexact: normal noise of deviation `noise`, and coordinates that are there by chance.

    `present`: each coordinate's own chance.
    """

    noise: float = 0.0
    present: tuple[float, float] = (1.0, 1.0)
    seed: int = 0

    def reaches(self, competitor: Competitor, loss: Loss) -> bool:
        """Tell whether a competitor's gradients differ from the loss's: by noise, missing coordinates or a batch."""
        is_part = competitor.batch is not None and competitor.batch < (loss.examples or 0)
        return (is_part or self.noise > 0 or min(self.present) < 1) and not competitor.entry.is_exact


@dataclass(frozen=True)
class Path:
    """One competitor's way from one start: T steps, fewer than were asked for where it ended before.

    `points` (T + 1, 2), `values` (T + 1,) of the whole loss there, `gradients` (T, 2) that the steps went by, `rates`
    (T,), `bends` (T, 3) or None: the Hessian (xx, xy, yy) where the rule needs it. `cost`: what a step costs, in
    gradients of the whole loss. `coming` (2,): what the next step would be, by the exact gradient and the last rate.
    """

    competitor: Competitor
    start: Point
    points: Array
    values: Array
    gradients: Array
    rates: Array
    bends: Array | None
    cost: float
    coming: Array
    is_cut: bool  # it ended before its budget did

    @property
    def steps(self) -> int:
        return len(self.rates)


class Walker:
    """What one rule remembers of rows of weights (R, P), its `shape`, and its next step.

    Settings may differ from row to row, as (R, 1). Newton's method is for two weights alone.
    """

    def __init__(self, rule: RuleEntry, settings: Mapping[str, float | Array], shape: tuple[int, int]) -> None:
        self._settings = {name: np.float64(value) if np.ndim(value) == 0 else value for name, value in settings.items()}
        plain = {name: value for name, value in settings.items() if np.ndim(value) == 0}
        self._lines = rule.formulas(plain)  # type: ignore[arg-type]
        self.memory: dict[str, Array | np.float64] = {name: np.float64(first) for name, first in rule.memory.items()}
        self._quasi_newton = QuasiNewton(shape, int(plain["history"])) if rule.needs_direction else None
        self._step = 0

    def step(self, points: Array, gradient: Array, rate: np.float64 | Array, bends: Array | None = None) -> Array:
        """Return what is added to the weights `points` (R, P)."""
        return self.explain(points, gradient, rate, bends)["delta"]

    def explain(
        self, points: Array, gradient: Array, rate: np.float64 | Array, bends: Array | None = None
    ) -> dict[str, Array]:
        """Take a step and return every value that it went by, by the names of the rule's lines."""
        self._step += 1
        values: dict[str, Any] = {"w": points, "g": gradient, "t": np.float64(self._step), "rate": rate}
        values |= self._settings | self.memory
        if bends is not None:
            values |= {"g_other": gradient[:, ::-1], "h": bends[:, [0, 2]], "h_other": bends[:, [2, 0]]}
            values["h_mixed"] = bends[:, [1]]
        if self._quasi_newton is not None:
            values[DIRECTION], first = self._quasi_newton.direction(gradient)
            values["rate"] = rate * first
        for name, formula in self._lines.items():
            values[name] = formula(values)
        self.memory = {name: values[name] for name in self.memory}
        if self._quasi_newton is not None:
            self._quasi_newton.moved(values["delta"], gradient)
        return values


class QuasiNewton:
    """The two loops of L-BFGS over R rows at once, as torch.optim.LBFGS without a line search."""

    def __init__(self, shape: tuple[int, int], history: int) -> None:
        self._moves = np.zeros((history, *shape))  # the newest last
        self._changes = np.zeros((history, *shape))
        self._inverse = np.zeros((history, shape[0]))  # 1 / (move · change); 0 where there is none yet
        self._scale = np.ones(shape[0])
        self._last: tuple[Array, Array] | None = None  # the last move and the gradient before it

    def direction(self, gradient: Array) -> tuple[Array, Array]:
        """Return the direction (R, P), and what the first step is shortened by (R, 1)."""
        first = np.ones((len(gradient), 1))
        if self._last is None:
            size = np.abs(gradient).sum(1, keepdims=True)
            return -gradient, np.minimum(first, 1 / np.where(size, size, 1))
        self._learn(gradient)
        direction, weights = -gradient, []
        for place in reversed(range(len(self._moves))):
            weight = _dot(self._moves[place], direction) * self._inverse[place]
            direction = direction - weight[:, None] * self._changes[place]
            weights.append(weight)
        direction = direction * self._scale[:, None]
        for place, weight in enumerate(reversed(weights)):
            turn = _dot(self._changes[place], direction) * self._inverse[place]
            direction = direction + (weight - turn)[:, None] * self._moves[place]
        return direction, first

    def moved(self, delta: Array, gradient: Array) -> None:
        """Take note of a step."""
        self._last = delta, gradient

    def _learn(self, gradient: Array) -> None:
        assert self._last is not None
        move, change = self._last[0], gradient - self._last[1]
        curvature = _dot(move, change)
        is_new = curvature > LEAST_CURVATURE
        for kept, new in ((self._moves, move), (self._changes, change)):
            kept[:-1, is_new], kept[-1, is_new] = kept[1:, is_new], new[is_new]
        self._inverse[:-1, is_new] = self._inverse[1:, is_new]
        self._inverse[-1, is_new] = 1 / curvature[is_new]
        self._scale[is_new] = curvature[is_new] / _dot(change, change)[is_new]


def race(
    loss: Loss, competitors: Sequence[Competitor], starts: Sequence[Point], budget: float, chance: Chance | None = None
) -> list[Path]:
    """Return the path of each competitor from each start; each may cost `budget` gradients of the whole loss."""
    points = as_points(starts)
    groups = [Group(loss, competitor, points, competitor.steps(loss, budget)) for competitor in competitors]
    for _ in walk(loss, groups, chance or Chance()):
        pass
    return [path for group in groups for path in group.paths()]


class Group:
    """One competitor's rows in a walk, one for each start, and where they were."""

    def __init__(self, loss: Loss, competitor: Competitor, starts: Array, steps: int, keeps: bool = True) -> None:
        self.competitor, self.steps, self.cost = competitor, steps, competitor.cost(loss)
        self.walker = Walker(competitor.entry, competitor.all_settings(), starts.shape)
        self.rates = competitor.rates(steps)
        self.points = starts.copy()
        self.values = np.full(len(starts), np.nan)
        self._starts = starts
        if keeps:
            self._points = np.empty((steps + 1, *starts.shape))
            self._values = np.empty((steps + 1, len(starts)))
            self._gradients = np.empty((steps, *starts.shape))
            self._bends = np.empty((steps, len(starts), 3)) if competitor.entry.needs_hessian else None
        self._keeps = keeps

    def take(self, step: int, value: Array, gradient: Array, bends: Array | None) -> None:
        """Take step number `step`, counted from 0, by what was seen at the points."""
        if self._keeps:
            self._points[step], self._values[step], self._gradients[step] = self.points, value, gradient
            if self._bends is not None and bends is not None:
                self._bends[step] = bends
        self.points = self.points + self.walker.step(self.points, gradient, self.rates[step], bends)

    def end(self, look: Look) -> None:
        """Take note of what is seen where the last step led, and of where the next would lead."""
        self.values = look.value
        if self._keeps:
            self._points[self.steps], self._values[self.steps] = self.points, look.value
            rate = self.rates[-1] if self.steps else np.float64(self.competitor.learning_rate)
            self._coming = self.walker.step(self.points, look.gradient, rate, _bends(look))

    def kept(self) -> tuple[Array, Array]:
        """Return all values (T + 1, R) and points (T + 1, R, 2)."""
        return self._values, self._points

    def paths(self) -> Iterator[Path]:
        """Yield the path from each start, to where it was no point of the plane any more, or far beyond it."""
        for row, (x, y) in enumerate(self._starts.tolist()):
            points = self._points[:, row]
            is_lost = np.asarray(~(np.isfinite(points).all(1) & (np.abs(points) <= FARTHEST).all(1)))
            is_lost[:-1] |= ~np.isfinite(self._gradients[:, row]).all(1)
            last = int(is_lost.argmax()) if is_lost.any() else self.steps
            yield Path(
                self.competitor,
                (x, y),
                points[: last + 1],
                self._values[: last + 1, row],
                self._gradients[:last, row],
                self.rates[:last],
                None if self._bends is None else self._bends[:last, row],
                self.cost,
                self._coming[row],
                last < self.steps,
            )


def walk(loss: Loss, groups: Sequence[Group], chance: Chance, *, is_shared: bool = False) -> Iterator[int]:
    """Let all groups take their steps side by side, and yield after each how many are done.

    `is_shared`: all rows of a group meet the same noise, as if each were the only one.
    """
    draw, bends = Draws(chance, loss.examples, is_shared), any(group.competitor.entry.needs_hessian for group in groups)
    longest = max((group.steps for group in groups), default=0)
    with np.errstate(all="ignore"):
        for step in range(longest + 1):
            active = [group for group in groups if group.steps >= step]
            look = loss.look(np.concatenate([group.points for group in active]), bends=bends)
            at = 0
            for group in active:
                rows = slice(at, at + len(group.points))
                at = rows.stop
                needs = group.competitor.entry.needs_hessian
                hessian = look.hessian[rows] if look.hessian is not None and needs else None
                own = Look(look.value[rows], look.gradient[rows], hessian)
                if step == group.steps:
                    group.end(own)
                else:
                    group.take(step, own.value, draw.gradient(loss, own, group, step), _bends(own))
            yield step


class Draws:
    """The noise, the missing coordinates and the minibatches of each step, the same for every group."""

    def __init__(self, chance: Chance, examples: int | None, is_shared: bool) -> None:
        self._chance, self._examples, self._is_shared = chance, examples, is_shared
        self._step, self._noise, self._mask = -1, np.zeros(0), np.zeros(0, bool)

    def gradient(self, loss: Loss, look: Look, group: Group, step: int) -> Array:
        """Return the gradients (R, 2) that a group's step goes by."""
        gradient, competitor = look.gradient, group.competitor
        if competitor.entry.is_exact:
            return gradient
        if self._examples is not None and competitor.batch is not None and competitor.batch < self._examples:
            batch = minibatch(self._examples, competitor.batch, self._chance.seed, step)
            gradient = loss.look(group.points, batch=batch).gradient
        if self._chance.noise or min(self._chance.present) < 1:
            if step != self._step:
                shape, seed = (1, 2) if self._is_shared else gradient.shape, self._chance.seed
                self._noise = np.random.default_rng((seed, NOISE, step)).standard_normal(shape)
                self._mask = np.random.default_rng((seed, MASK, step)).random(shape) < np.asarray(self._chance.present)
                self._step = step
            gradient = (gradient + self._chance.noise * self._noise) * self._mask
        return gradient


def minibatch(examples: int, size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return the examples of a step: each epoch goes through them in an order of its own.

    Those that fill no batch are left out of the epoch, so that each batch costs and deviates alike.
    """
    epoch, place = divmod(step, examples // size)
    order = np.random.default_rng((seed, BATCH, epoch)).permutation(examples)
    return order[place * size : (place + 1) * size]


def explained(path: Path, stride: int = 1) -> Iterator[dict[str, Array]]:
    """Yield for each step every value that it went by, by the names of the rule's lines: (1, 2), or a number.

    Of `stride` steps the first is told. The rule goes along the path's own points and gradients. What it remembers from
    the step before, and the gradient as it was, are called by their names with "before " in front.
    """
    walker = Walker(path.competitor.entry, path.competitor.all_settings(), (1, 2))
    with np.errstate(all="ignore"):
        for at in range(path.steps):
            rows = slice(at, at + 1)
            before: dict[str, Any] = {f"before {name}": value for name, value in walker.memory.items()}
            before["before g"] = path.gradients[rows]
            bends = None if path.bends is None else path.bends[rows]
            values = walker.explain(path.points[rows], path.gradients[rows], np.float64(path.rates[at]), bends)
            if at % stride == 0:
                yield before | values


def _bends(look: Look) -> Array | None:
    """Return Hessians as (R, 3): xx, xy, yy."""
    return None if look.hessian is None else look.hessian.reshape(-1, 4)[:, [0, 1, 3]]


def _dot(one: Array, other: Array) -> Array:
    return (one * other).sum(1)
