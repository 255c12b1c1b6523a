"""Graphs of formulas against torch.autograd, their steps, and what may be typed."""

import math
import random

import pytest
import torch

from dlkit.catalog.formulas import FUNCTIONS, read_formula
from dlkit.errors import ConfigError, DlkitError, FormulaError
from dlkit.lab.graph import NUMBER, SLOPES, VALUES, graph_of

POINT = {"x": 0.7, "y": -1.3, "w1": 2.0, "b": 0.25}
TEXTS = (
    "x",
    "-x",
    "+x*3",
    "x*x + x",
    "x*y + w1/b - 3",
    "x^2 + y^3 + 2^x + x^w1",
    "tanh(w1*x + b)",
    "1/(1 + exp(-(w1*x + b)))",
    "-log(1/(1 + exp(-y))) + log(2*3)",
    "sin(x)*cos(y) + tan(x/2) + sqrt(x + w1)",
    "abs(y) + abs(x) + sign(y)*x",
    "max(0, x) + max(0, y) + max(x, y) + min(x, y) + min(y, 1)",
    "(w1*x + b - y)^2/2 + 0.1*(w1^2 + abs(b))",
    "pi*e + 0*x",
    "(x - x)*y",
)


def by_autograd(text, values):
    """Return the value of a formula and its gradients, by torch."""
    leaves = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}
    value = read_formula(text, values)(leaves) + 0 * sum(leaves.values())
    value.backward()
    return value.item(), {name: leaf.grad.item() for name, leaf in leaves.items()}


def assert_is_autograds(text, values):
    graph = graph_of(text, values)
    value, gradients = by_autograd(text, values)
    assert graph.value == pytest.approx(value, rel=1e-12, abs=1e-12)
    for name, found in graph.gradients().items():
        assert found == pytest.approx(gradients[name], rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("text", TEXTS)
def test_gradients_are_those_of_autograd(text):
    assert_is_autograds(text, POINT)


@pytest.mark.parametrize(
    ("text", "x"),
    [("abs(x)", 0), ("x^0", 0), ("x^2", 0), ("0^x", 2), ("x^x", 1), ("sqrt(x)", 0), ("(-8)^3*x", 1), ("x^-1", -2)],
)
def test_corners_have_the_gradient_that_torch_takes(text, x):
    assert_is_autograds(text, {"x": float(x)})


@pytest.mark.parametrize(
    ("text", "of_torch"),
    [
        ("max(0, x)", torch.relu),
        ("max(x, 0)", torch.relu),
        ("min(x, 2*0)", lambda x: -torch.relu(-x)),
        ("max(x, 2*x)", lambda x: torch.maximum(x, 2 * x)),
        ("min(3*x, x)", lambda x: torch.minimum(3 * x, x)),
    ],
)
def test_equals_in_min_and_max_share_the_gradient_as_in_torch(text, of_torch):
    x = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    of_torch(x).backward()
    assert graph_of(text, {"x": 0.0}).gradients() == {"x": x.grad.item()}


def test_random_formulas_have_autograds_gradients():
    draw = random.Random(1)

    def drawn(depth):
        if not depth or draw.random() < 0.15:
            return draw.choice(("x", "y", "w1", "b", "2", "0.5"))
        inner = drawn(depth - 1)
        other = drawn(depth - 1)
        sums = (f"({inner} + {other})", f"({inner} - {other})", f"-({inner})", f"max({inner}, {other})")
        products = (f"({inner}*{other})", f"{inner}/(2 + ({other})^2)")
        return draw.choice((*sums, *products, f"tanh({inner})", f"sin({inner})", f"exp(-({inner})^2)"))

    for _ in range(200):
        values = {name: draw.uniform(-2, 2) for name in POINT}
        assert_is_autograds(drawn(4), values)


@pytest.mark.parametrize("operation", VALUES)
def test_every_operation_has_a_value_and_a_slope_by_each_input(operation):
    assert len(SLOPES[operation]) == 1 + (" b" in VALUES[operation])
    assert set(FUNCTIONS) <= set(VALUES)


def test_steps_lead_forward_to_the_value_and_backward_to_the_names():
    graph = graph_of("x*y + x", {"x": 2, "y": "3"})
    assert [(node.operation, node.text, node.value, node.gradient) for node in graph.nodes] == [
        ("x", "x", 2, 4),
        ("y", "y", 3, 2),
        ("*", "x * y", 6, 1),
        ("+", "x * y + x", 8, 1),
    ]
    assert [step.latex for step in graph.forward()] == [r"2 \cdot 3 = 6", "6 + 2 = 8"]
    backward = [(step.sender, step.receiver, step.gradient, step.slope, step.total) for step in graph.backward]
    assert backward == [(3, 2, 1, 1, 1), (3, 0, 1, 1, 1), (2, 0, 1, 3, 4), (2, 1, 1, 2, 2)]
    assert graph.gradients() == {"x": 4, "y": 2}


def test_every_box_stands_behind_its_inputs_and_sends_when_its_own_gradient_is_whole():
    graph = graph_of("tanh(x*y + x)^2 + exp(x)/y", POINT)
    for place, node in enumerate(graph.nodes):
        assert all(before < place for before in node.inputs)
        received = [step for step, sent in enumerate(graph.backward) if sent.receiver == place]
        begun = [step for step, sent in enumerate(graph.backward) if sent.sender == place]
        assert not received or not begun or max(received) < min(begun)


def test_numbers_have_no_gradient():
    graph = graph_of("2*pi*x + 3*4", {"x": 1})
    assert {node.gradient for node in graph.nodes if node.operation == NUMBER} == {None}
    assert [node.gradient for node in graph.nodes if node.text == "3 * 4"] == [None]
    assert graph.gradients() == {"x": pytest.approx(2 * math.pi)}


def test_place_without_a_value_is_named():
    graph = graph_of("log(x) + 1/y", {"x": -1, "y": 1})
    assert graph.undefined().text == "log(x)"
    assert graph_of("x", {"x": 1}).undefined() is None


@pytest.mark.parametrize(
    ("text", "values", "words"),
    [
        ("x + y", {"x": 1}, "y needs a number"),
        ("x", {"x": "two"}, "Value (x) must be a number from -1000000 to 1000000; got two."),
        ("x", {"x": math.nan}, "must be a number"),
        ("x + open(y)", {"x": 1}, "no such function"),
        ("", {}, "empty"),
        ("x.real", {"x": 1}, "not allowed"),
        ("+".join(f"x{number}" for number in range(13)), {}, "12 names"),
        ("2x", {}, "with *"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(text, values, words):
    with pytest.raises(DlkitError) as caught:
        graph_of(text, values)
    assert isinstance(caught.value, FormulaError | ConfigError)
    assert words in str(caught.value)


def test_e_in_a_number_is_no_name():
    assert graph_of("1e3*x + .5e1 + e", {"x": 2}).value == pytest.approx(2005 + math.e)
