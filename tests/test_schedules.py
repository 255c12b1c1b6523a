"""Every schedule of the catalog against torch's own scheduler."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules

from dlkit.catalog.schedules import SCHEDULES, Plateau, ScheduleEntry
from dlkit.config import FinetuneConfig, parse

#: (epochs, steps of an epoch): one step in all, one a epoch, and numbers that nothing divides
LENGTHS = [(1, 1), (1, 2), (2, 1), (1, 7), (3, 5), (10, 16), (13, 11), (100, 3)]


def by_name(entry: ScheduleEntry) -> str:
    return entry.name


def ours(name: str, epochs: int, batches: int, **settings: float) -> list[float]:
    entry = SCHEDULES[name]
    options = {**entry.settings, **settings}
    return [entry.factor(step, epochs * batches, batches, options) for step in range(epochs * batches)]


def theirs(make: Callable[[torch.optim.Optimizer], Any], steps: int, batches: int = 1) -> list[float]:
    """Return the rates of torch's scheduler from a rate of 1; it is asked for the next one every `batches` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % batches == 0 and step < steps:
            scheduler.step()
    return rates


def approximately(rates: list[float]) -> Any:
    return pytest.approx(rates, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_constant_is_one(length):
    assert ours("constant", *length) == ours("plateau", *length) == [1.0] * math.prod(length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("decay", "every"), [(0.3, 3), (0.5, 1), (1.0, 2), (0.1, 1000)])
def test_step_equals_torchs_step_lr(length, decay, every):
    expected = theirs(lambda one: torch_schedules.StepLR(one, every, decay), math.prod(length), length[1])
    assert ours("step", *length, decay=decay, decay_epochs=every) == approximately(expected)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("decay", [0.8, 0.1, 1.0])
def test_exponential_equals_torchs_exponential_lr(length, decay):
    expected = theirs(lambda one: torch_schedules.ExponentialLR(one, decay), math.prod(length), length[1])
    assert ours("exponential", *length, decay=decay) == approximately(expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_cosine_equals_torchs_cosine_annealing(length):
    steps = math.prod(length)
    expected = theirs(lambda one: torch_schedules.CosineAnnealingLR(one, steps), steps)
    assert ours("cosine", *length) == approximately(expected)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("rise", "divisor"), [(0.3, 5), (0.25, 25), (0.0, 5), (0.9, 1), (0.45, 1e4)])
def test_one_cycle_equals_torchs_one_cycle(length, rise, divisor):
    steps = math.prod(length)

    def scheduler(optimizer):
        return torch_schedules.OneCycleLR(
            optimizer, 1.0, steps, pct_start=rise, div_factor=divisor, final_div_factor=1e4, cycle_momentum=False
        )

    assert ours("one-cycle", *length, rise=rise, start_divisor=divisor) == approximately(theirs(scheduler, steps))


def test_one_cycle_whose_rise_is_a_single_step_starts_at_the_full_rate():
    """Here torch divides by zero."""
    rates = ours("one-cycle", 1, 10, rise=0.1, start_divisor=5)
    assert rates[0] == 1
    assert rates[-1] == pytest.approx(1 / 5 / 1e4)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rise", [0.1, 0.0, 0.5, 0.9])
def test_warm_up_equals_torchs_two_linear_schedulers_in_sequence(length, rise):
    steps = math.prod(length)
    warm_up = max(1, round(rise * steps))

    def scheduler(optimizer):
        up = torch_schedules.LinearLR(optimizer, 1 / warm_up, 1.0, total_iters=warm_up - 1)
        down = torch_schedules.LinearLR(optimizer, 1.0, 0.0, total_iters=max(1, steps - warm_up))
        return torch_schedules.SequentialLR(optimizer, [up, down], [warm_up])

    assert ours("warm-up-linear", *length, rise=rise) == approximately(theirs(scheduler, steps))


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.7, 0.8],
        [1.0] * 12,
        [1 / (epoch + 1) for epoch in range(12)],
        [1.0, 0.99995, 0.9998, 0.99985, 0.9, 0.95, 0.94, 0.93],  # around the threshold of 1e-4
        [1.0, math.nan, math.nan, math.nan, 0.5, math.inf, 0.4],
        [0.0, 0.0, 0.0, 0.0],
    ],
)
def test_plateau_equals_torchs_reduce_on_plateau(patience, losses):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch_schedules.ReduceLROnPlateau(optimizer, factor=0.3, patience=patience, eps=0)
    plateau = Plateau(patience, 0.3)
    for loss in losses:
        plateau.observe(loss)
        oracle.step(loss)
        assert plateau.factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("entry", SCHEDULES.values(), ids=by_name)
@pytest.mark.parametrize("length", LENGTHS)
def test_factor_is_above_zero_and_never_above_one(entry, length):
    factors = ours(entry.name, *length)
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    assert all(isinstance(factor, float) for factor in factors)


@pytest.mark.parametrize("entry", SCHEDULES.values(), ids=by_name)
def test_entry_explains_itself_and_its_settings_are_fields_with_allowed_defaults(entry):
    assert SCHEDULES[entry.name] is entry
    assert entry.title
    assert entry.summary.endswith(".")
    assert set(entry.settings) <= set(FinetuneConfig.model_fields)
    assert parse({"schedule": entry.name, **entry.settings}).schedule_settings() == dict(entry.settings)


def test_only_plateau_follows_the_validation():
    assert [entry.name for entry in SCHEDULES.values() if entry.follows_validation] == ["plateau"]
