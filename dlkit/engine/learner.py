"""A model in training, all that changes with it, and where it stands: what a checkpoint is made of."""

import copy
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES, Plateau
from dlkit.config import FinetuneConfig, first_phases, parse, steps_per_epoch
from dlkit.engine.device import random_state, release_memory, set_random_state
from dlkit.engine.model import Classifier, Tail
from dlkit.engine.pixels import EVALUATION_BATCH, Pixels
from dlkit.engine.rows import Room
from dlkit.errors import MemoryFullError
from dlkit.evidence import FEATURES, REFERENCE, TRAINING, Format
from dlkit.runs.records import Change

HEAD, PARTIAL, FULL = "head", "partial", "full"
AUTO = "auto"
TITLES = {HEAD: "head", PARTIAL: "last layers", FULL: "all layers"}


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
    formats: dict[str, Format] = field(default_factory=dict)  # by task; REFERENCE where none is given
    has_budget: bool = False  # whether time decides when it ends
    room: Room = field(default_factory=Room)  # for what a frozen network puts out
    is_planned: bool = False  # whether it is decided what follows the head
    plan_number: int = 0  # of the change that decided it
    seconds_before: float = 0.0  # that earlier attempts have trained; counted only where time decides
    epoch_seconds: dict[str, float] = field(default_factory=dict)  # by kind of phase, as measured in this process
    trained: nn.Module = field(init=False)
    average: AveragedModel | None = None
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    scaler: torch.amp.GradScaler = field(init=False)  # does nothing but in float16
    plateau: Plateau | None = None
    patience: "Patience" = field(init=False)
    sums: "Sums" = field(init=False)
    steering: Steering = field(default_factory=Unsteered)
    _restored: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.micro_batch = max(config.batch_size, EVALUATION_BATCH)
        self.phases, self.has_budget = first_phases(config), config.strategy == AUTO
        self.started = time.perf_counter()
        if config.precision != "auto":
            self.formats = dict.fromkeys((FEATURES, TRAINING), Format(config.precision))
        self.patience, self.sums = Patience(config.early_stopping), Sums()

    def close(self) -> None:
        """Let go of the pictures: none is decoded any more. It belongs to whoever has made the learner."""
        self.train.close()
        self.validation.close()

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
        return not is_fixed and any(kind != HEAD for kind, _ in self.phases[self.place :])

    @property
    def seconds(self) -> float:
        """How long it has been at work, over all attempts."""
        return self.seconds_before + time.perf_counter() - self.started

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
        self.scaler = self._new_scaler()
        self.plateau, self.patience = _plateau(config), Patience(config.early_stopping)
        if self._restored is not None:
            self._refill(self._restored)
            self._restored = None

    def forget_scaled(self) -> None:
        """Let the scaler know nothing of a step that was broken off; the scale stays."""
        known, self.scaler = self.scaler.state_dict(), self._new_scaler()
        self.scaler.load_state_dict(known)

    def _new_scaler(self) -> torch.amp.GradScaler:
        is_float16 = self.formats.get(TRAINING, REFERENCE).precision == "float16"
        return torch.amp.GradScaler(self.device.type, enabled=is_float16)

    def kept(self) -> nn.Module:
        """Return the part that learns with the weights that would be kept: averaged where averaging is on."""
        return self.trained if self.average is None else self.average.module

    def model_to_keep(self) -> Classifier:
        """Return the whole classifier with the weights that would be kept."""
        kept = self.kept()
        if isinstance(kept, Classifier):
            return kept
        if self.average is None:
            return self.model
        if isinstance(kept, Tail):
            whole = copy.deepcopy(self.model)
            kept.put_into(whole)
            return whole
        return Classifier(self.model.body, cast(nn.Linear, kept))

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
            "scaler": self.scaler.state_dict(),
            "plateau": None if self.plateau is None else asdict(self.plateau),
            "patience": asdict(self.patience),
            "sums": asdict(self.sums),
            "formats": {task: asdict(form) for task, form in self.formats.items()},
            "random": random_state(self.device),
            "threads": torch.get_num_threads(),
            "seconds": self.seconds if self.has_budget else 0.0,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken; `train` then goes on from there."""
        self.config = parse(state["config"])
        for name in POSITION:
            setattr(self, name, state["position"][name])
        self.phases = [(kind, epochs) for kind, epochs in state["phases"]]
        self.applied = set(state["applied"])
        self.formats = {task: Format(**form) for task, form in state["formats"].items()}
        self.seconds_before = state["seconds"]
        self.train.use(AUGMENTATIONS[self.config.augmentation].build)
        torch.set_num_threads(state["threads"])  # another number adds up in another order
        self._restored = state

    def _refill(self, state: Mapping[str, Any]) -> None:
        self.trained.load_state_dict(state["weights"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, known in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        self.scaler.load_state_dict(state["scaler"])
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
        elif change.what == "plan":
            if change.number >= self.plan_number:  # an attempt that was killed may have decided later otherwise
                self.phases = [(kind, epochs) for kind, epochs in change.value]
                self.is_planned, self.plan_number = True, change.number
        elif change.what == "more":
            self._learn_more(change.value)
        else:
            more = change.value - self.config.epochs if change.what == "epochs" else 0
            self.config = self.config.model_copy(update={change.what: change.value})
            if more:
                self._learn_more(more)
            if change.what == "augmentation":
                self.train.use(AUGMENTATIONS[change.value].build)

    def _learn_more(self, epochs: int) -> None:
        self.has_budget = False  # who asks for more has the time
        kind, planned = self.phases[-1]
        self.phases[-1] = kind, planned + epochs
        if self.place == len(self.phases) - 1:
            self.patience.waited = 0

    def _freeze(self, is_frozen: bool) -> None:
        self.is_frozen = is_frozen
        if self.has_budget and not self.is_planned:  # what follows the head is decided when it has learnt
            return
        if self.phases[self.place][0] == HEAD and not is_frozen:  # what is left of it is for all layers
            left = self.phase_epochs - self.phase_epoch
            self.phases[self.place] = HEAD, self.phase_epoch
            if self.place == len(self.phases) - 1:  # also where none is left: whoever asks for more wants it there
                self.phases.append((FULL, left))

    def shrink(self, pictures: int) -> None:
        """Let fewer pictures through the network at once, as so many were too many; MemoryFullError at one.

        Where rows are kept on the device, they make room first, and it may do with as many.
        """
        has_made_room = self.room.resident is not None and self.room.resident.clear()
        release_memory(self.device)
        if has_made_room:
            return
        if pictures <= 1:
            raise MemoryFullError(self.device.type.upper())
        size = -(-pictures // 2)
        note = f"out of memory with {pictures} pictures at a time: from step {self.step + 1} on at most {size}, "
        note += f"whose gradients are added up, so that a step still learns from {self.config.batch_size}"
        if self.learns_batchnorm and size < self.config.batch_size:
            note += f"; BatchNorm takes its mean and variance from {size} pictures now, so they are noisier"
        self.apply(self.steering.record("micro_batch", size, self.step, note))


#: what tells where a learner stands
POSITION = (
    "step",
    "epoch",
    "seen",
    "batch",
    "place",
    "phase_epoch",
    "is_frozen",
    "micro_batch",
    "is_begun",
    "has_budget",
    "is_planned",
    "plan_number",
)


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


def _plateau(config: FinetuneConfig) -> Plateau | None:
    if not SCHEDULES[config.schedule].follows_validation:
        return None
    options = config.schedule_settings()
    return Plateau(int(options["patience"]), options["decay"])
