"""The training loop: a generator of reports. It prints, draws and stores nothing; to cancel it is to stop asking.

Two kinds of phase share one loop. *head*: the backbone is frozen, so its features are computed once per view and
kept, and epochs cost next to nothing. *full*: every layer learns, the backbone at a smaller rate. The strategy full
runs both.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dlkit.catalog.augmentations import MIXINGS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES, Plateau
from dlkit.config import FinetuneConfig, learning_rates, steps_per_epoch
from dlkit.engine.model import Classifier, freeze_batchnorm
from dlkit.engine.pixels import Pixels, plain_batches, seeded, shuffled_batches
from dlkit.errors import DivergedError
from dlkit.runs.records import Point, Progress

REPORT_SECONDS = 0.2
EVALUATION_BATCH = 64


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


@dataclass
class Learner:
    """A model in training and all that changes with it."""

    config: FinetuneConfig
    model: Classifier
    train: Pixels
    validation: Pixels
    device: torch.device
    step: int = 0
    epoch: int = 0
    seen: int = 0  # pictures
    trained: nn.Module = field(init=False)
    average: AveragedModel | None = None

    @property
    def classes(self) -> int:
        """How many classes the head tells apart."""
        return self.model.head.out_features

    def begin(self, trained: nn.Module) -> None:
        """Let this part of the model learn, and no other; averaging begins anew with it."""
        decay = self.config.ema_decay
        self.model.eval().requires_grad_(False)
        self.trained = trained.requires_grad_(True)
        self.average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None

    def kept(self) -> nn.Module:
        """Return the part that learns with the weights that would be kept: averaged where averaging is on."""
        return self.trained if self.average is None else self.average.module

    def model_to_keep(self) -> Classifier:
        """Return the whole classifier with the weights that would be kept."""
        kept = self.kept()
        return kept if isinstance(kept, Classifier) else Classifier(self.model.body, cast(nn.Linear, kept))


class Features:
    """The frozen backbone's output for each picture and view: (N, F) float32 on the device, computed at first use."""

    def __init__(self, learner: Learner, pixels: Pixels) -> None:
        self._learner, self._pixels = learner, pixels
        self._kept: dict[int | None, torch.Tensor] = {}
        self._is_kept: dict[int | None, np.ndarray] = {}

    def of(self, indices: np.ndarray, view: int | None) -> torch.Tensor:
        """Return the features (B, F) of these pictures."""
        known = self._is_kept.setdefault(view, np.zeros(len(self._pixels), bool))
        missing = indices[~known[indices]]
        if len(missing):
            self._compute(missing, view)
        return self._kept[view][torch.from_numpy(indices).to(self._learner.device)]

    def _compute(self, indices: np.ndarray, view: int | None) -> None:
        with torch.no_grad():
            features = self._learner.model.body(self._pixels.batch(indices, view, self._learner.device)).float()
        if view not in self._kept:
            self._kept[view] = torch.empty(len(self._pixels), features.shape[1], device=features.device)
        self._kept[view][torch.from_numpy(indices).to(features.device)] = features
        self._is_kept[view][indices] = True


@dataclass(frozen=True)
class Phase:
    """One stretch of training: what learns, from which inputs, and what an epoch costs beside the others."""

    title: str
    module: nn.Module  # inputs -> logits
    trained: nn.Module  # the part of it that learns and is averaged
    costs: tuple[float, ...]  # one number an epoch
    groups: list[dict[str, Any]]  # torch parameter groups; `rate_factor` scales the learning rate
    inputs: Callable[[np.ndarray, int], torch.Tensor]  # (indices, epoch of the run) -> inputs of the module
    validation_inputs: Callable[[np.ndarray], torch.Tensor]
    batchnorm_is_frozen: bool
    mixing: str

    @property
    def epochs(self) -> int:
        """How many epochs the phase has."""
        return len(self.costs)


#: what an epoch over kept features costs, and one of all layers, where computing the features once costs 1
KEPT_COST, FULL_COST = 0.03, 3.5


def train(learner: Learner) -> Iterator[Report]:
    """Train by the config and report: the untrained head's scores, then the steps, and scores after each epoch.

    Raises DivergedError at a loss that is not finite.
    """
    config = learner.config
    torch.manual_seed(config.seed)
    phases = [_head_phase(learner, config.head_epochs if config.strategy == "full" else config.epochs)]
    if config.strategy == "full":
        phases.append(_full_phase(learner, config.epochs))
    phases = [phase for phase in phases if phase.epochs]
    clock = Clock(learner, [cost for phase in phases for cost in phase.costs])
    for phase in phases:
        yield from _run(learner, phase, clock)


def _head_phase(learner: Learner, epochs: int) -> Phase:
    model, config = learner.model, learner.config
    features, validation = Features(learner, learner.train), Features(learner, learner.validation)
    views = 1 if config.augmentation == "none" else config.feature_views
    return Phase(
        title="head",
        module=nn.Sequential(model.dropout, model.head),
        trained=model.head,
        costs=tuple(1 if epoch < views else KEPT_COST for epoch in range(epochs)),
        groups=[{"params": list(model.head.parameters()), "rate_factor": 1.0}],
        inputs=lambda indices, epoch: features.of(indices, epoch % views),
        validation_inputs=lambda indices: validation.of(indices, None),
        batchnorm_is_frozen=True,
        mixing="none",
    )


def _full_phase(learner: Learner, epochs: int) -> Phase:
    model, config, device = learner.model, learner.config, learner.device
    return Phase(
        title="all layers",
        module=model,
        trained=model,
        costs=(FULL_COST,) * epochs,
        groups=[
            {"params": list(model.head.parameters()), "rate_factor": 1.0},
            {"params": list(model.body.parameters()), "rate_factor": config.backbone_rate_factor},
        ],
        inputs=lambda indices, epoch: learner.train.batch(indices, epoch, device),
        validation_inputs=lambda indices: learner.validation.batch(indices, None, device),
        batchnorm_is_frozen=config.freeze_batchnorm,
        mixing=config.mixing,
    )


def _run(learner: Learner, phase: Phase, clock: "Clock") -> Iterator[Report]:
    """Run the epochs of one phase, fewer where it stops early; before the very first, score the model as it is."""
    config = learner.config
    learner.begin(phase.trained)
    optimizers = OPTIMIZERS[config.optimizer].build(phase.groups, config.rate, config.optimizer_settings())
    plateau, patience = _plateau(config), Patience(config.early_stopping)
    if learner.step == 0:
        scores = yield from _score(learner, phase, clock)
        yield clock.scored(phase, scores)
    for epoch in range(phase.epochs):
        if patience.is_over:
            clock.skip(phase.epochs - epoch)
            return
        phase.module.train()
        if phase.batchnorm_is_frozen:
            freeze_batchnorm(phase.module)
        batches = shuffled_batches(len(learner.train), config.batch_size, config.seed, learner.epoch)
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        rates = learning_rates(config, phase.epochs, len(batches), steps)
        for indices, planned in zip(batches, rates, strict=True):
            rate = planned * (plateau.factor if plateau else 1.0)
            clock.add(rate, *_step(learner, phase, optimizers, rate, indices))
            if clock.is_due:
                yield clock.report(phase)
        learner.epoch += 1
        yield clock.report(phase)
        scores = yield from _score(learner, phase, clock)
        patience.observe(scores.loss)
        if plateau:
            plateau.observe(scores.loss)
        yield clock.scored(phase, scores)


def _step(
    learner: Learner, phase: Phase, optimizers: list[torch.optim.Optimizer], rate: float, indices: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Take one step; return its loss, how many were right (both still on the device), and how many pictures it saw."""
    config = learner.config
    inputs = phase.inputs(indices, learner.epoch)
    labels = learner.train.labels[torch.from_numpy(indices)].to(learner.device)
    targets: torch.Tensor = labels
    if phase.mixing != "none":
        with seeded(config.seed, learner.step, len(indices)):
            inputs, targets = MIXINGS[phase.mixing].build(learner.classes, config.mixing_alpha)(inputs, labels)
    logits = phase.module(inputs)
    loss = functional.cross_entropy(
        logits, targets, weight=_class_weights(learner), label_smoothing=config.label_smoothing
    )
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.gradient_clipping:
        nn.utils.clip_grad_norm_(learner.trained.parameters(), config.gradient_clipping)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        optimizer.step()
    if learner.average is not None:
        learner.average.update_parameters(learner.trained)
    learner.step += 1
    learner.seen += len(indices)
    return loss.detach(), (logits.detach().argmax(1) == labels).sum(), len(indices)


def _score(learner: Learner, phase: Phase, clock: "Clock") -> Generator[Report, None, Scores]:
    """Score the validation images with the weights that would be kept now; report progress, return the scores."""
    module, labels = learner.kept().eval(), learner.validation.labels
    logits: list[torch.Tensor] = []
    for indices in plain_batches(len(labels), EVALUATION_BATCH):
        with torch.no_grad():
            logits.append(module(phase.validation_inputs(indices)).float().cpu())
        if clock.is_due:
            yield clock.checking(int(indices[-1]) + 1, len(labels))
    clock.restart()
    return scores_of(torch.cat(logits), labels)


def scores_of(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Return the scores of logits (N, C) for labels (N,), both on the CPU."""
    loss = functional.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Scores(loss, accuracy, logits.softmax(1).numpy())


def _plateau(config: FinetuneConfig) -> Plateau | None:
    if not SCHEDULES[config.schedule].follows_validation:
        return None
    options = config.schedule_settings()
    return Plateau(int(options["patience"]), options["decay"])


def _class_weights(learner: Learner) -> torch.Tensor | None:
    """Return weights (C,) with mean 1 over the training pictures, or None."""
    if learner.config.class_weights == "none":
        return None
    counts = torch.bincount(learner.train.labels, minlength=learner.classes).clamp(min=1)
    return (len(learner.train) / (learner.classes * counts)).float().to(learner.device)


class Patience:
    """Counts epochs without a lower validation loss; `is_over` ends the training."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._best, self._waited = epochs, math.inf, 0

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        return self._epochs > 0 and self._waited >= self._epochs

    def observe(self, loss: float) -> None:
        """Take note of an epoch's validation loss."""
        self._waited = 0 if loss < self._best else self._waited + 1
        self._best = min(self._best, loss)


class Clock:
    """Collects what the steps measured, and turns it into reports at most every REPORT_SECONDS.

    Losses stay on the device until a report is due: reading one waits for the device.
    """

    def __init__(self, learner: Learner, costs: list[float]) -> None:
        self.batches = steps_per_epoch(len(learner.train), learner.config.batch_size)
        self._learner, self._costs = learner, costs
        self._started = self._last = time.perf_counter()
        self._pending: list[tuple[int, float, torch.Tensor, torch.Tensor, int]] = []
        self._epoch: list[tuple[float, int, int]] = []  # (loss, right, seen) of this epoch's steps
        self._rate: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a report."""
        return time.perf_counter() - self._last >= REPORT_SECONDS

    def add(self, rate: float, loss: torch.Tensor, right: torch.Tensor, seen: int) -> None:
        """Keep what one step measured."""
        self._pending.append((self._learner.step, rate, loss, right, seen))

    def report(self, phase: Phase) -> Report:
        """Read what is pending; DivergedError at the first loss that is not finite."""
        points = tuple(point for entry in self._pending for point in self._points(*entry))
        if self._pending:
            self._rate = sum(entry[-1] for entry in self._pending) / (time.perf_counter() - self._last)
        self._pending = []
        self.restart()
        return Report(self._progress(f"training: {phase.title}"), points)

    def restart(self) -> None:
        """Begin to count the time of the next report."""
        self._last = time.perf_counter()

    def skip(self, epochs: int) -> None:
        """Take the costs of the next epochs out of what is to be done."""
        del self._costs[self._learner.epoch : self._learner.epoch + epochs]

    def checking(self, seen: int, total: int) -> Report:
        """Report how far the validation is."""
        self.restart()
        return Report(self._progress(f"checking: {seen} of {total} pictures"))

    def scored(self, phase: Phase, scores: Scores) -> Report:
        """Report the end of an epoch, or the scores before the first; DivergedError where the loss is not finite."""
        if not math.isfinite(scores.loss):  # the last step may have blown up weights that no later step meets
            raise DivergedError(self._learner.step, self._learner.config.rate)
        values = {"val/loss": scores.loss, "val/accuracy": scores.accuracy}
        if self._epoch:
            seen = sum(entry[2] for entry in self._epoch)
            values["train/loss"] = sum(loss * count for loss, _, count in self._epoch) / seen
            if phase.mixing == "none":  # a mixed picture has no one right class
                values["train/accuracy"] = sum(right for _, right, _ in self._epoch) / seen
        self._epoch = []
        step, epoch = self._learner.step, self._learner.step / self.batches
        points = tuple(Point(key, step, epoch, value) for key, value in values.items())
        return Report(self._progress(f"training: {phase.title}"), points, scores)

    def _points(self, step: int, rate: float, loss: torch.Tensor, right: torch.Tensor, seen: int) -> Iterator[Point]:
        value, epoch = loss.item(), step / self.batches
        if not math.isfinite(value):
            raise DivergedError(step, self._learner.config.rate)
        self._epoch.append((value, int(right.item()), seen))
        yield Point("step/loss", step, epoch, value)
        yield Point("learning_rate", step, epoch, rate)

    def _progress(self, phase: str) -> Progress:
        done = self._learner.epoch
        part = self._learner.step / self.batches - done
        begun = self._costs[done] * part if part > 0 else 0.0
        share = (sum(self._costs[:done]) + begun) / sum(self._costs)
        passed = time.perf_counter() - self._started
        left = passed / share - passed if share else None
        return Progress(phase, share, left, self._rate)
