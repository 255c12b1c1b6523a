"""Optimizers: what each does, its own settings and defaults, its paper, and how torch builds it.

Every update is torch.optim's own. Default rates are for a new head on a pretrained backbone with batches of 32.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: names of our settings -> arguments of torch.optim; `beta1` and `beta2` together are `betas`
TORCH_ARGUMENTS = {"epsilon": "eps", "smoothing": "alpha", "learning_rate_decay": "lr_decay"}

#: algorithms that torch has as one kernel for CUDA; the others take all weights in a few kernels there (foreach)
FUSED = ("SGD", "Adam", "AdamW")


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer: `settings` are the config fields that it uses, with its own defaults."""

    name: str
    title: str
    summary: str
    algorithm: str  # the class in torch.optim
    learning_rate: float
    settings: Mapping[str, float]
    paper: str
    url: str
    fixed: Mapping[str, Any] = field(default_factory=dict)  # arguments that make this entry what it is
    matrices_only: bool = False  # the algorithm is defined for 2-D weights; AdamW takes the rest
    remembers: int = 2  # numbers that it keeps for each weight, at most

    def build(
        self, groups: Iterable[dict[str, Any]], learning_rate: float, settings: Mapping[str, float]
    ) -> "list[torch.optim.Optimizer]":
        """Return the optimizers that together update all parameters of `groups` (torch parameter groups).

        One optimizer, or two where the algorithm is for matrices only and AdamW takes the other shapes. On CUDA they
        are fused where torch has that: one kernel for all weights.
        """
        arguments = torch_arguments({**self.settings, **settings}) | dict(self.fixed)
        if not self.matrices_only:
            return [_build(self.algorithm, list(groups), lr=learning_rate, **arguments)]
        matrices, others = _split_by_shape(groups)
        decay = arguments.get("weight_decay", 0.0)
        built = [_build(self.algorithm, matrices, lr=learning_rate, **arguments)] if matrices else []
        return built + ([_build("AdamW", others, lr=learning_rate, weight_decay=decay)] if others else [])


def _build(algorithm: str, groups: list[dict[str, Any]], **arguments: Any) -> "torch.optim.Optimizer":
    from torch import optim

    is_on_cuda = all(parameter.is_cuda for group in groups for parameter in group["params"])
    if algorithm in FUSED and is_on_cuda:
        arguments["fused"] = True
    built: optim.Optimizer = getattr(optim, algorithm)(groups, **arguments)
    return built


def torch_arguments(settings: Mapping[str, float]) -> dict[str, Any]:
    """Translate our setting names into the keyword arguments of torch.optim."""
    arguments: dict[str, Any] = {TORCH_ARGUMENTS.get(name, name): value for name, value in settings.items()}
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    return arguments


def _split_by_shape(groups: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Divide each group into one of 2-D parameters and one of all others; empty ones are left out."""
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in groups:
        parameters = list(group["params"])
        for chosen, wanted in ((matrices, True), (others, False)):
            members = [parameter for parameter in parameters if (parameter.ndim == 2) is wanted]
            if members:
                chosen.append({**group, "params": members})
    return matrices, others


_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

_ENTRIES = (
    OptimizerEntry(
        "sgd",
        "Stochastic gradient descent",
        "Steps against the gradient of one minibatch: the rule that all others start from.",
        "SGD",
        0.1,
        {"weight_decay": 0.0},
        "Robbins & Monro 1951, A stochastic approximation method",
        "https://doi.org/10.1214/aoms/1177729586",
        remembers=0,
    ),
    OptimizerEntry(
        "momentum",
        "SGD with momentum",
        "A running sum of gradients rolls through ravines and evens out noise.",
        "SGD",
        0.02,
        {"momentum": 0.9, "weight_decay": 0.0},
        "Polyak 1964, Some methods of speeding up the convergence of iteration methods",
        "https://doi.org/10.1016/0041-5553(64)90137-5",
        remembers=1,
    ),
    OptimizerEntry(
        "nesterov",
        "Nesterov momentum",
        "Momentum that looks ahead: it measures the gradient where the step is about to land.",
        "SGD",
        0.02,
        {"momentum": 0.9, "weight_decay": 0.0},
        "Sutskever et al. 2013, On the importance of initialization and momentum",
        "https://proceedings.mlr.press/v28/sutskever13.html",
        {"nesterov": True},
        remembers=1,
    ),
    OptimizerEntry(
        "adagrad",
        "Adagrad",
        "Each weight's step shrinks with the squares of all its past gradients: rare features keep large steps.",
        "Adagrad",
        0.02,
        {"learning_rate_decay": 0.0, "epsilon": 1e-10, "weight_decay": 0.0},
        "Duchi, Hazan & Singer 2011, Adaptive subgradient methods",
        "https://jmlr.org/papers/v12/duchi11a.html",
        remembers=1,
    ),
    OptimizerEntry(
        "adadelta",
        "Adadelta",
        "Adagrad with a fading memory and steps in the units of the weights: the rate hardly needs tuning.",
        "Adadelta",
        1.0,
        {"rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.0},
        "Zeiler 2012, ADADELTA: an adaptive learning rate method",
        "https://arxiv.org/abs/1212.5701",
    ),
    OptimizerEntry(
        "rmsprop",
        "RMSprop",
        "Divides each step by the recent size of its gradient, so that steep and flat directions move alike.",
        "RMSprop",
        1e-3,
        {"smoothing": 0.99, "momentum": 0.0, "epsilon": 1e-8, "weight_decay": 0.0},
        "Tieleman & Hinton 2012, Neural networks for machine learning, lecture 6e",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        remembers=1,
    ),
    OptimizerEntry(
        "adam",
        "Adam",
        "Momentum and RMSprop together, both corrected for their start at zero: copes with noisy and sparse gradients.",
        "Adam",
        2e-3,
        {**_ADAM, "weight_decay": 0.0},
        "Kingma & Ba 2015, Adam: a method for stochastic optimization",
        "https://arxiv.org/abs/1412.6980",
    ),
    OptimizerEntry(
        "adamw",
        "AdamW",
        "Adam whose weight decay acts on the weights themselves, not through the gradient's scaling.",
        "AdamW",
        2e-3,
        {**_ADAM, "weight_decay": 0.01},
        "Loshchilov & Hutter 2019, Decoupled weight decay regularization",
        "https://arxiv.org/abs/1711.05101",
    ),
    OptimizerEntry(
        "nadam",
        "NAdam",
        "Adam with Nesterov's look-ahead in place of plain momentum.",
        "NAdam",
        2e-3,
        {**_ADAM, "momentum_decay": 4e-3, "weight_decay": 0.0},
        "Dozat 2016, Incorporating Nesterov momentum into Adam",
        "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
    ),
    OptimizerEntry(
        "radam",
        "RAdam",
        "Adam that waits until its estimate of the gradient's size can be trusted: a warm-up of its own.",
        "RAdam",
        2e-3,
        {**_ADAM, "weight_decay": 0.0},
        "Liu et al. 2020, On the variance of the adaptive learning rate and beyond",
        "https://arxiv.org/abs/1908.03265",
    ),
    OptimizerEntry(
        "adamax",
        "Adamax",
        "Adam that divides by the largest recent gradient instead of the root of its mean square.",
        "Adamax",
        4e-3,
        {**_ADAM, "weight_decay": 0.0},
        "Kingma & Ba 2015, Adam, section 7.1",
        "https://arxiv.org/abs/1412.6980",
    ),
    OptimizerEntry(
        "muon",
        "Muon",
        "Momentum whose step is made orthogonal, for weight matrices; AdamW updates every other shape.",
        "Muon",
        2e-3,
        {"momentum": 0.95, "weight_decay": 0.01},
        "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks",
        "https://kellerjordan.github.io/posts/muon/",
        # scaled so that a step has AdamW's usual size: one learning rate then suits both halves (arXiv 2502.16982)
        {"adjust_lr_fn": "match_rms_adamw"},
        matrices_only=True,
    ),
)

OPTIMIZERS: dict[str, OptimizerEntry] = {entry.name: entry for entry in _ENTRIES}
