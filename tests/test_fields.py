"""Receptive fields beside those that gradients measure, in every network of the catalog."""

import pytest
import torch
from torch import nn

from dlkit.catalog.backbones import BACKBONES
from dlkit.engine.fields import Box, Fields
from dlkit.engine.model import build

CUTTING = (nn.ReLU, nn.ReLU6, nn.Hardswish)


def uncut(network: nn.Module) -> nn.Module:
    """Return the network without what lets only some values through, in float64: no gradient is zero by chance."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, CUTTING):
            network.set_submodule(name, nn.Identity())
        elif isinstance(layer, nn.Hardsigmoid):
            network.set_submodule(name, nn.Sigmoid())
        elif isinstance(layer, nn.MaxPool2d):
            network.set_submodule(name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
    for parameter in network.parameters():
        if not parameter.any():  # a branch may begin as nothing
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network.double().eval()


def by_gradient(picture: torch.Tensor, value: torch.Tensor) -> Box | None:
    """Return the pixels that a value's gradient is not zero at; None where it is zero everywhere."""
    (gradient,) = torch.autograd.grad(value, picture, retain_graph=True)
    rows, columns = (torch.nonzero(gradient[0].abs().amax((0, dim))).ravel().tolist() for dim in (2, 1))
    return Box(rows[0], rows[-1], columns[0], columns[-1]) if rows else None


def compared(network: nn.Module, size: int, count: int, place: float) -> list[tuple[str, Box | None, Box | None]]:
    """Return what some values see, by layer, as told and as measured; `place` is where in a layer, from 0 to 1."""
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = [layer for layer in network.modules() if not list(layer.children()) and not isinstance(layer, nn.Identity)]
    outputs: list[tuple[str, torch.Tensor]] = []
    told: list[Box | None] = []
    names = {layer: name for name, layer in network.named_modules()}

    def index_of(output: torch.Tensor) -> tuple[int, ...]:
        return tuple(round(place * (side - 1)) for side in output.shape)

    def tell(layer, _, output):
        told.append(fields.box(output, index_of(output)))

    def keep(layer, _, output):
        outputs.append((names[layer], output))
        return output

    hooks = [layer.register_forward_hook(tell) for layer in layers]
    with torch.no_grad(), Fields(picture) as fields:
        network(picture)
    for hook in hooks:
        hook.remove()
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    picture.requires_grad_(True)
    network(picture)
    assert len(told) == len(outputs)
    chosen = sorted({round(share * (len(told) - 1) / (count - 1)) for share in range(count)})
    return [(outputs[at][0], told[at], by_gradient(picture, outputs[at][1][index_of(outputs[at][1])])) for at in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_field_is_what_the_gradient_reaches(name):
    entry = BACKBONES[name]
    network = uncut(build(entry, 10))
    size = entry.input_size if entry.fixed_size else 96
    for place in (0.5, 1.0):
        for layer, told, measured in compared(network, size, 7, place):
            assert told == measured, (layer, place)


CHAINS = {
    "one convolution": [nn.Conv2d(3, 4, 3, padding=1)],
    "two convolutions": [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)],
    "with a stride": [nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)],
    "dilated": [nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.AvgPool2d(2), nn.Conv2d(4, 4, 5, 1, 2)],
    "in groups": [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ReLU()],
}


@pytest.mark.parametrize("name", CHAINS)
def test_field_of_a_chain_is_that_of_the_closed_form(name):
    """A layer adds (kernel - 1) · dilation · what a step of its input is of the picture."""
    wanted, step = 1, 1
    for layer in CHAINS[name]:
        kernel, stride, dilation = (
            at[0] if isinstance(at, tuple) else at
            for at in (getattr(layer, what, 1) for what in ("kernel_size", "stride", "dilation"))
        )
        wanted, step = wanted + (kernel - 1) * dilation * step, step * stride
    picture = torch.zeros(1, 3, 96, 96)
    with torch.no_grad(), Fields(picture) as fields:
        output = nn.Sequential(*CHAINS[name])(picture)
    middle = output.shape[-1] // 2
    box = fields.box(output, (0, 0, middle, middle - 1))
    assert (box.height, box.width) == (wanted, wanted)
    assert box.left == box.top - step


def test_what_does_not_come_from_the_picture_sees_nothing():
    picture = torch.zeros(1, 3, 8, 8)
    with torch.no_grad(), Fields(picture) as fields:
        other = torch.ones(3) * 2
        padded = nn.functional.pad(picture, (2, 2, 2, 2))
    assert fields.box(other, (0,)) is None
    assert fields.box(padded, (0, 0, 0, 0)) is None
    assert fields.box(padded, (0, 0, 2, 9)) == Box(0, 0, 7, 7)
