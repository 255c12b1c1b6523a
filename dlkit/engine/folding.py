"""BatchNorm folded into the convolutions before it: the same function of the pictures, for less work.

Only for a network that does not learn: its BatchNorm layers then are fixed scales and shifts. It knows no architecture:
which layer follows which is seen by running the network once, and whether the result is the same by running both.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

#: largest difference of the outputs, as a share of their largest value; float32 rounding is about 1e-6
TOLERANCE = 1e-3


def fold_batchnorm(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """Return a copy in eval mode, without BatchNorm wherever one directly follows a convolution, and frozen.

    `example` is an input (N, 3, S, S) float32 on the network's device. Where the folded copy says something else of it
    than the network does, which happens where a convolution's output is used twice, the copy is not folded.
    """
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    folded = copy.deepcopy(plain)
    _fold(folded, example)
    with torch.no_grad():
        wanted, found = plain(example), folded(example)
    is_same = bool((wanted - found).abs().max() <= TOLERANCE * wanted.abs().max())
    return folded if is_same else plain


def _fold(network: nn.Module, example: torch.Tensor) -> None:
    names = {layer: name for name, layer in network.named_modules()}
    for convolution, norm, rest in _pairs(network, example):
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = weight, bias
        network.set_submodule(names[norm], rest)


def _pairs(network: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, Any, nn.Module]]:
    """Return convolutions that feed a BatchNorm layer, each with that and with what takes its place; both run once."""
    outputs: list[tuple[torch.Tensor, nn.Conv2d]] = []  # the tensors are kept alive, or their ids would come again
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def after(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            outputs.append((output, layer))

    def before(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            pairs.extend((made_by, layer) for output, made_by in outputs if output is inputs[0])

    hooks = [layer.register_forward_hook(after) for layer in network.modules()]
    hooks += [layer.register_forward_pre_hook(before) for layer in network.modules()]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    runs = Counter(layer for _, layer in outputs) + Counter(norm for _, norm in pairs)
    rests = [(convolution, norm, _rest(norm)) for convolution, norm in pairs]
    return [(one, norm, rest) for one, norm, rest in rests if rest is not None and runs[one] == runs[norm] == 1]


def _rest(norm: nn.Module) -> nn.Module | None:
    """Return what is left of a BatchNorm layer without its BatchNorm: timm's have an activation in them."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    children = dict(norm.named_children())
    return nn.Sequential(children["drop"], children["act"]) if children.keys() == {"drop", "act"} else None
