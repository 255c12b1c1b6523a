"""The learning-rate finder: a short mock training at a rate that grows from step to step, and what its losses say.

The range test of Smith 2017 (Cyclical learning rates, arxiv.org/abs/1506.01186, section 3.3), growing by a constant
factor as fastai does. It takes the steps of a run's last phase as `training` takes them, on a copy of the model, and
leaves no trace: weights, buffers and generators are afterwards what they were. Stores and draws nothing.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.config import FinetuneConfig
from dlkit.data.dataset import open_dataset
from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.finetuning import make_learner
from dlkit.engine.learner import PARTIAL, Learner
from dlkit.engine.phases import begin_phase, set_modes
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.steps import step_at
from dlkit.errors import DivergedError
from dlkit.runs.records import Progress

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
SMOOTHING = 0.9  # the average remembers about ten steps, which is less than a factor of ten of the rate
BLOWN_UP = 4.0  # times the lowest smoothed loss, and the test has seen enough
SKIPPED_FIRST, SKIPPED_LAST = 10, 5  # points, as in fastai: the average has not settled; the explosion itself
FEWEST_POINTS = 20  # of those that are left, for a suggestion
LEAST_FALL = 0.03  # share of the loss by which it must fall, else what it does is noise


@dataclass(frozen=True)
class RateCurve:
    """What a range test measured, a number for each step, and the rates that it suggests; `note` says what is missing.

    Losses are in nats, before the step at the rate beside them is taken; all are finite.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestions: Mapping[str, float]
    note: str


@dataclass(frozen=True)
class Sweep:
    """How far a range test is; the last one has the curve."""

    progress: Progress
    curve: RateCurve | None = None


def find(config: FinetuneConfig) -> Iterator[Sweep]:
    """Test the rates for a run of this config; raises what opening the data and a training step raise."""
    yield Sweep(Progress("opening the pictures"))
    config = config.resolved()
    with closing(make_learner(config, open_dataset(config.dataset))) as learner:
        yield from sweep(learner)


def sweep(learner: Learner, steps: int = STEPS) -> Iterator[Sweep]:
    """Train a copy of the learner's model at rates from LOWEST to HIGHEST, one step at each.

    It ends sooner where the loss or a gradient is not finite, or the smoothed loss is BLOWN_UP times its lowest. Where
    the pictures are too few for so many steps, epoch follows epoch. Raises MemoryFullError, and what reading the
    pictures raises. It may be left at any report.
    """
    trial = Learner(
        learner.config.model_copy(update={"ema_decay": 0.0}),  # an average changes no loss of a step
        copy.deepcopy(learner.model),
        learner.train,
        learner.validation,
        learner.device,
    )
    trial.formats, trial.room = learner.formats, learner.room
    if trial.has_budget:  # the rate is for the layers that follow the head, too
        trial.phases, trial.has_budget = [(PARTIAL, 1)], False
    trial.place = len(trial.phases) - 1
    yield from _apart(_steps(trial, growing_rates(steps)), learner.device)


def _steps(trial: Learner, rates: Sequence[float]) -> Iterator[Sweep]:
    """Take a step at each rate as long as the loss allows it, and report."""
    torch.manual_seed(trial.config.seed)
    phase = begin_phase(trial)
    set_modes(trial, phase)
    started, losses, smoothed = time.perf_counter(), list[float](), list[float]()
    for rate, indices in zip(rates, _batches(trial), strict=False):
        for _ in phase.prepare(indices, trial.epoch):
            yield Sweep(_progress(len(losses), len(rates), started))
        try:
            losses.append(step_at(trial, phase, indices, rate)[1])
        except DivergedError:
            break
        smoothed = smooth(losses)
        if smoothed[-1] > BLOWN_UP * min(smoothed):
            break
        yield Sweep(_progress(len(losses), len(rates), started))
    seen = rates[: len(losses)]
    suggestions, note = suggest(seen, smoothed)
    yield Sweep(Progress("done", 1.0, 0.0), RateCurve(tuple(seen), tuple(losses), tuple(smoothed), suggestions, note))


def _batches(trial: Learner) -> Iterator[np.ndarray]:
    """Yield the batches of one epoch after the other without end, and move the learner's epoch on."""
    while True:
        yield from shuffled_batches(len(trial.train), trial.config.batch_size, trial.config.seed, trial.epoch)
        trial.epoch += 1


def _progress(done: int, steps: int, started: float) -> Progress:
    left = (time.perf_counter() - started) * (steps - done) / done if done else None
    return Progress(f"trying learning rates: step {min(done + 1, steps)} of {steps}", done / steps, left)


def _apart(sweeps: Iterator[Sweep], device: torch.device) -> Iterator[Sweep]:
    """Hand on the reports; at each, and after the last, the generators are as if none of this had drawn from them."""
    inside = random_state(device)
    while True:
        outside = random_state(device)
        set_random_state(device, inside)
        try:
            report = next(sweeps, None)
            inside = random_state(device)
        finally:
            set_random_state(device, outside)
        if report is None:
            return
        yield report


def growing_rates(steps: int) -> list[float]:
    """Return so many rates from LOWEST to HIGHEST, each the one before times the same factor."""
    return [LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1)) for step in range(steps)]


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential average of the losses up to each, without its bias towards the zero that it starts from.

    The correction is Adam's (Kingma & Ba 2015, arxiv.org/abs/1412.6980, section 3).
    """
    average, smoothed = 0.0, list[float]()
    for count, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[dict[str, float], str]:
    """Return the rates that the curve suggests, and what it cannot say as sentences; both may be empty."""
    kept = slice(SKIPPED_FIRST, max(0, len(rates) - SKIPPED_LAST))
    shown, losses = rates[kept], smoothed[kept]
    if len(shown) < FEWEST_POINTS:
        where = f"at a learning rate of {rates[-1]:.2g}" if rates else "at the first step"
        return {}, (
            f"The loss blew up {where} already, so the curve is too short to suggest a rate. "
            "Look at the data and the other settings: so small a rate should do no harm."
        )
    if min(losses) > (1 - LEAST_FALL) * losses[0]:
        return {}, (
            f"The loss fell nowhere by more than {LEAST_FALL:.0%} of the {losses[0]:.3g} it began with, so the curve "
            "suggests no rate. A larger batch size makes it less noisy."
        )
    picked = {name: entry.pick(shown, losses) for name, entry in SUGGESTIONS.items()}
    missing = [SUGGESTIONS[name].title for name, rate in picked.items() if rate is None]
    note = f"The curve has no point for: {', '.join(missing)}." if missing else ""
    return {name: rate for name, rate in picked.items() if rate is not None}, note
