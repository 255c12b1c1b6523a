"""What the parts of a training cost on this machine: a few batches, timed and weighed by the training's own functions.

What is found goes to `dlkit.evidence`, from which `dlkit.estimate` tells without torch what a run will take. Where the
pretrained weights are not here it measures the same network with random ones; where the pictures are not, drawn ones.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil
import torch
from torch import nn

from dlkit import evidence, machine
from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig, kinds_of_phases
from dlkit.data.dataset import is_here, open_dataset
from dlkit.data.weights import has_weights
from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.finetuning import assemble, choose_formats
from dlkit.engine.learner import FULL, HEAD, PARTIAL, Learner, Room
from dlkit.engine.model import build, pretrained
from dlkit.engine.phases import KeptPhase, Phase, forward, set_modes
from dlkit.engine.pixels import Pixels, shuffled_batches
from dlkit.engine.preprocess import preprocessing_of
from dlkit.engine.speed import place_of
from dlkit.engine.timing import blind_step, phase_apart
from dlkit.errors import ConfigError
from dlkit.runs.records import Progress

DRAWN = "shapes"  # stands in for a data set that is not here
READ, AUGMENTED = 64, 8  # pictures that are timed
STEP_PICTURES = 16  # in a step that is timed: no more than needed, as steps are what takes long
HEAD_STEPS = 10  # that are timed in one, as one takes a millisecond

Costs = dict[str, dict[str, float]]


def measure(config: FinetuneConfig, starting_seconds: float) -> Iterator[Progress]:
    """Measure the parts of a run of this config, all strategies, and remember them; leaves no other trace.

    What this config needs comes first, and what is known is remembered phase by phase. `starting_seconds` is how long
    this process has needed until now, importing torch among it.
    """
    begun = time.perf_counter()
    yield Progress("opening the pictures")
    config, entry = config.resolved(), BACKBONES[config.backbone]
    kinds = list(dict.fromkeys([*kinds_of_phases(config), HEAD, PARTIAL, FULL]))
    dataset = open_dataset(config.dataset if is_here(config.dataset) else DRAWN)
    make = partial(pretrained if has_weights(entry) else build, entry, len(dataset.classes), seed=config.seed)
    # every strategy is tried, on pictures that are kept: that of only a head keeps none
    with closing(assemble(config.model_copy(update={"strategy": PARTIAL}), dataset, make, Room())) as learner:
        where = partial(evidence.key_of, where=place_of(learner.device))
        weights_mb = 4 * sum(parameter.numel() for parameter in learner.model.parameters()) / 1e6
        machine.give_back_memory()  # what is free is filled again before the process grows
        start = {
            "seconds": starting_seconds + time.perf_counter() - begun,
            "memory_mb": psutil.Process().memory_info().rss / 1e6 - weights_mb,
            "copy": _timed(lambda: copy.deepcopy(learner.model), learner.device),
        }
        random = random_state(learner.device)
        yield Progress("reading pictures", 0.1)
        costs = {evidence.start_with(config.backbone): start, **time_pictures(learner)}
        plain, augmented = (
            costs[evidence.augmenting(name, _size(config))]["seconds"] for name in ("none", config.augmentation)
        )
        if not is_here(config.dataset):
            del costs[evidence.pictures_of(config.dataset, _resize(config))]
        for place, kind in enumerate(kinds):
            yield Progress(f"trying number formats: {kind}", (2 * place + 1) / 7)
            choose_formats(learner, kind)
            yield Progress(f"measuring a step: {kind}", (2 * place + 2) / 7)
            try:
                found = weigh(learner, kind, plain, augmented)
            except ConfigError:  # a network that cannot be cut
                continue
            costs[evidence.phase_of(kind, config.backbone, _size(config), config.precision, config.unfreeze_from)] = (
                found
            )
            evidence.remember_costs({where(what): numbers for what, numbers in costs.items()})
        set_random_state(learner.device, random)
        yield Progress("done", 1.0, 0.0)


def time_pictures(learner: Learner) -> Costs:
    """Return the seconds of one picture: to decode it, and to read and augment what is decoded."""
    config, pixels, size = learner.config, learner.train, _size(learner.config)
    indices = np.concatenate(shuffled_batches(len(pixels), config.batch_size, config.seed, 0))[:READ]
    learner.validation.batch(np.array([0]), None, learner.device)  # the first of all loads what decodes
    cold = _seconds(pixels, indices, None, learner.device)
    plain = min(_seconds(pixels, indices, None, learner.device) for _ in range(2))
    costs: Costs = {
        evidence.pictures_of(config.dataset, _resize(config)): {"decode": max(0.0, cold - plain) / len(indices)},
        evidence.augmenting("none", size): {"seconds": plain / len(indices)},
    }
    few = indices[:AUGMENTED]
    for name, entry in AUGMENTATIONS.items():
        if name != "none":
            pixels.use(entry.build)
            costs[evidence.augmenting(name, size)] = {
                "seconds": _seconds(pixels, few, 1, learner.device) / len(few),
            }
    pixels.use(AUGMENTATIONS[config.augmentation].build)
    return costs


def weigh(learner: Learner, kind: str, plain: float, augmented: float) -> dict[str, float]:
    """Return what a phase costs for one picture, in seconds and bytes.

    `plain` and `augmented` are the seconds in which a picture is read, which are told apart from the network's.
    """
    started = time.perf_counter()
    copied, phase = phase_apart(learner, kind)
    batch = shuffled_batches(len(copied.train), copied.config.batch_size, copied.config.seed, 0)[0]
    phase.inputs(batch, 0)
    begin = time.perf_counter() - started
    passing, found = [], {"once": 0.0, "kept_bytes": 0.0}
    if isinstance(phase, KeptPhase):
        once = effort_of(lambda some: _keep(learner, phase.frozen, some), batch, learner.device)
        found = {"once": max(0.0, once.whole / len(batch) - plain), "kept_bytes": phase.row_bytes(batch[:1])}
        passing.append(once)
        begin -= once.whole
    check = effort_of(lambda some: _check(copied, phase, some), batch, learner.device)
    set_modes(copied, phase)
    some = batch[:STEP_PICTURES]
    times = HEAD_STEPS if kind == HEAD else 1

    def steps(part: np.ndarray) -> None:
        for _ in range(times):
            blind_step(copied, phase, part)

    step = effort_of(steps, some, learner.device)
    return found | {
        "begin": max(0.0, begin) + check.surplus + step.surplus,
        "step": max(0.0, step.each / times - (augmented if kind == FULL else 0.0)),
        "step_fixed": (step.whole - step.each * len(some)) / times,
        "check": max(0.0, check.whole / len(batch) - (plain if kind == FULL else 0.0)),
        "learnt": float(sum(parameter.numel() for parameter in phase.trained.parameters())),
        "forward_bytes": max(effort.bytes for effort in (*passing, check)),
        "saved_bytes": step.bytes,
        "fixed_bytes": max(effort.fixed_bytes for effort in (*passing, check, step)),
    }


@dataclass(frozen=True)
class Effort:
    """What some work on pictures takes: the seconds of all and of each more, and bytes, its own and for each picture.

    `surplus` are the seconds that it took longer when it was done first: kernels are chosen then, and memory asked for.
    """

    whole: float
    each: float
    surplus: float
    fixed_bytes: float
    bytes: float


def effort_of(work: Callable[[np.ndarray], object], indices: np.ndarray, device: torch.device) -> Effort:
    """Do some work on a few pictures and on all of these, each twice: once for the memory, and once for the time."""
    few = indices[: max(1, len(indices) // 4)]
    more = max(1, len(indices) - len(few))
    (_, part, little), (first, whole, much) = (_tried(partial(work, some), device) for some in (few, indices))
    each_bytes = max(0.0, (much - little) / more)
    return Effort(
        whole,
        min(whole / len(indices), max(0.0, (whole - part) / more)),
        first - whole,
        max(0.0, much - each_bytes * len(indices)),
        each_bytes,
    )


def _tried(work: Callable[[], object], device: torch.device) -> tuple[float, float, float]:
    """Return the seconds of some work at first, those of the quicker of two tries, and the bytes that it takes at most.

    On the CPU by how much the process grows: what it has free is given back before, and a worker's allocator keeps what
    is freed then. Counting tensors instead misses most of it: kernels reorder their inputs and keep room of their own.
    """
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        machine.give_back_memory()
        before = psutil.Process().memory_info().rss
    first = _timed(work, device)
    after = torch.cuda.max_memory_allocated(device) if is_cuda else psutil.Process().memory_info().rss
    return first, min(first, _timed(work, device)), float(after - before)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _check(copied: Learner, phase: Phase, indices: np.ndarray) -> None:
    is_kept = isinstance(phase, KeptPhase)
    inputs = phase.inputs(indices, 0) if is_kept else copied.train.batch(indices, None, copied.device)
    forward(copied, copied.kept().eval(), inputs, phase.precision(evidence.FEATURES))


def _keep(learner: Learner, frozen: nn.Module, indices: np.ndarray) -> None:
    forward(learner, frozen, learner.train.batch(indices, None, learner.device), nullcontext())


def _seconds(pixels: Pixels, indices: np.ndarray, view: int | None, device: torch.device) -> float:
    return _timed(lambda: pixels.batch(indices, view, device), device)


def _size(config: FinetuneConfig) -> int:
    return preprocessing_of(BACKBONES[config.backbone], config.image_size).size


def _resize(config: FinetuneConfig) -> int:
    return preprocessing_of(BACKBONES[config.backbone], config.image_size).resize
