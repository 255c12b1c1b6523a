"""One step of a run beside the step that its training takes, and its rule beside torch.optim in float64."""

import numpy as np
import pytest
import torch

from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.engine.one_step import one_step, update_of
from dlkit.engine.phases import begin_phase, set_modes
from dlkit.engine.steps import step_at
from dlkit.engine.training import train
from dlkit.errors import ConfigError
from tests.small_learner import first_batch, one_thread, small_learner

pytestmark = pytest.mark.usefixtures("every_step")
threads = pytest.fixture(autouse=True, scope="module")(one_thread)


def after(steps, **values):
    """Return the state of a small training after some steps."""
    learner = small_learner(**values)
    reports = train(learner)
    next(reports)
    while learner.step < steps:
        next(reports)
    assert learner.step == steps
    return learner.state()


def restored(state, **values):
    learner = small_learner(**values)
    learner.restore(state)
    return learner


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "muon"])
@pytest.mark.parametrize("steps", [0, 5])
def test_rule_does_what_torch_does_to_the_weights_in_float64(optimizer, steps):
    entry = OPTIMIZERS[optimizer]
    draw = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64))
    settings = {**entry.settings, "weight_decay": 0.02}
    (made,) = entry.build([{"params": [weights]}], 0.01, settings)
    default, found = torch.get_default_dtype(), None
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(steps + 1):
            weights.grad = torch.randn(4, 3, generator=draw, dtype=torch.float64)
            found = update_of(optimizer, made, made.param_groups[0], weights, 0.01)
            before = weights.detach().clone()
            made.step()
            np.testing.assert_allclose(found.weights, before, rtol=0)
            np.testing.assert_allclose(before + found.delta, weights.detach(), rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(default)
    assert list(found.lines)[-1] == "delta"
    assert found.lines.keys() == found.values.keys()


PARAMETERS = {
    "head": ("head.weight", "head.bias"),
    "partial": ("head.weight", "body.3.weight", "body.4.weight"),
    "full": ("head.weight", "body.0.weight", "body.1.bias"),
}


@pytest.mark.parametrize("strategy", PARAMETERS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw", "rmsprop", "nadam"])
@pytest.mark.parametrize("steps", [0, 4, 8])
def test_step_is_the_one_that_the_training_takes(strategy, optimizer, steps):
    values = {"strategy": strategy, "optimizer": optimizer, "gradient_clipping": 0.5, "label_smoothing": 0.1}
    values |= {"head_epochs": 1} if strategy != "head" else {}
    state = after(steps, **values)
    for parameter in PARAMETERS[strategy]:
        if (state["phases"][state["position"]["place"]][0], parameter[:4]) == ("head", "body"):
            continue
        learner = restored(state, **values)
        found = one_step(learner, parameter)
        other = restored(state, **values)
        phase = begin_phase(other)
        set_modes(other, phase)
        before = dict(other.model.named_parameters())[parameter].detach().clone()
        other.epoch = other.epoch if strategy == "full" else 0
        group = next(
            group
            for group in other.optimizers[0].param_groups
            if any(dict(other.model.named_parameters())[parameter] is one for one in group["params"])
        )
        rate = float(found.update.given["rate"]) / group["rate_factor"]
        _, loss, norm, _, seen = step_at(other, phase, first_batch(other), rate)
        moved = dict(other.model.named_parameters())[parameter].detach()
        np.testing.assert_array_equal(found.update.weights, before)
        np.testing.assert_allclose(found.update.weights + found.update.delta, moved, rtol=2e-6, atol=1e-7)
        assert (found.loss, found.norm) == pytest.approx((loss, norm))
        assert found.clipping == pytest.approx(min(1, 0.5 / norm), rel=1e-4)
        assert (found.number, len(found.pictures)) == (steps + 1, seen)


def test_rate_is_that_of_the_next_step_and_at_the_end_that_of_the_last():
    values = {"strategy": "head", "schedule": "cosine"}
    points = [point for report in train(small_learner(**values)) for point in report.points]
    taken = [point.value for point in points if point.key == "learning_rate"]
    assert len(set(taken)) == len(taken) > 4
    for steps in (0, 3, len(taken) - 1, len(taken)):
        found = one_step(restored(after(steps, **values), **values), "head.bias")
        assert found.update.given["rate"] == pytest.approx(taken[min(steps, len(taken) - 1)])


def test_outputs_are_of_the_units_of_the_parameters_layer():
    learner = small_learner(strategy="full", head_epochs=0)
    found = one_step(learner, "body.0.weight")
    other = small_learner(strategy="full", head_epochs=0)
    images = other.train.batch(first_batch(other), 0, other.device)
    outputs = other.model.body[0](images).detach().double()
    np.testing.assert_allclose(found.outputs.means, outputs.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found.outputs.deviations, outputs.std((0, 2, 3), correction=0), atol=1e-6)


def test_muon_tells_of_what_it_leaves_to_adamw():
    values = {"strategy": "head", "optimizer": "muon"}
    found = one_step(restored(after(3, **values), **values), "head.bias")
    assert found.update.rule == "adamw"
    with pytest.raises(ConfigError, match="looks at whole matrices"):
        one_step(restored(after(3, **values), **values), "head.weight")


@pytest.mark.parametrize(
    ("parameter", "batch", "words"),
    [
        ("head.wait", 0, "There is no parameter called 'head.wait'. Near to it: head.weight"),
        ("body.0.weight", 0, "does not learn in this phase (head). Choose one of: head.weight, head.bias."),
        ("head.bias", 99, "there is no batch 99"),
        ("head.bias", -1, "has the batches 0 to"),
    ],
)
def test_what_is_not_there_gets_a_sentence(parameter, batch, words):
    with pytest.raises(ConfigError) as caught:
        one_step(small_learner(strategy="head"), parameter, batch)
    assert words in str(caught.value)


def test_single_weight_is_picked_from_the_tensor():
    update = one_step(restored(after(4, strategy="head"), strategy="head"), "head.weight").update
    one = update.at((2, 5))
    assert float(one.delta) == update.delta[2, 5]
    assert float(one.weights) == update.weights[2, 5]
    assert {float(one.given[name]) for name in ("t", "rate")} == {5.0, float(update.given["rate"])}
    for index in ((2,), (3, 0), (0, 6), (-1, 0)):
        with pytest.raises(ConfigError, match=r"has the shape \(3, 6\)"):
            update.at(index)
