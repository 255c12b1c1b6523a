"""Update rules: what one step of each optimizer computes, line by line, as torch.optim does.

The lines are formulas: the same text moves the weights of the descent page and is shown with its numbers in place. They
work on one coordinate at a time, whatever the shape of the weights; L-BFGS and Newton's method alone look at both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlkit.catalog.formulas import Formula, read_formula
from dlkit.catalog.optimizers import OPTIMIZERS

#: how names are written in LaTeX; what is remembered, or computed anew at each step, also gets the step as an index
SYMBOLS = {
    "w": "w",
    "g": "g",
    "g_other": "g'",
    "h": "h",
    "h_other": "h'",
    "h_mixed": "h''",
    "t": "t",
    "rate": r"\eta",
    "delta": r"\Delta",
    "m": "m",
    "v": "v",
    "m_hat": r"\hat m",
    "v_hat": r"\hat v",
    "b": "b",
    "u": "u",
    "s": "s",
    "d": "d",
    "r": "r",
    "ready": "q",
    "mu": r"\mu",
    "mu_next": r"\mu'",
    "mu_product": r"\pi",
    "length": r"\rho",
    "longest": r"\rho^\infty",
    "beta1": r"\beta_1",
    "beta2": r"\beta_2",
    "epsilon": r"\epsilon",
    "rho": r"\rho",
    "smoothing": r"\alpha",
    "momentum": r"\mu",
    "weight_decay": r"\lambda",
    "momentum_decay": r"\psi",
    "learning_rate_decay": r"\gamma",
}
#: what a rule is given at each step, beside its settings and its memory
GIVEN = ("w", "g", "t", "rate")
OF_HESSIAN = ("g_other", "h", "h_other", "h_mixed")
DIRECTION = "d"  # of L-BFGS, from what it remembers of the last steps

_DECAYED = {"g": "g + weight_decay*w"}
_SQUARES = {"v": "beta2*v + (1 - beta2)*g^2"}
_MEANS = {"m": "beta1*m + (1 - beta1)*g", **_SQUARES}
_HATS = {"m_hat": "m/(1 - beta1^t)", "v_hat": "v/(1 - beta2^t)"}
#: lines that change where a setting is 0; None: they are left out
_WITHOUT_DECAY: dict[str, Mapping[str, str | None]] = {"weight_decay": {"g": None}}
_WITHOUT_CORRECTION: Mapping[str, str | None] = {"m_hat": "m", "v_hat": "v"}


@dataclass(frozen=True)
class RuleEntry:
    """One rule: `lines` are computed in their order, the last being `delta`, which is added to the weights.

    `memory` is what is kept from step to step, with what it begins as; `without` says for a setting which lines change
    where it is 0. `is_exact`: noise and minibatches are not for it. A step costs `evaluations` gradients.
    """

    name: str
    title: str
    summary: str
    learning_rate: float
    settings: Mapping[str, float]
    paper: str
    url: str
    lines: Mapping[str, str]
    memory: Mapping[str, float] = field(default_factory=dict)
    without: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    is_exact: bool = False
    evaluations: int = 1
    trained_as: str = ""  # the optimizer of the training page that does the same

    def formulas(self, settings: Mapping[str, float]) -> dict[str, Formula]:
        """Return the lines for these settings, read."""
        lines = dict(self.lines)
        for setting, changed in self.without.items():
            if not settings.get(setting, self.settings[setting]):
                lines |= {name: text for name, text in changed.items() if text is not None}
                lines = {name: text for name, text in lines.items() if changed.get(name, text) is not None}
        known = {*GIVEN, *OF_HESSIAN, DIRECTION, *self.settings, *self.memory}
        formulas = {}
        for name, text in lines.items():
            formulas[name] = read_formula(text, known)
            known.add(name)
        return formulas

    @property
    def needs_hessian(self) -> bool:
        """Whether a step needs second derivatives."""
        return any("h_other" in line for line in self.lines.values())

    @property
    def needs_direction(self) -> bool:
        """Whether a step needs what L-BFGS makes of its memory."""
        return "history" in self.settings


def _shared(
    name: str,
    lines: Mapping[str, str],
    memory: Mapping[str, float],
    without: Mapping[str, Mapping[str, str | None]] | None = None,
    **settings: float,
) -> RuleEntry:
    """Return the rule of an optimizer that the training page has, too: title, rate, settings and paper are its own."""
    entry = OPTIMIZERS[name]
    return RuleEntry(
        name,
        entry.title,
        entry.summary,
        entry.learning_rate,
        {**entry.settings, **settings},
        entry.paper,
        entry.url,
        lines,
        memory,
        {**(_WITHOUT_DECAY if "g" in lines else {}), **(without or {})},
        trained_as=name,
    )


_ENTRIES = (
    RuleEntry(
        "gradient-descent",
        "Gradient descent",
        "Steps against the exact gradient, without noise and over all examples: what the others are measured by.",
        0.1,
        {},
        "Cauchy 1847, Méthode générale pour la résolution des systèmes d'équations simultanées",
        "https://gallica.bnf.fr/ark:/12148/bpt6k2982c/f540",
        {"delta": "-rate*g"},
        is_exact=True,
        trained_as="sgd",
    ),
    _shared("sgd", {**_DECAYED, "delta": "-rate*g"}, {}),
    _shared("momentum", {**_DECAYED, "b": "momentum*b + g", "delta": "-rate*b"}, {"b": 0.0}),
    _shared("nesterov", {**_DECAYED, "b": "momentum*b + g", "delta": "-rate*(g + momentum*b)"}, {"b": 0.0}),
    _shared(
        "adagrad",
        {**_DECAYED, "s": "s + g^2", "delta": "-rate/(1 + (t - 1)*learning_rate_decay)*g/(sqrt(s) + epsilon)"},
        {"s": 0.0},
        {"learning_rate_decay": {"delta": "-rate*g/(sqrt(s) + epsilon)"}},
    ),
    _shared(
        "adadelta",
        {
            **_DECAYED,
            "v": "rho*v + (1 - rho)*g^2",
            "d": "sqrt(u + epsilon)/sqrt(v + epsilon)*g",
            "u": "rho*u + (1 - rho)*d^2",
            "delta": "-rate*d",
        },
        {"v": 0.0, "u": 0.0},
    ),
    _shared(
        "rmsprop",
        {
            **_DECAYED,
            "v": "smoothing*v + (1 - smoothing)*g^2",
            "b": "momentum*b + g/(sqrt(v) + epsilon)",
            "delta": "-rate*b",
        },
        {"v": 0.0, "b": 0.0},
        {"momentum": {"b": None, "delta": "-rate*g/(sqrt(v) + epsilon)"}},
    ),
    _shared(
        "adam",
        {**_DECAYED, **_MEANS, **_HATS, "delta": "-rate*m_hat/(sqrt(v_hat) + epsilon)"},
        {"m": 0.0, "v": 0.0},
        {"bias_correction": _WITHOUT_CORRECTION},
        bias_correction=1.0,
    ),
    _shared(
        "adamw",
        {**_MEANS, **_HATS, "delta": "-rate*weight_decay*w - rate*m_hat/(sqrt(v_hat) + epsilon)"},
        {"m": 0.0, "v": 0.0},
        {
            "bias_correction": _WITHOUT_CORRECTION,
            "weight_decay": {"delta": "-rate*m_hat/(sqrt(v_hat) + epsilon)"},
        },
        bias_correction=1.0,
    ),
    _shared(
        "nadam",
        {
            **_DECAYED,
            "mu": "beta1*(1 - 0.5*0.96^(t*momentum_decay))",
            "mu_next": "beta1*(1 - 0.5*0.96^((t + 1)*momentum_decay))",
            "mu_product": "mu_product*mu",
            **_MEANS,
            "v_hat": _HATS["v_hat"],
            "m_hat": "(1 - mu)/(1 - mu_product)*g + mu_next/(1 - mu_product*mu_next)*m",
            "delta": "-rate*m_hat/(sqrt(v_hat) + epsilon)",
        },
        {"m": 0.0, "v": 0.0, "mu_product": 1.0},
    ),
    _shared(
        "radam",
        {
            **_DECAYED,
            **_MEANS,
            "m_hat": _HATS["m_hat"],
            "longest": "2/(1 - beta2) - 1",
            "length": "longest - 2*t*beta2^t/(1 - beta2^t)",
            "ready": "max(0, sign(length - 5))",
            "r": "sqrt(max(0, (length - 4)*(length - 2)*longest/((longest - 4)*(longest - 2)*length)))",
            "delta": "-rate*m_hat*(ready*r*sqrt(1 - beta2^t)/(sqrt(v) + epsilon) + (1 - ready))",
        },
        {"m": 0.0, "v": 0.0},
    ),
    _shared(
        "adamax",
        {
            **_DECAYED,
            "m": _MEANS["m"],
            "u": "max(beta2*u, abs(g) + epsilon)",
            "delta": "-rate/(1 - beta1^t)*m/u",
        },
        {"m": 0.0, "u": 0.0},
    ),
    RuleEntry(
        "lbfgs",
        "L-BFGS",
        "Learns the curvature from how the gradient changed over the last steps; one gradient a step, no line search.",
        0.5,
        {"history": 10.0},
        "Liu & Nocedal 1989, On the limited memory BFGS method",
        "https://doi.org/10.1007/BF01589116",
        {"delta": "rate*d"},
        is_exact=True,
    ),
    RuleEntry(
        "newton",
        "Newton's method",
        "Divides the gradient by the curvature: one step to the end on a quadratic, and uphill where it curves down.",
        1.0,
        {},
        "Nocedal & Wright 2006, Numerical optimization, chapter 3.3",
        "https://doi.org/10.1007/978-0-387-40065-5",
        {
            "s": "max(max(abs(h), abs(h_other)), abs(h_mixed))",  # far out, products of two would be 0
            "delta": "-rate*(h_other/s*g - h_mixed/s*g_other)/(h/s*h_other - h_mixed/s*h_mixed)",
        },
        is_exact=True,
        evaluations=3,  # a second derivative is two more gradients, of each coordinate's slope
    ),
)

RULES: dict[str, RuleEntry] = {entry.name: entry for entry in _ENTRIES}
