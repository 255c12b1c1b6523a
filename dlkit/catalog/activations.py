"""Activations of small networks: what each does to a sum, its slope, and what torch calls it.

Value and slope are formulas of the sum z, the slope also of the value v: what is shown is what is computed.
"""

from dataclasses import dataclass, field
from typing import Any

from dlkit.catalog.formulas import Formula, read_formula


@dataclass(frozen=True)
class ActivationEntry:
    """One activation; `torch` is the module of torch.nn that does the same, as it is written in code."""

    name: str
    title: str
    summary: str
    expression: str
    slope_expression: str
    torch: str
    paper: str
    url: str
    formula: Formula = field(init=False, repr=False)
    slope_formula: Formula = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formula", read_formula(self.expression, "z"))
        object.__setattr__(self, "slope_formula", read_formula(self.slope_expression, "zv"))

    def value(self, sums: Any) -> Any:
        """Return the outputs (…) of sums (…), arrays of float64."""
        return self.formula({"z": sums})

    def slope(self, sums: Any, outputs: Any) -> Any:
        """Return the derivatives (…) of the outputs by the sums; at corners torch's; one number if constant."""
        return self.slope_formula({"z": sums, "v": outputs})


_GELU = "tanh(sqrt(2/pi)*(z + 0.044715*z^3))"

_ENTRIES = (
    ActivationEntry(
        "relu",
        "ReLU",
        "Cuts off what is below zero. Its slope of 1 lets gradients through; a unit always below learns nothing.",
        "max(0, z)",
        "max(0, sign(z))",
        "nn.ReLU()",
        "Nair & Hinton 2010, Rectified linear units improve restricted Boltzmann machines",
        "https://www.cs.toronto.edu/~fritz/absps/reluICML.pdf",
    ),
    ActivationEntry(
        "tanh",
        "tanh",
        "Squeezes into -1 to 1, around zero. Far from zero its slope is near 0, and gradients vanish.",
        "tanh(z)",
        "1 - v^2",
        "nn.Tanh()",
        "LeCun, Bottou, Orr & Müller 1998, Efficient backprop",
        "https://doi.org/10.1007/978-3-642-35289-8_3",
    ),
    ActivationEntry(
        "sigmoid",
        "Sigmoid",
        "Squeezes into 0 to 1. Its slope is 1/4 at most, so each layer shrinks the gradient at least four times.",
        "1/(1 + exp(-z))",
        "v*(1 - v)",
        "nn.Sigmoid()",
        "Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors",
        "https://doi.org/10.1038/323533a0",
    ),
    ActivationEntry(
        "leaky-relu",
        "Leaky ReLU",
        "ReLU that keeps a hundredth of what is below zero, so that no unit dies.",
        "max(0.01*z, z)",
        "0.01 + 0.99*max(0, sign(z))",
        "nn.LeakyReLU()",
        "Maas, Hannun & Ng 2013, Rectifier nonlinearities improve neural network acoustic models",
        "https://ai.stanford.edu/~amaas/papers/relu_hybrid_icml2013_final.pdf",
    ),
    ActivationEntry(
        "gelu",
        "GELU",
        "A smooth ReLU that lets a little below zero through; the activation of transformers, here in its tanh form.",
        f"0.5*z*(1 + {_GELU})",
        f"0.5*(1 + {_GELU}) + 0.5*z*(1 - {_GELU}^2)*sqrt(2/pi)*(1 + 0.134145*z^2)",
        'nn.GELU(approximate="tanh")',
        "Hendrycks & Gimpel 2016, Gaussian error linear units",
        "https://arxiv.org/abs/1606.08415",
    ),
    ActivationEntry(
        "linear",
        "Linear",
        "Leaves the sum as it is. Linear layers in a row are one linear layer: more of them learn nothing more.",
        "z",
        "1",
        "nn.Identity()",
        "Goodfellow, Bengio & Courville 2016, Deep learning, chapter 6",
        "https://www.deeplearningbook.org",
    ),
)

ACTIVATIONS: dict[str, ActivationEntry] = {entry.name: entry for entry in _ENTRIES}
