"""A written rule beside a network that learns: judged on the same points, and the more examples the better."""

import numpy as np
import pytest

from dlkit.catalog.formulas import read_formula
from dlkit.catalog.point_sets import POINT_SETS
from dlkit.lab import rules
from dlkit.lab.rules import COUNTS, SEEDS, TESTED, WRITTEN, Question, by_examples


def rule(text):
    return read_formula(text, ("x", "y"))


def right(text, points):
    return float((rules.says(rule(text), points.points) == points.labels).mean())


def test_every_set_has_a_rule_and_all_but_the_spirals_are_good():
    assert set(WRITTEN) == set(POINT_SETS)
    for data, text in WRITTEN.items():
        share = right(text, Question(data).points()[1])
        assert share > (0.45 if data == "spiral" else 0.95), (data, share)


def test_rule_without_a_value_says_class_0():
    points = np.array(((-1.0, 0.0), (0.0, 0.0), (2.0, 0.0)))
    assert rules.says(rule("log(x)"), points).tolist() == [0, 0, 1]
    assert rules.says(rule("1"), points).tolist() == [1, 1, 1]


def test_turned_points_break_the_rule_and_the_network_follows():
    straight, turned = Question("moons"), Question("moons", degrees=90)
    assert right(WRITTEN["moons"], turned.points()[1]) < 0.8 < right(WRITTEN["moons"], straight.points()[1])
    many = by_examples(turned)[-1]
    assert many.count == max(COUNTS)
    assert many.mean > 0.9


@pytest.mark.parametrize("data", ["circles", "xor"])
def test_more_examples_are_better(data):
    found = by_examples(Question(data))
    assert [one.count for one in found] == list(COUNTS)
    assert all(len(one.accuracies) == len(SEEDS) for one in found)
    assert found[-1].mean > found[0].mean + 0.2


def test_new_points_are_not_those_that_are_learnt_from():
    points, test = Question("xor").points()
    assert len(test.labels) == TESTED
    assert not set(map(tuple, points.points)) & set(map(tuple, test.points))


@pytest.mark.parametrize("count", COUNTS)
def test_network_gets_as_many_of_each_class(count):
    task = rules.task_of(Question("xor").points()[0], count, 1)
    assert np.bincount(task.points.labels).tolist() == [count // 2, count // 2]
