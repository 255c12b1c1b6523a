"""Softmax and losses against torch.nn.functional, where the letter fails, and what may be asked."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from dlkit.errors import ConfigError
from dlkit.lab.softmax import PRECISIONS, Question, cross_entropy, log_softmax, read, softmax, squared_error

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(size=(12, 5)) * 4
LABELS = DRAW.integers(0, 5, 12)
WEIGHTS = np.array((0.2, 1.0, 3.0, 0.0, 0.7))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_softmax_is_torchs(temperature):
    logits = torch.tensor(LOGITS) / temperature
    close(softmax(LOGITS, temperature), functional.softmax(logits, 1))
    close(log_softmax(LOGITS, temperature), functional.log_softmax(logits, 1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("rows", [1, 12])
def test_cross_entropy_and_its_gradient_are_torchs(temperature, smoothing, weights, rows):
    found = cross_entropy(LOGITS[:rows], LABELS[:rows], temperature=temperature, smoothing=smoothing, weights=weights)
    logits = torch.tensor(LOGITS[:rows], requires_grad=True)
    kinds = {"weight": None if weights is None else torch.tensor(weights), "label_smoothing": smoothing}
    labels = torch.tensor(LABELS[:rows])
    loss = functional.cross_entropy(logits / temperature, labels, **kinds)
    loss.backward()
    close(found.loss, loss.item())
    close(found.gradient, logits.grad)
    apart = functional.cross_entropy(logits / temperature, labels, reduction="none", **kinds)
    close(found.losses, apart.detach())


def test_gradient_is_probability_minus_target():
    found = cross_entropy(LOGITS, LABELS, smoothing=0.2)
    close(found.gradient, (found.probabilities - found.targets) / len(LABELS))
    close(found.targets.sum(1), np.ones(12))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_squared_error_and_its_gradient_are_torchs(temperature):
    found = squared_error(LOGITS, LABELS, temperature=temperature)
    logits = torch.tensor(LOGITS, requires_grad=True)
    wanted = functional.one_hot(torch.tensor(LABELS), 5).double()
    loss = functional.mse_loss(functional.softmax(logits / temperature, 1), wanted, reduction="sum") / 12
    loss.backward()
    close(found.loss, loss.item())
    close(found.gradient, logits.grad)


def test_squared_error_learns_nothing_from_a_mistake_it_is_sure_of():
    question = Question((-20.0, 0.0), 0)
    assert abs(question.by_squared_error().gradient[0, 0]) < 1e-8
    assert question.judge().gradient[0, 0] == pytest.approx(-1, abs=1e-8)
    curves = question.along_right_logit()
    assert abs(curves.squared_error_slope).argmax() not in (0, 80)
    assert abs(curves.cross_entropy_slope).argmax() == 0
    middle = Question((curves.logits[30], 0.0), 0)
    close(curves.cross_entropy[30], middle.judge().loss)
    close(curves.squared_error_slope[30], middle.by_squared_error().gradient[0, 0])


def test_temperature_makes_alike_or_sure_and_keeps_the_order():
    for row in LOGITS:
        cold, warm = softmax(row, 0.1), softmax(row, 10)
        assert cold.max() > softmax(row).max() > warm.max() > 1 / 5
        assert list(np.argsort(warm)) == list(np.argsort(row))


def test_probabilities_stay_when_all_logits_grow_alike():
    close(softmax(LOGITS + 1000), softmax(LOGITS))


@pytest.mark.parametrize(
    ("logits", "enough"),
    [
        ((1.0, 2.0, 0.5), (True, True, True)),
        ((12.0, 0.0), (False, True, True)),  # e^12 is beyond float16
        ((100.0, 0.0), (False, False, True)),
        ((1000.0, 0.0), (False, False, False)),
        ((0.0, 50.0), (False, True, True)),
        ((0.0, 120.0), (False, False, True)),
        ((-800.0, 0.0), (False, False, False)),  # the probability is 0, its logarithm is not finite
    ],
)
def test_loss_by_the_letter_fails_where_the_safe_one_is_torchs(logits, enough):
    precisions = Question(logits, 0).precisions()
    assert [one.name for one in precisions] == list(PRECISIONS)
    assert tuple(one.is_naive_enough for one in precisions) == enough
    wanted = functional.cross_entropy(torch.tensor([logits], dtype=torch.float64), torch.tensor([0])).item()
    for one, tolerance in zip(precisions, (2e-3, 1e-6, 1e-12), strict=True):
        assert one.probabilities.dtype == one.name
        assert one.loss == pytest.approx(wanted, rel=tolerance, abs=tolerance)
        assert math.isfinite(one.naive_loss) or not one.is_naive_enough


def test_many_classes_start_at_the_logarithm_of_their_number():
    assert Question((0.0,) * 1000, 7).judge().loss == pytest.approx(math.log(1000))


def test_question_is_read_from_text():
    asked = read({"logits": "2, 1,-1", "label": "2", "temperature": "2", "smoothing": 0.1, "weights": "1,2,3"})
    assert asked == Question((2, 1, -1), 2, 2.0, 0.1, (1, 2, 3))
    assert read({"logits": [0.5, 1]}) == Question((0.5, 1), 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"logits": "2"}, "from 2 to 1,000 logits"),
        ({}, "from 2 to 1,000 logits"),
        ({"logits": "1,2", "label": 2}, "one of 0 to 1; got 2"),
        ({"logits": "1,x"}, "Logits (logits) must be a number"),
        ({"logits": "1,,2"}, "one is missing"),
        ({"logits": "1,nan"}, "got nan"),
        ({"logits": "1,2", "temperature": 0}, "Temperature"),
        ({"logits": "1,2", "smoothing": 1.5}, "Label smoothing"),
        ({"logits": "1,2", "weights": "1"}, "as many weights as logits, 2; got 1"),
        ({"logits": "1,2", "weights": "0,1"}, "above 0"),
        ({"logits": "1,2", "weights": "-1,1"}, "Weights (weights) must be a number from 0"),
        ({"logits": [0.0] * 1001}, "got 1001"),
    ],
)
def test_what_cannot_be_judged_gets_a_sentence(values, words):
    with pytest.raises(ConfigError) as caught:
        read(values)
    assert words in str(caught.value)
