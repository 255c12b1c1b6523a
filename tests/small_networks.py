"""The same small networks in torch, for the tests that have it as their oracle."""

import numpy as np
import torch
from torch import nn

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.lab.network import Network

NAMES = {
    "weight": ("linear", "weight"),
    "bias": ("linear", "bias"),
    "scale": ("norm", "weight"),
    "shift": ("norm", "bias"),
}


def in_torch(network: Network) -> nn.Sequential:
    """Return a network of torch with the same parameters and running statistics, in float64 and training mode."""
    plan = network.plan
    widths = (plan.inputs, *plan.hidden, plan.classes)
    blocks = []
    for number, layer in enumerate(network.layers, 1):
        block = nn.Sequential()
        block.add_module("linear", nn.Linear(widths[number - 1], widths[number]))
        if layer.norm is not None:
            block.add_module("norm", nn.BatchNorm1d(widths[number]))
        if layer.activation is not None:
            block.add_module("activation", eval(ACTIVATIONS[plan.activation].torch, {"nn": nn}))
            block.add_module("dropout", nn.Dropout(plan.dropout))
        blocks.append(block)
    model = nn.Sequential(*blocks).double()
    for name, values in network.named.items():
        parameter_of(model, name).data = torch.tensor(values)
    for block, layer in zip(model, network.layers, strict=True):
        if layer.norm is not None:
            block.norm.running_mean[:] = torch.tensor(layer.norm.mean)
            block.norm.running_var[:] = torch.tensor(layer.norm.variance)
    return model


def parameter_of(model: nn.Sequential, name: str) -> nn.Parameter:
    """Return the parameter of torch that is called `name` in a small network."""
    number, own = name.split(".")
    layer, parameter = NAMES[own]
    return getattr(getattr(model[int(number) - 1], layer), parameter)


def gradient_of(model: nn.Sequential, network: Network) -> np.ndarray:
    """Return torch's gradients as one vector (P,), in the order of the small network."""
    return np.concatenate([parameter_of(model, name).grad.numpy().ravel() for name in network.named])
