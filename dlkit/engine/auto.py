"""The strategy auto: what follows when the head has learnt, as deep and as long as the time allows."""

import math

from dlkit.config import SHARES, TIME_IN_USE, later_phases, views
from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.learner import FULL, HEAD, PARTIAL, TITLES, Learner
from dlkit.engine.timing import phase_apart, time_phase
from dlkit.errors import MemoryFullError


def go_deeper(learner: Learner) -> None:
    """Decide, once the head has learnt, which layers learn then and for how long, so that the time suffices.

    What it decides is put on record: a training that goes on does not measure again.
    """
    plan, note = [(HEAD, learner.phase_epoch)], "no time is left to go deeper than the head"
    if _left(learner) > 0:
        once, epoch = measure_phase(learner, PARTIAL)
        # the last layers do no more of the arithmetic than their share, but of the time maybe twice as much
        full_epoch, words = epoch / SHARES[learner.config.unfreeze_from] / 2, "at least "
        if FULL in dict(later_phases(_left(learner), once, epoch, full_epoch)):
            full_epoch, words = measure_phase(learner, FULL)[1], ""
        learner.epoch_seconds |= {PARTIAL: epoch, FULL: full_epoch}
        plan += later_phases(_left(learner), once, epoch, full_epoch)
        costs = f"an epoch of the last layers takes about {epoch:.3g} s, one of all layers {words}{full_epoch:.3g} s"
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


def _left(learner: Learner) -> float:
    """Return how many seconds there are left to plan with."""
    return TIME_IN_USE * (60 * learner.config.budget_minutes - learner.seconds)


def _plan(learner: Learner, plan: list[tuple[str, int]], note: str) -> None:
    learner.apply(learner.steering.record("plan", [list(part) for part in plan], learner.step, note))


def measure_phase(learner: Learner, kind: str) -> tuple[float, float]:
    """Return how many seconds a phase takes once, for what it keeps, and then for each epoch with its validation.

    It is tried with a few batches on a copy, and leaves no trace: neither in the weights nor in a generator. Both are
    infinite where the memory is not enough for a single picture.
    """
    random = random_state(learner.device)
    try:
        copied, phase = phase_apart(learner, kind)
        costs = time_phase(copied, phase)
    except MemoryFullError:
        return math.inf, math.inf
    finally:
        set_random_state(learner.device, random)
    train, checked = len(copied.train), len(copied.validation)
    return costs.once * (views(copied.config, kind) * train + checked), costs.step * train + costs.check * checked
