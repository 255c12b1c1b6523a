"""Initialisations: what the weights of a layer begin as, by the number of its inputs and of its outputs."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.formulas import Formula, read_formula


@dataclass(frozen=True)
class InitialisationEntry:
    """One initialisation; the deviation of a layer's weights is a formula of `n`, its inputs, and `m`, its outputs.

    Biases begin at 0, or like the weights where `draws_biases`. `torch` does the same to a weight w, as it is written
    in code; nothing where a layer of torch begins so.
    """

    name: str
    title: str
    summary: str
    kind: Literal["uniform", "normal"]
    expression: str
    torch: str
    paper: str
    url: str
    draws_biases: bool = False
    formula: Formula = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formula", read_formula(self.expression, "nm"))

    def deviation(self, inputs: int, outputs: int) -> float:
        """Return the standard deviation of a layer's weights."""
        return float(self.formula({"n": np.float64(inputs), "m": np.float64(outputs)}))

    def draw(self, draw: np.random.Generator, inputs: int, outputs: int) -> tuple[NDArray[np.float64], ...]:
        """Return the weights (outputs, inputs) and biases (outputs,) of a layer."""
        deviation, biases = self.deviation(inputs, outputs), np.zeros(outputs)
        if self.kind == "normal":
            return draw.normal(0.0, deviation, (outputs, inputs)), biases
        bound = deviation * 3**0.5
        weights = draw.uniform(-bound, bound, (outputs, inputs))
        return weights, draw.uniform(-bound, bound, outputs) if self.draws_biases else biases


_GLOROT = "Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
_GLOROT_URL = "https://proceedings.mlr.press/v9/glorot10a.html"
_HE = "He, Zhang, Ren & Sun 2015, Delving deep into rectifiers"
_HE_URL = "https://arxiv.org/abs/1502.01852"
_BOOK = "Goodfellow, Bengio & Courville 2016, Deep learning, chapter 8.4"
_BOOK_URL = "https://www.deeplearningbook.org/contents/optimization.html"

_ENTRIES = (
    InitialisationEntry(
        "pytorch",
        "PyTorch's own",
        "What nn.Linear begins with: weights and biases even between ±1/√inputs. Small for deep networks of ReLU.",
        "uniform",
        "1/sqrt(3*n)",
        "",
        "LeCun, Bottou, Orr & Müller 1998, Efficient backprop",
        "https://doi.org/10.1007/978-3-642-35289-8_3",
        draws_biases=True,
    ),
    InitialisationEntry(
        "xavier-uniform",
        "Xavier, uniform",
        "Keeps the variance from layer to layer, forward and backward, for activations like tanh.",
        "uniform",
        "sqrt(2/(n + m))",
        "nn.init.xavier_uniform_(w)",
        _GLOROT,
        _GLOROT_URL,
    ),
    InitialisationEntry(
        "xavier-normal",
        "Xavier, normal",
        "As Xavier, uniform, with normally distributed weights.",
        "normal",
        "sqrt(2/(n + m))",
        "nn.init.xavier_normal_(w)",
        _GLOROT,
        _GLOROT_URL,
    ),
    InitialisationEntry(
        "he-uniform",
        "He, uniform",
        "Twice Xavier's variance of the inputs: ReLU cuts off half of what comes.",
        "uniform",
        "sqrt(2/n)",
        'nn.init.kaiming_uniform_(w, nonlinearity="relu")',
        _HE,
        _HE_URL,
    ),
    InitialisationEntry(
        "he-normal",
        "He, normal",
        "As He, uniform, with normally distributed weights.",
        "normal",
        "sqrt(2/n)",
        'nn.init.kaiming_normal_(w, nonlinearity="relu")',
        _HE,
        _HE_URL,
    ),
    InitialisationEntry(
        "small",
        "Too small",
        "A deviation of 0.01 whatever the size: signals and gradients vanish, layer by layer.",
        "normal",
        "0.01",
        "nn.init.normal_(w, std=0.01)",
        _BOOK,
        _BOOK_URL,
    ),
    InitialisationEntry(
        "large",
        "Too large",
        "A deviation of 2 whatever the size: signals and gradients explode, or saturate what squeezes.",
        "normal",
        "2",
        "nn.init.normal_(w, std=2.0)",
        _BOOK,
        _BOOK_URL,
    ),
    InitialisationEntry(
        "zeros",
        "All zero",
        "All units of a layer are the same, get the same gradient, and stay the same.",
        "normal",
        "0",
        "nn.init.zeros_(w)",
        _BOOK,
        _BOOK_URL,
    ),
)

INITIALISATIONS: dict[str, InitialisationEntry] = {entry.name: entry for entry in _ENTRIES}
