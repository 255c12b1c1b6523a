"""Small networks of dense layers, forward and backward, with every number on the way kept.

A layer computes z = W·x + b, then batch norm (Ioffe & Szegedy 2015) where there is one, the activation, and in training
dropout (Srivastava et al. 2014). The last layer's sums are the logits. All is float64, as torch's layers nn.Linear,
nn.BatchNorm1d, the activation and nn.Dropout, in that order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.activations import ACTIVATIONS, ActivationEntry
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.catalog.point_sets import Array

EPSILON, KEPT = 1e-5, 0.9  # of batch norm, as in torch: what is added to a variance; a running statistic's share


@dataclass(frozen=True)
class Plan:
    """What a network is built by: the units of its hidden layers, its classes, and what each hidden layer has."""

    hidden: tuple[int, ...] = (8, 8)
    classes: int = 2
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    initialisation: str = "pytorch"
    seed: int = 0
    inputs: int = 2


@dataclass(frozen=True)
class BatchNorm:
    """What batch norm learns and remembers of each unit, all (units,); `mean` and `variance` are the running ones."""

    scale: Array
    shift: Array
    mean: Array
    variance: Array


@dataclass(frozen=True)
class Layer:
    """One layer: `weight` (units, inputs) and `bias` (units,) are views of the network's parameters, as norm's are.

    The last layer has no activation and no norm: its sums are the logits.
    """

    weight: Array
    bias: Array
    activation: ActivationEntry | None = None
    norm: BatchNorm | None = None


@dataclass(frozen=True)
class Pass:
    """What one layer made of N examples: `inputs` (N, inputs), everything else (N, units).

    `sums` are z; `normal` those less `mean` and divided by the deviation, both (units,); `scaled` is what the
    activation got, `activated` what it gave; `mask`, 0 or 1/(1 - dropout), multiplied that; `outputs` went on.
    Without batch norm, activation or dropout an array is the one before. `is_training`: the batch's own statistics.
    """

    inputs: Array
    sums: Array
    normal: Array
    scaled: Array
    activated: Array
    outputs: Array
    mean: Array | None
    variance: Array | None
    mask: Array | None
    is_training: bool

    @property
    def deviation(self) -> Array | None:
        """What batch norm divides by, (units,)."""
        return None if self.variance is None else np.sqrt(self.variance + EPSILON)


@dataclass(frozen=True)
class Back:
    """What comes back to one layer: the gradients of the loss by its numbers, in their shapes.

    `outputs`, `activated`, `scaled` and `sums` are (N, units), as in `Pass`.
    """

    outputs: Array
    activated: Array
    scaled: Array
    sums: Array
    weight: Array
    bias: Array
    scale: Array | None
    shift: Array | None


class Network:
    """A network; all its parameters are one vector `parameters` (P,), moved in place; `named` are views of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        draw = np.random.default_rng(plan.seed)
        widths = (plan.inputs, *plan.hidden, plan.classes)
        first: dict[str, Array] = {}
        for number, (inputs, units) in enumerate(pairwise(widths), 1):
            weights, biases = INITIALISATIONS[plan.initialisation].draw(draw, inputs, units)
            first |= {f"{number}.weight": weights, f"{number}.bias": biases}
            if plan.batch_norm and number <= len(plan.hidden):
                first |= {f"{number}.scale": np.ones(units), f"{number}.shift": np.zeros(units)}
        self.parameters = np.concatenate([values.ravel() for values in first.values()])
        self.named = _views(self.parameters, {name: values.shape for name, values in first.items()})
        self.layers = tuple(self._layer(number) for number in range(1, len(widths)))
        self.is_weight = np.zeros(self.parameters.shape, bool)
        for name, values in _views(self.is_weight, {name: values.shape for name, values in first.items()}).items():
            values[...] = name.endswith("weight")

    def _layer(self, number: int) -> Layer:
        named, units = self.named, len(self.named[f"{number}.bias"])
        own = named[f"{number}.weight"], named[f"{number}.bias"]
        if number > len(self.plan.hidden):
            return Layer(*own)
        norm = None
        if self.plan.batch_norm:
            norm = BatchNorm(named[f"{number}.scale"], named[f"{number}.shift"], np.zeros(units), np.ones(units))
        return Layer(*own, ACTIVATIONS[self.plan.activation], norm)

    def parts(self, vector: Array) -> dict[str, Array]:
        """Return views of a vector (P,), as a gradient, in the shapes of the parameters, by their names."""
        return _views(vector, {name: values.shape for name, values in self.named.items()})

    def forward(self, points: Array, draw: np.random.Generator | None = None) -> list[Pass]:
        """Return what each layer makes of points (N, inputs); the outputs of the last are the logits (N, classes).

        With `draw` as in training: batch norm by the batch's own statistics, and dropout.
        """
        passes = []
        for layer in self.layers:
            passes.append(_forward(layer, points, self.plan.dropout, draw))
            points = passes[-1].outputs
        return passes

    def backward(self, passes: Sequence[Pass], gradient: Array) -> tuple[Array, list[Back]]:
        """Return the gradient of a loss by all parameters (P,), and what comes back to each layer.

        `gradient` (N, classes) is that by the logits.
        """
        backs: list[Back] = []
        for layer, passed in zip(reversed(self.layers), reversed(passes), strict=True):
            backs.append(_backward(layer, passed, gradient))
            gradient = backs[-1].sums @ layer.weight
        backs.reverse()
        parts = [
            part for back in backs for part in (back.weight, back.bias, back.scale, back.shift) if part is not None
        ]
        return np.concatenate([part.ravel() for part in parts]), backs

    def remember(self, passes: Sequence[Pass]) -> None:
        """Move batch norm's running statistics by those of a batch, whose variance is taken without bias."""
        for layer, passed in zip(self.layers, passes, strict=True):
            if layer.norm is None or passed.mean is None or passed.variance is None:
                continue
            count = len(passed.sums)
            unbiased = passed.variance * count / (count - 1)
            layer.norm.mean[...] = KEPT * layer.norm.mean + (1 - KEPT) * passed.mean
            layer.norm.variance[...] = KEPT * layer.norm.variance + (1 - KEPT) * unbiased

    def logits(self, points: Array) -> Array:
        """Return the logits (N, classes) of points (N, inputs), as the network is used: without chance."""
        return self.forward(points)[-1].outputs


def _views(whole: NDArray[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return the parts of a vector in their shapes, one behind the other."""
    views, start = {}, 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape))
        views[name] = whole[start:end].reshape(shape)
        start = end
    return views


def _forward(layer: Layer, inputs: Array, dropout: float, draw: np.random.Generator | None) -> Pass:
    sums = inputs @ layer.weight.T + layer.bias
    normal = scaled = sums
    mean = variance = mask = None
    if layer.norm is not None:
        mean, variance = (layer.norm.mean, layer.norm.variance) if draw is None else (sums.mean(0), sums.var(0))
        normal = (sums - mean) / np.sqrt(variance + EPSILON)
        scaled = layer.norm.scale * normal + layer.norm.shift
    activated = scaled if layer.activation is None else layer.activation.value(scaled)
    outputs = activated
    if draw is not None and dropout and layer.activation is not None:
        mask = (draw.random(sums.shape) >= dropout) / (1 - dropout)
        outputs = activated * mask
    return Pass(inputs, sums, normal, scaled, activated, outputs, mean, variance, mask, draw is not None)


def _backward(layer: Layer, passed: Pass, outputs: Array) -> Back:
    activated = outputs if passed.mask is None else outputs * passed.mask
    scaled = activated
    if layer.activation is not None:
        scaled = activated * layer.activation.slope(passed.scaled, passed.activated)
    sums, scale, shift = scaled, None, None
    if layer.norm is not None:
        assert passed.deviation is not None
        scale, shift = (scaled * passed.normal).sum(0), scaled.sum(0)
        # in training each example is also in the batch's mean and variance
        shared = (shift + passed.normal * scale) / len(scaled) if passed.is_training else 0.0
        sums = layer.norm.scale / passed.deviation * (scaled - shared)
    return Back(outputs, activated, scaled, sums, sums.T @ passed.inputs, sums.sum(0), scale, shift)
