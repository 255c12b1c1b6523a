"""A network that learns by the clock: its pace, what it may cost, and what a link can repeat."""

import time

import numpy as np
import pytest

from dlkit.errors import ConfigError, DivergedError
from dlkit.lab import asked
from dlkit.lab.backpropagation import update_written_out
from dlkit.lab.learning import NETWORK_RULES
from dlkit.lab.live import LONGEST_GAP, PACE, PICTURE_SECONDS, SHARE, Live, repeated, rest


def live(**values) -> Live:
    return Live(asked.read({"count": 100, **values}))


def test_steps_follow_the_clock():
    playing = live()
    playing.start(10)
    for tick in range(1, 31):
        playing.go(10 + tick / 7)
    assert playing.training.steps == pytest.approx(PACE * 30 / 7, abs=1)


def test_long_pause_is_not_made_up_for():
    playing = live()
    playing.start(0)
    playing.go(1000)
    assert playing.training.steps <= PACE * LONGEST_GAP


def test_large_network_learns_at_less_than_the_pace():
    playing = live(hidden=",".join(["64"] * 8), count=5000, batch=4000)
    playing.start(0)
    before = time.thread_time()
    playing.go(2)
    assert 1 <= playing.training.steps < PACE
    assert time.thread_time() - before < 2


def test_pictures_that_cost_much_come_less_often():
    assert rest(0.002) == PICTURE_SECONDS
    assert 0.3 / rest(0.3) == pytest.approx(SHARE)


def test_same_task_and_steps_are_the_same_network():
    first, task = live(dropout=0.2), asked.read({"count": 100, "dropout": 0.2})
    first.batches(30)
    assert np.array_equal(first.training.network.parameters, repeated(task, 30).training.network.parameters)
    assert len(first.training.curve) > 2, "a link shows the way there, too"


def test_what_a_link_cannot_repeat_is_known():
    of_one, edited, changed = live(), live(), live()
    of_one.example()
    edited.edit("1.bias", [2], "0.5")
    changed.batches(1)
    changed.change(asked.read({"count": 100, "learning_rate": "0.1"}))
    assert [one.is_repeatable for one in (of_one, edited, changed)] == [False, False, False]
    changed.change(asked.read({"count": 100, "hidden": "3"}))
    assert changed.is_repeatable, "it is a new network"
    of_one.restart()
    assert of_one.is_repeatable
    assert of_one.training.steps == 0


def test_link_beyond_a_divergence_shows_the_network_before_it():
    task = asked.read({"count": 100, "optimizer": "sgd", "learning_rate": 1000, "activation": "linear"})
    found = repeated(task, 500)
    assert found.training.steps < 500
    with pytest.raises(DivergedError):
        found.batches(1)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("9.weight", [0, 0], "1"), ("1.weight", [0, 5], "1"), ("1.weight", [0], "1"), ("1.weight", [-1, 0], "1")]
    + [("1.weight", [0, 0], text) for text in ("one", "nan", "inf", "-1e7", "")],
)
def test_edit_that_cannot_be_is_said(name, place, value):
    edited = live()
    before = edited.training.network.parameters.copy()
    with pytest.raises(ConfigError):
        edited.edit(name, place, value)
    assert np.array_equal(edited.training.network.parameters, before)


def test_edited_weight_counts():
    edited = live()
    edited.edit("1.weight", [0, 1], "-2.5")
    assert edited.training.network.layers[0].weight[0, 1] == -2.5


@pytest.mark.parametrize("rule", NETWORK_RULES)
def test_update_is_written_out_with_the_numbers_of_the_step(rule):
    moved = live(optimizer=rule)
    before = moved.training.network.named["1.weight"].copy()
    moved.batches(1)
    assert moved.last
    lines = update_written_out(moved.training, moved.last, "1.weight", (1, 0))
    assert lines[0].value == before[1, 0]
    delta = moved.training.network.named["1.weight"][1, 0] - before[1, 0]
    assert lines[-1].value == pytest.approx(delta, abs=1e-15)
