"""The code that lessons show is run, and gives what they show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.catalog.formulas import read_formula
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.sums import POINT_SETS, SUMS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.data.images import read_image
from dlkit.descent.asked import default_rate
from dlkit.descent.losses import FiniteSum, Surface
from dlkit.descent.race import Competitor, race
from dlkit.engine import inside
from dlkit.engine.one_step import update_of
from dlkit.lab import asked, rules, softmax
from dlkit.lab.code import (
    code_of_descent,
    code_of_graph,
    code_of_layer,
    code_of_perceptron,
    code_of_question,
    code_of_rule,
    code_of_step,
    code_of_task,
)
from dlkit.lab.graph import graph_of
from dlkit.lab.learning import NETWORK_RULES
from dlkit.lab.network import Network
from dlkit.lab.points import drawn
from tests.small_networks import in_torch

PHOTO = Path(__file__).parents[1] / "dlkit" / "samples" / "photos" / "chelsea.jpg"


@pytest.fixture(autouse=True)
def usual_type():
    yield
    torch.set_default_dtype(torch.float32)


def run(code, **names):
    exec(compile(code, "shown", "exec"), names)
    return names


@pytest.mark.parametrize(
    "text",
    [
        "x*y + x",
        "tanh(w1*x + 0.5)^2/2",
        "max(0, x) + min(y, 2*3) - max(x, y)",
        "pi*x + e + sin(2)*y + sqrt(abs(y)) + sin(cos(1))",
        "torch*math + result - print*float",
        "-x^2 + 2^x + sign(y)",
    ],
)
def test_code_of_a_graph_gives_its_value_and_gradients(text):
    values = {"x": 0.5, "y": -1.25, "w1": 2.0, "torch": 3.0, "math": 4.0, "result": 5.0, "print": 6.0, "float": 7.0}
    graph = graph_of(text, values)
    found = run(code_of_graph(text, graph))
    assert float(found["result"]) == pytest.approx(graph.value, rel=1e-12)
    for name, gradient in graph.gradients().items():
        variable = found[name if name in ("x", "y", "w1") else f"{name}_"]
        assert variable.grad.item() == pytest.approx(gradient, rel=1e-12), name


def test_code_of_numbers_alone_runs():
    run(code_of_graph("2*3 + pi", graph_of("2*3 + pi", {})))


@pytest.mark.parametrize(
    "values",
    [
        {"logits": "2, 1, -1"},
        {"logits": "2, 1, -1", "label": 2, "temperature": 2, "smoothing": 0.1, "weights": "1, 2, 0.5"},
    ],
)
def test_code_of_cross_entropy_gives_its_loss_and_gradient(values):
    question = softmax.read(values)
    found, judged = run(code_of_question(question)), question.judge()
    assert found["loss"].item() == pytest.approx(judged.loss, rel=1e-12)
    np.testing.assert_allclose(found["logits"].grad, judged.gradient, rtol=1e-12)
    np.testing.assert_allclose(found["probabilities"].detach(), judged.probabilities, rtol=1e-12)


POINTS = drawn("circles", 300, 2, 0.03, 0)


@pytest.mark.parametrize("rule", NETWORK_RULES)
def test_code_of_every_rule_learns(rule):
    task = asked.read({"optimizer": rule, "activation": "tanh", "test": 0}, POINTS)
    code = code_of_task(task)
    # one step for each batch, but for rules that take all points in one
    code = code.replace("range(100)", "range(400)") if RULES[rule].is_exact else code.replace("range(100)", "range(60)")
    found = run(code, points=torch.tensor(POINTS.points), labels=torch.tensor(POINTS.labels))
    right = found["model"].eval()(torch.tensor(POINTS.points)).argmax(1) == torch.tensor(POINTS.labels)
    assert right.double().mean() > 0.95
    (group,) = found["optimizer"].param_groups
    assert group["lr"] == task.learning_rate


@pytest.mark.parametrize(
    "values",
    [
        {"hidden": "", "l1": 0.01},
        {"hidden": "5", "batch_norm": "on", "dropout": 0.2, "l2": 0.01, "batch": 7},
        *({"activation": name} for name in ACTIVATIONS),
        *({"initialisation": name} for name in INITIALISATIONS),
        {"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_code_of_a_network_has_its_layers_and_loss(values):
    task = asked.read({"test": 0, **values}, POINTS)
    names = {"points": torch.tensor(POINTS.points), "labels": torch.tensor(POINTS.labels)}
    found = run(code_of_task(task).replace("range(100)", "range(1)"), **names)
    layers = [layer for layer in in_torch(Network(task.plan)).modules() if not isinstance(layer, nn.Sequential)]
    wanted = [str(layer) for layer in layers if task.plan.dropout or not isinstance(layer, nn.Dropout)]
    assert [str(layer) for layer in found["model"]] == wanted
    assert ("l1" in values) == (".abs()" in code_of_task(task))
    assert ("l2" in values) == ("**2" in code_of_task(task))
    if "momentum" in values:
        (group,) = found["optimizer"].param_groups
        assert (group["momentum"], group["weight_decay"]) == (0.5, 0.1)


def test_code_says_what_torch_cannot_do():
    assert "torch always corrects the bias" in code_of_task(asked.read({"bias_correction": 0}, POINTS))
    assert "torch always" not in code_of_task(asked.read({}, POINTS))


def test_code_of_the_perceptron_finds_a_line():
    points, labels = drawn("blobs", 60, 2, 0.03, 0).train()
    found = run(code_of_perceptron(0.5), points=torch.tensor(points), labels=torch.tensor(labels))
    assert found["mistakes"] == 0
    assert (((torch.tensor(points) @ found["weights"] + found["bias"]) > 0) == torch.tensor(labels == 1)).all()


@pytest.mark.parametrize(("layer", "is_last"), [("body.blocks.1.0.bn1", False), ("head", True)])
def test_code_of_a_layer_prints_the_value_that_is_shown(layer, is_last, capsys):
    image, index = read_image(PHOTO), (281,) if is_last else (5, 20, 30)
    code = code_of_layer(layer, 1, index, is_imagenet=True, is_last=is_last)
    run(code.replace('Path("photo.jpg")', f"Path({str(PHOTO)!r})"))
    seen = inside.look(inside.Source(), image, layer)
    printed = [float(line.removeprefix("tensor(").removesuffix(")")) for line in capsys.readouterr().out.splitlines()]
    shown = [float(seen.outputs[index]), *([seen.probability(281).value] if is_last else [])]
    assert printed == pytest.approx(shown, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "muon"])
@pytest.mark.parametrize("steps", [0, 3])
def test_code_of_a_step_takes_the_step_that_is_shown(optimizer, steps):
    torch.set_default_dtype(torch.float64)
    entry, draw = OPTIMIZERS[optimizer], torch.Generator().manual_seed(1)
    weights = nn.Parameter(torch.randn(2, 3, generator=draw))
    (made,) = entry.build([{"params": [weights]}], 0.01, {"weight_decay": 0.02})
    for _ in range(steps):
        weights.grad = torch.randn(2, 3, generator=draw)
        made.step()
    weights.grad = torch.randn(2, 3, generator=draw)
    one = update_of(optimizer, made, made.param_groups[0], weights, 0.01).at((1, 2))
    found = run(code_of_step(one.rule, one.given, one.memory))
    assert (found["w"].detach() - found["before"]).item() == pytest.approx(float(one.delta), rel=1e-12, abs=1e-16)


def test_code_of_a_rule_judges_it_and_the_network():
    question = rules.Question("moons")
    points, test = question.points()
    formula = read_formula(rules.WRITTEN["moons"], ("x", "y"))
    code = code_of_rule(formula, rules.task_of(points, 50, 0)).replace("range(100)", "range(1)")
    names = {"points": torch.tensor(test.points), "labels": torch.tensor(test.labels)}
    assert (run(code, **names)["says"].numpy() == rules.says(formula, test.points)).all()


@pytest.mark.parametrize("rule", RULES)
def test_code_of_a_descent_ends_where_the_race_ends(rule):
    entry = SURFACES["ravine"]
    start, loss = (-1.5, 0.75), Surface.of(entry)
    competitor = Competitor(rule, default_rate(entry.rates, rule), {"weight_decay": 0.01} if rule == "adam" else {})
    found = run(code_of_descent(loss, competitor, start, 20))
    (path,) = race(loss, [competitor], [start], 20 * competitor.entry.evaluations)
    np.testing.assert_allclose(found["w"].detach().numpy(), path.points[-1], rtol=1e-9, atol=1e-12)
    assert float(found["loss_of"](found["w"])) == pytest.approx(float(path.values[-1]), rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("text", ["x^2", "3", "pi*y", "abs(x) + max(y, 0)"])
def test_code_of_a_descent_takes_any_formula(text):
    loss = Surface(read_formula(text), (-2, 2, -2, 2))
    found = run(code_of_descent(loss, Competitor("adam", 0.1), (1.0, 1.0), 3))
    (path,) = race(loss, [Competitor("adam", 0.1)], [(1.0, 1.0)], 3)
    np.testing.assert_allclose(found["w"].detach().numpy(), path.points[-1], rtol=1e-12)


@pytest.mark.parametrize("kind", SUMS)
@pytest.mark.parametrize("batch", [None, 4])
def test_code_of_a_descent_over_examples(kind, batch):
    loss = FiniteSum.of(kind, POINT_SETS[SUMS[kind].points].points)
    competitor = Competitor("sgd", 0.1, batch=batch)
    (path,) = race(loss, [Competitor("sgd", 0.1)], [(-3.0, 3.0)], 50)
    found = run(code_of_descent(loss, competitor, (-3.0, 3.0), 50))["w"].detach().numpy()
    np.testing.assert_allclose(found, path.points[-1], **({"atol": 1} if batch else {"rtol": 1e-12}))
