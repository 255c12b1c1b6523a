"""The strategy auto: what follows when the head has learnt, as deep and as long as the time allows."""

import copy
import time

from dlkit.engine.device import random_state, set_random_state
from dlkit.engine.learner import FULL, PARTIAL, TITLES, Learner
from dlkit.engine.phases import begin_phase, set_modes, views
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.steps import gradients

#: least and most epochs of the strategy auto; the last layers get the least where all layers follow
PARTIAL_EPOCHS, FULL_EPOCHS = (4, 12), (3, 10)
TIME_IN_USE = 0.92  # of what is left of the time: the rest is for what was not measured
CHECKING_COST = 0.35  # of a picture that is only looked at, where one that is learnt from costs 1


def go_deeper(learner: Learner) -> None:
    """Decide, once the head has learnt, which layers learn then and for how long, so that the time suffices.

    What it decides is put on record: a training that goes on does not measure again.
    """
    left = TIME_IN_USE * (60 * learner.config.budget_minutes - learner.seconds)
    plan, note = list(learner.phases), "no time is left to go deeper than the head"
    if left > 0:
        once, epoch = measure_phase(learner, PARTIAL)
        _, full_epoch = measure_phase(learner, FULL)
        full = int((left - once - PARTIAL_EPOCHS[0] * epoch) / full_epoch)
        if full >= FULL_EPOCHS[0]:
            plan += [(PARTIAL, PARTIAL_EPOCHS[0]), (FULL, min(full, FULL_EPOCHS[1]))]
        elif left >= once + epoch:
            plan += [(PARTIAL, min(int((left - once) / epoch), PARTIAL_EPOCHS[1]))]
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


def measure_phase(learner: Learner, kind: str) -> tuple[float, float]:
    """Return how many seconds a phase takes once, for what it keeps, and then for each epoch with its validation.

    It is tried with one batch on a copy, and leaves no trace: neither in the weights nor in a generator.
    """
    random = random_state(learner.device)
    copied = Learner(learner.config, copy.deepcopy(learner.model), learner.train, learner.validation, learner.device)
    copied.formats, copied.micro_batch, copied.room = learner.formats, learner.micro_batch, learner.room
    copied.phases = [(kind, 1)]
    phase = begin_phase(copied)
    set_modes(copied, phase)
    indices = shuffled_batches(len(copied.train), copied.config.batch_size, copied.config.seed, 0)[0]
    started = time.perf_counter()
    pictures = max((total for _, total in phase.prepare(indices, 0)), default=0)
    once = (time.perf_counter() - started) / max(1, pictures)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        gradients(copied, phase, indices, -(-len(indices) // copied.micro_batch))
        seconds.append(time.perf_counter() - started)
    set_random_state(learner.device, random)
    checked = len(copied.validation)
    kept = views(copied.config, kind) * len(copied.train) + checked if pictures else 0
    per_picture = min(seconds) / len(indices)
    return once * kept, per_picture * (len(copied.train) + CHECKING_COST * checked)
