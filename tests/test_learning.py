"""Small networks that learn, beside torch.optim; what is seen in them; and what may be asked."""

import math
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from dlkit.catalog.point_sets import POINT_SETS
from dlkit.catalog.updates import RULES
from dlkit.errors import ConfigError, DatasetError, DivergedError, DlkitError
from dlkit.lab import asked
from dlkit.lab.backpropagation import sum_written_out, written_out
from dlkit.lab.learning import NETWORK_RULES, Task, Training
from dlkit.lab.looking import flow, health, maps
from dlkit.lab.network import Network, Plan
from dlkit.lab.perceptron import Perceptron, after, next_mistake
from dlkit.lab.points import DOMAIN, MOST_BYTES, by_hand, drawn, read_csv
from dlkit.lab.softmax import softmax
from tests.small_networks import gradient_of, in_torch, parameter_of

CIRCLES = drawn("circles", 120, 2, 0.05, 0)
#: torch's optimizer of each rule
TORCH = {
    "gradient-descent": (torch.optim.SGD, {}),
    "sgd": (torch.optim.SGD, {"weight_decay": 0.01}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "lbfgs": (torch.optim.LBFGS, {"max_iter": 1, "history_size": 10, "tolerance_grad": 0, "tolerance_change": 0}),
}


def task(points=CIRCLES, **values):
    return asked.read({"optimizer": "adam", **values}, points)


def close(found, wanted, tolerance=1e-12):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


# Beside torch


@pytest.fixture
def float64():
    """NAdam keeps its product of momenta in torch's default type."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


@pytest.mark.parametrize("rule", NETWORK_RULES)
def test_every_rule_moves_the_weights_as_torch_does(rule, float64):
    values = {"l1": 0.001, "l2": 0.01, "activation": "tanh", "hidden": "5,4"}
    # before batch norm a bias has a gradient of rounding alone, which rules that divide by its size turn into a step
    values |= {"batch_norm": "on"} if rule in ("sgd", "momentum", "nesterov") else {}
    values |= {} if RULES[rule].is_exact else {"batch": 30}
    training = Training(task(optimizer=rule, **values))
    model = in_torch(training.network)
    kind, settings = TORCH[rule]
    if rule == "sgd":
        training = Training(task(optimizer=rule, weight_decay=0.01, **values))
    optimizer = kind(model.parameters(), lr=training.task.learning_rate, **settings)
    points, labels = training.task.points.train()
    for _ in range(12):
        step = training.step()

        def loss(batch=step.look.examples):
            optimizer.zero_grad()
            value = functional.cross_entropy(model(torch.tensor(points[batch])), torch.tensor(labels[batch]))
            weights = [parameter_of(model, name) for name in training.network.named if name.endswith("weight")]
            value = value + sum(0.001 * weight.abs().sum() + 0.005 * (weight**2).sum() for weight in weights)
            value.backward()
            return value

        if rule == "lbfgs":
            found = optimizer.step(loss)
        else:
            found = loss()
            close(step.look.gradient, gradient_of(model, training.network))
            optimizer.step()
        close(step.look.loss, found.item())
        moved = [parameter_of(model, name).detach().numpy().ravel() for name in training.network.named]
        close(training.network.parameters, np.concatenate(moved))


def test_network_rules_are_all_but_newtons():
    assert set(TORCH) == set(NETWORK_RULES) == set(RULES) - {"newton"}


# Learning


@pytest.mark.parametrize("rule", NETWORK_RULES)
def test_every_rule_learns_circles_at_its_own_rate(rule):
    training = Training(task(drawn("circles", 300, 2, 0.03, 0), optimizer=rule, activation="tanh"))
    for _ in range(400 if RULES[rule].is_exact else 60):
        training.epoch()
    first, last = training.curve[0], training.measure()
    assert last.train_accuracy > 0.95, rule
    assert last.train_loss < first.train_loss / 2


@pytest.mark.parametrize(
    ("data", "classes", "hidden"), [("spiral", 3, "16,16"), ("xor", 2, "8"), ("moons", 2, "8"), ("blobs", 6, "")]
)
def test_network_learns_every_set(data, classes, hidden):
    training = Training(asked.read({"data": data, "classes": classes, "hidden": hidden, "noise": 0.02, "l2": 1e-4}))
    for _ in range(120):
        training.epoch()
    assert training.measure().test_accuracy > 0.93


def test_epoch_sees_every_example_once_and_its_batches_are_of_like_size():
    training = Training(task(batch=25))
    count = len(training.task.points.train()[1])
    seen = [training.step().look.examples for _ in range(training.task.batches_per_epoch)]
    assert sorted(np.concatenate(seen)) == list(range(count))
    assert {len(batch) for batch in seen} <= {count // 4, count // 4 + 1}
    assert training.epochs == 1
    assert training.epoch().number == 8
    assert training.epochs == 2


def test_one_example_can_be_learnt_out_of_turn():
    training = Training(task())
    training.step([7])
    assert (training.steps, training.epochs) == (1, 0)
    points, labels = training.task.points.train()
    for _ in range(300):
        training.step([7])
    assert softmax(training.network.logits(points[7:8]))[0, labels[7]] > 0.99


@pytest.mark.parametrize(
    ("examples", "batch_norm", "words"),
    [
        ([3], "on", "has no variance"),
        ([], "off", "some of 0 to 95"),
        ([96], "off", "got [96]"),
        ([-1], "off", "got [-1]"),
    ],
)
def test_examples_that_cannot_be_learnt_from_get_a_sentence(examples, batch_norm, words):
    training = Training(task(batch_norm=batch_norm))
    before = training.network.parameters.copy()
    with pytest.raises(ConfigError) as caught:
        training.step(examples)
    assert words in str(caught.value)
    np.testing.assert_array_equal(training.network.parameters, before)


def test_same_task_is_the_same_training_also_with_dropout():
    one, other = (Training(task(dropout=0.4)) for _ in range(2))
    for training in (one, other):
        training.epoch()
    np.testing.assert_array_equal(one.network.parameters, other.network.parameters)


def test_step_that_would_leave_the_numbers_is_not_taken():
    training = Training(task(optimizer="sgd", learning_rate=1000, activation="linear", l2=10))
    before = training.network.parameters.copy()

    def learn():
        for _ in range(100):
            before[:] = training.network.parameters
            training.step()

    with pytest.raises(DivergedError, match="Try a learning rate of 100\\.") as caught:
        learn()
    np.testing.assert_array_equal(training.network.parameters, before)
    assert np.isfinite(training.measure().train_loss)
    assert caught.value.step == training.steps + 1
    calmer = training.changed(task(training.task.points, optimizer="sgd", learning_rate=0.001, activation="linear"))
    assert calmer.step().number > 0


def test_rate_and_batch_change_while_the_network_goes_on_and_its_shape_begins_anew():
    training = Training(task())
    training.epoch()
    own = training.task.points
    points = {"points": own}
    faster = training.changed(replaced(training.task, learning_rate=0.1, batch=10))
    assert faster.network is training.network
    assert faster.epochs == 1
    assert faster.step().values["t"] == training.steps + 1  # the rule remembers
    again = training.changed(asked.read({"learning_rate": 0.2}, CIRCLES))  # what a form gives has drawn its points anew
    assert again.network is training.network
    assert training.changed(asked.read({"test": 0.5}, CIRCLES)).network is not training.network
    other_rule = faster.changed(replaced(faster.task, rule="sgd"))
    assert other_rule.network is training.network
    assert other_rule.step().values["t"] == 1
    wider = faster.changed(Task(Plan((9,)), **points))
    assert wider.steps == 0
    assert wider.network.named["1.weight"].shape == (9, 2)


def replaced(old, **changes):
    return Task(**{**old.__dict__, **changes})


def test_curve_begins_untrained_and_stays_short():
    training = Training(task(drawn("blobs", 40, 2, 0.05, 0)))
    assert (training.curve[0].step, training.curve[0].epoch) == (0, 0)
    for _ in range(2500):
        training.measure()
    assert len(training.curve) <= 1001
    assert training.curve[0].step == 0


def test_no_test_points_have_no_test_loss():
    measured = Training(task(test=0)).measure()
    assert (measured.test_loss, measured.test_accuracy) == (None, None)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "nadam", "lbfgs"])
@pytest.mark.parametrize("batch_norm", ["on", "off"])
def test_sixty_steps_a_second_cost_a_small_part_of_a_core(optimizer, batch_norm):
    """2-8-8-3 on 500 points, all of them each step; `python -m benchmarks.networks` has the figures."""
    training = Training(
        asked.read({"data": "spiral", "classes": 3, "optimizer": optimizer, "batch_norm": batch_norm, "test": 0})
    )
    training = training.changed(replaced(training.task, batch=None))
    assert len(training.look(np.arange(500)).examples) == 500
    before = time.process_time()
    for _ in range(60):
        training.step()
    assert time.process_time() - before < 0.25


# Looks


def test_maps_are_what_each_unit_says_of_the_plane():
    network = Network(Plan((3, 4), 2))
    found = maps(network, count=5)
    assert [one.shape for one in found] == [(3, 5, 5), (4, 5, 5), (2, 5, 5)]
    _, right, low, _ = DOMAIN
    corner = network.forward(np.array([[right, low]]))
    close(found[0][:, 0, -1], corner[0].outputs[0])
    close(found[2][:, 0, -1], softmax(corner[2].outputs[0]))
    close(found[2].sum(0), np.ones((5, 5)))


def test_dead_units_are_counted():
    training = Training(task(hidden="6,4"))
    training.network.named["1.bias"][:2] = -100
    training.network.named["2.bias"][3] = -100
    step = training.step()
    points, _ = training.task.points.train()
    found = health(training.network, points, step)
    passes = in_torch(training.network).eval()
    first = torch.relu(passes[0].linear(torch.tensor(points)))
    second = torch.relu(passes[1].linear(first))
    wanted = [int((signal == 0).all(0).sum()) for signal in (first, second)]
    assert [layer.dead for layer in found] == [*wanted, 0]
    assert wanted[0] >= 2
    assert wanted[1] >= 1
    assert found[0].resting == pytest.approx((first == 0).double().mean().item())


def test_norms_are_of_the_weights_their_gradient_and_the_step():
    training = Training(task(hidden="6,4"))
    before = {name: values.copy() for name, values in training.network.named.items()}
    step = training.step()
    for layer in health(training.network, training.task.points.points, step):
        moved = training.network.named[f"{layer.number}.weight"] - before[f"{layer.number}.weight"]
        assert layer.step_norm == pytest.approx(np.linalg.norm(moved))
        assert layer.ratio == pytest.approx(layer.step_norm / layer.weight_norm)
        assert layer.gradient_norm == pytest.approx(np.linalg.norm(step.look.backs[layer.number - 1].weight))


@pytest.mark.parametrize(
    ("activation", "initialisation", "word"),
    [
        ("sigmoid", "pytorch", "vanishes"),
        ("tanh", "small", "vanishes"),
        ("linear", "large", "explodes"),
        ("relu", "he-normal", ""),
        ("relu", "zeros", "cannot learn"),
    ],
)
def test_gradient_that_vanishes_or_explodes_is_told(activation, initialisation, word):
    training = Training(task(hidden="16,16,16,16,16", activation=activation, initialisation=initialisation))
    layers = health(training.network, training.task.points.points, training.step())
    assert word in flow(layers)
    assert bool(word) == bool(flow(layers))


# Backpropagation written out


def test_lines_of_one_example_are_the_numbers_by_hand():
    """A network of two units, with pencil and paper."""
    training = Training(task(hidden="2", activation="relu"))
    named = training.network.named
    named["1.weight"][:], named["1.bias"][:] = [[1, 2], [-1, 0.5]], [0.5, 0]
    named["2.weight"][:], named["2.bias"][:] = [[1, -1], [2, 1]], [0, -1]
    training._points[0], training._labels[0] = (0.5, -0.5), 1
    lines = {(line.way, line.symbol): line for line in written_out(training, training.look(np.array([0])))}
    close(lines["forward", "z_{1}"].values, [0.0, -0.75])
    named["1.bias"][0] = 1.0
    lines = {(line.way, line.symbol): line for line in written_out(training, training.look(np.array([0])))}
    close(lines["forward", "z_{1}"].values, [0.5, -0.75])
    close(lines["forward", "a_{1}"].values, [0.5, 0])
    close(lines["forward", "z_{2}"].values, [0.5, 0.0])
    right = 1 / (1 + math.exp(0.5))
    close(lines["forward", r"\ell"].values, -math.log(right))
    miss = np.array([1 - right, right - 1])
    by = r"\frac{\partial L}{\partial %s}"
    close(lines["backward", by % "z_{2}"].values, miss)
    close(lines["backward", by % "W_{2}"].values, np.outer(miss, [0.5, 0]))
    close(lines["backward", by % "a_{1}"].values, [miss[0] + 2 * miss[1], -miss[0] + miss[1]])
    close(lines["backward", by % "z_{1}"].values, [miss[0] + 2 * miss[1], 0])
    close(lines["backward", by % "W_{1}"].values, np.outer([miss[0] + 2 * miss[1], 0], [0.5, -0.5]))
    assert lines["backward", by % "a_{1}"].formula == rf"W_{{2}}^\top \, {by % 'z_{2}'}"
    look = training.look(np.array([0]))
    training.network.parameters[:] = 7  # what was looked at stays as it was
    written = r"1 \cdot 0.5 + 2 \cdot \left(-0.5\right) + 1 = 0.5"
    assert sum_written_out(training.network, look, 1, 0) == written


@pytest.mark.parametrize(
    "values", [{"l1": 0.1, "l2": 1e-3}, {"batch_norm": "on"}, {"dropout": 0.5}, {"batch_norm": "on", "dropout": 0.5}]
)
def test_every_gradient_has_its_line(values):
    training = Training(task(hidden="3,2", **values))
    look = training.look(np.arange(20))
    lines = written_out(training, look, row=4)
    gradients = training.network.parts(look.gradient)
    for name, gradient in gradients.items():
        number, own = name.split(".")
        symbol = {"weight": f"W_{{{number}}}", "bias": f"b_{{{number}}}", "scale": r"\gamma", "shift": r"\beta"}[own]
        (line,) = [
            line
            for line in lines
            if line.layer == int(number) and line.symbol == rf"\frac{{\partial L}}{{\partial {symbol}}}"
        ]
        close(line.values, gradient)
    assert all(line.formula.count("{") == line.formula.count("}") for line in lines)
    assert all(line.formula.count(r"\left") == line.formula.count(r"\right") for line in lines)


# The perceptron


def test_perceptron_steps_down_its_loss_as_torch_does():
    """Its rule is a step of gradient descent on max(0, -side·sum), whose slope at 0 is taken as 1."""
    points = drawn("blobs", 60, 2, 0.2, 1)
    perceptron = Perceptron(points, rate=0.5, seed=3)
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(100):
        seen = perceptron.step()
        total = weights @ torch.tensor(points.points[seen.place]) + bias
        assert seen.sum == pytest.approx(total.item(), abs=1e-12)
        if seen.side * total.item() <= 0:
            (-seen.side * total).backward()
            with torch.no_grad():
                weights -= 0.5 * weights.grad
                bias -= 0.5 * bias.grad
            weights.grad = bias.grad = None
        close(perceptron.weights, weights.detach())
        close(perceptron.bias, bias.item())


def test_perceptron_ends_where_a_line_parts_the_classes_within_novikoffs_bound():
    perceptron = Perceptron(drawn("blobs", 200, 2, 0.02, 0))
    for _ in range(200 * 20):
        perceptron.step()
    assert not len(perceptron.wrong())
    assert 0 < perceptron.mistakes <= perceptron.longest() < math.inf


def test_perceptron_never_ends_on_xor():
    points = drawn("xor", 200, 2, 0.0, 0)
    perceptron = Perceptron(points)
    fewest = min(len(perceptron.wrong()) for _ in range(40) if [perceptron.step() for _ in range(200)])
    assert fewest > 30
    assert perceptron.longest() == math.inf


def test_perceptron_takes_two_classes():
    with pytest.raises(ConfigError, match="parts two classes; there are 3"):
        Perceptron(drawn("blobs", 30, 3, 0.1, 0))


# Points


@pytest.mark.parametrize("name", POINT_SETS)
def test_set_has_its_classes_inside_the_plot_and_is_a_function_of_its_seed(name):
    for classes in POINT_SETS[name].classes:
        points, again, other = (drawn(name, 400, classes, 0.03, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(points.points, again.points)
        assert not np.array_equal(points.points, other.points)
        counts = np.bincount(points.labels, minlength=classes)
        assert counts.max() - counts.min() <= 1
        assert np.abs(points.points).max() < DOMAIN[1]


def test_split_keeps_a_share_of_each_class():
    points = drawn("blobs", 300, 3, 0.1, 0).split(0.2, 7)
    _, labels = points.test()
    assert np.bincount(labels).tolist() == [20, 20, 20]
    assert len(points.train()[1]) == 240
    few = by_hand([(0, 0, "a"), (0, 1, "b"), (1, 1, "b"), (1, 0, "b")]).split(0.9, 0)
    assert set(few.train()[1]) == {0, 1}


@pytest.mark.parametrize(
    "text",
    [
        "x,y,class\n1,2,red\n3,4,blue\n5,6,red\n-1,0,blue\n",
        "1;2;red\r\n3;4;blue\r\n5;6;red\r\n-1;0;blue",
        "\ufeff1\t2\tred\n\n3\t4\tblue\n5\t6\tred\n-1\t0\tblue\n\n",
    ],
)
def test_csv_is_read_and_scaled(text):
    points = read_csv(text.encode())
    assert points.classes == ("blue", "red")
    assert points.labels.tolist() == [1, 0, 1, 0]
    close(points.points, [[-1 / 3, -1 / 3], [1 / 3, 1 / 3], [1, 1], [-1, -1]])


def test_numbers_as_classes_stand_in_their_order():
    assert by_hand([(0, 0, 10), (0, 1, 9), (1, 1, 2), (1, 0, 10)]).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "from 4 to 5,000 points; got 0"),
        (b"x,y,class\n", "got 0"),
        (b"1,2,a\n1,x,b\n1,2,a\n1,2,b\n", "Line 2: y must be a number; got 'x'."),
        (b"1,2,a\n1,2,b\nnan,2,a\n1,2,b\n", "Line 3: x must be a number; got 'nan'."),
        (b"1,2,a\n1,2\n1,2,a\n1,2,b\n", "Line 2 must have three cells"),
        (b"1,2,a\n" * 8, "from 2 to 10 classes to tell apart; got 1"),
        (b"".join(b"1,2,c%d\n" % number for number in range(11)), "got 11"),
        (b"1,2,\n" * 5, "name a class"),
        (b"1,2,a\n" * 5001, "got 5,001"),
        (b"\xff\xfe1,2,a", "UTF-8"),
        (b"1,2,a\n" * (MOST_BYTES // 6 + 1), "1,000 kB"),
        (b"the quick brown fox\n" * 5, "three cells"),
        (b"1e999,2,a\n1,2,b\n" * 3, "must be a number"),
    ],
)
def test_csv_that_cannot_be_learnt_from_gets_a_sentence(data, words):
    with pytest.raises(DatasetError) as caught:
        read_csv(data)
    assert words in str(caught.value)


def test_point_by_hand_is_named():
    with pytest.raises(DatasetError, match="Point 2: x must be a number"):
        by_hand([(0, 0, "a"), ("?", 0, "b"), (0, 0, "a"), (0, 1, "b")])


# What is asked


def test_defaults_are_a_story_at_once():
    found = asked.read({})
    assert (found.plan, found.rule, found.learning_rate, found.batch) == (Plan(), "adam", 0.03, 32)
    assert len(found.points.test()[1]) == 100
    assert asked.read({"optimizer": "lbfgs"}).batch is None
    assert asked.read({"hidden": ""}).plan.hidden == ()
    assert asked.read({"optimizer": "momentum", "momentum": "0.5"}).settings == {"momentum": 0.5}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden": "0"}, "Units of a layer (hidden) must be a whole number from 1 to 64; got 0."),
        ({"hidden": "8,1000000"}, "got 1000000"),
        ({"hidden": "1,1,1,1,1,1,1,1,1"}, "8 hidden layers; got 9"),
        ({"hidden": "8,,8"}, "as in 8,8"),
        ({"hidden": "eight"}, "got eight"),
        ({"activation": "sine"}, "no activation called 'sine'"),
        ({"initialisation": "ones"}, "no initialisation"),
        ({"optimizer": "newton"}, "every pair of weights. Choose one of: gradient-descent"),
        ({"optimizer": "muon"}, "no optimizer called 'muon'"),
        ({"data": "photos"}, "no data set"),
        ({"data": "xor", "classes": 3}, "XOR has 2 classes; got 3"),
        ({"data": "circles", "classes": 6}, "2 to 5 classes"),
        ({"dropout": 1}, "Dropout"),
        ({"batch_norm": "on", "batch": 1}, "has no variance"),
        ({"batch_norm": "maybe"}, "must be on or off; got maybe"),
        ({"optimizer": "lbfgs", "batch": 8}, "Leave the batch empty"),
        ({"momentum": 0.9}, "momentum is not a setting of adam"),
        ({"beta1": 2}, "Beta 1"),
        ({"learning_rate": -1}, "Learning rate"),
        ({"learning_rate": "nan"}, "Learning rate"),
        ({"count": 1e9}, "Points (count)"),
    ],
)
def test_what_cannot_be_learnt_gets_a_sentence(values, words):
    with pytest.raises(DlkitError) as caught:
        asked.read(values)
    assert words in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        asked.read({"hidden": "0", "dropout": 2, "batch": 0, "l1": -1})
    assert len(caught.value.problems) == 4


def test_perceptron_after_so_many_examples_is_the_one_that_saw_them():
    points = drawn("xor", 40, 2, 0.0, 0)
    perceptron = Perceptron(points, 0.5, seed=2)
    steps = [perceptron.step() for _ in range(100)]
    found = after(points, 100, 0.5, seed=2)
    close(found.perceptron.weights, perceptron.weights)
    assert found.mistakes == tuple(sum(step.is_mistake for step in steps[at : at + 40]) for at in (0, 40, 80))
    mistakes = [step.number for step in steps if step.is_mistake]
    assert next_mistake(points, mistakes[3], 1000, 0.5, seed=2) == mistakes[4]


def test_perceptron_without_a_mistake_left_goes_to_the_end():
    points = drawn("blobs", 40, 2, 0.0, 0)
    assert next_mistake(points, 400, 500) == 500
