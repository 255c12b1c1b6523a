"""One step of a small network written out: each line's formula, and its numbers for one example, forward and backward.

Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dlkit.catalog.formulas import latex_held, latex_number
from dlkit.catalog.point_sets import Array
from dlkit.catalog.updates import SYMBOLS
from dlkit.lab.learning import NETWORK_RULES, Look, Step, Task, Training
from dlkit.lab.network import Layer, Network, Pass


@dataclass(frozen=True)
class Line:
    """One line: `symbol` = `formula` in LaTeX, and its `values`.

    These are of one example, (units,), or a number; of what is learnt they are in its own shape, and the sum over the
    batch. `layer` counts from 1.
    """

    way: Literal["forward", "backward"]
    layer: int
    symbol: str
    formula: str
    values: Array


def written_out(training: Training, look: Look, row: int = 0) -> list[Line]:
    """Return the lines of a look forward and backward, for the example in `row` of the batch."""
    return [*_forward(training.network, look, row), *_backward(training, look, row)]


def sum_written_out(network: Network, look: Look, number: int, unit: int, row: int = 0) -> str:
    """Return the sum of one unit of layer `number` for one example as LaTeX, each weight times its input."""
    parts, passed = network.parts(look.parameters), look.passes[number - 1]
    weights, bias = parts[f"{number}.weight"][unit].tolist(), float(parts[f"{number}.bias"][unit])
    products = zip(weights, passed.inputs[row].tolist(), strict=True)
    written = [rf"{_signed(weight)} \cdot {latex_held(value)}" for weight, value in products]
    total = latex_number(float(passed.sums[row, unit]))
    return f"{' '.join([*written, _signed(bias)]).removeprefix('+ ')} = {total}"


@dataclass(frozen=True)
class Updated:
    """One line of an update rule for one weight: `symbol` = `formula` in LaTeX, and its value."""

    symbol: str
    formula: str
    value: float


def update_written_out(training: Training, step: Step, name: str, place: tuple[int, ...]) -> list[Updated]:
    """Return the lines that moved one number of the network, "1.weight" at (0, 1); IndexError where it is not there.

    "g" is its gradient; the last line, the step, was added to it.
    """
    task, rule = training.task, NETWORK_RULES[training.task.rule]
    at = int(training.network.parts(np.arange(training.network.parameters.size, dtype=float))[name][place])
    formulas = rule.formulas({**rule.settings, **task.settings})
    first = [Updated("w", "", float(step.look.parameters[at])), Updated("g", "", float(step.look.gradient[at]))]
    values = {line: np.ravel(step.values[line]) for line in formulas}
    return first + [
        Updated(SYMBOLS[line], formula.latex(SYMBOLS), float(values[line][at if values[line].size > 1 else 0]))
        for line, formula in formulas.items()
    ]


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {latex_number(abs(value))}"


def _forward(network: Network, look: Look, row: int) -> Iterator[Line]:
    for number, (layer, passed) in enumerate(zip(network.layers, look.passes, strict=True), 1):
        names = _Names(layer, passed, number)
        before = _Names(network.layers[number - 2], look.passes[number - 2], number - 1).output if number > 1 else "x"
        rows = [(names.sum, rf"W_{{{number}}} \, {before} + b_{{{number}}}", passed.sums)]
        if layer.norm is not None:
            rows.append((names.normal, rf"\frac{{{names.sum} - \mu}}{{{_DEVIATION}}}", passed.normal))
            rows.append((names.scaled, rf"\gamma \odot {names.normal} + \beta", passed.scaled))
        if layer.activation is not None:
            rows.append((names.activated, layer.activation.formula.latex({"z": names.scaled}), passed.activated))
        if passed.mask is not None:
            rows.append((names.output, rf"m_{{{number}}} \odot {names.activated}", passed.outputs))
        yield from (Line("forward", number, symbol, formula, values[row]) for symbol, formula, values in rows)
    last, judged = len(network.layers), look.judged
    yield Line("forward", last, "p", rf"\operatorname{{softmax}}(z_{{{last}}})", judged.probabilities[row])
    yield Line("forward", last, r"\ell", r"-\sum y \, \log p", judged.losses[row])


def _backward(training: Training, look: Look, row: int) -> Iterator[Line]:
    network, learnt = training.network, training.network.parts(look.gradient)
    count, last = len(look.examples), len(network.layers)
    over = "" if count == 1 else r"\sum_i "
    for number in range(last, 0, -1):
        layer, passed, back = network.layers[number - 1], look.passes[number - 1], look.backs[number - 1]
        names = _Names(layer, passed, number)
        before = _Names(network.layers[number - 2], look.passes[number - 2], number - 1).output if number > 1 else "x"
        rows = [(names.sum, r"p - y" if count == 1 else rf"\frac{{1}}{{{count}}} \, (p - y)", back.sums)]
        if layer.activation is not None:
            above = f"z_{{{number + 1}}}"
            slope = layer.activation.slope_formula.latex({"z": names.scaled, "v": names.activated})
            rows = [(names.output, rf"W_{{{number + 1}}}^\top \, {_by(above)}", back.outputs)]
            if passed.mask is not None:
                rows.append((names.activated, rf"m_{{{number}}} \odot {_by(names.output)}", back.activated))
            rows.append((names.scaled, rf"{_by(names.activated)} \odot \left({slope}\right)", back.scaled))
        yield from (Line("backward", number, _by(name), formula, values[row]) for name, formula, values in rows)
        if back.scale is not None and back.shift is not None:
            yield Line("backward", number, _by(_GAMMA), rf"{over}{_by(names.scaled)} \odot {names.normal}", back.scale)
            yield Line("backward", number, _by(_BETA), f"{over}{_by(names.scaled)}", back.shift)
            yield Line("backward", number, _by(names.sum), _through_norm(names, passed), back.sums[row])
        delta, weight = _by(names.sum), f"W_{{{number}}}"
        formula = rf"{over}{delta} \, {before}^\top{_penalties(training.task, weight)}"
        yield Line("backward", number, _by(weight), formula, learnt[f"{number}.weight"])
        yield Line("backward", number, _by(f"b_{{{number}}}"), f"{over}{delta}", back.bias)


def _penalties(task: Task, weight: str) -> str:
    """Return what the penalties add to the gradient by some weights."""
    l1 = rf" + {latex_number(task.l1)} \, \operatorname{{sign}}\left({weight}\right)" if task.l1 else ""
    return l1 + (rf" + {latex_number(task.l2)} \, {weight}" if task.l2 else "")


_GAMMA, _BETA, _DEVIATION = r"\gamma", r"\beta", r"\sqrt{\sigma^2 + \epsilon}"


def _by(name: str) -> str:
    return rf"\frac{{\partial L}}{{\partial {name}}}"


class _Names:
    """What the numbers of one layer are called; without batch norm or dropout one name stands for the next, too."""

    def __init__(self, layer: Layer, passed: Pass, number: int) -> None:
        self.sum = f"z_{{{number}}}"
        self.normal = rf"\hat z_{{{number}}}"
        self.scaled = self.sum if layer.norm is None else rf"\bar z_{{{number}}}"
        self.activated = f"a_{{{number}}}"
        self.output = self.activated if passed.mask is None else rf"\tilde a_{{{number}}}"


def _through_norm(names: _Names, passed: Pass) -> str:
    """Return how a gradient comes through batch norm: in training each example is in the mean and variance, too."""
    inner = _by(names.scaled)
    if passed.is_training:
        shared = rf"\left({_by(_BETA)} + {names.normal} \odot {_by(_GAMMA)}\right)"
        inner = rf"\left({inner} - \frac{{1}}{{{len(passed.sums)}}} \, {shared}\right)"
    return rf"\frac{{\gamma}}{{{_DEVIATION}}} \odot {inner}"
