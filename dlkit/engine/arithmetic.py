"""How one value of a layer's output comes about, with all its numbers.

The value is computed of the parts that are shown and of nothing else, in float64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dlkit.engine.layers import Seen
from dlkit.engine.model import BATCHNORM_LAYERS
from dlkit.errors import ConfigError

Numbers = NDArray[np.float64]
Place = tuple[int, ...]


@dataclass(frozen=True)
class Arithmetic:
    """One value: its `formula` in LaTeX, the `parts` by the names that stand there, and what they come to.

    A part is an array, or a number as an array without dimensions.
    """

    formula: str
    parts: Mapping[str, Numbers]
    value: float


def arithmetic_of(seen: Seen, index: Sequence[int], *, training: bool = False, seed: int = 0) -> Arithmetic:
    """Return how the value at `index` of a layer's output comes about; the first of the index is the picture.

    With `training` as in training: batch norm by these pictures' own statistics, dropout with a mask of `seed`.
    ConfigError where there is no such value, or where a layer is of a kind that is not taken apart.
    """
    place, shape = tuple(index), tuple(seen.outputs.shape)
    if len(place) != len(shape) or not all(0 <= at < side for at, side in zip(place, shape, strict=True)):
        raise ConfigError([f"The output has the shape {shape}; there is no value at {place}. Count from 0."])
    if isinstance(seen.module, nn.Dropout):
        return _dropped(seen, place, training, seed)
    if isinstance(seen.module, BATCHNORM_LAYERS):
        return _batch_normed(seen, place, training)
    for kinds, explain in KINDS:
        if isinstance(seen.module, kinds):
            return explain(seen, place)
    kind = type(seen.module).__name__
    raise ConfigError(
        [f"A layer of the kind {kind} is not taken apart into numbers. Choose a layer before or behind it."]
    )


def softmax_at(logits: torch.Tensor, place: int) -> Arithmetic:
    """Return how the probability of the class `place` comes about from logits (C,)."""
    values = _plain(logits)
    powers = np.exp(values - values.max())
    parts = {"z": values, "e": powers}
    return _made(r"p_c = \frac{e_c}{\sum e}, \quad e = \exp(z - \max z)", parts, powers[place] / powers.sum())


def _convolved(seen: Seen, place: Place) -> Arithmetic:
    layer: Any = seen.module
    patch = _window(seen, place, 0.0)
    each = len(patch) // layer.groups
    first = place[1] // (layer.out_channels // layer.groups) * each
    patch, kernel = patch[first : first + each], _plain(layer.weight[place[1]])
    bias = 0.0 if layer.bias is None else float(layer.bias[place[1]])
    parts = {"w": kernel, "x": patch, "w x": kernel * patch, "b": bias, "first": first}
    return _made(r"\sum w \, x + b", parts, (kernel * patch).sum() + bias)


def _pooled(seen: Seen, place: Place) -> Arithmetic:
    patch = _window(seen, place, -np.inf)[place[1]]
    winner = np.unravel_index(patch.argmax(), patch.shape)
    return _made(r"\max x", {"x": patch, "winner": np.array(winner)}, patch.max())


def _averaged(seen: Seen, place: Place) -> Arithmetic:
    if seen.outputs.shape[2:].numel() != 1:
        raise ConfigError(["An average that leaves more than one place is not taken apart. Choose another layer."])
    patch = _plain(seen.inputs[place[:2]])
    return _made(r"\frac{1}{n} \sum x", {"x": patch, "n": patch.size}, patch.mean())


def _linear(seen: Seen, place: Place) -> Arithmetic:
    layer: Any = seen.module
    inputs, weights = _plain(seen.inputs[place[:-1]]), _plain(layer.weight[place[-1]])
    bias = 0.0 if layer.bias is None else float(layer.bias[place[-1]])
    parts = {"w": weights, "x": inputs, "w x": weights * inputs, "b": bias}
    return _made(r"\sum w \, x + b", parts, (weights * inputs).sum() + bias)


def _batch_normed(seen: Seen, place: Place, training: bool) -> Arithmetic:
    layer: Any = seen.module
    channel, inputs = place[1], _plain(seen.inputs[:, place[1]])
    mean, variance = (
        (inputs.mean(), inputs.var()) if training else map(_at(channel), (layer.running_mean, layer.running_var))
    )
    scale, shift = map(_at(channel), (layer.weight, layer.bias))
    value = float(seen.inputs[place])
    result = scale * (value - mean) / np.sqrt(variance + layer.eps) + shift
    parts = {"x": value, "mean": mean, "variance": variance, "epsilon": layer.eps, "scale": scale, "shift": shift}
    formula = r"\gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta"
    activation = getattr(layer, "act", None)  # of timm's, which has one within it
    if activation is None or isinstance(activation, nn.Identity):
        return _made(formula, parts, result)
    name = type(activation).__name__
    return _made(
        rf"\operatorname{{{name}}}\left({formula}\right)", {**parts, "z": result}, _through(activation, result)
    )


def _layer_normed(seen: Seen, place: Place) -> Arithmetic:
    layer: Any = seen.module
    inputs, at = seen.inputs[place[0]], place[1:]
    if seen.inputs.ndim == 4 and inputs.shape[0] == layer.normalized_shape[0] != inputs.shape[-1]:
        inputs, at = inputs.permute(1, 2, 0), (*at[1:], at[0])  # LayerNorm2d has its channels in front
    row = _plain(inputs[at[:-1]])
    mean, variance, value = row.mean(), row.var(), row[at[-1]]
    scale, shift = map(_at(at[-1]), (layer.weight, layer.bias))
    result = scale * (value - mean) / np.sqrt(variance + layer.eps) + shift
    parts = {"x": value, "mean": mean, "variance": variance, "epsilon": layer.eps, "scale": scale, "shift": shift}
    return _made(r"\gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta", {**parts, "row": row}, result)


def _activated(seen: Seen, place: Place) -> Arithmetic:
    value = float(seen.inputs[place])
    name = type(seen.module).__name__
    return _made(rf"\operatorname{{{name}}}(x)", {"x": value}, _through(seen.module, value))


def _dropped(seen: Seen, place: Place, training: bool, seed: int) -> Arithmetic:
    layer: Any = seen.module
    value = float(seen.inputs[place])
    if not training:
        return _made("x", {"x": value}, value)
    mask = mask_of(seen, seed)
    parts = {"x": value, "m": mask[place], "p": layer.p, "mask": mask}
    return _made(r"\frac{m \, x}{1 - p}", parts, value * mask[place] / (1 - layer.p))


def mask_of(seen: Seen, seed: int) -> Numbers:
    """Return which values a dropout lets through in training, 1 or 0, in the shape of its output."""
    layer: Any = seen.module
    return (np.random.default_rng(seed).random(tuple(seen.outputs.shape)) >= layer.p).astype(np.float64)


def _flattened(seen: Seen, place: Place) -> Arithmetic:
    before = np.unravel_index(place[1], seen.inputs.shape[1:])
    value = float(seen.inputs[place[0]][tuple(int(at) for at in before)])
    return _made("x", {"x": value, "place": np.array(before)}, value)


def _window(seen: Seen, place: Place, beyond: float) -> Numbers:
    """Return the patch (channels, kernel, kernel) that a value looks at; `beyond` stands outside of the picture."""
    layer: Any = seen.module
    picture, axes = _plain(seen.inputs[place[0]]), []
    for axis in (0, 1):
        names = ("kernel_size", "stride", "padding", "dilation")
        kernel, stride, padding, dilation = (_of_axis(getattr(layer, name), axis) for name in names)
        steps = dilation * np.arange(kernel)
        missing = (seen.outputs.shape[2 + axis] - 1) * stride + steps[-1] + 1 - picture.shape[1 + axis]
        # layers that came from TensorFlow have no padding of their own: they put around what is missing, more behind
        before = padding or max(0, missing) // 2
        axes.append(place[2 + axis] * stride - before + steps)
    patch = np.full((len(picture), len(axes[0]), len(axes[1])), beyond)
    rows, columns = ((axis >= 0) & (axis < side) for axis, side in zip(axes, picture.shape[1:], strict=True))
    patch[:, rows[:, None] & columns] = picture[:, axes[0][rows][:, None], axes[1][columns]].reshape(len(picture), -1)
    return patch


def _of_axis(setting: Any, axis: int) -> int:
    return int(setting[axis] if isinstance(setting, tuple) else setting)


def _through(activation: nn.Module, value: float) -> float:
    return float(activation(torch.tensor([value], dtype=torch.float64)))


def _at(place: int) -> Callable[[torch.Tensor], float]:
    return lambda values: float(values[place])


def _plain(values: Any) -> Numbers:
    values = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, np.float64)


def _made(formula: str, parts: Mapping[str, Any], value: Any) -> Arithmetic:
    return Arithmetic(formula, {name: _plain(part) for name, part in parts.items()}, float(value))


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)
KINDS: tuple[tuple[Any, Callable[[Seen, Place], Arithmetic]], ...] = (
    (nn.Conv2d, _convolved),
    (nn.MaxPool2d, _pooled),
    (nn.AdaptiveAvgPool2d, _averaged),
    (nn.Linear, _linear),
    (nn.LayerNorm, _layer_normed),
    (nn.Flatten, _flattened),
    (_ACTIVATIONS, _activated),
)
