"""Descents beside torch's: `python -m benchmarks.descend [--steps N] [--starts N] [--surfaces NAME …]`.

Every optimizer on every surface from random starts with random settings, beside torch.optim: on gradients of autograd,
how far the paths are apart; on the gradients of our own path, how far its steps are; and what both cost.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.machine import headline, print_table
from dlkit.catalog.formulas import Formula
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.surfaces import SURFACES, SurfaceEntry
from dlkit.catalog.updates import RULES
from dlkit.descent.asked import default_rate
from dlkit.descent.losses import Array, Surface, grid
from dlkit.descent.maps import basins
from dlkit.descent.race import Competitor, Path, race

ULP = 2.0**-52
TOLERANCE = 1e-12  # of how far apart two paths are, by the size of what they have passed
JITTERED = (True, True)  # runs of torch that are rounded otherwise
SAMPLE = 5  # of the starts of a map that torch is timed on
SETTINGS = 4  # draws of settings for each optimizer and surface
#: how settings are drawn, from and to
DRAWN = {
    "weight_decay": (0.0, 0.05),
    "momentum": (0.3, 0.95),
    "beta1": (0.5, 0.95),
    "beta2": (0.9, 0.999),
    "rho": (0.5, 0.95),
    "smoothing": (0.8, 0.99),
    "learning_rate_decay": (0.0, 0.01),
    "momentum_decay": (0.0, 0.01),
}


def torch_value(formula: Formula, points: torch.Tensor) -> torch.Tensor:
    """Return a formula's values (N,) at `points` (N, 2), in torch."""
    x, y = points.unbind(-1)
    value: torch.Tensor = formula({"x": x, "y": y}) + 0 * x
    return value


def torch_path(
    formula: Formula, competitor: Competitor, starts: Array, steps: int, jittered: Array | None = None
) -> Array:
    """Return the points (steps + 1, N, 2) of torch.optim, or of torch's own Hessians for Newton's method.

    The rows are one weight for rules that go by single coordinates, and a weight each for L-BFGS. What torch keeps in
    its default type, NAdam's product of momenta, is float64 here like the rest. The rows `jittered`, bool (N,), are
    rounded otherwise at each step.
    """
    if jittered is None:
        jittered = np.zeros(len(starts), bool)
    with _float64():
        if competitor.rule == "newton":
            return _newton_path(formula, competitor.learning_rate, starts, steps, jittered)
        if competitor.rule == "lbfgs":
            rows = zip(starts[:, None], jittered[:, None], strict=True)
            return np.concatenate([_optimizer_path(formula, competitor, *row, steps) for row in rows], 1)
        return _optimizer_path(formula, competitor, starts, jittered, steps)


def driven_path(competitor: Competitor, paths: Sequence[Path], jittered: Array) -> Array:
    """Return the points (steps + 1, N, 2) of torch.optim from the paths' starts by their own gradients.

    NaN after a path's end. The rows `jittered`, bool (N,), are rounded otherwise at each step.
    """
    steps = max(path.steps for path in paths)
    gradients = np.full((steps, len(paths), 2), np.nan)
    for row, path in enumerate(paths):
        gradients[: path.steps, row] = path.gradients[: path.steps]
    starts = np.array([path.points[0] for path in paths])
    with _float64():
        points = torch.tensor(starts, requires_grad=True)
        optimizer, found, rounding = _built(competitor, points), [starts], _Rounding(jittered, points)
        for gradient in gradients:
            points.grad = torch.tensor(gradient)
            optimizer.step()
            with torch.no_grad():
                points.copy_(rounding(points))
            found.append(points.detach().numpy().copy())
        return np.array(found)


@contextmanager
def _float64() -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


class _Rounding:
    """Rounds the points of some rows, bool (N,), otherwise: up or down at random.

    By an ulp of the point or of its longest step of late: a step that is the small difference of large numbers, as a
    mean of gradients that changes its sign, is as inexact as these.
    """

    def __init__(self, jittered: Array, points: torch.Tensor) -> None:
        self._rows = torch.tensor(jittered)[:, None]
        self._draws = torch.Generator().manual_seed(0)
        self._last, self._longest = points.detach().clone(), torch.zeros_like(points)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        points = points.detach()
        self._longest = torch.maximum((points - self._last).abs(), 0.9 * self._longest)
        signs = torch.randint(0, 2, points.shape, generator=self._draws) * 2.0 - 1
        moved = points + signs * ULP * torch.maximum(points.abs(), self._longest)
        self._last = torch.where(self._rows, moved, points)
        return self._last


def _optimizer_path(formula: Formula, competitor: Competitor, starts: Array, jittered: Array, steps: int) -> Array:
    points = torch.tensor(starts, requires_grad=True)
    rounding = _Rounding(jittered, points)
    optimizer = _built(competitor, points)
    path = np.empty((steps + 1, *starts.shape))
    path[0] = starts

    def gradient() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch_value(formula, points).sum()
        value.backward()
        return value

    for step in range(steps):
        if competitor.rule == "lbfgs":
            optimizer.step(gradient)  # type: ignore[arg-type]
        else:
            gradient()
            optimizer.step()
        with torch.no_grad():
            points.copy_(rounding(points))
        path[step + 1] = points.detach().numpy()
    return path


def _built(competitor: Competitor, points: torch.Tensor) -> torch.optim.Optimizer:
    rate, settings = competitor.learning_rate, competitor.all_settings()
    if competitor.rule == "lbfgs":
        size = int(settings["history"])
        return torch.optim.LBFGS([points], rate, 1, history_size=size, tolerance_grad=0, tolerance_change=0)
    settings.pop("bias_correction", None)
    (optimizer,) = OPTIMIZERS[competitor.entry.trained_as].build([{"params": [points]}], rate, settings)
    return optimizer


def _newton_path(formula: Formula, rate: float, starts: Array, steps: int, jittered: Array) -> Array:
    def value(point: torch.Tensor) -> torch.Tensor:
        return torch_value(formula, point[None])[0]

    slopes, bends = (torch.vmap(made(value)) for made in (torch.func.grad, torch.func.hessian))
    points, path = torch.tensor(starts), [starts]
    rounding = _Rounding(jittered, points)
    for _ in range(steps):
        step, _ = torch.linalg.solve_ex(bends(points), slopes(points)[..., None])
        points = rounding(points - rate * step[..., 0])
        path.append(points.numpy())
    return np.stack(path)


@dataclass(frozen=True)
class Agreement:
    """How far ours and torch's paths are apart at most, by their size, and how many steps of how many were compared."""

    apart: float
    compared: int
    steps: int


def agreement(
    entry: SurfaceEntry, competitor: Competitor, starts: Array, steps: int
) -> tuple[Agreement, Agreement | None]:
    """Compare paths by their own gradients, and torch by ours; None for rules that divide by curvature.

    A path is compared up to where the dynamics amplify rounding. That is seen from two of torch's runs being apart by a
    tenth of the tolerance: one whose start differs by an ulp, and those that are rounded otherwise at each step. An ulp
    of the start dies out on the way to a minimum; where a rule then divides tiny gradients by their own size, what is
    rounded on the way does not. By our gradients torch's own weights still enter its steps through weight decay.
    """
    jittered = np.repeat([False, False, *JITTERED], len(starts))
    rows = np.concatenate([starts, np.nextafter(starts, np.inf), *(starts for _ in JITTERED)])
    paths = torch_path(entry.formula, competitor, rows, steps, jittered)
    budget = steps * competitor.entry.evaluations
    ours = race(Surface.of(entry), [competitor], [(x, y) for x, y in starts.tolist()], budget)
    free = _worst(ours, paths, steps)
    if competitor.rule in ("newton", "lbfgs"):
        return free, None
    jittered = np.repeat([False, *JITTERED], len(starts))
    return free, _worst(ours, driven_path(competitor, ours * (1 + len(JITTERED)), jittered), steps)


def _worst(ours: Sequence[Path], paths: Array, steps: int) -> Agreement:
    """Compare our paths with torch's, of which the first len(ours) rows are theirs and the others their twins."""
    by_run = paths.reshape(len(paths), -1, len(ours), 2).swapaxes(0, 1)
    found = [_apart(path.points, *by_run[:, :, row]) for row, path in enumerate(ours)]
    return Agreement(max(apart for apart, _ in found), sum(compared for _, compared in found), steps * len(ours))


def _apart(ours: Array, theirs: Array, *twins: Array) -> tuple[float, int]:
    """Return how far two paths are apart by the size of what they have passed, and how many steps were compared."""
    count = min(len(ours), len(theirs))
    ours, theirs = ours[:count], theirs[:count]
    with np.errstate(all="ignore"):
        size = np.maximum.accumulate(np.abs(theirs).max(1))
        amplified = np.max([np.abs(theirs - twin[:count]).max(1) for twin in twins], 0) / size
        apart = np.abs(theirs - ours).max(1) / size
    is_chaotic = ~(amplified <= TOLERANCE / 10)
    last = int(is_chaotic.argmax()) if is_chaotic.any() else count
    return float(apart[:last].max(initial=0.0)), max(0, last - 1)


def draws(entry: SurfaceEntry, rule: str, starts: int, seed: int) -> Iterator[tuple[Competitor, Array]]:
    """Yield competitors and random starts (starts / SETTINGS, 2) for each: the default settings, then random ones."""
    generator = np.random.default_rng((seed, sorted(SURFACES).index(entry.name), sorted(RULES).index(rule)))
    left, right, low, high = entry.domain
    for number in range(SETTINGS):
        drawn = [name for name in RULES[rule].settings if name in DRAWN and number]
        settings = {name: float(generator.uniform(*DRAWN[name])) for name in drawn}
        rate = default_rate(entry.rates, rule) * float(10 ** generator.uniform(-1, 0))
        share = generator.random((starts // SETTINGS, 2))
        yield Competitor(rule, rate, settings), np.array((left, low)) + share * np.array((right - left, high - low))


def all_agreements(
    surfaces: Sequence[SurfaceEntry], starts: int, steps: int, told: Callable[[str], None]
) -> dict[str, list[Agreement]]:
    """Compare every optimizer on these surfaces; by what the lines of the table say."""
    found: dict[str, list[Agreement]] = {}
    for entry in surfaces:
        for rule in RULES:
            for competitor, places in draws(entry, rule, starts, 0):
                free, driven = agreement(entry, competitor, places, steps)
                what = f"{RULES[rule].title}: largest difference from torch, relative"
                for title, one in ((what, free), (f"{RULES[rule].title}: by the gradients of our path", driven)):
                    if one is None:
                        continue
                    found.setdefault(title, []).append(one)
                    if one.apart > TOLERANCE:
                        told(f"{entry.name}, {title}: {one.apart:.2g} with {competitor}")
    return found


def agreement_rows(found: Mapping[str, list[Agreement]]) -> list[tuple[str, str, str]]:
    """Return the lines of the table: the largest difference, and the share of steps that were compared."""
    rows = []
    for what, ones in found.items():
        compared, steps = (sum(getattr(one, name) for one in ones) for name in ("compared", "steps"))
        rows.append((what, f"{max(one.apart for one in ones):.1e} ({compared:,} of {steps:,} steps)", f"{TOLERANCE:g}"))
    return rows


def speed_rows(rounds: int) -> list[tuple[str, str, str]]:
    """Measure a race of twelve, a map of basins, and what torch takes for some of its starts."""
    rules = [rule for rule in RULES if rule not in ("newton", "lbfgs")]
    worst: tuple[float, str] = (0.0, "")
    for entry in SURFACES.values():
        competitors = [Competitor(rule, default_rate(entry.rates, rule)) for rule in (*rules, "lbfgs")]
        seconds = _median(lambda: race(Surface.of(entry), competitors, [entry.start], 500), rounds)  # noqa: B023
        worst = max(worst, (seconds, entry.title))
    rows = [(f"{len(rules) + 1} optimizers × 500 steps, slowest surface ({worst[1]})", f"{worst[0]:.2f} s", "≤ 0.5 s")]
    for name in ("himmelblau", "goldstein-price"):
        entry = SURFACES[name]
        competitor = Competitor("adam", default_rate(entry.rates, "adam"))
        ours = _median(lambda: basins(Surface.of(entry), competitor, 61, 600), rounds)  # noqa: B023
        _, _, starts = grid(entry.domain, 61)
        sample = np.random.default_rng(0).choice(starts, SAMPLE)
        theirs = _median(
            lambda: [torch_path(entry.formula, competitor, start[None], 600) for start in sample],  # noqa: B023
            rounds,
        )
        theirs *= len(starts) / SAMPLE
        rows.append((f"basins of 61 × 61 starts × 600 steps, Adam, {entry.title}", f"{ours:.2f} s", "≤ 1 s"))
        what = f"– the same by torch.optim, start by start ({SAMPLE} of {len(starts)} timed)"
        rows.append((what, f"{theirs:.0f} s = {theirs / ours:.0f} ×", "≥ 50 ×"))
    return rows


def _median(work: Callable[[], Any], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=20, help=f"of each rule on each surface; {SETTINGS} at least")
    parser.add_argument("--surfaces", nargs="+", choices=tuple(SURFACES), default=tuple(SURFACES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(headline(), f"load {os.getloadavg()[0]:.1f}", sep="\n")
    entries = [SURFACES[name] for name in given.surfaces]
    rows = speed_rows(given.rounds)
    rows += agreement_rows(all_agreements(entries, given.starts, given.steps, print))
    print_table(rows)


if __name__ == "__main__":
    main()
