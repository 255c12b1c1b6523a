"""Layers of the catalog's networks beside published numbers, an independent counter, and torch's own outputs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, LayerNorm2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from dlkit.catalog.backbones import BACKBONES
from dlkit.data.images import read_image
from dlkit.engine.arithmetic import arithmetic_of, mask_of, softmax_at
from dlkit.engine.layers import Seen, layers_of, open_model, pictures_for, seen_in, statistics_of
from dlkit.engine.model import build, parameter_count
from dlkit.errors import ConfigError

PHOTO = Path(__file__).parents[1] / "dlkit" / "samples" / "photos" / "chelsea.jpg"


def counted(network: nn.Module, size: int) -> float:
    """Return the multiply-adds that torch's own counter counts; it knows attention only in its plain form."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_add_up_to_what_is_published_and_counted(name):
    entry = BACKBONES[name]
    classifier = build(entry, 1000)
    layers = layers_of(classifier, entry.input_size)
    assert sum(layer.parameters for layer in layers) == parameter_count(classifier) == entry.parameters
    if entry.library == "torchvision":
        assert entry.parameters == get_model_weights(entry.architecture).DEFAULT.meta["num_params"]
    work = sum(layer.multiply_adds for layer in layers)
    assert work == counted(classifier, entry.input_size)
    assert round(work / 1e9, 3) == entry.gflops
    assert (layers[-1].name, layers[-1].kind, layers[-1].shape) == ("head", "Linear", (1000,))


# What layers make of a picture


def test_statistics_are_of_what_each_layer_put_out():
    """The network has no in-place operation and runs each layer once, so hooks see the same."""
    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Identity(), nn.Flatten(), nn.Linear(36, 2)
    )
    pictures = torch.randn(2, 3, 8, 8, generator=draw)
    layers, found = layers_of(network, 8), statistics_of(network, pictures)
    assert [layer.kind for layer in layers] == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"]
    assert [layer.shape for layer in layers] == [(4, 6, 6), (4, 6, 6), (4, 3, 3), (36,), (2,)]
    assert [layer.parameters for layer in layers] == [3 * 4 * 9 + 4, 0, 0, 0, 74]
    assert [layer.multiply_adds for layer in layers] == [36 * 4 * 27, 0, 0, 0, 72]
    values = pictures
    for layer, told in zip((network[at] for at in (0, 1, 2, 4, 5)), found, strict=True):
        values = layer(values)
        wanted = (values.mean(), values.std(correction=0), values.min(), values.max(), (values == 0).float().mean())
        assert list(vars(told).values()) == pytest.approx([float(value) for value in wanted], abs=1e-6)


def test_layer_that_runs_often_is_told_each_time_and_counted_once():
    network = build(BACKBONES["resnet50"], 5)
    relus = [layer for layer in layers_of(network, 64) if layer.name == "body.layer1.0.relu"]
    assert [layer.call for layer in relus] == [1, 2, 3]
    pictures = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, third = (seen_in(network, pictures, "body.layer1.0.relu", call) for call in (1, 3))
    assert (first.outputs.shape[1], third.outputs.shape[1]) == (64, 256)
    assert torch.equal(first.outputs, first.inputs.relu())  # though it works in place
    assert sum(layer.parameters for layer in layers_of(network, 64)) == parameter_count(network)


def test_part_that_never_runs_is_no_layer():
    class Wasteful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 2, 1), nn.Linear(5, 5)

        def forward(self, pictures):
            return self.used(pictures)

    assert [(layer.name, layer.parameters) for layer in layers_of(Wasteful(), 8)] == [("used", 8)]


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("body.layer9", 1, "Near to it: body.layer"),
        ("body.layer1.0.relu", 4, "so often in this network: 3. There is no call 4"),
        ("head", 0, "There is no call 0"),
    ],
)
def test_layer_that_is_not_there_is_said(name, call, words):
    with pytest.raises(ConfigError) as caught:
        seen_in(build(BACKBONES["resnet50"], 5), torch.zeros(1, 3, 64, 64), name, call)
    assert words in str(caught.value)


def test_batch_norm_of_timm_with_its_activation_is_one_layer():
    layers = layers_of(build(BACKBONES["efficientnet-lite0"], 5), 64)
    assert [layer.kind for layer in layers[:3]] == ["Conv2dSame", "BatchNormAct2d", "Conv2d"]
    assert "Identity" not in {layer.kind for layer in layers}


# The arithmetic of one value


def explained(layer, inputs, index, **how):
    layer = layer.eval()
    return arithmetic_of(Seen(layer, inputs, layer(inputs).detach()), index, **how)


DRAW = torch.Generator().manual_seed(1)
PICTURES = torch.randn(3, 6, 11, 11, generator=DRAW)
LAYERS = [
    nn.Conv2d(6, 4, 3),
    nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(6, 4, 5, padding=4, dilation=2),
    nn.Conv2d(6, 6, 3, padding=1, groups=6),
    nn.Conv2d(6, 4, (1, 5), padding=(0, 2), groups=2),
    Conv2dSame(6, 4, 3, stride=2),
    Conv2dSame(6, 6, 5, stride=1, groups=6),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2),
    nn.AdaptiveAvgPool2d(1),
    nn.Linear(11, 7),
    nn.LayerNorm(11),
    LayerNorm2d(6),
    nn.BatchNorm2d(6),
    BatchNormAct2d(6),
    nn.ReLU(),
    nn.GELU(),
    nn.Hardswish(),
    nn.Dropout(0.5),
    nn.Flatten(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer)[:60])
def test_value_is_that_of_the_layer(layer):
    for values in (*layer.parameters(), *layer.buffers()):
        if values.is_floating_point():
            values.data.uniform_(0.5, 1.5, generator=DRAW)
    outputs = layer.eval()(PICTURES).detach()
    draw = np.random.default_rng(0)
    corners = [(0,) * outputs.ndim, tuple(side - 1 for side in outputs.shape)]
    for index in [*corners, *(tuple(int(draw.integers(side)) for side in outputs.shape) for _ in range(20))]:
        found = explained(layer, PICTURES, index)
        size = max(1.0, np.abs(found.parts.get("w x", np.ones(1))).sum())
        assert found.value == pytest.approx(float(outputs[index]), abs=1e-6 * size)


def test_convolution_shows_its_kernel_and_patch():
    layer = nn.Conv2d(6, 4, 3, padding=1)
    found = explained(layer, PICTURES, (1, 2, 0, 5))
    np.testing.assert_array_equal(found.parts["w"], layer.weight[2].detach().double())
    np.testing.assert_array_equal(found.parts["x"][:, 1:], PICTURES[1, :, :2, 4:7].double())
    assert not found.parts["x"][:, 0].any()  # above the picture


def test_pooling_shows_its_winner():
    found = explained(nn.MaxPool2d(3, 2, 1), PICTURES, (0, 1, 2, 2))
    row, column = found.parts["winner"].astype(int)
    assert PICTURES[0, 1, 3 + row, 3 + column] == pytest.approx(found.value)
    _, place = nn.MaxPool2d(3, 2, 1, return_indices=True)(PICTURES)
    assert place[0, 1, 2, 2] == (3 + row) * 11 + 3 + column


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(6), BatchNormAct2d(6)])
def test_batch_norm_in_training_takes_the_pictures_own_statistics(layer):
    layer.weight.data.uniform_(0.5, 1.5, generator=DRAW)
    outputs = copy.deepcopy(layer).train()(PICTURES)
    for index in ((0, 1, 2, 3), (2, 5, 10, 0)):
        assert explained(layer, PICTURES, index, training=True).value == pytest.approx(float(outputs[index]), abs=1e-6)


def test_dropout_in_training_lets_a_share_through_and_scales_it():
    seen = Seen(nn.Dropout(0.25), PICTURES, PICTURES)
    mask = mask_of(seen, 3)
    assert mask.mean() == pytest.approx(0.75, abs=0.03)
    for index in ((0, 0, 0, 0), (1, 2, 3, 4), (2, 1, 0, 7)):
        found = arithmetic_of(seen, index, training=True, seed=3)
        assert found.value == pytest.approx(float(PICTURES[index]) * mask[index] / 0.75)


def test_flatten_tells_where_a_value_stood():
    found = explained(nn.Flatten(), PICTURES, (1, 3 * 121 + 4 * 11 + 5))
    assert found.parts["place"].tolist() == [3, 4, 5]


def test_probability_is_that_of_softmax():
    logits = torch.randn(10, generator=DRAW, dtype=torch.float64) * 5
    for place in range(10):
        assert softmax_at(logits, place).value == pytest.approx(float(logits.softmax(0)[place]), rel=1e-12)


def test_every_layer_of_the_shipped_network_is_taken_apart():
    """Real weights and a real photograph: the value in the middle of each layer."""
    bundle = open_model(None)
    pictures = pictures_for(bundle, [read_image(PHOTO)])
    checked = 0
    for layer in layers_of(bundle.model, bundle.preprocessing.size)[::6]:
        seen = seen_in(bundle.model, pictures, layer.name, layer.call)
        index = (0, *(side // 2 for side in layer.shape))
        found = arithmetic_of(seen, index)
        size = max(1.0, np.abs(found.parts.get("w x", np.ones(1))).sum())
        assert found.value == pytest.approx(float(seen.outputs[index]), abs=1e-6 * size), layer.name
        checked += 1
    assert checked > 15


@pytest.mark.parametrize(
    ("layer", "index", "words"),
    [
        (nn.ReLU(), (0, 0, 0), "has the shape (3, 6, 11, 11); there is no value at (0, 0, 0)"),
        (nn.ReLU(), (0, 6, 0, 0), "no value at (0, 6, 0, 0)"),
        (nn.ReLU(), (0, -1, 0, 0), "Count from 0"),
        (nn.Softmax(1), (0, 0, 0, 0), "kind Softmax is not taken apart"),
        (nn.AdaptiveAvgPool2d(2), (0, 0, 0, 0), "more than one place"),
    ],
)
def test_value_that_is_not_there_gets_a_sentence(layer, index, words):
    with pytest.raises(ConfigError) as caught:
        explained(layer, PICTURES, index)
    assert words in str(caught.value)
