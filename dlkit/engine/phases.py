"""The three kinds of phase: what learns in each, from which inputs, and what of the network is frozen and kept.

*head*: the backbone is frozen, so its features are computed once per view and kept, and epochs cost next to nothing.
*partial*: the backbone's front is frozen, so what it puts out is kept, and its tail learns. *full*: every layer learns.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from dlkit.config import backbone_rates, views
from dlkit.engine.device import is_out_of_memory, upload
from dlkit.engine.learner import FULL, HEAD, PARTIAL, TITLES, Learner
from dlkit.engine.model import Classifier, Tail, freeze_batchnorm
from dlkit.engine.pixels import Pixels, shuffled_batches, validation_batches
from dlkit.engine.rows import Rows
from dlkit.engine.speed import DTYPES, Frozen
from dlkit.engine.stages import cut
from dlkit.evidence import FEATURES, REFERENCE

DEPTHS = 4  # into how many parts, from the first layers to the last, a backbone is divided for their learning rates


class Unprepared(Exception):
    """What a step learns from must be computed anew, as less goes through the network at once since it began."""


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
            whole[torch.from_numpy(is_kept)] = rows.cpu()
            whole[torch.from_numpy(~is_kept)] = self._outputs(indices[~is_kept], view).cpu()
            rows = whole
            if self.is_outdated:
                return self.of(indices, view)
        rows = upload(rows, self._learner.device).float()
        return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows

    def expect(self, batches: list[np.ndarray], view: int | None) -> None:
        """Let the pictures be decoded ahead that will be asked for with these batches, one batch after the other.

        Those are the groups that are still to be computed; once they all are, what there was no room for.
        """
        first_batch = np.full(len(self._pixels), len(batches))
        for place, batch in enumerate(batches):
            first_batch[batch] = place
        missing = self._missing(np.flatnonzero(first_batch < len(batches)), view)
        missing.sort(key=lambda group: first_batch[group].min())
        beyond = (batch[~self._kept[view].has(batch)] for batch in batches if not missing)
        self._pixels.expect(missing or [some for some in beyond if some.size])

    @property
    def is_outdated(self) -> bool:
        """Whether less goes through the network at once than did for what is computed."""
        return self._size != self._learner.micro_batch

    def is_complete(self, view: int | None) -> bool:
        """Tell whether the outputs of this view are computed for all pictures."""
        return view in self._is_done and bool(self._is_done[view].all())

    def forget_augmented(self) -> None:
        """Compute the augmented views anew at the next use."""
        for view in self._kept.keys() - {None, 0}:
            del self._kept[view], self._is_done[view]

    def _missing(self, indices: np.ndarray, view: int | None) -> list[np.ndarray]:
        """Return the groups of these pictures that are still to be computed and kept."""
        if self.is_outdated:
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
                self._groups[view] = validation_batches(count)
            else:
                self._groups[view] = shuffled_batches(count, config.batch_size, config.seed, view)
        return self._groups[view]

    def _keep(self, indices: np.ndarray, view: int | None) -> None:
        rows = self._outputs(indices, view)
        if self.is_outdated:
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
        self._kept[view] = kept = Rows(len(self._pixels), rows.shape[1:], self._dtype, learner.room.share(share))
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
    mixing = "none", 0.0  # a way of MIXINGS, and its alpha
    computes_in_steps = True  # what a shrink within a step makes it compute anew; else `inputs` raises Unprepared

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def expect(self, batches: list[np.ndarray], epoch: int) -> None:
        """Take note of the batches that are to come in this epoch of the run, so that they are decoded ahead."""

    def expect_validation(self, batches: list[np.ndarray]) -> None:
        """Take note of the batches in which all validation pictures are about to be asked for."""

    def is_prepared(self, epoch: int) -> bool:
        """Tell whether all that must be done once for this epoch of the run is done."""
        return True

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
        """Let what is not computed yet, or not kept, be decoded ahead."""
        self._features.expect(batches, epoch % self._views)

    def expect_validation(self, batches: list[np.ndarray]) -> None:
        """Let what is not computed yet, or not kept, be decoded ahead."""
        self._validation.expect(batches, None)

    def is_prepared(self, epoch: int) -> bool:
        """Tell whether everything was computed."""
        return self._features.is_complete(epoch % self._views) and self._validation.is_complete(None)

    def prepare(self, indices: np.ndarray, epoch: int) -> Iterator[tuple[int, int]]:
        """Compute what is missing."""
        return self._features.prepare(indices, epoch % self._views)

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return the frozen network's outputs for one of the views."""
        if self._features.is_outdated and not self.computes_in_steps:
            raise Unprepared
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
        self.groups = rate_groups(model, halves.tail, *backbone_rates(config, PARTIAL))
        self.mixing = config.mixing_in_use


class FullPhase(Phase):
    """All layers learn, the earlier the slower; the backbone not while it is frozen."""

    title = TITLES[FULL]

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        model, config = learner.model, learner.config
        self.module = self.trained = model
        if config.compile:  # of the steps only: what checks the pictures is seen too seldom to pay for it
            self.module = cast(nn.Module, torch.compile(model))
        self.backbone = model.body
        self.mixing = config.mixing_in_use
        self.groups = rate_groups(model, model.body, *backbone_rates(config, FULL))

    def expect(self, batches: list[np.ndarray], epoch: int) -> None:
        """Let the batches be decoded ahead."""
        self.learner.train.expect(batches)

    def expect_validation(self, batches: list[np.ndarray]) -> None:
        """Let the batches be decoded ahead."""
        self.learner.validation.expect(batches)

    def inputs(self, indices: np.ndarray, epoch: int) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) of the epoch's view."""
        return self.learner.train.batch(indices, epoch, self.learner.device)

    def validation_inputs(self, indices: np.ndarray) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) as they are."""
        return self.learner.validation.batch(indices, None, self.learner.device)


PHASES: dict[str, Callable[[Learner], Phase]] = {HEAD: HeadPhase, PARTIAL: PartialPhase, FULL: FullPhase}


def begin_phase(learner: Learner) -> Phase:
    """Begin the phase at the learner's place, or take it up again: what learns in it learns from now on."""
    phase = PHASES[learner.phases[learner.place][0]](learner)
    learner.begin(phase.trained, phase.groups)
    return phase


def set_modes(learner: Learner, phase: Phase) -> None:
    """Let the layers behave as in training: those that learn, and BatchNorm as the config says."""
    phase.module.train()
    if phase.backbone is not None:
        phase.backbone.requires_grad_(not learner.is_frozen)
        if learner.is_frozen:
            phase.backbone.eval()
    if not phase.has_learning_batchnorm:
        freeze_batchnorm(phase.module)


def rate_groups(model: Classifier, learning: nn.Module, factor: float, decay: float) -> list[dict[str, Any]]:
    """Return torch parameter groups: the head at the whole rate, the backbone's last part at `factor` of it.

    Each of the DEPTHS parts before the last learns at `decay` times the next one's rate (Howard and Ruder 2018,
    ULMFiT, section 3.2). `learning` is the backbone or its tail; parameters are in the order of the layers.
    """
    every = list(model.body.parameters())
    depth = {id(parameter): DEPTHS * place // len(every) for place, parameter in enumerate(every)}
    parts: dict[int, list[nn.Parameter]] = {}
    for parameter in learning.parameters():
        parts.setdefault(depth[id(parameter)], []).append(parameter)
    groups = [{"params": list(model.head.parameters()), "rate_factor": 1.0}]
    for part in sorted(parts, reverse=True):
        groups.append({"params": parts[part], "rate_factor": factor * decay ** (DEPTHS - 1 - part)})
    return groups


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
