"""The graph of a formula as autograd builds it: forward to its value, backward to the gradients, one step at a time.

Reverse-mode differentiation: Griewank & Walther 2008, Evaluating derivatives, chapter 3. What each operation computes,
and its derivative by each input, are formulas, too: what is shown with its numbers is what is computed. At the corners
of abs, min and max, and at powers of 0, the derivatives are those that torch takes.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from dlkit.catalog.formulas import CONSTANTS, OF_ONE, OF_TWO, Formula, latex_number, names_in, read_formula
from dlkit.descent.asked import Number
from dlkit.errors import ConfigError, FormulaError

MOST_NAMES = 12
NUMBER = "number"  # the operation of a box that is a number of the formula
SIGNS: dict[type[ast.AST], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}
NEGATIVE = "neg"
#: what an operation computes of its inputs a and b
VALUES = {
    **{sign: f"a {sign} b" for sign in SIGNS.values()},
    NEGATIVE: "-a",
    **{name: f"{name}(a)" for name in OF_ONE},
    **{name: f"{name}(a, b)" for name in OF_TWO},
}
#: its derivative by each of them; v is its value
SLOPES: dict[str, tuple[str, ...]] = {
    "+": ("1", "1"),
    "-": ("1", "-1"),
    "*": ("b", "a"),
    "/": ("1/b", "-v/b"),
    "^": ("b*a^(b - 1)", "v*log(a)"),
    NEGATIVE: ("-1",),
    "sin": ("cos(a)",),
    "cos": ("-sin(a)",),
    "tan": ("1 + v^2",),
    "exp": ("v",),
    "log": ("1/a",),
    "sqrt": ("1/(2*v)",),
    "abs": ("sign(a)",),
    "tanh": ("1 - v^2",),
    "sign": ("0",),
    "min": ("(1 + sign(b - a))/2", "(1 + sign(a - b))/2"),
    "max": ("(1 + sign(a - b))/2", "(1 + sign(b - a))/2"),
}


@dataclass(frozen=True)
class Node:
    """One box: `operation` is a name of the formula, NUMBER, a sign, NEGATIVE or a function; `text` what it stands for.

    `inputs` are the places of earlier boxes. `gradient` is the derivative of the last box by this one; None where the
    box does not vary, as no name is in it, like a tensor of torch that does not require a gradient.
    """

    operation: str
    inputs: tuple[int, ...]
    text: str
    value: float
    varies: bool
    gradient: float | None = None


@dataclass(frozen=True)
class Computed:
    """One step forward: the box at `place` gets its value; `latex` is its arithmetic with the numbers."""

    place: int
    latex: str


@dataclass(frozen=True)
class Sent:
    """One step backward: the box at `sender` sends `gradient` · `slope` = `share` to one of its inputs, `receiver`.

    `slope` is the sender's derivative by this input, and `latex` its arithmetic. `total` is the receiver's gradient so
    far: a box that is used twice gets the sum.
    """

    sender: int
    receiver: int
    gradient: float
    slope: float
    share: float
    total: float
    latex: str


@dataclass(frozen=True)
class Graph:
    """The boxes of a formula, each behind its inputs, the whole formula last; and what is sent back, in its order."""

    nodes: tuple[Node, ...]
    backward: tuple[Sent, ...]

    @property
    def value(self) -> float:
        return self.nodes[-1].value

    def gradients(self) -> dict[str, float]:
        """Return the derivative of the formula by each of its names."""
        return {node.text: node.gradient or 0.0 for node in self.nodes if node.varies and not node.inputs}

    def forward(self) -> Iterator[Computed]:
        """Yield what is computed forward, in its order."""
        for place, node in enumerate(self.nodes):
            if node.inputs:
                written = _written(VALUES[node.operation], self._numbers(node))
                yield Computed(place, f"{written} = {latex_number(node.value)}")

    def undefined(self) -> Node | None:
        """Return the first box without a finite value, as the logarithm of a negative number; None where all have."""
        return next((node for node in self.nodes if not np.isfinite(node.value)), None)

    def _numbers(self, node: Node) -> dict[str, float]:
        return dict(zip("ab", (self.nodes[place].value for place in node.inputs), strict=False))


def graph_of(text: str, values: Mapping[str, Any]) -> Graph:
    """Return the graph of a formula of any names, at the numbers `values` of these, which may be text.

    FormulaError where it cannot be read, ConfigError where a value is missing or no number.
    """
    names = names_in(text)
    if len(names) > MOST_NAMES:
        raise FormulaError(f"A formula may have {MOST_NAMES} names; this one has {len(names)}. Use fewer.")
    formula = read_formula(text, names)
    numbers: dict[str, float] = {}
    problems: list[str] = []
    for name in names:
        try:
            number = Number("Value", None, -1e6, 1e6).read(name, values.get(name))
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if number is None:
            problems.append(f"{name} needs a number, as it stands in the formula.")
        else:
            numbers[name] = number
    if problems:
        raise ConfigError(problems)
    with np.errstate(all="ignore"):
        nodes = _Builder(numbers).build(formula)
        return _sent_back(nodes)


class _Builder:
    """What turns the tree of a formula into boxes; a name is one box, however often it is used."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values
        self._nodes: list[Node] = []
        self._named: dict[str, int] = {}

    def build(self, formula: Formula) -> list[Node]:
        self._place(formula.tree)
        return self._nodes

    def _place(self, tree: ast.expr) -> int:
        """Return the place of the box of one part of the formula."""
        match tree:
            case ast.Name(id=name) if name in self._values:
                if name not in self._named:
                    self._named[name] = self._add(Node(name, (), name, self._values[name], True))
                return self._named[name]
            case ast.Name(id=name):
                return self._add(Node(NUMBER, (), name, CONSTANTS[name], False))
            case ast.Constant(value=int() | float() as value):
                return self._add(Node(NUMBER, (), f"{value:g}", float(value), False))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._operation(NEGATIVE, tree, operand)
            case ast.UnaryOp(operand=operand):
                return self._place(operand)
            case ast.BinOp(left=left, right=right, op=sign):
                return self._operation(SIGNS[type(sign)], tree, left, right)
            case ast.Call(func=ast.Name(id=name), args=parts):
                return self._operation(name, tree, *parts)
        raise TypeError(f"no formula has a {type(tree).__name__}")

    def _operation(self, operation: str, tree: ast.expr, *parts: ast.expr) -> int:
        inputs = [self._place(part) for part in parts]
        numbers = dict(zip("ab", (np.float64(self._nodes[place].value) for place in inputs), strict=False))
        varies = any(self._nodes[place].varies for place in inputs)
        value = float(_read(VALUES[operation])(numbers))
        return self._add(Node(operation, tuple(inputs), ast.unparse(tree).replace("**", "^"), value, varies))

    def _add(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1


def _sent_back(nodes: list[Node]) -> Graph:
    """Return the graph with the gradients of its boxes: from the last to the first, each sends to its inputs."""
    gradients = [0.0 if node.varies else None for node in nodes]
    if nodes[-1].varies:
        gradients[-1] = 1.0
    sent = []
    for sender in reversed(range(len(nodes))):
        node, gradient = nodes[sender], gradients[sender]
        if gradient is None:
            continue
        numbers = dict(zip("ab", (np.float64(nodes[place].value) for place in node.inputs), strict=False))
        numbers["v"] = np.float64(node.value)
        is_beside_number = not all(nodes[place].varies for place in node.inputs)
        for receiver, text in zip(node.inputs, _slopes(node, numbers, is_beside_number), strict=False):
            so_far = gradients[receiver]
            if so_far is None:
                continue
            slope = float(_read(text)(numbers))
            share = gradient * slope
            gradients[receiver] = so_far + share
            written = f"{_written(text, numbers)} = {latex_number(slope)}"
            sent.append(Sent(sender, receiver, gradient, slope, share, so_far + share, written))
    done = [replace(node, gradient=gradient) for node, gradient in zip(nodes, gradients, strict=True)]
    return Graph(tuple(done), tuple(sent))


def _slopes(node: Node, numbers: Mapping[str, np.float64], is_beside_number: bool) -> tuple[str, ...]:
    """Return the derivatives of an operation, at its corners those of torch.

    Those of powers at 0 are 0. Of two equals, min and max have a half by each, as torch.maximum; beside a number none,
    as torch.relu.
    """
    slopes = SLOPES.get(node.operation, ())
    if node.operation == "^":
        base, exponent = numbers["a"], numbers["b"]
        return ("0" if exponent == 0 else slopes[0], "0" if base == 0 and exponent >= 0 else slopes[1])
    if node.operation in OF_TWO and numbers["a"] == numbers["b"] and is_beside_number:
        return ("0", "0")
    return slopes


@cache
def _read(text: str) -> Formula:
    return read_formula(text, "abv")


def _written(text: str, numbers: Mapping[str, float]) -> str:
    symbols = {name: latex_number(float(number)) for name, number in numbers.items()}
    return _read(text).latex(symbols, are_numbers=True)
