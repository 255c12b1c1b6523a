"""What the parts of a training cost on this machine: a few batches, timed and weighed by the training's own functions.

What is found goes to `dlkit.evidence`, from which `dlkit.estimate` tells without torch what a run will take. Where the
pretrained weights are not here it measures the same network with random ones; where the pictures are not, drawn ones.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import psutil
import torch
from torch import nn

from dlkit import evidence, machine
from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig
from dlkit.data.dataset import is_here, open_dataset
from dlkit.data.weights import has_weights
from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.finetuning import assemble, choose_formats
from dlkit.engine.learner import FULL, HEAD, PARTIAL, Learner
from dlkit.engine.model import build, pretrained
from dlkit.engine.phases import KeptPhase, Phase, forward, set_modes
from dlkit.engine.pixels import Pixels, shuffled_batches
from dlkit.engine.preprocess import preprocessing_of
from dlkit.engine.speed import place_of
from dlkit.engine.steps import step_at
from dlkit.engine.timing import MEASURED_BATCHES, phase_apart, time_phase, time_step
from dlkit.errors import ConfigError
from dlkit.runs.records import Progress

DRAWN = "shapes"  # stands in for a data set that is not here
PICTURES = 16  # in a step that is timed, and a quarter of them: what both have in common is a step's own
HEAD_STEPS = 20

Costs = dict[str, dict[str, float]]


def measure(config: FinetuneConfig, starting_seconds: float) -> Iterator[Progress]:
    """Measure the parts of a run of this config, all strategies, and remember them; leaves no other trace.

    `starting_seconds` is how long this process has needed until now, importing torch among it.
    """
    begun = time.perf_counter()
    yield Progress("opening the pictures")
    config, entry = config.resolved(), BACKBONES[config.backbone]
    dataset = open_dataset(config.dataset if is_here(config.dataset) else DRAWN)
    make = pretrained if has_weights(entry) else build
    learner = assemble(config, dataset, make(entry, len(dataset.classes), seed=config.seed))
    where = partial(evidence.key_of, where=place_of(learner.device))
    weights_mb = 4 * sum(parameter.numel() for parameter in learner.model.parameters()) / 1e6
    machine.give_back_memory()  # what is free is filled again before the process grows
    start = {
        "seconds": starting_seconds + time.perf_counter() - begun,
        "memory_mb": psutil.Process().memory_info().rss / 1e6 - weights_mb,
    }
    yield Progress("trying number formats", 0.2)
    choose_formats(learner)
    random = random_state(learner.device)
    yield Progress("reading pictures", 0.5)
    costs: Costs = time_pictures(learner)
    if not is_here(config.dataset):
        costs = {what: numbers for what, numbers in costs.items() if not what.startswith("pictures")}
    plain, light = (
        costs[evidence.augmenting(name, _size(config))]["seconds"] for name in ("none", config.augmentation)
    )
    for place, kind in enumerate((HEAD, PARTIAL, FULL), start=3):
        yield Progress(f"measuring a step: {kind}", place / 6)
        try:
            found, start_of_head = weigh(learner, kind, plain, light)
        except ConfigError:  # a network that cannot be cut
            continue
        start |= start_of_head
        costs[evidence.phase_of(kind, config.backbone, _size(config), config.precision, config.stage)] = found
    set_random_state(learner.device, random)
    known = evidence.known_costs().get(where("a start"), {})
    start["seconds"] = min(start["seconds"], known.get("seconds", start["seconds"]))  # a busy machine makes it longer
    costs["a start"] = start
    evidence.remember_costs({where(what): numbers for what, numbers in costs.items()})
    yield Progress("done", 1.0, 0.0)


def time_pictures(learner: Learner) -> Costs:
    """Return the seconds of one picture: to decode it, and to read and augment what is decoded."""
    config, pixels, size = learner.config, learner.train, _size(learner.config)
    batches = shuffled_batches(len(pixels), config.batch_size, config.seed, 0)
    indices = np.concatenate(batches[:MEASURED_BATCHES])  # those that the phases are timed with
    first, others = indices[:1], indices[1:]
    _seconds(pixels, first, None, learner.device)  # the first one starts the threads
    cold = _seconds(pixels, others, None, learner.device)
    plain = min(_seconds(pixels, others, None, learner.device) for _ in range(2))
    costs: Costs = {
        evidence.pictures_of(config.dataset, _resize(config)): {"decode": max(0.0, cold - plain) / len(others)}
    }
    for name, entry in AUGMENTATIONS.items():
        pixels.use(entry.build)
        seconds = plain if name == "none" else _seconds(pixels, others[:PICTURES], 1, learner.device)
        costs[evidence.augmenting(name, size)] = {
            "seconds": seconds / len(others if name == "none" else others[:PICTURES])
        }
    pixels.use(AUGMENTATIONS[config.augmentation].build)
    return costs


def weigh(learner: Learner, kind: str, plain: float, augmented: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return what a phase costs for one picture, in seconds and bytes, and of the head what a step and a copy cost.

    `plain` and `augmented` are the seconds in which a picture is read, which are told apart from the network's.
    """
    copied, phase = phase_apart(learner, kind)
    times = time_phase(copied, phase, PICTURES)
    config = copied.config
    batch = shuffled_batches(len(copied.train), config.batch_size, config.seed, 0)[0]  # it is kept already
    indices = batch[:PICTURES]
    few = indices[: max(1, len(indices) // 4)]
    whole, part = times.step * len(indices), time_step(copied, phase, few)
    each = min(times.step, max(0.0, (whole - part) / max(1, len(indices) - len(few))))
    found = {
        "once": max(0.0, times.once - plain),
        "step": max(0.0, each - (augmented if kind == FULL else 0.0)),
        "step_fixed": whole - each * len(indices),
        "check": times.check,
        "learnt": float(sum(parameter.numel() for parameter in phase.trained.parameters())),
        "kept_bytes": 0.0,
    }
    phase.module.eval()
    passing = [room_of(lambda some: _check(copied, phase, some), batch, learner.device)]
    if isinstance(phase, KeptPhase):
        found["kept_bytes"] = phase.row_bytes(indices[:1])
        passing += [room_of(lambda some: _keep(learner, phase.frozen, some), batch, learner.device)]
    set_modes(copied, phase)
    fixed, learning = room_of(lambda some: step_at(copied, phase, some, 1e-6), indices, learner.device)
    found["forward_bytes"], found["saved_bytes"] = max(each for _, each in passing), learning
    found["fixed_bytes"] = max(fixed, *(one for one, _ in passing))
    if kind != HEAD:
        return found, {}
    started = time.perf_counter()
    for _ in range(HEAD_STEPS):
        step_at(copied, phase, indices, 1e-6)
    step = (time.perf_counter() - started) / HEAD_STEPS
    started = time.perf_counter()
    copy.deepcopy(learner.model)
    return found, {"head_step": step, "copy": time.perf_counter() - started}


def room_of(work: Callable[[np.ndarray], object], indices: np.ndarray, device: torch.device) -> tuple[float, float]:
    """Return how many bytes some work takes at its peak, whatever it works on, and for each more picture.

    On the CPU by how much the process grows: what it has free is given back before, and a worker's allocator keeps what
    is freed then. Counting tensors instead misses most of it: kernels reorder their inputs and keep room of their own.
    """
    some = max(1, len(indices) // 4)
    few, more = (_growth(partial(work, part), device) for part in (indices[:some], indices))
    each = max(0.0, (more - few) / max(1, len(indices) - some))
    return max(0.0, more - each * len(indices)), each


def _growth(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    machine.give_back_memory()
    before = psutil.Process().memory_info().rss
    work()
    return float(psutil.Process().memory_info().rss - before)


def _check(copied: Learner, phase: Phase, indices: np.ndarray) -> None:
    forward(copied, phase.module, phase.inputs(indices, 0), phase.precision(evidence.FEATURES))


def _keep(learner: Learner, frozen: nn.Module, indices: np.ndarray) -> None:
    forward(learner, frozen, learner.train.batch(indices, None, learner.device), nullcontext())


def _seconds(pixels: Pixels, indices: np.ndarray, view: int | None, device: torch.device) -> float:
    started = time.perf_counter()
    pixels.batch(indices, view, device)[0, 0, 0, 0].item()
    return time.perf_counter() - started


def _size(config: FinetuneConfig) -> int:
    return preprocessing_of(BACKBONES[config.backbone], config.image_size).size


def _resize(config: FinetuneConfig) -> int:
    return preprocessing_of(BACKBONES[config.backbone], config.image_size).resize
