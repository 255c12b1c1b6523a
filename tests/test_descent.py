"""Paths against torch.optim, closed forms of the literature, and what is said of them."""

import json
import math
import time

import numpy as np
import pytest
import torch

from benchmarks.descend import TOLERANCE, agreement, draws
from dlkit.__main__ import main
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.descent.asked import default_rate, surface_of
from dlkit.descent.losses import FiniteSum, Surface, known_value
from dlkit.descent.maps import basins, condition, curvature, sweep
from dlkit.descent.race import Chance, Competitor, explained, minibatch, race
from dlkit.descent.verdicts import Status, verdict
from dlkit.errors import ConfigError, DlkitError, FormulaError

BOWL = Surface.of(SURFACES["bowl"])


def one_path(surface, rule, rate, steps, start=None, chance=None, **settings):
    loss = surface if isinstance(surface, Surface | FiniteSum) else Surface.of(SURFACES[surface])
    start = start or SURFACES[surface].start
    budget = steps * RULES[rule].evaluations
    (path,) = race(loss, [Competitor(rule, rate, settings)], [start], budget, chance)
    return path


def judged(surface, rule, rate, steps, start=None, chance=None, **settings):
    loss = Surface.of(SURFACES[surface]) if isinstance(surface, str) else surface
    return verdict(loss, one_path(surface, rule, rate, steps, start, chance, **settings), chance)


# Beside torch


@pytest.mark.parametrize("rule", RULES)
def test_path_is_that_of_torch(rule):
    """A part of `benchmarks.descend`: few surfaces, starts and steps."""
    compared = 0
    for name in ("ravine", "beale", "styblinski-tang", "two-gaussians"):
        for competitor, starts in draws(SURFACES[name], rule, 8, seed=1):
            found = agreement(SURFACES[name], competitor, starts, 60)
            assert found.apart <= TOLERANCE, (name, competitor)
            compared += found.compared
    assert compared > 400


def test_every_optimizer_of_the_training_page_but_muon_is_here():
    assert set(OPTIMIZERS) - {"muon"} <= set(RULES)
    for name in set(OPTIMIZERS) & set(RULES):
        entry, rule = OPTIMIZERS[name], RULES[name]
        assert (rule.title, rule.paper) == (entry.title, entry.paper)
        assert rule.settings.items() >= entry.settings.items()


def test_noise_and_missing_coordinates_reach_every_rule_alike():
    chance = Chance(noise=0.5, present=0.5, seed=3)
    rules = ("sgd", "momentum", "adam")
    paths = race(BOWL, [Competitor(rule, 0.01) for rule in rules], [(1.0, 1.0)], 50, chance)
    drawn = [path.gradients - 2 * path.points[:-1] for path in paths]
    is_here = paths[0].gradients != 0
    assert 0.3 < is_here.mean() < 0.7
    for path, noise in zip(paths, drawn, strict=True):
        assert ((path.gradients != 0) == is_here).all()
        np.testing.assert_allclose(noise[is_here], drawn[0][is_here], atol=1e-12)
    (exact,) = race(BOWL, [Competitor("gradient-descent", 0.01)], [(1.0, 1.0)], 50, chance)
    np.testing.assert_array_equal(exact.gradients, 2 * exact.points[:-1])
    again = race(BOWL, [Competitor("adam", 0.01)], [(1.0, 1.0)], 50, chance)
    np.testing.assert_array_equal(again[0].points, paths[2].points)


def test_noisy_adam_is_torchs_on_the_same_gradients():
    path = one_path("himmelblau", "adam", 0.1, 100, chance=Chance(noise=5, present=0.7))
    weight = torch.tensor(path.points[0], requires_grad=True)
    optimizer = torch.optim.Adam([weight], 0.1)
    for gradient, after in zip(path.gradients, path.points[1:], strict=True):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(weight.detach(), after, rtol=1e-12)


# Closed forms


def test_gradient_descent_on_a_quadratic_shrinks_by_a_factor():
    path = one_path("ravine", "sgd", 0.03, 50)
    factors = np.array((1 - 0.03, 1 - 0.03 * 50))
    wanted = np.array(SURFACES["ravine"].start) * factors ** np.arange(51)[:, None]
    np.testing.assert_allclose(path.points, wanted, rtol=1e-12)


def test_heavy_ball_at_its_optimal_constants_shrinks_by_the_root_of_its_momentum():
    """Polyak 1964: with condition κ the error shrinks by (√κ − 1)/(√κ + 1) a step."""
    root = math.sqrt(50)
    momentum, rate = ((root - 1) / (root + 1)) ** 2, (2 / (root + 1)) ** 2
    path = one_path("ravine", "momentum", rate, 400, momentum=momentum)
    norms = np.linalg.norm(path.points, axis=1)
    shrunk = (norms[350] / norms[50]) ** (1 / 300)
    assert shrunk == pytest.approx(math.sqrt(momentum), rel=0.01)
    plain = one_path("ravine", "momentum", rate * 0.7, 400, momentum=momentum)
    assert norms[100] < np.linalg.norm(plain.points[100])


def test_noise_ball_has_the_variance_of_the_closed_form():
    """w ← w − η(λw + σξ) settles at variance ησ²/(λ(2 − ηλ)), here λ = 2."""
    rate, noise = 0.1, 0.5
    chance = Chance(noise=noise)
    paths = race(BOWL, [Competitor("sgd", rate)], [(0.0, 0.0)] * 2000, 200, chance)
    ends = np.array([path.points[-1] for path in paths])
    assert ends.var() == pytest.approx(rate * noise**2 / (2 * (2 - rate * 2)), rel=0.05)


def test_minibatch_gradient_has_the_variance_of_drawing_without_replacement():
    """f = mean of ½(b − a)²: Var = S²/B · (N − B)/(N − 1)."""
    generator = np.random.default_rng(0)
    targets, size = generator.normal(size=20), 4
    loss = FiniteSum("line", (0.0,) * 20, tuple(targets))
    found = [loss.look(np.zeros((1, 2)), batch=minibatch(20, size, seed, 0)).gradient[0, 1] for seed in range(20_000)]
    assert np.var(found) == pytest.approx(targets.var() / size * (20 - size) / 19, rel=0.05)
    assert np.mean(found) == pytest.approx(-targets.mean(), abs=0.01)


def test_epoch_of_minibatches_sees_every_example_once():
    seen = np.concatenate([minibatch(10, 4, 7, step) for step in range(3)])
    assert sorted(seen) == list(range(10))
    assert sorted(np.concatenate([minibatch(10, 4, 7, step) for step in range(3, 6)])) == list(range(10))
    assert not np.array_equal(minibatch(10, 4, 7, 0), minibatch(10, 4, 7, 3))


def test_batches_cost_their_share_of_the_sum():
    loss = FiniteSum("line", tuple(np.linspace(-1, 1, 20)), tuple(np.linspace(-3, 1, 20)))
    competitors = [
        Competitor("gradient-descent", 0.1),
        Competitor("sgd", 0.1, batch=5),
        Competitor("sgd", 0.1, batch=1),
    ]
    assert [path.steps for path in race(loss, competitors, [(0.0, 0.0)], 10)] == [10, 40, 200]
    assert [path.evaluations * path.steps for path in race(loss, competitors, [(0.0, 0.0)], 10)] == pytest.approx(
        [10] * 3
    )


def test_first_steps_are_those_of_the_papers():
    for scale in (1e-3, 1.0, 1e4):
        loss = Surface(surface_of("", f"{scale:f}*(x - y)").formula, (-5, 5, -5, 5))
        moved = {rule: one_path(loss, rule, 0.1, 1, (0.0, 0.0)).points[1] for rule in ("sgd", "momentum", "adam")}
        np.testing.assert_allclose(moved["adam"], (-0.1, 0.1), rtol=1e-4)  # the rate, against the gradient's sign
        np.testing.assert_array_equal(moved["momentum"], moved["sgd"])
        np.testing.assert_allclose(one_path(loss, "adagrad", 0.1, 1, (0.0, 0.0)).points[1], (-0.1, 0.1), rtol=1e-6)


def test_decay_of_adamw_acts_on_the_weights_and_that_of_adam_on_the_gradient():
    flat = Surface(surface_of("", "0*x").formula, (-5, 5, -5, 5))
    decayed = one_path(flat, "adamw", 0.1, 10, (2.0, -1.0), weight_decay=0.05).points
    np.testing.assert_allclose(decayed, np.array((2.0, -1.0)) * (1 - 0.1 * 0.05) ** np.arange(11)[:, None], rtol=1e-13)
    mixed = one_path(flat, "adam", 0.1, 1, (2.0, -1.0), weight_decay=0.05).points[1]
    np.testing.assert_allclose(mixed, (1.9, -0.9), rtol=1e-5)  # whatever the decay: its size is divided away


def test_newton_ends_quadratics_in_a_step_and_climbs_where_it_curves_down():
    for name in ("bowl", "ravine", "rotated-ravine", "booth", "matyas"):
        assert judged(name, "newton", 1.0, 1).status == Status.CONVERGED
    path = one_path("himmelblau", "newton", 1.0, 20)
    assert path.values[-1] == pytest.approx(181.6165, abs=1e-3)
    assert path.values[0] == 170
    told = judged("himmelblau", "newton", 1.0, 20)
    assert told.status == Status.STUCK
    assert "maximum" in told.reason
    told = judged("monkey-saddle", "newton", 1.0, 5, (0.0, 0.0))
    assert told.status == Status.DIVERGED
    assert "no inverse" in told.reason


# What others get wrong


def test_bias_correction_divides_and_can_be_switched_off():
    on, off = (one_path("bowl", "adam", 0.1, 1, bias_correction=switch).points[1] for switch in (1, 0))
    start, gradient = np.array(SURFACES["bowl"].start), 2 * np.array(SURFACES["bowl"].start)
    np.testing.assert_allclose(on - start, -0.1 * np.sign(gradient), rtol=1e-8)
    np.testing.assert_allclose(
        off - start, -0.1 * 0.1 * gradient / (np.sqrt(0.001) * np.abs(gradient) + 1e-8), rtol=1e-12
    )


def test_value_of_a_step_belongs_to_the_point_of_that_step():
    path = one_path("beale", "adam", 0.1, 30)
    np.testing.assert_array_equal(path.values, Surface.of(SURFACES["beale"]).look(path.points).value)


def test_state_is_of_each_coordinate():
    path = one_path("ravine", "rmsprop", 0.05, 2)
    values = next(explained(path))
    assert values["v"].shape == (1, 2)
    assert values["v"][0, 0] != values["v"][0, 1]


def test_converged_is_said_of_minima_only():
    near = judged("ravine", "sgd", 0.025, 100)
    assert near.status == Status.MOVING
    assert near.gap < 0.1
    assert judged("ravine", "sgd", 0.025, 1000).status == Status.CONVERGED


def test_everyone_has_the_same_budget():
    loss = Surface.of(SURFACES["booth"])
    for path in race(loss, [Competitor(rule, 1e-4) for rule in RULES], [SURFACES["booth"].start], 30):
        assert path.evaluations * path.steps == 30


def test_divergence_is_shown_and_named_and_never_clamped():
    told = judged("ravine", "sgd", 0.052, 200)
    assert told.status == Status.DIVERGED
    assert "2.60, more than 2.00" in told.reason
    path = one_path("ravine", "sgd", 0.052, 200)
    factor = (1 - 0.052 * 50) ** np.arange(path.steps + 1)
    np.testing.assert_allclose(path.points[:, 1], factor, rtol=1e-10)
    assert np.abs(path.points[-1]).max() > 1e5


# What is said of a path


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (("bowl", "sgd", 0.1, 200), Status.CONVERGED, "lowest point"),
        (("rastrigin", "sgd", 2e-3, 500), Status.CONVERGED, "local minimum"),
        (("bowl", "sgd", 1.0, 200), Status.CYCLING, "the edge is 2.00"),
        (("bowl", "rmsprop", 0.25, 500), Status.CYCLING, "as long as the rate"),
        (("plateau", "sgd", 1.0, 300), Status.STUCK, "plateau"),
        (("bowl", "sgd", 1e-9, 300), Status.STUCK, "hardly moves"),
        (("bounded-saddle", "sgd", 0.1, 130, (1.5, 1e-9)), Status.STUCK, "near a saddle"),
        (("saddle", "sgd", 0.1, 500), Status.DIVERGED, "falls without end"),
        (("mccormick", "momentum", 0.15, 40), Status.LEFT, "outside the plotted domain since step"),
        (("rosenbrock", "sgd", 1e-3, 300), Status.MOVING, "last"),
    ],
)
def test_path_is_judged_by_its_numbers(asked, status, reason):
    told = judged(*asked)
    assert (told.status, reason in told.reason) == (status, True), told


def test_noise_is_named_as_what_keeps_a_path_moving():
    told = judged("bowl", "sgd", 0.1, 500, chance=Chance(noise=0.5))
    assert told.status == Status.CYCLING
    assert "noise" in told.reason


def test_path_that_comes_to_where_a_formula_is_not_defined_has_left():
    loss = Surface(surface_of("", "sqrt(x) + y^2").formula, (-5, 5, -5, 5))
    told = judged(loss, "sgd", 0.5, 50, (1.0, 1.0))
    assert told.status == Status.LEFT
    assert "not defined" in told.reason


# Steps and maps


def test_numbers_of_a_step_are_those_it_was_taken_by():
    for rule in RULES:
        path = one_path("beale", rule, default_rate(SURFACES["beale"], rule), 12)
        steps = list(explained(path))
        assert len(steps) == path.steps
        last = min(7, path.steps - 1)
        np.testing.assert_array_equal(path.points[last] + steps[last]["delta"][0], path.points[last + 1])
        np.testing.assert_array_equal(steps[last]["w"][0], path.points[last])
        for name in RULES[rule].memory:
            np.testing.assert_array_equal(steps[last][f"before {name}"], steps[last - 1][name])


def test_basins_of_himmelblau_are_its_four_minima():
    loss = Surface.of(SURFACES["himmelblau"])
    begun = time.process_time()
    found = basins(loss, Competitor("sgd", 0.01), 61, 600)
    assert time.process_time() - begun < 5
    assert len(found.minima) == 4
    for minimum in SURFACES["himmelblau"].minima:
        place = min(range(4), key=lambda at: math.dist(found.minima[at], minimum))
        assert math.dist(found.minima[place], minimum) < 1e-6
        column = int(np.abs(found.across - minimum[0]).argmin())
        row = int(np.abs(found.up - minimum[1]).argmin())
        assert found.ends[row, column] == place
    assert (found.ends >= 0).mean() > 0.9
    start = (float(found.across[10]), float(found.up[40]))
    path = one_path("himmelblau", "sgd", 0.01, 600, start)
    assert math.dist(path.points[-1], found.minima[found.ends[40, 10]]) < 1e-3


def test_sweep_finds_the_edge_of_stability():
    found = sweep(Surface.of(SURFACES["ravine"]), Competitor("sgd", 1.0), SURFACES["ravine"].start, 400)
    assert found.edge == pytest.approx(2 / 50)
    assert found.is_diverged[found.rates > 0.05].all()
    assert not found.is_diverged[found.rates < 0.04].any()
    best = int(np.nanargmin(found.steps))
    path = one_path("ravine", "sgd", float(found.rates[best]), 400)
    reached = int((path.values <= known_value(Surface.of(SURFACES["ravine"])) + 1e-3).argmax())
    assert found.steps[best] == reached


def test_curvature_and_condition_at_a_point():
    values, vectors = curvature(Surface.of(SURFACES["rotated-ravine"]), (0.3, -0.2))
    assert values == pytest.approx([1, 50])
    assert condition(values) == pytest.approx(50)
    assert abs(vectors[:, 0]) == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    assert condition(curvature(Surface.of(SURFACES["monkey-saddle"]), (0, 0))[0]) == math.inf


def test_sparse_coordinate_is_reached_by_rules_that_divide_by_its_size():
    """½(x² + y²), y's gradient present in one step of twenty: what is left of y after 400 steps."""
    loss = Surface(surface_of("", "0.5*(x^2 + y^2)").formula, (-5, 5, -5, 5))
    rates = {"sgd": 0.05, "adagrad": 0.5, "adam": 0.05, "rmsprop": 0.05}
    chance = Chance(present=0.05)
    paths = race(loss, [Competitor(rule, rate) for rule, rate in rates.items()], [(2.0, 2.0)], 400, chance)
    left = {path.competitor.rule: abs(path.points[-1, 1]) for path in paths}
    assert left["sgd"] > 0.4 > 0.3 > max(left["adagrad"], left["adam"], left["rmsprop"])


# The command


def test_command_gives_the_path_and_what_became_of_it(capsys):
    given = ["descend", "--surface", "ravine", "--optimizer", "sgd", "--learning-rate", "0.052", "--steps", "200"]
    assert main([*given, "--start", "-3.5,1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "diverged"
    assert "2.60" in document["reason"]
    assert document["path"][0] == pytest.approx([-3.5, 1, 31.125])
    assert len(document["path"]) == document["steps"] + 1
    assert main(["descend", "--formula", "x^2 + 3*y^2", "--optimizer", "adam", "--noise", "0.1"]) == 0
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learning-rate", "0"], "above 0"),
        (["--learning-rate", "-1"], "above 0"),
        (["--learning-rate", "inf"], "at most 1000"),
        (["--learning-rate", "nan"], "got nan"),
        (["--learning-rate", "much"], "got much"),
        (["--steps", "0"], "from 1 to 20000"),
        (["--steps", "1000000000"], "from 1 to 20000"),
        (["--steps", "2.5"], "a whole number"),
        (["--start", "90,1"], "outside the domain"),
        (["--start", "nan,1"], "outside the domain"),
        (["--start", "1"], "two numbers"),
        (["--surface", "everest"], "no surface called"),
        (["--optimizer", "muon"], "no optimizer called"),
        (["--optimizer", "sgd", "--beta1", "0.5"], "not a setting of sgd"),
        (["--formula", "x.__class__"], "Column 1"),
        (["--formula", "x" * 10_000], "10,000"),
        (["--noise", "-1", "--seed", "-1"], "Noise"),
    ],
)
def test_command_refuses_with_a_sentence(arguments, said, capsys):
    assert main(["descend", *arguments]) == 2
    found = capsys.readouterr()
    assert said in found.err
    assert not found.out
    assert len(found.err) < 400


def test_problems_are_named_all_at_once():
    from dlkit.descent.asked import read

    with pytest.raises(ConfigError) as caught:
        read({"learning_rate": "0", "steps": "x", "start": "7"})
    assert len(caught.value.problems) == 3
    with pytest.raises(FormulaError):
        read({"formula": "2x"})
    assert issubclass(FormulaError, DlkitError)


@pytest.mark.parametrize("formula", ["1/0", "log(0-1)", "x/0", "sqrt(0-x^2) + y", "1e308*1e308*x"])
def test_formula_that_is_nowhere_defined_ends_at_its_start(formula, capsys):
    assert main(["descend", "--formula", formula, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "left the domain"
    assert len(document["path"]) == 1
