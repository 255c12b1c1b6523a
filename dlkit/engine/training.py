"""The training loop: a generator of reports. It prints, draws and stores nothing; to end it is to stop asking.

The kinds of phase of `dlkit.engine.phases` share one loop. The strategies partial and full begin with the head; auto
does so too, and then goes as deep as its time allows.

Whenever the loop reports it stands between two steps, and `Learner.state` is all that is needed to go on from there: a
training that goes on from a state takes the same steps, bit for bit on the CPU, as one that was never interrupted.
"""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from dlkit.config import FinetuneConfig, learning_rates, views
from dlkit.engine.auto import end_in_time, go_deeper
from dlkit.engine.learner import FULL, Learner, Sums
from dlkit.engine.phases import Phase, Unprepared, begin_phase, forward, set_modes
from dlkit.engine.pixels import shuffled_batches, validation_batches
from dlkit.engine.steps import step_at
from dlkit.errors import DivergedError, DlkitError
from dlkit.evidence import FEATURES
from dlkit.runs.records import Point, Progress

REPORT_SECONDS = 0.2
#: what an epoch costs where computing the features once costs 1: of the head, of the last layers, of all layers
COSTS = {"head": 0.03, "partial": 1.0, "full": 3.5}


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy over the validation images, and the softmax probabilities (N, C) float32 behind them.

    The loss is plain cross-entropy whatever the training smooths or weights, so that runs can be compared.
    """

    loss: float
    accuracy: float
    probabilities: np.ndarray


@dataclass(frozen=True)
class Report:
    """What the loop has to say: progress always, points of the curves, and at an epoch's end its scores."""

    progress: Progress
    points: tuple[Point, ...] = ()
    scores: Scores | None = None


def train(learner: Learner) -> Iterator[Report]:
    """Train by the config and report: the untrained head's scores, then the steps, and scores after each epoch.

    A learner that was restored goes on where it stands. Raises DivergedError at a loss or a gradient that is not
    finite, before the step is taken: the learner then is what it was before that step. Raises MemoryFullError, and
    whatever reading the pictures raises; after both the same holds.
    """
    if learner.step == 0:
        torch.manual_seed(learner.config.seed)
    clock = Clock(learner)
    while True:
        phase = begin_phase(learner)
        phase.computes_in_steps = False
        clock.begin()
        if not learner.is_begun:
            scores = yield from _score(learner, phase, clock)
            learner.is_begun = True
            yield clock.scored(phase, scores)
        yield from _run(learner, phase, clock)
        if learner.has_budget and not learner.is_planned:
            yield clock.report(phase, "measuring how deep the time allows to go")
            go_deeper(learner)
        if learner.place + 1 == len(learner.phases):
            return
        learner.place, learner.phase_epoch = learner.place + 1, 0


def _run(learner: Learner, phase: Phase, clock: "Clock") -> Iterator[Report]:
    """Run the epochs of one phase that are left, fewer where it stops early."""
    while True:
        if learner.batch == 0:
            _steer(learner, phase, is_epoch_start=True)
            if learner.phase_epoch >= learner.phase_epochs or learner.patience.is_over:
                return
        begun, is_typical = time.perf_counter(), learner.batch == 0 and phase.is_prepared(learner.epoch)
        config = learner.config
        set_modes(learner, phase)
        batches = shuffled_batches(len(learner.train), config.batch_size, config.seed, learner.epoch)
        phase.expect(batches[learner.batch :], learner.epoch)
        for indices in batches[learner.batch :]:
            _steer(learner, phase)
            try:
                yield from _take(learner, phase, clock, indices)
            except DlkitError:
                yield clock.report(phase)  # what was measured before it
                raise
            if clock.is_due:
                yield clock.report(phase)
        yield clock.report(phase)
        scores = yield from _score(learner, phase, clock)
        learner.epoch, learner.phase_epoch, learner.batch = learner.epoch + 1, learner.phase_epoch + 1, 0
        learner.patience.observe(scores.loss)
        if learner.plateau:
            learner.plateau.observe(scores.loss)
        yield clock.scored(phase, scores)
        if is_typical:
            learner.epoch_seconds[learner.phases[learner.place][0]] = time.perf_counter() - begun
        end_in_time(learner)


def _steer(learner: Learner, phase: Phase, is_epoch_start: bool = False) -> None:
    """Make the changes that are due between these two steps."""
    for change in learner.steering.due(learner.step, learner.applied, is_epoch_start):
        learner.apply(change)
        if change.what == "augmentation":
            phase.change_augmentation()


def _take(learner: Learner, phase: Phase, clock: "Clock", indices: np.ndarray) -> Iterator[Report]:
    """Prepare one step and take it; both again where the memory ran out in it and what it learns from is outdated."""
    is_taken = False
    while not is_taken:
        for done, total in phase.prepare(indices, learner.epoch):
            if clock.is_due:
                yield clock.report(phase, f"computing features: {done} of {total} pictures")
        with suppress(Unprepared):
            clock.add(*_step(learner, phase, indices))
            is_taken = True


def _step(learner: Learner, phase: Phase, indices: np.ndarray) -> tuple[float, float, float, int, int]:
    """Take one step at the rate that the schedule has for it; return what `step_at` does."""
    planned = learning_rates(
        learner.config, learner.phase_epochs, learner.batches, [learner.phase_epoch * learner.batches + learner.batch]
    )
    return step_at(learner, phase, indices, planned[0] * (learner.plateau.factor if learner.plateau else 1.0))


def _score(learner: Learner, phase: Phase, clock: "Clock") -> Generator[Report, None, Scores]:
    """Score the validation images with the weights that would be kept now; report progress, return the scores.

    DivergedError where the loss is not finite: the last step may have blown up weights that no later step meets.
    """
    module, labels = learner.kept().eval(), learner.validation.labels
    size, logits = 0, list[torch.Tensor]()
    while size != learner.micro_batch:  # all pictures in parts of one size: from the start where the memory ran out
        size, logits = learner.micro_batch, []
        batches = validation_batches(len(labels))
        phase.expect_validation(batches)
        for indices in batches:
            logits.append(forward(learner, module, phase.validation_inputs(indices), phase.precision(FEATURES)).cpu())
            if clock.is_due:
                yield clock.checking(int(indices[-1]) + 1, len(labels))
    clock.restart()
    scores = scores_of(torch.cat(logits), labels)
    if not math.isfinite(scores.loss):
        raise DivergedError(learner.step, learner.config.rate, "the validation loss was not a finite number")
    return scores


def scores_of(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Return the scores of logits (N, C) for labels (N,), both on the CPU."""
    loss = functional.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Scores(loss, accuracy, logits.softmax(1).numpy())


class Clock:
    """Collects what the steps measured, and turns it into reports at most every REPORT_SECONDS."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._started = self._last = time.perf_counter()
        self._share_at_start: float | None = None
        self._done = 0.0  # cost of the epochs of phases that are over
        self._pending: list[tuple[int, float, float, float, int]] = []
        self._rate: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a report."""
        return time.perf_counter() - self._last >= REPORT_SECONDS

    def begin(self) -> None:
        """Take note of a phase that begins or goes on."""
        if self._share_at_start is None:
            self._share_at_start = self._share()

    def add(self, rate: float, loss: float, norm: float, right: int, seen: int) -> None:
        """Keep what one step measured."""
        sums = self._learner.sums
        self._learner.sums = Sums(sums.loss + loss * seen, sums.right + right, sums.seen + seen)
        self._pending.append((self._learner.step, rate, loss, norm, seen))

    def report(self, phase: Phase, doing: str = "") -> Report:
        """Report what is pending, and what is being done."""
        batches = self._learner.batches
        points = tuple(
            Point(key, step, step / batches, value)
            for step, rate, loss, norm, _ in self._pending
            for key, value in (("step/loss", loss), ("step/gradient_norm", norm), ("learning_rate", rate))
        )
        if self._pending:
            self._rate = sum(entry[-1] for entry in self._pending) / (time.perf_counter() - self._last)
        self._pending = []
        self.restart()
        return Report(self._progress(doing or f"training: {phase.title}"), points)

    def restart(self) -> None:
        """Begin to count the time of the next report."""
        self._last = time.perf_counter()

    def checking(self, seen: int, total: int) -> Report:
        """Report how far the validation is."""
        self.restart()
        return Report(self._progress(f"checking: {seen} of {total} pictures"))

    def scored(self, phase: Phase, scores: Scores) -> Report:
        """Report the end of an epoch, or the scores before the first."""
        learner = self._learner
        values = {"val/loss": scores.loss, "val/accuracy": scores.accuracy}
        if learner.sums.seen:
            values["train/loss"] = learner.sums.loss / learner.sums.seen
            if phase.mixing[0] == "none":  # a mixed picture has no one right class
                values["train/accuracy"] = learner.sums.right / learner.sums.seen
        learner.sums = Sums()
        step, epoch = learner.step, learner.step / learner.batches
        points = tuple(Point(key, step, epoch, value) for key, value in values.items())
        return Report(self._progress(f"training: {phase.title}"), points, scores)

    def _progress(self, phase: str) -> Progress:
        if self._learner.has_budget:
            return self._progress_in_time(phase)
        share, start = self._share(), self._share_at_start or 0.0
        passed = time.perf_counter() - self._started
        left = passed * (1 - share) / (share - start) if share > start else None
        return Progress(phase, share, left, self._rate)

    def _progress_in_time(self, phase: str) -> Progress:
        learner = self._learner
        budget = 60 * learner.config.budget_minutes
        return Progress(phase, min(1.0, learner.seconds / budget), max(0.0, budget - learner.seconds), self._rate)

    def _share(self) -> float:
        """Return the share of the whole work that is done: by cost, as epochs of different phases differ."""
        learner = self._learner
        costs = [_costs(learner.config, kind, epochs) for kind, epochs in learner.phases]
        done = sum(sum(part) for part in costs[: learner.place]) + sum(costs[learner.place][: learner.phase_epoch])
        now = costs[learner.place][learner.phase_epoch : learner.phase_epoch + 1]
        done += sum(now) * learner.batch / learner.batches
        whole = sum(map(sum, costs))
        return min(1.0, done / whole) if whole else 1.0


def _costs(config: FinetuneConfig, kind: str, epochs: int) -> list[float]:
    """Return what each epoch of a phase costs."""
    first = views(config, kind) if kind != FULL else 0
    return [COSTS[kind] + (epoch < first) for epoch in range(epochs)]
