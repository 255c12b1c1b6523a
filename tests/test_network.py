"""Small networks against torch: what they begin as, forward, and backward by hand against autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.lab.network import Network, Plan
from dlkit.lab.softmax import cross_entropy
from tests.small_networks import gradient_of, in_torch, parameter_of

DRAW = np.random.default_rng(0)
POINTS = DRAW.uniform(-1.5, 1.5, (40, 2))
LABELS = DRAW.integers(0, 3, 40)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_slope_are_torchs(name):
    entry = ACTIVATIONS[name]
    places = np.concatenate((np.linspace(-6, 6, 101), [0.0, -30.0, 30.0]))
    sums = torch.tensor(places, requires_grad=True)
    outputs = eval(entry.torch, {"nn": nn})(sums)
    outputs.sum().backward()
    close(entry.value(places), outputs.detach())
    close(entry.slope(places, entry.value(places)) * np.ones_like(places), sums.grad)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initialisation_has_the_deviation_and_the_bounds_of_torchs(name):
    entry = INITIALISATIONS[name]
    weights, biases = entry.draw(np.random.default_rng(0), 300, 200)
    layer = nn.Linear(300, 200)
    if entry.torch:
        eval(entry.torch, {"nn": nn, "w": layer.weight})
    wanted = layer.weight.detach().numpy()
    assert weights.shape == wanted.shape
    assert weights.std() == pytest.approx(wanted.std(), rel=0.02)
    assert entry.deviation(300, 200) == pytest.approx(wanted.std(), rel=0.02)
    if entry.kind == "uniform":
        assert np.abs(weights).max() == pytest.approx(np.abs(wanted).max(), rel=0.01)
    if entry.draws_biases:
        assert np.abs(biases).max() == pytest.approx(1 / math.sqrt(300), rel=0.05)
    else:
        assert not biases.any()


PLANS = {
    **{name: Plan((7, 5), 3, activation=name, initialisation="xavier-normal") for name in ACTIVATIONS},
    "no hidden layer": Plan((), 3),
    "batch norm": Plan((6, 4), 3, batch_norm=True, activation="tanh"),
    "deep": Plan((4,) * 8, 3, activation="gelu", initialisation="he-normal"),
    "many inputs": Plan((5,), 3, inputs=4),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("rows", "is_training"), [(1, False), (40, False), (2, True), (40, True)])
def test_backpropagation_by_hand_is_autograds(plan, rows, is_training):
    network = Network(plan)
    for layer in network.layers:
        if layer.norm is not None:
            for values in vars(layer.norm).values():
                values[:] = DRAW.uniform(0.5, 2, len(values))
    points = np.tile(POINTS[:rows], 2)[:, : plan.inputs]
    passes = network.forward(points, np.random.default_rng(0) if is_training else None)
    judged = cross_entropy(passes[-1].outputs, LABELS[:rows])
    gradient, backs = network.backward(passes, judged.gradient)

    model = in_torch(network).train(is_training)
    inputs = torch.tensor(points, requires_grad=True)
    kept = []
    for block in model:
        block.linear.register_forward_hook(lambda _, __, output: (output.retain_grad(), kept.append(output))[0])
    logits = model(inputs)
    loss = functional.cross_entropy(logits, torch.tensor(LABELS[:rows]))
    loss.backward()
    close(passes[-1].outputs, logits.detach())
    close(judged.loss, loss.item())
    close(gradient, gradient_of(model, network))
    for back, passed, sums in zip(backs, passes, kept, strict=True):
        close(passed.sums, sums.detach())
        close(back.sums, sums.grad)
    close(backs[0].sums @ network.layers[0].weight, inputs.grad)


def test_running_statistics_are_torchs():
    network = Network(PLANS["batch norm"])
    model = in_torch(network)
    for start in range(0, 40, 8):
        batch = POINTS[start : start + 8]
        network.remember(network.forward(batch, np.random.default_rng(0)))
        model(torch.tensor(batch))
    for layer, block in zip(network.layers[:-1], model, strict=False):
        close(layer.norm.mean, block.norm.running_mean)
        close(layer.norm.variance, block.norm.running_var)
    close(network.logits(POINTS), model.eval()(torch.tensor(POINTS)).detach())


def test_dropout_drops_a_share_scales_the_rest_and_masks_the_gradient():
    network = Network(Plan((50, 50), 3, dropout=0.3, seed=1))
    passes = network.forward(np.tile(POINTS, (50, 1)), np.random.default_rng(2))
    for passed in passes[:-1]:
        assert set(np.unique(passed.mask)) == {0, 1 / 0.7}
        assert passed.mask.mean() == pytest.approx(1, abs=0.01)
        close(passed.outputs, passed.activated * passed.mask)
    assert passes[-1].mask is None
    assert all(passed.mask is None for passed in network.forward(POINTS))
    # torch, with the masks that were drawn
    weights = {name: torch.tensor(values, requires_grad=True) for name, values in network.named.items()}
    signal = torch.tensor(passes[0].inputs)
    for number, passed in enumerate(passes, 1):
        signal = signal @ weights[f"{number}.weight"].T + weights[f"{number}.bias"]
        if passed.mask is not None:
            signal = torch.relu(signal) * torch.tensor(passed.mask)
    labels = np.tile(LABELS, 50)
    functional.cross_entropy(signal, torch.tensor(labels)).backward()
    gradient, _ = network.backward(passes, cross_entropy(passes[-1].outputs, labels).gradient)
    close(gradient, np.concatenate([weight.grad.numpy().ravel() for weight in weights.values()]))


def test_parameters_are_one_vector_that_the_layers_look_into():
    network = Network(Plan((3,), 2, batch_norm=True))
    assert network.named.keys() == {"1.weight", "1.bias", "1.scale", "1.shift", "2.weight", "2.bias"}
    assert network.parameters.size == sum(values.size for values in network.named.values())
    before = network.logits(POINTS)
    network.parameters += 0.1
    assert not np.allclose(network.logits(POINTS), before)
    network.named["1.weight"][2, 1] = 5
    assert network.layers[0].weight[2, 1] == 5
    assert 5 in network.parameters
    assert network.is_weight.sum() == 3 * 2 + 2 * 3
    assert parameter_of(in_torch(network), "1.scale").shape == (3,)


def test_same_seed_is_the_same_network():
    one, same, other = (Network(Plan(seed=seed)).parameters for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
