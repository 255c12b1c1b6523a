"""The learning-rate finder: the same steps as a training, no trace of them, and a sentence where it finds nothing."""

import copy
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.config import describe
from dlkit.engine import learner as learners
from dlkit.engine import rate_finder
from dlkit.engine.learner import Learner
from dlkit.engine.rate_finder import BLOWN_UP, HIGHEST, LOWEST, STEPS, RateCurve, growing_rates, smooth, suggest, sweep
from dlkit.engine.training import train
from dlkit.errors import DivergedError
from tests.small_learner import one_thread, same, small_learner, steps_of, values_of, weights_of

HEAD = {"strategy": "head", "dropout": 0.4, "augmentation": "strong"}
FULL = {
    "strategy": "full",
    "head_epochs": 0,
    "dropout": 0.4,
    "augmentation": "strong",
    "mixing": "mixup",
    "freeze_batchnorm": False,
    "ema_decay": 0.5,
    "gradient_clipping": 1.0,
}
KINDS = pytest.mark.parametrize("values", [HEAD, FULL], ids=["head", "full"])


@pytest.fixture(autouse=True)
def _one_thread():
    yield from one_thread()


def curve_of(learner: Learner, steps: int = STEPS) -> RateCurve:
    """Return what the last report has, and check that no other has it."""
    *first, last = sweep(learner, steps)
    assert all(report.curve is None for report in first)
    assert last.curve is not None
    return last.curve


def draws() -> list[Any]:
    """Return the states of all generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def everything(learner: Learner) -> list[Any]:
    """Return copies of what may not change: weights, buffers, optimizer, modes, place, generators."""
    modes = [(module.training, [p.requires_grad for p in module.parameters()]) for module in learner.model.modules()]
    state = learner.state() if learner.optimizers else {}
    weights = {name: tensor.tolist() for name, tensor in weights_of(learner.model).items()}
    return [weights, modes, copy.deepcopy(str(state)), learner.step, learner.epoch, learner.place, draws()]


def planned(losses: Iterable[float]) -> Callable[..., tuple[float, float, float, int, int]]:
    """Return a step that has the next of these losses; at infinity training ends."""
    rest = iter(losses)

    def step_at(learner: Learner, phase: object, indices: np.ndarray, rate: float) -> tuple[Any, ...]:
        loss = next(rest)
        if loss == float("inf"):
            raise DivergedError(1, rate)
        return rate, loss, 1.0, 0, len(indices)

    return step_at


# What is done


@KINDS
def test_steps_are_those_of_the_training(values, monkeypatch, every_step):
    """At one and the same rate all along, a range test is a training with a constant schedule."""
    monkeypatch.setattr(rate_finder, "growing_rates", lambda steps: [0.02] * steps)
    monkeypatch.setattr(rate_finder, "BLOWN_UP", 1e9)
    settings = {**values, "schedule": "constant", "learning_rate": 0.02, "epochs": 3}
    losses = curve_of(small_learner(**settings), 12).losses
    assert list(losses) == values_of(list(train(small_learner(**settings))), "step/loss")


def test_rates_grow_by_one_factor_from_the_lowest_to_the_highest():
    rates = growing_rates(STEPS)
    factors = [after / rate for rate, after in itertools.pairwise(rates)]
    assert (rates[0], rates[-1], len(rates)) == (LOWEST, pytest.approx(HIGHEST), STEPS)
    assert factors == pytest.approx([factors[0]] * len(factors))


@pytest.mark.parametrize("strategy", describe("strategy").choices or ())
def test_last_phase_of_every_strategy_is_tried(strategy, monkeypatch):
    learner, begun = small_learner(strategy=strategy), []
    real = rate_finder.begin_phase
    monkeypatch.setattr(rate_finder, "begin_phase", lambda trial: begun.append(real(trial)) or begun[-1])
    curve = curve_of(learner)
    kind = "partial" if strategy == "auto" else strategy
    assert begun[0].title == learners.TITLES[kind]
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) > 30


def test_backbone_learns_at_its_share_of_the_rate(monkeypatch):
    seen = []
    real = rate_finder.step_at

    def step_at(trial: Learner, *rest: Any) -> Any:
        result = real(trial, *rest)
        seen.append([group["lr"] for group in trial.optimizers[0].param_groups])
        return result

    monkeypatch.setattr(rate_finder, "step_at", step_at)
    curve = curve_of(small_learner(strategy="full", backbone_rate_factor=0.25, layer_rate_decay=0.5))
    shares = (1, 0.25, 0.125, 0.0625, 0.03125)
    assert seen == [pytest.approx([share * rate for share in shares]) for rate in curve.rates]


def test_few_pictures_are_seen_epoch_after_epoch():
    learner = small_learner(strategy="full")
    curve = curve_of(learner)
    views = [view for view, _ in learner.train.asked]
    assert sorted(set(views)) == list(range(-(-len(curve.rates) // learner.batches)))
    assert [index for view, index in learner.train.asked if view == 0] != sorted(range(25))
    assert sorted(index for view, index in learner.train.asked if view == 0) == list(range(25))


def test_progress_grows_to_one():
    progress = [report.progress for report in sweep(small_learner(), 10)]
    shares = [found.share for found in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [found.phase for found in progress[-2:]] == ["trying learning rates: step 10 of 10", "done"]


# No trace


@KINDS
def test_learner_and_generators_are_what_they_were(values, every_step):
    learner = small_learner(**values)
    before = everything(learner)
    for _ in sweep(learner, 20):
        assert draws() == before[-1], "also between two reports"
    assert everything(learner) == before


@KINDS
def test_training_goes_on_bit_for_bit_as_without_it(values, every_step):
    """Tried before the training and in its midst, to the end and left half-way."""
    alone, beside = small_learner(**values), small_learner(**values)
    list(sweep(beside))
    expected = list(train(alone))
    reports = []
    for number, report in enumerate(train(beside)):
        reports.append(report)
        if number in (3, 6):
            before = everything(beside)
            list(itertools.islice(sweep(beside), 5 if number == 3 else None))
            assert everything(beside) == before
    assert values_of(reports, "step/loss") == values_of(expected, "step/loss")
    assert steps_of(reports, "val/loss") == steps_of(expected, "val/loss")
    assert same(weights_of(alone.model), weights_of(beside.model))
    assert str(alone.state()) == str(beside.state())


def test_equal_learners_give_equal_curves_whatever_was_drawn_before():
    first = curve_of(small_learner(**FULL), 20)
    torch.rand(7)
    assert curve_of(small_learner(**FULL), 20) == first


# Where it ends


def test_it_ends_where_the_smoothed_loss_blows_up(monkeypatch):
    losses = [2.0 - 0.02 * step for step in range(60)] + [0.8 * 1.2**step for step in range(40)]
    monkeypatch.setattr(rate_finder, "step_at", planned(losses))
    curve = curve_of(small_learner())
    assert curve.smoothed[-1] > BLOWN_UP * min(curve.smoothed)
    assert max(curve.smoothed[:-1]) <= BLOWN_UP * min(curve.smoothed)
    assert set(curve.suggestions) == set(SUGGESTIONS)
    assert curve.note == ""


def test_it_ends_before_a_loss_that_is_no_number(monkeypatch):
    losses = [2.0 - 0.02 * step for step in range(60)] + [float("inf")]
    monkeypatch.setattr(rate_finder, "step_at", planned(losses))
    curve = curve_of(small_learner())
    assert list(curve.losses) == losses[:-1]
    assert curve.note == "The curve has no point for: slide."


@pytest.mark.parametrize("steps", [0, 1, 5, 34])
def test_curve_that_blows_up_at_once_suggests_nothing(monkeypatch, steps):
    monkeypatch.setattr(rate_finder, "step_at", planned([2.0] * steps + [float("inf")]))
    curve = curve_of(small_learner())
    assert curve.suggestions == {}
    assert "too short to suggest a rate" in curve.note


def test_flat_curve_suggests_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    monkeypatch.setattr(rate_finder, "step_at", planned(1.6 + 0.02 * generator.standard_normal(STEPS)))
    curve = curve_of(small_learner())
    assert curve.suggestions == {}
    assert "suggests no rate" in curve.note
    assert len(curve.rates) == STEPS


# Numbers


def test_smoothing_is_a_weighted_mean_of_what_came_before():
    losses = np.random.default_rng(1).random(30)
    weights = rate_finder.SMOOTHING ** np.arange(30)
    expected = [np.average(losses[: count + 1][::-1], weights=weights[: count + 1]) for count in range(30)]
    assert smooth(losses.tolist()) == pytest.approx(expected)
    assert smooth([3.0] * 9) == pytest.approx([3.0] * 9)


def test_suggestions_leave_the_ends_of_the_curve_out():
    """At the ends stand the lowest loss and the steepest fall, which are no more than noise there."""
    rates = growing_rates(STEPS)
    losses = [2 - min(0.02 * step, 1.2) for step in range(STEPS)]
    noisy = [5.0, 0.1, *losses[2:-1], 0.1]
    assert suggest(rates, noisy) == suggest(rates, losses)


def test_small_network_learns_at_every_suggested_rate():
    curve = curve_of(small_learner(optimizer="sgd", strategy="full", head_epochs=0))
    assert curve.suggestions
    for rate in curve.suggestions.values():
        learner = small_learner(optimizer="sgd", strategy="full", head_epochs=0, learning_rate=rate, epochs=8)
        losses = values_of(list(train(learner)), "val/loss")
        assert losses[-1] < losses[0], f"at {rate:g}"
