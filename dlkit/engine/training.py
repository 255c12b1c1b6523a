"""The training loop: a generator of reports. It prints, draws and stores nothing; to end it is to stop asking.

Three kinds of phase share one loop. *head*: the backbone is frozen, so its features are computed once per view and
kept, and epochs cost next to nothing. *partial*: the backbone's front is frozen, so what it puts out is kept, and its
tail learns. *full*: every layer learns. The strategies partial and full begin with the head; auto does so too, and then
goes as deep as its time allows.

Whenever the loop reports it stands between two steps, and `Learner.state` is all that is needed to go on from there: a
training that goes on from a state takes the same steps, bit for bit on the CPU, as one that was never interrupted.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES, Plateau
from dlkit.config import (
    EVALUATION_BATCH,
    TIME_IN_USE,
    FinetuneConfig,
    first_phases,
    later_phases,
    learning_rates,
    parse,
    steps_per_epoch,
    views,
)
from dlkit.engine.device import is_out_of_memory, random_state, release_memory, set_random_state
from dlkit.engine.model import Classifier, freeze_batchnorm
from dlkit.engine.pixels import Pixels, plain_batches, seeded, shuffled_batches
from dlkit.engine.rows import Rows
from dlkit.engine.speed import DTYPES, Frozen
from dlkit.engine.stages import cut
from dlkit.errors import DivergedError, DlkitError, MemoryFullError
from dlkit.evidence import FEATURES, REFERENCE, TRAINING, Format
from dlkit.runs.records import Change, Point, Progress

REPORT_SECONDS = 0.2
#: what an epoch costs where computing the features once costs 1: of the head, of the last layers, of all layers
COSTS = {"head": 0.03, "partial": 1.0, "full": 3.5}
HEAD, PARTIAL, FULL = "head", "partial", "full"
TITLES = {HEAD: "head", PARTIAL: "last layers", FULL: "all layers"}
AUTO = "auto"
MEASURED_BATCHES = 3  # of what is kept: the first time a network has to choose its kernels
DEPTHS = 4  # into how many parts, from the first layers to the last, a backbone is divided for their learning rates


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


class Room(NamedTuple):
    """How much of what a frozen network puts out may be kept: bytes in memory, then bytes of a file in a folder."""

    memory: float = 1e9
    disk: float = 0
    folder: Path | None = None


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
    room: Room = field(default_factory=Room)
    seconds_before: float = 0.0  # that earlier attempts were at work
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
        self.phases, self.has_budget = first_phases(config), config.strategy == AUTO
        self.started = time.perf_counter()
        if config.precision != "auto":
            self.formats = dict.fromkeys((FEATURES, TRAINING), Format(config.precision))
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
            "plateau": None if self.plateau is None else asdict(self.plateau),
            "patience": asdict(self.patience),
            "sums": asdict(self.sums),
            "formats": {task: asdict(form) for task, form in self.formats.items()},
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
        self.formats = {task: Format(**form) for task, form in state["formats"].items()}
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
        elif change.what == "plan":
            self.phases = [(kind, epochs) for kind, epochs in change.value]
        else:
            more = change.value - self.config.epochs if change.what == "epochs" else 0
            self.config = self.config.model_copy(update={change.what: change.value})
            if more:
                self.has_budget = False  # who asks for more has the time
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
)


class Features:
    """What a frozen network puts out for each picture and view, computed at first use: (N, F) or (N, C, H, W).

    Always in the same groups: a view's are batches of the epoch that is numbered like it. And all through the network
    in parts of the same size: where it shrinks they are computed anew. So a number never depends on where a training
    that goes on came back to it. View None, or 0 of the training pictures, is the picture as it is.

    The first groups are kept, as many as there is room for; what is in the others is computed whenever it is asked for.
    """

    def __init__(
        self, learner: Learner, pixels: Pixels, network: nn.Module, dtype: torch.dtype, views: int = 1
    ) -> None:
        self._learner, self._pixels, self._network, self._dtype = learner, pixels, network, dtype
        self._views = views  # that share the room
        self._kept: dict[int | None, Rows] = {}
        self._is_done: dict[int | None, np.ndarray] = {}  # computed, and kept where there was room
        self._groups: dict[int | None, list[np.ndarray]] = {}
        self._size = learner.micro_batch

    def prepare(self, indices: np.ndarray, view: int | None) -> Iterator[tuple[int, int]]:
        """Compute what is missing for these pictures; tell after each group how many are done, and of how many."""
        done = 0
        while missing := self._missing(indices, view):
            self._keep(missing[0], view)
            done += len(missing[0])
            yield done, done + sum(map(len, missing[1:]))

    def of(self, indices: np.ndarray, view: int | None) -> torch.Tensor:
        """Return the outputs for these pictures, float32 on the device; images among them in channels_last."""
        for _ in self.prepare(indices, view):
            pass
        kept = self._kept[view]
        is_kept = kept.has(indices)
        rows = kept.get(indices[is_kept])
        if not is_kept.all():
            whole = torch.empty(len(indices), *rows.shape[1:], dtype=rows.dtype)
            whole[torch.from_numpy(is_kept)] = rows
            whole[torch.from_numpy(~is_kept)] = self._outputs(indices[~is_kept], view).cpu()
            rows = whole
        rows = rows.to(self._learner.device).float()
        return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows

    def expect(self, view: int | None) -> None:
        """Let the pictures of this view be decoded ahead."""
        done = self._is_done.get(view)
        self._pixels.expect([group for group in self._groups_of(view) if done is None or not done[group].all()])

    def forget_augmented(self) -> None:
        """Compute the augmented views anew at the next use."""
        for view in self._kept.keys() - {None, 0}:
            del self._kept[view], self._is_done[view]

    def _missing(self, indices: np.ndarray, view: int | None) -> list[np.ndarray]:
        """Return the groups of these pictures that are still to be computed and kept."""
        if self._size != self._learner.micro_batch:
            self._kept.clear()
            self._is_done.clear()
            self._size = self._learner.micro_batch
        done = self._is_done.setdefault(view, np.zeros(len(self._pixels), bool))
        if done[indices].all():
            return []
        unknown = np.zeros(len(done), bool)
        unknown[indices] = ~done[indices]
        return [group for group in self._groups_of(view) if unknown[group].any()]

    def _groups_of(self, view: int | None) -> list[np.ndarray]:
        if view not in self._groups:
            config, count = self._learner.config, len(self._pixels)
            if view is None:
                self._groups[view] = plain_batches(count, EVALUATION_BATCH)
            else:
                self._groups[view] = shuffled_batches(count, config.batch_size, config.seed, view)
        return self._groups[view]

    def _keep(self, indices: np.ndarray, view: int | None) -> None:
        rows = self._outputs(indices, view)
        if self._size != self._learner.micro_batch:
            return
        if view not in self._kept:
            self._make_room(rows, view)
        done = self._is_done[view]
        if not done[indices].any():
            self._kept[view].put(indices, rows)
        done[indices] = True

    def _make_room(self, rows: torch.Tensor, view: int | None) -> None:
        """Make room for one view; what is beyond it counts as done, as it is not kept."""
        learner = self._learner
        share = len(self._pixels) / (len(learner.train) + len(learner.validation))
        share /= 1 if view is None else self._views
        room = learner.room
        self._kept[view] = kept = Rows(
            len(self._pixels), rows.shape[1:], self._dtype, share * room.memory, share * room.disk, room.folder
        )
        groups = self._groups_of(view)
        for group, end in zip(groups, np.cumsum([len(group) for group in groups]), strict=True):
            self._is_done[view][group] = end > kept.room

    def _outputs(self, indices: np.ndarray, view: int | None) -> torch.Tensor:
        """Return what the network puts out, images as (N, H, W, C)."""
        pictures = self._pixels.batch(indices, view or None, self._learner.device)
        outputs = forward(self._learner, self._network, pictures, contextlib.nullcontext()).to(self._dtype)
        return outputs.permute(0, 2, 3, 1) if outputs.ndim == 4 else outputs


class Phase:
    """One stretch of training: what learns, from which inputs, and what an epoch costs beside the others."""

    title: str
    module: nn.Module  # inputs -> logits
    trained: nn.Module  # the part of it that learns and is averaged
    groups: list[dict[str, Any]]  # torch parameter groups; `rate_factor` scales the learning rate
    backbone: nn.Module | None = None  # what of the backbone learns, while it is not frozen
    mixing = "none"

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def expect(self, batches: list[np.ndarray], epoch: int) -> None:
        """Take note of the batches that are to come in this epoch of the run, so that they are decoded ahead."""

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

    def precision(self, task: str) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which `module` computes: TRAINING, or without gradients FEATURES."""
        form = self.learner.formats.get(task, REFERENCE)
        is_exact = form.precision == REFERENCE.precision
        return torch.autocast(self.learner.device.type, DTYPES[form.precision], enabled=not is_exact)

    @property
    def has_learning_batchnorm(self) -> bool:
        """Whether BatchNorm layers take their statistics from the batch."""
        is_fixed = self.learner.config.freeze_batchnorm or self.learner.is_frozen
        return self.backbone is not None and not is_fixed


class KeptPhase(Phase):
    """A phase that learns on what a frozen network puts out, which is computed once and kept."""

    def __init__(self, learner: Learner, kind: str, network: nn.Module) -> None:
        super().__init__(learner)
        self._views = views(learner.config, kind)
        form = learner.formats.get(FEATURES, REFERENCE)
        frozen = network.eval()
        if form != REFERENCE:
            frozen = Frozen(network, form, learner.validation.batch(np.array([0]), None, learner.device))
        dtype = torch.float32 if kind == HEAD else DTYPES[form.precision]
        self.frozen, self._dtype = frozen, dtype
        self._features = Features(learner, learner.train, frozen, dtype, self._views)
        self._validation = Features(learner, learner.validation, frozen, dtype)

    def expect(self, batches: list[np.ndarray], epoch: int) -> None:
        """Let what is not computed yet be decoded ahead."""
        self._features.expect(epoch % self._views)

    def prepare(self, indices: np.ndarray, epoch: int) -> Iterator[tuple[int, int]]:
        """Compute what is missing."""
        return self._features.prepare(indices, epoch % self._views)

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return the frozen network's outputs for one of the views."""
        return self._features.of(indices, epoch % self._views)

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return the frozen network's outputs for the pictures as they are."""
        return self._validation.of(indices, None)

    def row_bytes(self, indices: np.ndarray) -> float:
        """Return how many bytes are kept of each of these pictures and view 0."""
        return self.inputs(indices, 0).numel() * self._dtype.itemsize / len(indices)

    def change_augmentation(self) -> None:
        """Forget what was computed of the pictures as they were augmented."""
        self._features.forget_augmented()


class HeadPhase(KeptPhase):
    """The head learns from the backbone's features (N, F)."""

    title = TITLES[HEAD]

    def __init__(self, learner: Learner) -> None:
        model = learner.model
        super().__init__(learner, HEAD, model.body)
        self.module, self.trained = nn.Sequential(model.dropout, model.head), model.head
        self.groups = [{"params": list(model.head.parameters()), "rate_factor": 1.0}]

    def precision(self, task: str) -> contextlib.AbstractContextManager[Any]:
        """Compute in float32: the head costs nothing."""
        return contextlib.nullcontext()


class Tail(nn.Module):
    """The last layers of a classifier: what the layers before them put out → logits (N, C)."""

    def __init__(self, layers: nn.Module, dropout: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.layers, self.dropout, self.head = layers, dropout, head

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.dropout(self.layers(activations)))
        return logits

    def put_into(self, model: Classifier) -> None:
        """Give a classifier, from which these layers may have been copied, their weights and buffers."""
        weights = self.layers.state_dict()
        if weights.keys() - model.body.state_dict().keys():
            raise AssertionError("the layers have other names in the network")
        model.body.load_state_dict(weights, strict=False)
        model.head.load_state_dict(self.head.state_dict())


class PartialPhase(KeptPhase):
    """The last layers learn from what the layers before them put out."""

    title = TITLES[PARTIAL]

    def __init__(self, learner: Learner) -> None:
        model, config = learner.model, learner.config
        example = learner.validation.batch(np.array([0]), None, learner.device)
        halves = cut(model.body.eval(), example, config.unfreeze_from)
        super().__init__(learner, PARTIAL, halves.front)
        self.backbone = halves.tail
        self.module = self.trained = Tail(halves.tail, model.dropout, model.head)
        self.groups = rate_groups(model, halves.tail, config)


class FullPhase(Phase):
    """All layers learn, the earlier the slower; the backbone not while it is frozen."""

    title = TITLES[FULL]

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        model, config = learner.model, learner.config
        self.module = self.trained = model
        self.backbone = model.body
        self.mixing = config.mixing
        self.groups = rate_groups(model, model.body, config)

    def expect(self, batches: list[np.ndarray], epoch: int) -> None:
        """Let the batches be decoded ahead."""
        self.learner.train.expect(batches)

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) of the epoch's view."""
        return self.learner.train.batch(indices, epoch, self.learner.device)

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) as they are."""
        return self.learner.validation.batch(indices, None, self.learner.device)


def rate_groups(model: Classifier, learning: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Return torch parameter groups: the head at the whole rate, the backbone's last part at a share of it.

    Each of the DEPTHS parts before the last learns at `layer_rate_decay` of the next one's rate (Howard and Ruder 2018,
    ULMFiT, section 3.2). `learning` is the backbone or its tail; parameters are in the order of the layers.
    """
    every = list(model.body.parameters())
    depth = {id(parameter): DEPTHS * place // len(every) for place, parameter in enumerate(every)}
    parts: dict[int, list[nn.Parameter]] = {}
    for parameter in learning.parameters():
        parts.setdefault(depth[id(parameter)], []).append(parameter)
    groups = [{"params": list(model.head.parameters()), "rate_factor": 1.0}]
    for part in sorted(parts, reverse=True):
        factor = config.backbone_rate_factor * config.layer_rate_decay ** (DEPTHS - 1 - part)
        groups.append({"params": parts[part], "rate_factor": factor})
    return groups


PHASES: dict[str, Callable[[Learner], Phase]] = {HEAD: HeadPhase, PARTIAL: PartialPhase, FULL: FullPhase}


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
        if learner.has_budget and learner.phases == [(HEAD, learner.phase_epoch)]:
            yield clock.report(phase, "measuring how deep the time allows to go")
            go_deeper(learner)
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
        begun = time.perf_counter()
        if learner.batch == 0:
            _steer(learner, phase, is_epoch_start=True)
            if learner.phase_epoch >= learner.phase_epochs or learner.patience.is_over:
                return
        config = learner.config
        set_modes(learner, phase)
        batches = shuffled_batches(len(learner.train), config.batch_size, config.seed, learner.epoch)
        phase.expect(batches[learner.batch :], learner.epoch)
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
        end_in_time(learner, time.perf_counter() - begun)


def go_deeper(learner: Learner) -> None:
    """Decide, once the head has learnt, which layers learn then and for how long, so that the time suffices.

    What it decides is put on record: a training that goes on does not measure again.
    """
    left = TIME_IN_USE * (60 * learner.config.budget_minutes - learner.seconds)
    plan, note = list(learner.phases), "no time is left to go deeper than the head"
    if left > 0:
        once, epoch = measure_phase(learner, PARTIAL)
        _, full_epoch = measure_phase(learner, FULL)
        plan += later_phases(left, once, epoch, full_epoch)
        costs = f"an epoch of the last layers takes about {epoch:.3g} s, one of all layers {full_epoch:.3g} s"
        parts = [f"{epochs} of {TITLES[kind]}" for kind, epochs in plan[len(learner.phases) :]]
        note = f"{costs}: {' and then '.join(parts) or 'neither fits into the time'}"
    learner.apply(learner.steering.record("plan", [list(part) for part in plan], learner.step, note))


def end_in_time(learner: Learner, seconds: float) -> None:
    """End the training where another epoch of so many seconds would take longer than the time that was given."""
    epochs_left = learner.phase_epoch < learner.phase_epochs or learner.place + 1 < len(learner.phases)
    if not learner.has_budget or not epochs_left:
        return
    if learner.seconds + seconds > 60 * learner.config.budget_minutes:
        kind = learner.phases[learner.place][0]
        plan = [*learner.phases[: learner.place], (kind, learner.phase_epoch)]
        note = "the time is up: another epoch would not fit into it"
        learner.apply(learner.steering.record("plan", [list(part) for part in plan], learner.step, note))


@dataclass(frozen=True)
class Costs:
    """What a phase costs for one picture, in seconds: once, for what it keeps; in a step; and when it is checked."""

    once: float
    step: float
    check: float


def measure_phase(learner: Learner, kind: str) -> tuple[float, float]:
    """Return how many seconds a phase takes once, for what it keeps, and then for each epoch with its validation.

    It is tried with a few batches on a copy, and leaves no trace: neither in the weights nor in a generator.
    """
    random = random_state(learner.device)
    copied, phase = phase_apart(learner, kind)
    costs = time_phase(copied, phase)
    set_random_state(learner.device, random)
    train, checked = len(copied.train), len(copied.validation)
    return costs.once * (views(copied.config, kind) * train + checked), costs.step * train + costs.check * checked


def phase_apart(learner: Learner, kind: str) -> tuple[Learner, Phase]:
    """Return a copy of the learner that has begun this phase and no other; the pictures are shared."""
    copied = Learner(learner.config, copy.deepcopy(learner.model), learner.train, learner.validation, learner.device)
    copied.formats, copied.micro_batch, copied.room = learner.formats, learner.micro_batch, learner.room
    copied.phases = [(kind, 1)]
    phase = begin_phase(copied)
    set_modes(copied, phase)
    return copied, phase


def time_phase(copied: Learner, phase: Phase, pictures: int | None = None) -> Costs:
    """Return what a phase of a copy costs; `pictures` is how many go into its steps, a batch where it is not given.

    It moves the copy's weights, and draws from torch's generators.
    """
    batches = shuffled_batches(len(copied.train), copied.config.batch_size, copied.config.seed, 0)
    once = []
    for batch in batches[:MEASURED_BATCHES]:
        started = time.perf_counter()
        done = max((total for _, total in phase.prepare(batch, 0)), default=0)
        once += [(time.perf_counter() - started) / done] if done else []
    indices = batches[0][:pictures]
    inputs = phase.inputs(indices, 0)
    step = time_step(copied, phase, indices)
    module = copied.kept()
    check = _quickest(lambda: forward(copied, module, inputs, phase.precision(FEATURES)).sum().item())
    return Costs(min(once, default=0.0), step / len(indices), check / len(indices))


def time_step(copied: Learner, phase: Phase, indices: np.ndarray) -> float:
    """Return the seconds of a step of a copy on these pictures."""
    return _quickest(lambda: _blind_step(copied, phase, indices))


def _blind_step(copied: Learner, phase: Phase, indices: np.ndarray) -> None:
    """Take a step without looking at what it does: only its time matters."""
    _gradients(copied, phase, indices, -(-len(indices) // copied.micro_batch))
    for optimizer in copied.optimizers:
        optimizer.step()


def _quickest(work: Callable[[], object]) -> float:
    """Return the seconds of the quicker of two runs; `work` waits for the device."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _steer(learner: Learner, phase: Phase, is_epoch_start: bool = False) -> None:
    """Make the changes that are due between these two steps."""
    for change in learner.steering.due(learner.step, learner.applied, is_epoch_start):
        learner.apply(change)
        if change.what == "augmentation":
            phase.change_augmentation()


def set_modes(learner: Learner, phase: Phase) -> None:
    """Let the layers behave as in training: those that learn, and BatchNorm as the config says."""
    phase.module.train()
    if phase.backbone is not None:
        phase.backbone.requires_grad_(not learner.is_frozen)
        if learner.is_frozen:
            phase.backbone.eval()
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
        with phase.precision(TRAINING):
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


def forward(
    learner: Learner, module: nn.Module, inputs: torch.Tensor, precision: contextlib.AbstractContextManager[Any]
) -> torch.Tensor:
    """Return the module's output (B, …) float32 without gradients, in smaller parts where the memory is not enough."""
    while True:
        parts = inputs.tensor_split(-(-len(inputs) // learner.micro_batch))
        try:
            with torch.no_grad(), precision:
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
