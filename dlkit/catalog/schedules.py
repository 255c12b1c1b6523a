"""Learning-rate schedules as pure functions of the step: drawn before the launch by the same line that trains.

A factor multiplies the learning rate. torch's schedulers are the oracle in the tests.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Factor = Callable[[int, int, int, Mapping[str, float]], float]


@dataclass(frozen=True)
class ScheduleEntry:
    """One schedule; `factor(step, total_steps, steps_per_epoch, settings)` is what the rate is multiplied by."""

    name: str
    title: str
    summary: str
    factor: Factor
    settings: Mapping[str, float] = field(default_factory=dict)
    paper: str = ""
    follows_validation: bool = False  # the factor also falls when the validation loss stands still


def constant(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Return 1 at every step."""
    return 1.0


def stepwise(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Multiply by `decay` every `decay_epochs` epochs (torch's StepLR)."""
    epoch = step // steps_per_epoch
    return settings["decay"] ** (epoch // int(settings["decay_epochs"]))


def exponential(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Multiply by `decay` after every epoch (torch's ExponentialLR)."""
    return settings["decay"] ** (step // steps_per_epoch)


def cosine(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Fall along half a cosine from 1 to 0 (torch's CosineAnnealingLR, SGDR eq. 5 without restarts)."""
    return (1 + math.cos(math.pi * step / total_steps)) / 2


def one_cycle(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Rise from 1/`start_divisor` to 1 during the first `rise` of the steps, then fall to nearly 0 (OneCycleLR).

    As in torch, with its `final_div_factor` of 1e4 and cosine annealing; momentum is left alone.
    """
    start, end = 1 / settings["start_divisor"], 1 / settings["start_divisor"] / 1e4
    peak, last = settings["rise"] * total_steps - 1, total_steps - 1
    if step <= peak or last <= peak:
        return _cosine_between(start, 1.0, step / peak if peak > 0 else 1.0)
    return _cosine_between(1.0, end, (step - peak) / (last - peak))


def warm_up_linear(step: int, total_steps: int, steps_per_epoch: int, settings: Mapping[str, float]) -> float:
    """Rise linearly during the first `rise` of the steps, then fall linearly towards 0 at the last."""
    warm_up = max(1, round(settings["rise"] * total_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return (total_steps - step) / max(1, total_steps - warm_up)


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass
class Plateau:
    """The state behind *reduce on plateau*: its factor after each epoch (torch's ReduceLROnPlateau)."""

    patience: int
    decay: float
    factor: float = 1.0
    best: float = math.inf
    bad_epochs: int = 0

    def observe(self, validation_loss: float) -> None:
        """Count an epoch without an improvement of at least 1e-4 (relative); past the patience, lower the factor."""
        if validation_loss < self.best * (1 - 1e-4):
            self.best, self.bad_epochs = validation_loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.factor, self.bad_epochs = self.factor * self.decay, 0


_ENTRIES = (
    ScheduleEntry("constant", "Constant", "The same rate at every step.", constant),
    ScheduleEntry(
        "step",
        "Step",
        "Drops by a factor every few epochs.",
        stepwise,
        {"decay": 0.3, "decay_epochs": 3},
    ),
    ScheduleEntry("exponential", "Exponential", "Shrinks by the same factor every epoch.", exponential, {"decay": 0.8}),
    ScheduleEntry(
        "cosine",
        "Cosine",
        "Falls slowly, then fast, then slowly to zero.",
        cosine,
        paper="Loshchilov & Hutter 2017, SGDR, arxiv.org/abs/1608.03983",
    ),
    ScheduleEntry(
        "one-cycle",
        "One cycle",
        "Rises from a small rate to the full one, then falls to nearly nothing: fast and forgiving.",
        one_cycle,
        {"rise": 0.3, "start_divisor": 5},
        "Smith & Topin 2018, Super-convergence, arxiv.org/abs/1708.07120",
    ),
    ScheduleEntry(
        "warm-up-linear",
        "Warm-up and linear",
        "Rises linearly for a while, then falls linearly to zero: the usual choice for transformers.",
        warm_up_linear,
        {"rise": 0.1},
        "Vaswani et al. 2017, Attention is all you need, arxiv.org/abs/1706.03762; Devlin et al. 2019",
    ),
    ScheduleEntry(
        "plateau",
        "Reduce on plateau",
        "Stays as it is until the validation loss stops falling, then drops.",
        constant,
        {"decay": 0.3, "patience": 1},
        follows_validation=True,
    ),
)

SCHEDULES: dict[str, ScheduleEntry] = {entry.name: entry for entry in _ENTRIES}
