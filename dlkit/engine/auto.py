"""The strategy auto: what follows when the head has learnt, as deep and as long as the time allows."""

import copy
import math
import time
from contextlib import suppress

from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.learner import FULL, HEAD, PARTIAL, TITLES, Learner
from dlkit.engine.phases import begin_phase, set_modes, views
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.steps import step_at
from dlkit.errors import DivergedError, MemoryFullError

#: least and most epochs of the strategy auto; the last layers get the least where all layers follow
PARTIAL_EPOCHS, FULL_EPOCHS = (4, 12), (3, 10)
TIME_IN_USE = 0.92  # of what is left of the time: the rest is for what was not measured
CHECKING_COST = 0.35  # of a picture that is only looked at, where one that is learnt from costs 1


def go_deeper(learner: Learner) -> None:
    """Decide, once the head has learnt, which layers learn then and for how long, so that the time suffices.

    What it decides is put on record: a training that goes on does not measure again.
    """
    left = TIME_IN_USE * (60 * learner.config.budget_minutes - learner.seconds)
    plan, note = [(HEAD, learner.phase_epoch)], "no time is left to go deeper than the head"
    if left > 0:
        once, epoch = measure_phase(learner, PARTIAL)
        _, full_epoch = measure_phase(learner, FULL)
        learner.epoch_seconds |= {PARTIAL: epoch, FULL: full_epoch}
        partial, full = _fitting(left - once, epoch), _fitting(left - once - PARTIAL_EPOCHS[0] * epoch, full_epoch)
        if full >= FULL_EPOCHS[0]:
            plan += [(PARTIAL, PARTIAL_EPOCHS[0]), (FULL, min(full, FULL_EPOCHS[1]))]
        elif partial:
            plan += [(PARTIAL, min(partial, PARTIAL_EPOCHS[1]))]
        costs = f"an epoch of the last layers takes about {epoch:.3g} s, one of all layers {full_epoch:.3g} s"
        parts = [f"{epochs} of {TITLES[kind]}" for kind, epochs in plan[1:]]
        note = f"{costs}: {' and then '.join(parts) or 'neither fits into the time'}"
    _plan(learner, plan, note)


def end_in_time(learner: Learner) -> None:
    """After an epoch, end the training where the next would take longer than the time that is left.

    How long that takes is known once one like it was measured; until then only the time that is over counts.
    """
    if not learner.has_budget:
        return
    kind = learner.phases[learner.place][0]
    if learner.phase_epoch >= learner.phase_epochs:
        if learner.place + 1 == len(learner.phases):
            return
        kind = learner.phases[learner.place + 1][0]
    if learner.seconds + learner.epoch_seconds.get(kind, 0.0) > 60 * learner.config.budget_minutes:
        done = (learner.phases[learner.place][0], learner.phase_epoch)
        _plan(learner, [*learner.phases[: learner.place], done], "the time is up: another epoch would not fit into it")


def _plan(learner: Learner, plan: list[tuple[str, int]], note: str) -> None:
    learner.apply(learner.steering.record("plan", [list(part) for part in plan], learner.step, note))


def _fitting(left: float, epoch: float) -> int:
    """Return how many epochs of so many seconds fit."""
    return int(left / epoch) if left > 0 and math.isfinite(epoch) else 0


def measure_phase(learner: Learner, kind: str) -> tuple[float, float]:
    """Return how many seconds a phase takes once, for what it keeps, and then for each epoch with its validation.

    It is tried with one batch on a copy, and leaves no trace: neither in the weights nor in a generator. Both are
    infinite where the memory is not enough for a single picture.
    """
    random = random_state(learner.device)
    copied = Learner(learner.config, copy.deepcopy(learner.model), learner.train, learner.validation, learner.device)
    copied.formats, copied.micro_batch, copied.room = learner.formats, learner.micro_batch, learner.room
    copied.phases = [(kind, 1)]
    try:
        return _measured(copied, kind)
    except MemoryFullError:
        return math.inf, math.inf
    finally:
        set_random_state(learner.device, random)


def _measured(copied: Learner, kind: str) -> tuple[float, float]:
    phase = begin_phase(copied)
    set_modes(copied, phase)
    indices = shuffled_batches(len(copied.train), copied.config.batch_size, copied.config.seed, 0)[0]
    started = time.perf_counter()
    pictures = max((total for _, total in phase.prepare(indices, 0)), default=0)
    once = (time.perf_counter() - started) / max(1, pictures)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        with suppress(DivergedError):  # the training will say so
            step_at(copied, phase, indices, copied.config.rate)
        seconds.append(time.perf_counter() - started)
    checked = len(copied.validation)
    kept = views(copied.config, kind) * len(copied.train) + checked if pictures else 0
    return once * kept, min(seconds) / len(indices) * (len(copied.train) + CHECKING_COST * checked)
