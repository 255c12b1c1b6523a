"""Ways to read a curve, on curves whose answers follow from how they were made."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from dlkit.catalog.suggestions import SLIDE_POINTS, SUGGESTIONS, minimum, slide, steepest, valley

RATES = [1e-7 * 1.2**place for place in range(80)]
READERS = pytest.mark.parametrize("read", [entry.pick for entry in SUGGESTIONS.values()], ids=list(SUGGESTIONS))


def bent(*bends: tuple[int, float]) -> list[float]:
    """Return a curve that begins at 9 and from each place on changes by so much a step."""
    slopes = np.zeros(len(RATES) - 1)
    for place, slope in bends:
        slopes[place:] = slope
    return [9.0, *(9 + np.cumsum(slopes)).tolist()]


def test_valley_is_two_thirds_along_what_falls():
    assert valley(RATES, bent((20, -0.1), (50, 0.3))) == RATES[40]


def test_valley_passes_over_what_rises_in_between():
    losses = bent((20, -0.1), (50, 0.3))
    for place in (25, 33, 34, 41):
        losses[place] += 5
    assert valley(RATES, losses) == RATES[40]


def test_valley_is_the_longest_not_the_steepest():
    assert valley(RATES, bent((0, -0.01), (30, 0.1), (60, -0.25), (70, 1.0))) == RATES[20]


def test_slide_stops_where_both_ends_fall_alike():
    """The slope is -0.1 up to 69, a mean of both sides at 70, and 0.2 from 71 on: at 55 the right end still differs."""
    assert slide(RATES, bent((40, -0.1), (70, 0.2))) == RATES[70 - SLIDE_POINTS]


def test_slide_finds_nothing_where_the_end_does_not_bend():
    assert slide(RATES, bent((0, -0.1))) is None
    assert slide(RATES, bent((40, -0.1))) is None


def test_slide_goes_to_the_left_end_where_everything_bends():
    assert slide(RATES, [place**2 / 100 for place in range(len(RATES))]) == RATES[0]


def test_minimum_is_a_tenth_of_the_lowest_rate():
    assert minimum(RATES, [(place - 50) ** 2 for place in range(len(RATES))]) == RATES[50] / 10


def test_steepest_is_where_a_logistic_curve_has_its_middle():
    assert steepest(RATES, [1 / (1 + math.exp(place - 40.5)) for place in range(len(RATES))]) == RATES[40]


def test_steepest_falls_per_factor_of_the_rate_not_per_rate():
    rates = [1.0, 10.0, 11.0]
    assert steepest(rates, [3.0, 2.0, 1.5]) == 10.0  # 0.5 in a tenth is more than 1 in a factor of ten


@READERS
def test_curve_that_only_rises_or_is_flat_suggests_nothing(read: Callable[..., float | None]):
    assert read(RATES, bent((0, 0.1))) is None
    assert read(RATES, bent()) is None


@READERS
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points_are_no_mistake(read: Callable[..., float | None], count: int):
    found = read(RATES[:count], [2.0, 1.0][:count])
    assert found is None or found in (RATES[0], RATES[1] / 10)


def test_every_way_is_explained_and_has_a_source():
    for name, entry in SUGGESTIONS.items():
        assert entry.name == name
        assert entry.summary.endswith(".")
        assert "arxiv.org" in entry.source or "fast.ai" in entry.source
