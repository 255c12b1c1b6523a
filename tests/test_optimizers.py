"""Every optimizer of the catalog against torch.optim itself."""

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch._subclasses.fake_tensor import FakeTensorMode

from dlkit.catalog.optimizers import OPTIMIZERS, OptimizerEntry, torch_arguments
from dlkit.config import FinetuneConfig, parse

STEPS = 20
#: the same rules written out as torch is called by hand, defaults of the catalog and values of the test's choosing
BY_HAND: dict[str, tuple[type[optim.Optimizer], dict[str, Any], dict[str, float]]] = {
    "sgd": (optim.SGD, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "momentum": (optim.SGD, {"momentum": 0.8, "weight_decay": 0.1}, {"momentum": 0.8, "weight_decay": 0.1}),
    "nesterov": (optim.SGD, {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.1, "eps": 1e-6}, {"learning_rate_decay": 0.1, "epsilon": 1e-6}),
    "adadelta": (optim.Adadelta, {"rho": 0.8, "eps": 1e-5}, {"rho": 0.8, "epsilon": 1e-5}),
    "rmsprop": (
        optim.RMSprop,
        {"alpha": 0.9, "momentum": 0.5, "eps": 1e-5},
        {"smoothing": 0.9, "momentum": 0.5, "epsilon": 1e-5},
    ),
    "adam": (optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-5}, {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-5}),
    "adamw": (optim.AdamW, {"betas": (0.8, 0.999), "weight_decay": 0.1}, {"beta1": 0.8, "weight_decay": 0.1}),
    "nadam": (optim.NAdam, {"momentum_decay": 0.01, "betas": (0.9, 0.99)}, {"momentum_decay": 0.01, "beta2": 0.99}),
    "radam": (optim.RAdam, {"betas": (0.8, 0.999), "weight_decay": 0.1}, {"beta1": 0.8, "weight_decay": 0.1}),
    "adamax": (optim.Adamax, {"betas": (0.9, 0.99), "eps": 1e-5}, {"beta2": 0.99, "epsilon": 1e-5}),
}
#: where a default differs from torch's on purpose; learning rates are all our own
OTHER_DEFAULTS = {
    ("momentum", "momentum"),  # this entry is SGD with momentum: torch's default of 0 would be plain SGD
    ("nesterov", "momentum"),
    ("muon", "weight_decay"),  # as AdamW's, which takes the other half of the parameters
}


#: those of which torch has one kernel for all weights on CUDA; Muon's other half is AdamW
FUSED_ENTRIES = ("sgd", "momentum", "nesterov", "adam", "adamw")


def by_name(entry: OptimizerEntry) -> str:
    return entry.name


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network with matrices, a convolution and biases, and data that it can learn."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 2, 6, 6, generator=generator), torch.arange(16) % 3
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
        )
    return network, images, labels


def train(network: nn.Module, optimizers: list[optim.Optimizer], steps: int = STEPS) -> list[float]:
    _, images, labels = problem()
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(images), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def built(entry: OptimizerEntry, network: nn.Module, rate: float, settings: dict[str, float]) -> list[optim.Optimizer]:
    return entry.build([{"params": list(network.parameters()), "rate_factor": 1.0}], rate, settings)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=by_name)
def test_optimizer_with_its_own_defaults_learns_a_small_problem(entry):
    network, _, _ = problem()
    before = copy.deepcopy(network)
    losses = train(network, built(entry, network, entry.learning_rate, {}), 60)
    assert losses[-1] < losses[0]
    assert not any(torch.equal(*pair) for pair in zip(before.parameters(), network.parameters(), strict=True))


def test_every_optimizer_has_an_oracle():
    assert BY_HAND.keys() == OPTIMIZERS.keys() - {"muon"}


@pytest.mark.parametrize("name", BY_HAND)
def test_optimizer_takes_the_steps_of_torch_with_the_same_arguments(name):
    algorithm, arguments, settings = BY_HAND[name]
    ours, theirs = problem()[0], problem()[0]
    losses = train(ours, built(OPTIMIZERS[name], ours, 0.05, settings))
    assert losses == train(theirs, [algorithm(theirs.parameters(), lr=0.05, **arguments)])
    assert same_weights(ours, theirs)


def test_muon_steps_matrices_and_adamw_all_other_shapes():
    ours, theirs = problem()[0], problem()[0]
    settings = {"momentum": 0.9, "weight_decay": 0.02}
    optimizers = built(OPTIMIZERS["muon"], ours, 0.01, settings)
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim != 2]
    by_hand = [
        optim.Muon(matrices, lr=0.01, adjust_lr_fn="match_rms_adamw", **settings),
        optim.AdamW(others, lr=0.01, weight_decay=0.02),
    ]
    assert [type(optimizer) for optimizer in optimizers] == [optim.Muon, optim.AdamW]
    assert train(ours, optimizers) == train(theirs, by_hand)
    assert same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("shapes", "kinds"), [([(3, 2)], [optim.Muon]), ([(3,), (2, 2, 1, 1)], [optim.AdamW]), ([], [])]
)
def test_muon_leaves_out_the_half_that_would_be_empty(shapes, kinds):
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizers = OPTIMIZERS["muon"].build([{"params": parameters, "rate_factor": 1.0}], 0.1, {})
    assert [type(optimizer) for optimizer in optimizers] == kinds


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=by_name)
def test_groups_keep_their_rate_factor_and_every_parameter_is_in_one_of_them(entry):
    network, _, _ = problem()
    head, body = list(network[-1].parameters()), [one for layer in network[:-1] for one in layer.parameters()]
    groups = [{"params": head, "rate_factor": 1.0}, {"params": body, "rate_factor": 0.1}]
    optimizers = entry.build(groups, 0.1, {})
    factors = {
        id(parameter): group["rate_factor"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert factors == {**{id(one): 1.0 for one in head}, **{id(one): 0.1 for one in body}}
    count = sum(len(group["params"]) for optimizer in optimizers for group in optimizer.param_groups)
    assert count == len(head) + len(body)


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=by_name)
def test_every_setting_is_a_field_of_the_config_and_its_default_is_allowed(entry):
    assert set(entry.settings) <= set(FinetuneConfig.model_fields)
    config = parse({"optimizer": entry.name, "learning_rate": entry.learning_rate, **entry.settings})
    assert config.optimizer_settings() == dict(entry.settings)


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=by_name)
def test_defaults_are_those_of_torch_but_for_the_named_ones(entry):
    signature = inspect.signature(getattr(optim, entry.algorithm))
    arguments = torch_arguments(entry.settings)
    theirs = {name: signature.parameters[name].default for name in arguments}
    assert {(entry.name, name) for name in arguments if arguments[name] != theirs[name]} == {
        pair for pair in OTHER_DEFAULTS if pair[0] == entry.name
    }


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=by_name)
def test_entry_explains_itself_and_cites_its_source(entry):
    assert OPTIMIZERS[entry.name] is entry
    assert entry.title
    assert entry.summary.endswith(".")
    assert any(letter.isdigit() for letter in entry.paper)
    assert entry.url.startswith("https://")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_on_cuda_is_fused_where_torch_has_that(name):
    """Of fake tensors that say they are on a GPU; torch refuses what it cannot fuse."""

    def fused(device: str) -> list[bool]:
        groups = [
            {"params": [nn.Parameter(torch.empty(4, 3, device=device)), nn.Parameter(torch.empty(4, device=device))]}
        ]
        return [bool(built.defaults.get("fused")) for built in OPTIMIZERS[name].build(groups, 0.1, {})]

    with FakeTensorMode():
        assert fused("cuda") == ([False, True] if name == "muon" else [name in FUSED_ENTRIES])
    assert not any(fused("cpu"))
