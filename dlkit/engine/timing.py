"""What a phase of a training costs: a few batches on a copy of the learner, timed by the training's own functions."""

import copy
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from dlkit.engine.device import wait
from dlkit.engine.learner import Learner
from dlkit.engine.phases import Phase, begin_phase, forward, set_modes
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.steps import step_at
from dlkit.errors import DivergedError
from dlkit.evidence import FEATURES

SMALL_RATE = 1e-6  # of steps that nothing is to come of
TRIED = 3  # runs of what is measured more than once; the first one prepares its kernels
MEASURED_BATCHES = 3  # of what is kept: the first time a network has to choose its kernels


@dataclass(frozen=True)
class Costs:
    """What a phase costs for one picture, in seconds: once, for what it keeps; in a step; and when it is checked."""

    once: float
    step: float
    check: float


def phase_apart(learner: Learner, kind: str) -> tuple[Learner, Phase]:
    """Return a copy of the learner that has begun this phase and no other; the pictures are shared."""
    copied = Learner(learner.config, copy.deepcopy(learner.model), learner.train, learner.validation, learner.device)
    copied.formats, copied.micro_batch, copied.room = learner.formats, learner.micro_batch, learner.room
    copied.phases = [(kind, 1)]
    phase = begin_phase(copied)
    set_modes(copied, phase)
    return copied, phase


def time_phase(copied: Learner, phase: Phase) -> Costs:
    """Return what a phase of a copy costs.

    It moves the copy's weights, and draws from torch's generators. MemoryFullError where not one picture fits.
    """
    batches = shuffled_batches(len(copied.train), copied.config.batch_size, copied.config.seed, 0)
    once = []
    for batch in batches[:MEASURED_BATCHES]:
        started = time.perf_counter()
        done = max((total for _, total in phase.prepare(batch, 0)), default=0)
        wait(copied.device)
        once += [(time.perf_counter() - started) / done] if done else []
    indices = batches[0]
    inputs = phase.inputs(indices, 0)
    step = _quickest(lambda: blind_step(copied, phase, indices))
    module = copied.kept()
    check = _quickest(lambda: forward(copied, module, inputs, phase.precision(FEATURES)).sum().item())
    return Costs(min(once, default=0.0), step / len(indices), check / len(indices))


def blind_step(copied: Learner, phase: Phase, indices: np.ndarray) -> None:
    """Take a step without looking at what it does: only what it costs matters."""
    with suppress(DivergedError):  # the training will say so
        step_at(copied, phase, indices, SMALL_RATE)


def _quickest(work: Callable[[], object]) -> float:
    """Return the seconds of the quickest of TRIED runs; `work` waits for the device."""
    seconds = []
    for _ in range(TRIED):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
