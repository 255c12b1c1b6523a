"""The training loop: a generator of reports. It prints, draws and stores nothing; to end it is to stop asking.

Two kinds of phase share one loop. *head*: the backbone is frozen, so its features are computed once per view and
kept, and epochs cost next to nothing. *full*: every layer learns, the backbone at a smaller rate. The strategy full
runs both.

Whenever the loop reports it stands between two steps, and `Learner.state` is all that is needed to go on from there: a
training that goes on from a state takes the same steps, bit for bit on the CPU, as one that was never interrupted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES, Plateau
from dlkit.config import FinetuneConfig, learning_rates, parse, steps_per_epoch
from dlkit.engine.device import is_out_of_memory, random_state, release_memory, set_random_state
from dlkit.engine.model import Classifier, freeze_batchnorm
from dlkit.engine.pixels import Pixels, plain_batches, seeded, shuffled_batches
from dlkit.errors import DivergedError, DlkitError, MemoryFullError
from dlkit.runs.records import Change, Point, Progress

REPORT_SECONDS = 0.2
EVALUATION_BATCH = 64
#: what an epoch over kept features costs, and one of all layers, where computing the features once costs 1
KEPT_COST, FULL_COST = 0.03, 3.5
HEAD, FULL = "head", "full"
TITLES = {HEAD: "head", FULL: "all layers"}


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


class Steering(Protocol):
    """Where changes of a training come from while it goes on."""

    def due(self, step: int, applied: set[int], is_epoch_start: bool) -> Iterable[Change]:
        """Return the changes that take effect after `step` and are not applied yet; they are on record already."""
        ...

    def record(self, what: str, value: Any, step: int, note: str) -> Change:
        """Put on record, with a note for the reader, what the loop itself changes after `step`; return the change."""
        ...


class Unsteered:
    """Steering of a training that nobody changes."""

    def due(self, step: int, applied: set[int], is_epoch_start: bool) -> Iterable[Change]:
        """Return nothing."""
        return ()

    def record(self, what: str, value: Any, step: int, note: str) -> Change:
        """Return the change."""
        return Change(0, what, value, step, "worker")


@dataclass
class Learner:
    """A model in training, all that changes with it, and where it stands."""

    config: FinetuneConfig  # with every change so far
    model: Classifier
    train: Pixels
    validation: Pixels
    device: torch.device
    step: int = 0
    epoch: int = 0  # epochs done
    seen: int = 0  # pictures
    batch: int = 0  # steps done of the epoch that goes on
    phases: list[tuple[str, int]] = field(default_factory=list)  # which, and how many epochs
    place: int = 0  # of the phase in `phases`
    phase_epoch: int = 0  # epochs done of the phase
    is_frozen: bool = False  # whether the backbone is left alone in the phase of all layers
    micro_batch: int = 0  # the most pictures that go through the network at once
    is_begun: bool = False  # whether the scores of the untrained head are told
    applied: set[int] = field(default_factory=set)  # numbers of the changes
    trained: nn.Module = field(init=False)
    average: AveragedModel | None = None
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    plateau: Plateau | None = None
    patience: "Patience" = field(init=False)
    sums: "Sums" = field(init=False)
    steering: Steering = field(default_factory=Unsteered)
    _restored: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.micro_batch = max(config.batch_size, EVALUATION_BATCH)
        planned = [(HEAD, config.head_epochs), (FULL, config.epochs)]
        self.phases = [(HEAD, config.epochs)] if config.strategy == HEAD else [part for part in planned if part[1]]
        self.patience, self.sums = Patience(config.early_stopping), Sums()

    @property
    def classes(self) -> int:
        """How many classes the head tells apart."""
        return self.model.head.out_features

    @property
    def batches(self) -> int:
        """How many steps an epoch has."""
        return steps_per_epoch(len(self.train), self.config.batch_size)

    @property
    def learns_batchnorm(self) -> bool:
        """Whether BatchNorm layers take their statistics from the batch, in this phase or one to come."""
        is_fixed = self.config.freeze_batchnorm or self.is_frozen
        return not is_fixed and any(kind == FULL for kind, _ in self.phases[self.place :])

    @property
    def phase_epochs(self) -> int:
        """How many epochs the phase has that goes on."""
        return self.phases[self.place][1]

    def begin(self, trained: nn.Module, groups: list[dict[str, Any]]) -> None:
        """Let this part of the model learn, and no other; optimizer, averaging and patience begin anew with it."""
        config, decay = self.config, self.config.ema_decay
        self.model.eval().requires_grad_(False)
        self.trained = trained.requires_grad_(True)
        self.average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        self.optimizers = OPTIMIZERS[config.optimizer].build(groups, config.rate, config.optimizer_settings())
        self.plateau, self.patience = _plateau(config), Patience(config.early_stopping)
        if self._restored is not None:
            self._refill(self._restored)
            self._restored = None

    def kept(self) -> nn.Module:
        """Return the part that learns with the weights that would be kept: averaged where averaging is on."""
        return self.trained if self.average is None else self.average.module

    def model_to_keep(self) -> Classifier:
        """Return the whole classifier with the weights that would be kept."""
        kept = self.kept()
        return kept if isinstance(kept, Classifier) else Classifier(self.model.body, cast(nn.Linear, kept))

    def is_finite(self) -> bool:
        """Tell whether every weight that learns is a number."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.trained.parameters())

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on from here: tensors, numbers and texts, nothing else.

        What does not learn in this phase is not in it: it is the pretrained network's.
        """
        return {
            "config": self.config.model_dump(mode="json"),
            "position": {name: getattr(self, name) for name in POSITION},
            "phases": [list(phase) for phase in self.phases],
            "applied": sorted(self.applied),
            "weights": self.trained.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "plateau": None if self.plateau is None else asdict(self.plateau),
            "patience": asdict(self.patience),
            "sums": asdict(self.sums),
            "random": random_state(self.device),
            "threads": torch.get_num_threads(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken; `train` then goes on from there."""
        self.config = parse(state["config"])
        for name in POSITION:
            setattr(self, name, state["position"][name])
        self.phases = [(kind, epochs) for kind, epochs in state["phases"]]
        self.applied = set(state["applied"])
        self.train.use(AUGMENTATIONS[self.config.augmentation].build)
        torch.set_num_threads(state["threads"])  # another number adds up in another order
        self._restored = state

    def _refill(self, state: Mapping[str, Any]) -> None:
        self.trained.load_state_dict(state["weights"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, known in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        self.plateau = None if state["plateau"] is None else Plateau(**state["plateau"])
        self.patience, self.sums = Patience(**state["patience"]), Sums(**state["sums"])
        set_random_state(self.device, state["random"])

    def apply(self, change: Change) -> None:
        """Make a change that is on record."""
        self.applied.add(change.number)
        if change.what == "micro_batch":
            self.micro_batch = min(self.micro_batch, change.value)
        elif change.what == "frozen":
            self._freeze(change.value)
        else:
            more = change.value - self.config.epochs if change.what == "epochs" else 0
            self.config = self.config.model_copy(update={change.what: change.value})
            if more:
                kind, epochs = self.phases[-1]
                self.phases[-1] = kind, epochs + more
                if self.place == len(self.phases) - 1:
                    self.patience.waited = 0
            if change.what == "augmentation":
                self.train.use(AUGMENTATIONS[change.value].build)

    def _freeze(self, is_frozen: bool) -> None:
        self.is_frozen = is_frozen
        if self.phases[self.place][0] == HEAD and not is_frozen:  # what is left of it is for all layers
            left = self.phase_epochs - self.phase_epoch
            self.phases[self.place] = HEAD, self.phase_epoch
            if self.place == len(self.phases) - 1:  # also where none is left: whoever asks for more wants it there
                self.phases.append((FULL, left))

    def shrink(self, pictures: int) -> None:
        """Let fewer pictures through the network at once, as so many were too many; MemoryFullError at one."""
        release_memory(self.device)
        if pictures <= 1:
            raise MemoryFullError(self.device.type.upper())
        size = -(-pictures // 2)
        note = f"out of memory with {pictures} pictures at a time: from step {self.step + 1} on at most {size}, "
        note += f"whose gradients are added up, so that a step still learns from {self.config.batch_size}"
        if self.learns_batchnorm and size < self.config.batch_size:
            note += f"; BatchNorm takes its mean and variance from {size} pictures now, so they are noisier"
        self.apply(self.steering.record("micro_batch", size, self.step, note))


#: what tells where a learner stands
POSITION = ("step", "epoch", "seen", "batch", "place", "phase_epoch", "is_frozen", "micro_batch", "is_begun")


class Features:
    """The frozen backbone's output for each picture and view: (N, F) float32 on the device, computed at first use.

    Always in the same groups: a view's are the batches of its first epoch. And all through the network in parts of the
    same size: where it shrinks they are computed anew. So a number never depends on where a training that goes on came
    back to it.
    """

    def __init__(self, learner: Learner, pixels: Pixels) -> None:
        self._learner, self._pixels = learner, pixels
        self._kept: dict[int | None, torch.Tensor] = {}
        self._is_kept: dict[int | None, np.ndarray] = {}
        self._size = learner.micro_batch

    def prepare(self, indices: np.ndarray, view: int | None) -> Iterator[tuple[int, int]]:
        """Compute what is missing for these pictures; tell after each group how many are done, and of how many."""
        done = 0
        while missing := self._missing(indices, view):
            self._compute(missing[0], view)
            done += len(missing[0])
            yield done, done + sum(map(len, missing[1:]))

    def of(self, indices: np.ndarray, view: int | None) -> torch.Tensor:
        """Return the features (B, F) of these pictures."""
        for _ in self.prepare(indices, view):
            pass
        return self._kept[view][torch.from_numpy(indices).to(self._learner.device)]

    def forget(self) -> None:
        """Compute all anew at the next use."""
        self._kept.clear()
        self._is_kept.clear()

    def _missing(self, indices: np.ndarray, view: int | None) -> list[np.ndarray]:
        """Return the groups of these pictures that are still to be computed."""
        if self._size != self._learner.micro_batch:
            self.forget()
            self._size = self._learner.micro_batch
        known = self._is_kept.setdefault(view, np.zeros(len(self._pixels), bool))
        unknown = np.zeros(len(known), bool)
        unknown[indices] = ~known[indices]
        return [group for group in self._groups(view) if unknown[group].any()] if unknown.any() else []

    def _groups(self, view: int | None) -> list[np.ndarray]:
        config, count = self._learner.config, len(self._pixels)
        if view is None:
            return plain_batches(count, EVALUATION_BATCH)
        return shuffled_batches(count, config.batch_size, config.seed, view)

    def _compute(self, indices: np.ndarray, view: int | None) -> None:
        learner = self._learner
        pictures = self._pixels.batch(indices, view, learner.device)
        features = forward(learner, learner.model.body, pictures)
        if self._size != learner.micro_batch:
            return
        if view not in self._kept:
            self._kept[view] = torch.empty(len(self._pixels), features.shape[1], device=features.device)
        self._kept[view][torch.from_numpy(indices).to(features.device)] = features
        self._is_kept[view][indices] = True


class Phase:
    """One stretch of training: what learns, from which inputs, and what an epoch costs beside the others."""

    title: str
    module: nn.Module  # inputs -> logits
    trained: nn.Module  # the part of it that learns and is averaged
    groups: list[dict[str, Any]]  # torch parameter groups; `rate_factor` scales the learning rate
    mixing = "none"

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def prepare(self, indices: np.ndarray, epoch: int) -> Iterator[tuple[int, int]]:
        """Do what must be done once for these pictures; tell how many are done, and of how many."""
        return iter(())

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return the inputs of `module` for these pictures in this epoch of the run."""
        raise NotImplementedError

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return the inputs of `module` for these validation pictures."""
        raise NotImplementedError

    def change_augmentation(self) -> None:
        """Take note that the pictures are augmented otherwise from now on."""

    @property
    def has_learning_batchnorm(self) -> bool:
        """Whether BatchNorm layers take their statistics from the batch."""
        return False


class HeadPhase(Phase):
    """The head learns from features that are computed once."""

    title = TITLES[HEAD]

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        model = learner.model
        self._features, self._validation = Features(learner, learner.train), Features(learner, learner.validation)
        self.module, self.trained = nn.Sequential(model.dropout, model.head), model.head
        self.groups = [{"params": list(model.head.parameters()), "rate_factor": 1.0}]

    def prepare(self, indices: np.ndarray, epoch: int) -> Iterator[tuple[int, int]]:
        """Compute missing features."""
        return self._features.prepare(indices, epoch % views(self.learner.config))

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return features (B, F)."""
        return self._features.of(indices, epoch % views(self.learner.config))

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return features (B, F) of the plain view."""
        return self._validation.of(indices, None)

    def change_augmentation(self) -> None:
        """Forget the features of the pictures as they were."""
        self._features.forget()


class FullPhase(Phase):
    """All layers learn, the backbone at a smaller rate, or not while it is frozen."""

    title = TITLES[FULL]

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        model, config = learner.model, learner.config
        self.module = self.trained = model
        self.mixing = config.mixing
        self.groups = [
            {"params": list(model.head.parameters()), "rate_factor": 1.0},
            {"params": list(model.body.parameters()), "rate_factor": config.backbone_rate_factor},
        ]

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) of the epoch's view."""
        return self.learner.train.batch(indices, epoch, self.learner.device)

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) of the plain view."""
        return self.learner.validation.batch(indices, None, self.learner.device)

    @property
    def has_learning_batchnorm(self) -> bool:
        """Whether BatchNorm layers take their statistics from the batch."""
        return not (self.learner.config.freeze_batchnorm or self.learner.is_frozen)


PHASES: dict[str, Callable[[Learner], Phase]] = {HEAD: HeadPhase, FULL: FullPhase}


def views(config: FinetuneConfig) -> int:
    """Return how many augmented versions of each picture the head learns from."""
    return 1 if config.augmentation == "none" else config.feature_views


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
        clock.begin()
        if not learner.is_begun:
            scores = yield from _score(learner, phase, clock)
            learner.is_begun = True
            yield clock.scored(phase, scores)
        yield from _run(learner, phase, clock)
        if learner.place + 1 == len(learner.phases):
            return
        learner.place, learner.phase_epoch = learner.place + 1, 0


def begin_phase(learner: Learner) -> Phase:
    """Begin the phase at the learner's place, or take it up again: what learns in it learns from now on."""
    phase = PHASES[learner.phases[learner.place][0]](learner)
    learner.begin(phase.trained, phase.groups)
    return phase


def _run(learner: Learner, phase: Phase, clock: "Clock") -> Iterator[Report]:
    """Run the epochs of one phase that are left, fewer where it stops early."""
    while True:
        if learner.batch == 0:
            _steer(learner, phase, is_epoch_start=True)
            if learner.phase_epoch >= learner.phase_epochs or learner.patience.is_over:
                return
        config = learner.config
        set_modes(learner, phase)
        batches = shuffled_batches(len(learner.train), config.batch_size, config.seed, learner.epoch)
        for indices in batches[learner.batch :]:
            _steer(learner, phase)
            try:
                for done, total in phase.prepare(indices, learner.epoch):
                    if clock.is_due:
                        yield clock.report(phase, f"computing features: {done} of {total} pictures")
                clock.add(*_step(learner, phase, indices))
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


def _steer(learner: Learner, phase: Phase, is_epoch_start: bool = False) -> None:
    """Make the changes that are due between these two steps."""
    for change in learner.steering.due(learner.step, learner.applied, is_epoch_start):
        learner.apply(change)
        if change.what == "augmentation":
            phase.change_augmentation()


def set_modes(learner: Learner, phase: Phase) -> None:
    """Let the layers behave as in training: those that learn, and BatchNorm as the config says."""
    phase.module.train()
    if phase.trained is learner.model:
        learner.model.body.requires_grad_(not learner.is_frozen)
        if learner.is_frozen:
            learner.model.body.eval()
    if not phase.has_learning_batchnorm:
        freeze_batchnorm(phase.module)


def _step(learner: Learner, phase: Phase, indices: np.ndarray) -> tuple[float, float, float, int, int]:
    """Take one step at the rate that the schedule has for it; return what `step_at` does."""
    planned = learning_rates(
        learner.config, learner.phase_epochs, learner.batches, [learner.phase_epoch * learner.batches + learner.batch]
    )
    return step_at(learner, phase, indices, planned[0] * (learner.plateau.factor if learner.plateau else 1.0))


def step_at(learner: Learner, phase: Phase, indices: np.ndarray, rate: float) -> tuple[float, float, float, int, int]:
    """Take one step; return its rate, its loss, its gradient norm, how many were right, and how many pictures it saw.

    The loss and the gradients are looked at before the weights are moved. Where the memory is not enough the same step
    is taken again in smaller parts.
    """
    config = learner.config
    random = random_state(learner.device)
    statistics = [buffer.clone() for buffer in phase.module.buffers()] if phase.has_learning_batchnorm else []

    def take_back() -> None:
        set_random_state(learner.device, random)
        for buffer, old in zip(phase.module.buffers(), statistics, strict=False):
            buffer.copy_(old)

    while True:
        parts = -(-len(indices) // learner.micro_batch)
        try:
            loss, norm, right = _gradients(learner, phase, indices, parts)
            break
        except Exception as error:
            take_back()
            if not is_out_of_memory(error):
                raise
        _forget_gradients(learner)
        learner.shrink(-(-len(indices) // parts))
    if not math.isfinite(loss + norm):
        take_back()
        _forget_gradients(learner)
        what = "the loss was not a finite number" if not math.isfinite(loss) else "the gradients were not finite"
        raise DivergedError(learner.step + 1, config.rate, what)
    if config.gradient_clipping:
        nn.utils.clip_grads_with_norm_(learner.trained.parameters(), config.gradient_clipping, torch.tensor(norm))
    for optimizer in learner.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        optimizer.step()
    if learner.average is not None:
        learner.average.update_parameters(learner.trained)
    learner.step += 1
    learner.batch += 1
    learner.seen += len(indices)
    return rate, loss, norm, int(right), len(indices)


def _gradients(learner: Learner, phase: Phase, indices: np.ndarray, parts: int) -> tuple[float, float, float]:
    """Fill the gradients of one step, in so many parts; return the loss, the gradients' norm, and how many were right.

    The parts add up to the loss of the whole batch. The numbers are read at once, when all is on its way: on a GPU the
    processor waits for them while the backward pass still runs.
    """
    config = learner.config
    inputs = phase.inputs(indices, learner.epoch)
    labels = learner.train.labels[torch.from_numpy(indices)].to(learner.device)
    targets: torch.Tensor = labels
    if phase.mixing != "none":
        with seeded(config.seed, learner.step, len(indices)):
            inputs, targets = MIXINGS[phase.mixing].build(learner.classes, config.mixing_alpha)(inputs, labels)
    weights = _class_weights(learner)
    whole = len(indices) if weights is None or targets is not labels else weights[labels].sum()
    _forget_gradients(learner)
    losses, rights = [], []
    for some, wanted, answers in zip(
        *(tensor.tensor_split(parts) for tensor in (inputs, targets, labels)), strict=True
    ):
        with precision(learner):
            logits = phase.module(some).float()
        loss = functional.cross_entropy(
            logits,
            wanted,
            weight=weights,
            label_smoothing=config.label_smoothing,
            reduction="mean" if parts == 1 else "sum",
        )
        if parts > 1:
            loss = loss / whole
        loss.backward()
        losses.append(loss.detach())
        rights.append((logits.detach().argmax(1) == answers).sum())
    gradients = [parameter.grad for parameter in learner.trained.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    measured = torch.stack([torch.stack(losses).sum(), norm.float(), torch.stack(rights).sum().float()])
    loss_value, norm_value, right = measured.tolist()
    return loss_value, norm_value, right


def _forget_gradients(learner: Learner) -> None:
    for optimizer in learner.optimizers:
        optimizer.zero_grad(set_to_none=True)


def precision(learner: Learner) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the network computes in the config's number format."""
    is_half = learner.config.precision == "bfloat16"
    return torch.autocast(learner.device.type, torch.bfloat16, enabled=is_half)


def forward(learner: Learner, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the module's output (B, …) float32 without gradients, in smaller parts where the memory is not enough."""
    while True:
        parts = inputs.tensor_split(-(-len(inputs) // learner.micro_batch))
        try:
            with torch.no_grad(), precision(learner):
                outputs = [module(part).float() for part in parts]
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        learner.shrink(len(parts[0]))


def _score(learner: Learner, phase: Phase, clock: "Clock") -> Generator[Report, None, Scores]:
    """Score the validation images with the weights that would be kept now; report progress, return the scores.

    DivergedError where the loss is not finite: the last step may have blown up weights that no later step meets.
    """
    module, labels = learner.kept().eval(), learner.validation.labels
    size, logits = 0, list[torch.Tensor]()
    while size != learner.micro_batch:  # all pictures in parts of one size: from the start where the memory ran out
        size, logits = learner.micro_batch, []
        for indices in plain_batches(len(labels), EVALUATION_BATCH):
            logits.append(forward(learner, module, phase.validation_inputs(indices)).cpu())
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


@dataclass
class Patience:
    """Counts epochs without a lower validation loss; `is_over` ends the training."""

    epochs: int
    best: float = math.inf
    waited: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        return self.epochs > 0 and self.waited >= self.epochs

    def observe(self, loss: float) -> None:
        """Take note of an epoch's validation loss."""
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)


@dataclass
class Sums:
    """What the steps of the epoch that goes on add up to."""

    loss: float = 0.0
    right: int = 0
    seen: int = 0


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
            if phase.mixing == "none":  # a mixed picture has no one right class
                values["train/accuracy"] = learner.sums.right / learner.sums.seen
        learner.sums = Sums()
        step, epoch = learner.step, learner.step / learner.batches
        points = tuple(Point(key, step, epoch, value) for key, value in values.items())
        return Report(self._progress(f"training: {phase.title}"), points, scores)

    def _progress(self, phase: str) -> Progress:
        share, start = self._share(), self._share_at_start or 0.0
        passed = time.perf_counter() - self._started
        left = passed * (1 - share) / (share - start) if share > start else None
        return Progress(phase, share, left, self._rate)

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
    if kind == FULL:
        return [FULL_COST] * epochs
    return [1.0 if epoch < views(config) else KEPT_COST for epoch in range(epochs)]
