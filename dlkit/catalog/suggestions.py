"""Ways to read a learning rate off the curve of a range test, as pure functions of the curve.

Each takes learning rates that grow by a constant factor and the smoothed loss at each, and returns a rate, or None
where the curve has not what it looks for. They are known by the names that fastai gave them; the code is our own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SHORTEST_VALLEY = 3  # points
SLIDE_POINTS = 15  # between the two ends of the interval that slides
SLIDE_TOLERANCE = 0.005  # nats per step: slopes that differ by less are the same
FORUM = "https://forums.fast.ai/t/automated-learning-rate-suggester/44199"
SMITH = "Smith 2017, Cyclical learning rates, arxiv.org/abs/1506.01186"

Pick = Callable[[Sequence[float], Sequence[float]], float | None]


@dataclass(frozen=True)
class SuggestionEntry:
    """One way to read the curve; `pick(rates, losses)` is the rate that it suggests."""

    name: str
    title: str
    summary: str
    pick: Pick
    source: str


def valley(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate two thirds along the longest decreasing stretch.

    The stretch is the longest choice of points, in their order, of which each is lower than the one before: what rises
    in between is passed over. fastai describes it with these two thirds; its code measures the stretch by the number of
    its points only and goes half of that.
    """
    lengths, before = [1] * len(losses), [-1] * len(losses)
    for here, loss in enumerate(losses):
        for earlier in range(here):
            if loss < losses[earlier] and lengths[earlier] + 1 >= lengths[here]:  # of equals the one that began last
                lengths[here], before[here] = lengths[earlier] + 1, earlier
    if max(lengths, default=0) < SHORTEST_VALLEY:
        return None
    end = start = lengths.index(max(lengths))
    while before[start] >= 0:
        start = before[start]
    return rates[start + round(2 * (end - start) / 3)]


def slide(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the left end of an interval that slides in from the right until the slopes at both its ends are the same.

    While they differ, what lies between bends: the curve blows up, or it turns from falling to rising. None where they
    are the same at the right end already. A slope is per step, the mean of the two at a point.
    """
    slopes = _slopes(losses)
    found = None
    for left in range(len(slopes) - 1 - SLIDE_POINTS, -1, -1):
        if abs(slopes[left + SLIDE_POINTS] - slopes[left]) <= SLIDE_TOLERANCE:
            break
        found = rates[left]
    return found


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return a tenth of the rate at the lowest loss; None where the loss was never lower than at the start."""
    if not losses or min(losses) >= losses[0]:
        return None
    return rates[losses.index(min(losses))] / 10


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate after which the loss falls most per factor of the rate; None where it never falls."""
    slopes = [
        (after - loss) / math.log(next_rate / rate)
        for (rate, next_rate), (loss, after) in zip(pairwise(rates), pairwise(losses), strict=True)
    ]
    if min(slopes, default=0.0) >= 0:
        return None
    return rates[slopes.index(min(slopes))]


def _slopes(losses: Sequence[float]) -> list[float]:
    """Return the slope at each point: half of what lies between its neighbours, at an end what lies to the only one."""
    last = len(losses) - 1
    spans = [(max(0, place - 1), min(last, place + 1)) for place in range(len(losses))]
    return [(losses[right] - losses[left]) / max(1, right - left) for left, right in spans]


_ENTRIES = (
    SuggestionEntry(
        "valley",
        "valley",
        "Two thirds along the longest stretch on which the loss falls: a good first choice.",
        valley,
        f"ESRI, {FORUM}/30",
    ),
    SuggestionEntry(
        "slide",
        "slide",
        "Coming from large rates, where the curve no longer bends: careful, and very small where it is noisy.",
        slide,
        f"Andrew Chang (Novetta), {FORUM}",
    ),
    SuggestionEntry(
        "minimum",
        "minimum/10",
        "A tenth of the rate at which the loss was lowest: bold.",
        minimum,
        SMITH,
    ),
    SuggestionEntry(
        "steepest",
        "steepest",
        "Where the loss falls most from one rate to the next: chance decides where the curve is noisy.",
        steepest,
        SMITH,
    ),
)

SUGGESTIONS: dict[str, SuggestionEntry] = {entry.name: entry for entry in _ENTRIES}
