"""The arithmetic of `benchmarks.finetune`: what an outcome says, ratios within a round, and how they are written."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.samples import spread


@dataclass(frozen=True)
class Score:
    """One look at the validation pictures.

    `seconds` count from the start of the process, `since_ready` from when data and model were there. `step_seconds` is
    what one training step of the epoch before took, None where no step was measured.
    """

    seconds: float
    since_ready: float
    epoch: float
    val_accuracy: float
    step_seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What one contestant did in one round: scores in their order, and the most memory in MiB.

    `seconds` and `since_ready` tell when it had done all that it meant to do; None where it was ended before.
    """

    scores: tuple[Score, ...] = ()
    peak_mib: float | None = None
    seconds: float | None = None
    since_ready: float | None = None
    device_mib: float | None = None  # of a GPU


Quantity = Callable[[Outcome], float | None]


def seconds_to(target: float) -> Quantity:
    """Return what tells the seconds from the start of the process to the first score of at least `target`."""
    return lambda outcome: next((score.seconds for score in outcome.scores if score.val_accuracy >= target), None)


def best(outcome: Outcome) -> Score | None:
    """Return the score with the highest accuracy, of equals the first."""
    return max(outcome.scores, key=lambda score: score.val_accuracy, default=None)


def best_accuracy(outcome: Outcome) -> float | None:
    """Return the highest accuracy."""
    found = best(outcome)
    return None if found is None else found.val_accuracy


def seconds_of_best(outcome: Outcome) -> float | None:
    """Return when the highest accuracy was reached first."""
    found = best(outcome)
    return None if found is None else found.seconds


def seconds_per_epoch(outcome: Outcome) -> float | None:
    """Return the mean time of an epoch with its validation, from when data and model were there."""
    last = outcome.scores[-1] if outcome.scores else None
    return last.since_ready / last.epoch if last and last.epoch else None


def step_seconds(outcome: Outcome) -> float | None:
    """Return what a training step took in the last epoch where that was measured: the first one also decodes."""
    return next((score.step_seconds for score in reversed(outcome.scores) if score.step_seconds), None)


def last_epoch_seconds(outcome: Outcome) -> float | None:
    """Return what the last epoch took, with its validation; the one before it also computes what is kept."""
    scores = outcome.scores
    return scores[-1].since_ready - scores[-2].since_ready if len(scores) > 1 else None


def peak_mib(outcome: Outcome) -> float | None:
    """Return the most memory."""
    return outcome.peak_mib


def device_mib(outcome: Outcome) -> float | None:
    """Return the most memory of the GPU."""
    return outcome.device_mib


def values(rounds: Sequence[Outcome | None], quantity: Quantity) -> list[float | None]:
    """Return the quantity of each round, None where there is none."""
    return [None if outcome is None else quantity(outcome) for outcome in rounds]


def paired(upper: Sequence[float | None], lower: Sequence[float | None]) -> list[float]:
    """Return the ratios of the rounds in which both were measured: what both met, such as other work, cancels out."""
    return [one / other for one, other in zip(upper, lower, strict=True) if one is not None and other]


def written(measured: Sequence[float | None], digits: int, unit: str = "") -> str:
    """Write median (minimum–maximum), and in how many rounds there was a value if not in all."""
    known = [value for value in measured if value is not None]
    if not known:
        return "–"
    text = f"{spread(known, digits)}{unit}" if len(known) > 1 else f"{known[0]:.{digits}f}{unit}"
    return text if len(known) == len(measured) else f"{text}, {len(known)} of {len(measured)} rounds"


def median(measured: Sequence[float | None]) -> float | None:
    """Return the median of what was measured."""
    known = [value for value in measured if value is not None]
    return statistics.median(known) if known else None


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def contest_table(rounds: dict[str, list[Outcome | None]], ours: str, titles: dict[str, str], target: float) -> str:
    """Return one row a contestant; ratios are to the contestant `ours`, within each round."""
    to_target = seconds_to(target)
    columns = ["contestant", f"s to {target:.2f}", f"of {ours}", "best accuracy", "at s", "s per epoch", "ms per step"]
    rows, has_gpu = [], any(outcome and outcome.device_mib for outcomes in rounds.values() for outcome in outcomes)
    for name, outcomes in rounds.items():
        times, memory = values(outcomes, to_target), values(outcomes, peak_mib)
        steps = [None if value is None else 1000 * value for value in values(outcomes, step_seconds)]
        reference = rounds[ours]
        rows.append(
            [
                titles[name],
                written(times, 1) if any(times) else "not reached",
                written(paired(times, values(reference, to_target)), 2, " ×"),
                written(values(outcomes, best_accuracy), 3),
                written(values(outcomes, seconds_of_best), 1),
                written(values(outcomes, seconds_per_epoch), 1),
                written(steps, 0),
                written(memory, 0),
                written(paired(memory, values(reference, peak_mib)), 2, " ×"),
                *([written(values(outcomes, device_mib), 0)] if has_gpu else []),
            ]
        )
    return table([*columns, "peak MiB", f"of {ours}", *(["GPU's MiB"] if has_gpu else [])], rows)
