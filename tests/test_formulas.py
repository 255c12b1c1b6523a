"""Formulas against Python's own arithmetic, torch's autograd, and everything that somebody may type."""

import math
import random
import string
import time

import numpy as np
import pytest
import torch

from dlkit.catalog.formulas import DEEPEST, FUNCTIONS, LONGEST, MOST_NODES, Formula, latex_number, read_formula
from dlkit.descent.losses import Surface
from dlkit.errors import FormulaError

POINTS = np.array([[0.5, 2.0], [-1.5, 0.25], [3.0, -2.0]])


def value_of(formula: Formula, points: np.ndarray) -> np.ndarray:
    return Surface(formula, (-5, 5, -5, 5)).look(points).value


#: what was typed, and what Python makes of it by hand
READ = {
    "x^2 + 3*y^2": lambda x, y: x**2 + 3 * y**2,
    " -x**2 ": lambda x, y: -(x**2),
    "2^3^x": lambda x, y: 2 ** (3**x),
    "x - y - 1": lambda x, y: x - y - 1,
    "x/y/2": lambda x, y: x / y / 2,
    "+x*-y": lambda x, y: -x * y,
    "sin(x)*cos(y) + tan(x)": lambda x, y: math.sin(x) * math.cos(y) + math.tan(x),
    "exp(-x^2) + tanh(y)": lambda x, y: math.exp(-(x**2)) + math.tanh(y),
    "abs(x) + sqrt(abs(y)) + log(x^2)": lambda x, y: abs(x) + math.sqrt(abs(y)) + math.log(x**2),
    "max(x, y) + 2*min(x, 1) + 3*max(0, y)": lambda x, y: max(x, y) + 2 * min(x, 1) + 3 * max(0, y),
    "sign(x) + pi*e + max(1, 2) + min(1, 2)": lambda x, y: math.copysign(1, x) + math.pi * math.e + 3,
    "1_000 + 1e-3 + .5": lambda x, y: 1000.501,
}


@pytest.mark.parametrize("text", READ)
def test_formula_is_what_python_makes_of_it(text):
    wanted = [READ[text](*point) for point in POINTS.tolist()]
    np.testing.assert_allclose(value_of(read_formula(text), POINTS), wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "text",
    ["1/x", "log(x)", "sqrt(x)", "x^0.5", "1/0", "0/0", "(-8)^(1/3)", "9^9^9^9^9", "x*10^400", "log(0)", "1e308*x*10"],
)
def test_place_where_a_formula_is_not_defined_gives_nan_and_no_exception(text):
    points = np.array([[0.0, 1.0], [-3.0, 1.0], [100.0, 1.0]])
    value = value_of(read_formula(text), points)
    assert value.shape == (3,)
    assert np.isnan(value).any()
    assert not np.isinf(value).any()


#: what is refused, the column that is named, and a word of the reason
REFUSED = {
    "x + z": (5, "'z' is not known"),
    "x.real": (1, "not allowed"),
    "().__class__": (1, "not allowed"),
    "x^2 + x.y": (7, "not allowed"),
    "__import__('os')": (12, "no part"),
    "__import__(os)": (1, "no such function"),
    "open(x)": (1, "no such function"),
    "sin(x)(y)": (1, "no such function"),
    "sin": (1, "sin(x)"),
    "sin(x, y)": (1, "takes 1 value;"),
    "max(x)": (1, "takes 2 values"),
    "sin(*x)": (5, "not allowed"),
    "x if y else 1": (1, "not allowed"),
    "lambda: x": (7, "no part"),
    "x and y": (1, "not allowed"),
    "not x": (1, "not allowed"),
    "x // y": (1, "not allowed"),
    "x, y": (1, "not allowed"),
    "[x]": (1, "no part"),
    "x < y": (3, "no part"),
    "x; y": (2, "no part"),
    "x := 1": (3, "no part"),
    "x²": (2, "no part"),
    "\uff58": (1, "no part"),
    "x\0": (2, "no part"),
    "2x": (2, "with *"),
    "x + 1if y": (6, "with *"),
    "1e5x": (4, "with *"),
    "2 x": (3, "cannot be read"),
    "x^2 + * y": (7, "cannot be read"),
    "(x + y": (1, "not closed"),
    "x +": (3, "cannot be read"),
    "1j": (2, "with *"),
    "True": (1, "not a real number"),
    "1e999": (1, "too large"),
    "x + " + "9" * 350: (5, "too large"),
    "": (None, "empty"),
    " \n\t": (None, "empty"),
    "x" * (LONGEST + 1): (None, "characters"),
    "+".join(["x"] * 130): (None, "at most"),
    "-" * 100 + "x": (42, "nested"),
    "(" * 190 + "x" + ")" * 190 + "+z": (383, "not known"),
    "(" * 300 + "x": (None, ""),
    "sin(" * 60 + "x" + ")" * 60: (None, "nested"),
    "x^" * 60 + "x": (None, "nested"),
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text)[:30])
def test_refused_formula_names_the_column_and_the_reason(text):
    column, reason = REFUSED[text]
    with pytest.raises(FormulaError) as caught:
        read_formula(text)
    assert reason in str(caught.value)
    assert column is None or caught.value.column == column
    assert len(str(caught.value)) < 200


def test_limits_are_met_by_what_is_just_within():
    read_formula("x" + "+x" * ((MOST_NODES - 1) // 2 if MOST_NODES // 2 < DEEPEST else DEEPEST))
    read_formula("x".ljust(LONGEST))


def test_long_sum_is_not_nested():
    (value,) = value_of(read_formula("+".join(["x"] * 90)), np.array([(2.0, 0.0)]))
    assert value == 180
    with pytest.raises(FormulaError, match=str(MOST_NODES)):
        read_formula("+".join(["x"] * 130))


@pytest.mark.parametrize(
    "text", ["x^y", "y^x", "0^x", "(x*y)^(2 + 0*x)", "max(x, y)", "min(x, y)", "max(x, 0)", "min(0, y)"]
)
def test_gradients_at_corners_are_those_of_autograd(text):
    """Where a base is 0 or both sides are equal; torch, too, takes one of several slopes there."""
    places = np.array([(0.0, 2.0), (2.0, 0.0), (1.0, 1.0), (0.0, 1.0), (3.0, 3.0), (2.0, 1.0)])
    points = torch.tensor(places, requires_grad=True)
    formula = read_formula(text)
    (formula({"x": points[:, 0], "y": points[:, 1]}) + 0 * points.sum()).sum().backward()
    np.testing.assert_allclose(Surface(formula, (-5, 5, -5, 5)).look(places).gradient, points.grad, rtol=1e-12)


@pytest.mark.slow
def test_no_random_text_raises_anything_else_or_takes_long_or_runs():
    """100,000 texts: of anything printable, and of pieces of formulas, which come further."""
    draw = random.Random(0)
    pieces = [
        *FUNCTIONS,
        *"xye()()+-*/^.,0123456789",
        "**",
        "pi",
        "1e9",
        "print",
        "__class__",
        " ",
        "if",
        "lambda",
        "\n",
    ]
    point = np.ones((1, 2))
    read, slowest = 0, 0.0
    for number in range(100_000):
        source = pieces if number % 2 else string.printable
        text = "".join(draw.choices(source, k=draw.randrange(1, 14)))
        before = time.perf_counter()
        try:
            value_of(read_formula(text), point)
            read += 1
        except FormulaError:
            pass
        slowest = max(slowest, time.perf_counter() - before)
    assert read > 500
    assert slowest < 0.5


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("x^2 + 3*y", r"x^{2} + 3 \, y"),
        ("(x + 1)*(y - 2)", r"\left(x + 1\right) \, \left(y - 2\right)"),
        ("x - (y - 1)", r"x - \left(y - 1\right)"),
        ("(x/2)^2", r"\left(\frac{x}{2}\right)^{2}"),
        ("x - -y", r"x - \left(-y\right)"),
        ("-0.2*x", r"-0.2 \, x"),
        ("2*3", r"2 \cdot 3"),
        ("sqrt(abs(x))*sin(pi*y)", r"\sqrt{\left|x\right|} \, \sin\left(\pi \, y\right)"),
        ("x + 1e-8", r"x + 10^{-8}"),
    ],
)
def test_formula_is_written_as_latex(text, latex):
    assert read_formula(text).latex() == latex


def test_latex_takes_numbers_for_names():
    symbols = {"x": latex_number(-0.5), "y": latex_number(1.5e-8)}
    written = r"-0.5 - 1.5 \cdot 10^{-8} \cdot \left(-0.5\right)^{2}"
    assert read_formula("x - y*x^2").latex(symbols, are_numbers=True) == written


@pytest.mark.parametrize("text", READ)
def test_derivatives_are_those_of_autograd(text):
    formula = read_formula(text)
    look = Surface(formula, (-5, 5, -5, 5)).look(POINTS, bends=True)

    def value(point: torch.Tensor) -> torch.Tensor:
        return formula({"x": point[0], "y": point[1]}) + 0 * point[0]

    at = torch.tensor(POINTS)
    slopes, bends = (
        torch.stack([made(value)(point) for point in at]) for made in (torch.func.grad, torch.func.hessian)
    )
    np.testing.assert_allclose(look.gradient, slopes, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(look.hessian, bends, rtol=1e-11, atol=1e-11)
