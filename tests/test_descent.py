"""Paths against torch.optim, closed forms of the literature, and what is said of them."""

import itertools
import json
import math
import time

import numpy as np
import pytest
import torch

from benchmarks.descend import TOLERANCE, agreement, draws
from dlkit.__main__ import main
from dlkit.catalog.formulas import read_formula
from dlkit.catalog.lessons import LESSONS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.sums import POINT_SETS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.descent.asked import default_rate, read
from dlkit.descent.losses import FiniteSum, Surface, is_inside, known_value
from dlkit.descent.maps import basins, condition, curvature, sweep
from dlkit.descent.race import Chance, Competitor, explained, minibatch, race
from dlkit.descent.verdicts import Status, reached, settled, verdict
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
            free, driven = agreement(SURFACES[name], competitor, starts, 60)
            assert free.apart <= TOLERANCE, (name, competitor)
            assert driven is None or driven.apart <= TOLERANCE, (name, competitor)
            compared += free.compared
    assert compared > 400


def test_newton_goes_on_where_products_of_curvatures_are_too_small_for_a_number():
    entry = SURFACES["plateau"]
    found, _ = agreement(entry, Competitor("newton", 0.6), np.array([entry.start], dtype=float), 1000)
    assert found.apart <= TOLERANCE
    assert found.compared == 1000


def test_every_optimizer_of_the_training_page_but_muon_is_here():
    assert set(OPTIMIZERS) - {"muon"} <= set(RULES)
    for name in set(OPTIMIZERS) & set(RULES):
        entry, rule = OPTIMIZERS[name], RULES[name]
        assert (rule.title, rule.paper) == (entry.title, entry.paper)
        assert rule.settings.items() >= entry.settings.items()


def test_noise_and_missing_coordinates_reach_every_rule_alike():
    chance = Chance(noise=0.5, present=(0.5, 0.5), seed=3)
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
    path = one_path("himmelblau", "adam", 0.1, 100, chance=Chance(noise=5, present=(0.7, 0.7)))
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


def test_epoch_of_minibatches_sees_no_example_twice_and_all_batches_are_whole():
    seen = [minibatch(10, 4, 7, step) for step in range(4)]
    assert [len(batch) for batch in seen] == [4] * 4
    assert len(set(np.concatenate(seen[:2]).tolist())) == len(set(np.concatenate(seen[2:]).tolist())) == 8
    whole = [minibatch(10, 5, 7, step) for step in range(4)]
    assert sorted(np.concatenate(whole[:2])) == sorted(np.concatenate(whole[2:])) == list(range(10))
    assert not np.array_equal(whole[0], whole[2])


def test_batches_cost_their_share_of_the_sum():
    loss = FiniteSum("line", tuple(np.linspace(-1, 1, 20)), tuple(np.linspace(-3, 1, 20)))
    competitors = [
        Competitor("gradient-descent", 0.1),
        Competitor("sgd", 0.1, batch=5),
        Competitor("sgd", 0.1, batch=1),
    ]
    assert [path.steps for path in race(loss, competitors, [(0.0, 0.0)], 10)] == [10, 40, 200]
    assert [path.cost * path.steps for path in race(loss, competitors, [(0.0, 0.0)], 10)] == pytest.approx([10] * 3)


def test_first_steps_are_those_of_the_papers():
    for scale in (1e-3, 1.0, 1e4):
        loss = Surface(read_formula(f"{scale:f}*(x - y)"), (-5, 5, -5, 5))
        moved = {rule: one_path(loss, rule, 0.1, 1, (0.0, 0.0)).points[1] for rule in ("sgd", "momentum", "adam")}
        np.testing.assert_allclose(moved["adam"], (-0.1, 0.1), rtol=1e-4)  # the rate, against the gradient's sign
        np.testing.assert_array_equal(moved["momentum"], moved["sgd"])
        np.testing.assert_allclose(one_path(loss, "adagrad", 0.1, 1, (0.0, 0.0)).points[1], (-0.1, 0.1), rtol=1e-6)


def test_decay_of_adamw_acts_on_the_weights_and_that_of_adam_on_the_gradient():
    flat = Surface(read_formula("0*x"), (-5, 5, -5, 5))
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


def test_adam_without_its_correction_is_the_plain_recurrence():
    path = one_path("beale", "adam", 0.05, 300, bias_correction=0)
    mean, square, point = np.zeros(2), np.zeros(2), path.points[0]
    for gradient, after in zip(path.gradients, path.points[1:], strict=True):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        point = point - 0.05 * mean / (np.sqrt(square) + 1e-8)
        np.testing.assert_allclose(after, point, rtol=1e-12)


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
        assert path.cost * path.steps == 30


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
    loss = Surface(read_formula("sqrt(x) + y^2"), (-5, 5, -5, 5))
    told = judged(loss, "sgd", 0.5, 50, (1.0, 1.0))
    assert told.status == Status.LEFT
    assert "not defined" in told.reason


# Steps and maps


def test_numbers_of_a_step_are_those_it_was_taken_by():
    for rule in RULES:
        path = one_path("beale", rule, default_rate(SURFACES["beale"].rates, rule), 12)
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


SMALL = (
    "x",
    "y",
    "1",
    "2",
    "x*y",
    "x^2",
    "(x - 3*y)",
    "cos(x*y)",
    "exp(x)",
    "log(x)",
    "abs(y)",
    "x^x",
    "max(x, y)",
    "1/x",
)


def test_every_small_formula_gets_its_verdict_and_its_map():
    """Singular Hessians, lines of minima, places without a value: none is an error, and no gradient is called small."""
    seen = set()
    for left, sign, right in itertools.product(SMALL, "+*", SMALL):
        loss = Surface(read_formula(f"({left}){sign}({right})"), (-5, 5, -5, 5))
        competitors = [
            Competitor("sgd", 0.05),
            Competitor("adam", 0.05),
            Competitor("newton", 1.0),
            Competitor("lbfgs", 0.5),
        ]
        for path in race(loss, competitors, [(3.0, 2.0)], 60):
            told = verdict(loss, path)
            assert told.reason.endswith("."), told
            seen.add(told.status)
        found = basins(loss, competitors[1], 5, 20)
        assert found.ends.max() < len(found.minima) or not found.minima
    assert seen == set(Status)


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (("(x - 3*y)^2", "sgd", 0.02, 500), Status.CONVERGED, "line of minima"),
        (("x^2 + 0*y", "sgd", 0.1, 200), Status.CONVERGED, "line of minima"),
        (("exp(x^2) + y^2", "sgd", 1.0, 10), Status.DIVERGED, "too large"),
        (("1 - exp(-(x^2 + y^2)/10)", "adam", 100.0, 200), Status.LEFT, "outside the plotted domain"),
        (("log(0 - x)", "sgd", 1.0, 10), Status.LEFT, "Choose another"),
    ],
)
def test_formulas_are_judged_by_what_they_are(asked, status, reason):
    text, rule, rate, steps = asked
    loss = Surface(read_formula(text), (-5, 5, -5, 5))
    told = judged(loss, rule, rate, steps, (2.0, 1.0))
    assert (told.status, reason in told.reason) == (status, True), told


def test_decay_is_part_of_what_is_descended_on():
    told = judged("booth", "sgd", 0.06, 2000, weight_decay=0.5)
    assert told.status == Status.CONVERGED
    assert "with its decay, 0.133 above" in told.reason
    diverged = judged("bowl", "sgd", 0.8, 200, weight_decay=1.0)
    assert "curvature and decay on its way is 2.40, more than 2.00" in diverged.reason
    bowl = sweep(BOWL, Competitor("sgd", 0.1, {"weight_decay": 1.0}), (-3, 2.5), 400)
    assert bowl.edge == pytest.approx(2 / 3)
    assert bowl.is_diverged[bowl.rates > 0.75].all()
    assert not bowl.is_diverged[bowl.rates < 0.6].any()


def test_who_passes_a_minimum_has_not_converged():
    assert judged("bowl", "momentum", 0.05, 83).status != Status.CONVERGED
    noisy = [judged("bowl", "sgd", 0.1, 300, chance=Chance(noise=0.02, seed=seed)).status for seed in range(50)]
    assert Status.CONVERGED not in noisy


def test_turned_surface_has_its_known_points_in_its_domain():
    for name, entry in SURFACES.items():
        for degrees in range(0, 360, 7):
            loss = Surface.of(entry, degrees)
            points = np.array((*loss.minima, *loss.others)).reshape(-1, 2)
            if name != "mccormick" or degrees:
                assert is_inside(points, loss.domain).all(), (name, degrees)


def test_edge_is_that_of_the_minimum_that_is_reached():
    loss = Surface.of(SURFACES["himmelblau"])
    found = sweep(loss, Competitor("sgd", 0.01), (3.3, -1.5), 400)
    values, _ = curvature(loss, (3.584428340330, -1.848126526964))
    assert found.edge == pytest.approx(2 / values[1])


# The lessons: what their texts say is what their races show


def raced_for(lesson):
    """Return each path of a lesson by (ground, name)."""
    found = {}
    for where, shared in LESSONS[lesson].grounds.items():
        wanted = read(shared, LESSONS[lesson].wanted)
        paths = race(wanted.loss, wanted.competitors, wanted.starts, wanted.budget, wanted.chance)
        found |= {(where, name): (wanted.loss, path) for name, path in zip(wanted.names, paths, strict=True)}
    return found


def test_no_one_rate_suits_rare_and_noisy_gradients_but_dividing_by_their_size_does():
    found = {name: path for (_, name), (_, path) in raced_for("sparse").items()}
    plain = {name: settled(path) for name, path in found.items() if "Stochastic" in name}
    divided = [settled(path) for name, path in found.items() if name not in plain]
    assert max(divided) < min(plain.values()) / 4
    slow, *_, noisy = (found[name] for name in plain)
    assert abs(slow.points[-1, 1]) > 0.9 > 3 * np.abs(slow.points[-80:, 0]).mean()
    assert np.abs(noisy.points[-80:, 0]).mean() > 0.5


def test_vanishing_gradient_stops_gradient_descent_and_not_adam():
    found = raced_for("plateau")
    loss, path = found["", "Adam"]
    assert reached(loss, path) == 63
    assert np.linalg.norm(path.gradients[0]) == pytest.approx(6.4e-6, rel=0.1)
    for name in ("Stochastic gradient descent", "SGD with momentum"):
        assert verdict(*found["", name]).status == Status.STUCK


def test_turning_the_axes_costs_adam_five_times_the_steps_and_momentum_none():
    steps = {key: reached(loss, path) for key, (loss, path) in raced_for("axes").items()}
    along, turned = "along the axes", "turned by 30°"
    assert (steps[along, "Adam"], steps[turned, "Adam"]) == (50, 260)
    assert steps[turned, "Adagrad"] > 20 * steps[along, "Adagrad"]
    for name in ("Stochastic gradient descent", "SGD with momentum", "L-BFGS"):
        assert steps[turned, name] == pytest.approx(steps[along, name], rel=0.2)


def test_round_bowl_needs_no_adam():
    steps = {name: reached(loss, path) for (_, name), (loss, path) in raced_for("simple").items()}
    assert steps["Stochastic gradient descent"] == 3
    assert [steps[f"Adam, learning rate {rate}"] for rate in ("0.1", "0.5", "1")] == [90, 82, 74]


def test_noise_ball_goes_by_the_rate_and_a_falling_rate_makes_it_small():
    found = {name: settled(path) for (_, name), (_, path) in raced_for("noise").items()}
    for rule in ("Stochastic gradient descent", "Adam"):
        kinds = ("0.2, constant", "0.02, constant", "0.2, cosine")
        large, small, falling = (found[f"{rule}, learning rate {kind}"] for kind in kinds)
        assert large > 3 * small
        assert large > 2 * falling


def test_small_batches_are_nearer_at_first_and_hover():
    found = {name: (loss, path) for (_, name), (loss, path) in raced_for("batches").items()}
    loss, single = found["Stochastic gradient descent, batch size 1"]
    _, whole = found["Stochastic gradient descent, batch size 14"]
    assert (single.steps, whole.steps) == (280, 20)
    looked = 5 * 14  # examples
    assert single.values[looked] < whole.values[5] / 5
    exact = one_path(loss, "sgd", 0.1, 280, start=(-3, 3))
    assert exact.values[-1] - known_value(loss) < 1e-6 < 1e-2 < settled(single) - known_value(loss)


def test_first_step_without_correction_is_longer_than_the_rate_by_what_is_said():
    steps = {
        name: np.abs(path.points[1] - path.points[0]).max() for (_, name), (_, path) in raced_for("correction").items()
    }
    assert steps["Adam, bias correction 0"] == pytest.approx(0.05 * 0.1 / math.sqrt(0.001), rel=1e-6)
    assert steps["Adam, bias correction 1"] == pytest.approx(0.05, rel=1e-6)


def test_decay_in_adams_gradient_is_divided_away():
    left = {name: abs(path.points[-1][1]) for (_, name), (_, path) in raced_for("decay").items()}
    assert left["Adam, weight decay 0.001"] == pytest.approx(left["Adam, weight decay 0.1"], rel=1e-4)
    for decay in (0.001, 0.1):
        assert left[f"AdamW, weight decay {decay:g}"] == pytest.approx(2 * (1 - 0.005 * decay) ** 200, rel=1e-12)


# Sums


def test_minimum_of_least_squares_is_that_of_the_normal_equations():
    points = np.array(POINT_SETS["noisy-line"].points)
    (minimum,) = FiniteSum.of("line", points.tolist()).minima
    np.testing.assert_allclose(minimum, np.polyfit(points[:, 0], points[:, 1], 1), rtol=1e-10)
    assert not FiniteSum.of("logistic", POINT_SETS["parted-classes"].points).minima
    assert not FiniteSum.of("line", [(1, 2), (1, 3)]).minima
    ((weight, _),) = FiniteSum.of("line", [(0, 0), (0.01, 50)]).minima
    assert weight == pytest.approx(5000)


def test_gradients_of_batches_deviate_as_the_closed_form_says():
    loss = FiniteSum.of("line", POINT_SETS["noisy-line"].points)
    for size in (1, 4, 13, 14):
        drawn = [
            loss.look(np.array([(-3.0, 3.0)]), batch=minibatch(14, size, seed, 0)).gradient[0] for seed in range(4000)
        ]
        np.testing.assert_allclose(np.std(drawn, 0), loss.deviation((-3.0, 3.0), size), rtol=0.05, atol=1e-12)


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
        (["--batch", "4"], "knows no batches"),
        (["--surface", "line", "--optimizer", "newton", "--batch", "4"], "knows no batches"),
        (["--surface", "line", "--batch", "0"], "from 1 to 60"),
        (["--surface", "line", "--degrees", "30"], "not turned"),
        (["--surface", "line", "--points", "1,2"], "2 to 60 points"),
        (["--surface", "line", "--points", "1,nan; 2,3"], "from -100 to 100"),
        (["--surface", "line", "--points", "../etc; 2,3"], "pairs of numbers"),
        (["--surface", "logistic", "--points", "1,0; 2,3"], "0 or 1"),
        (["--learning-rate", "0.1,much"], "got much"),
        (["--learning-rate", ",".join(["0.1"] * 15)], "14 at most"),
        (["--optimizer", "adam", "--learning-rate", "0.1,0.2,0.3,0.4", "--beta1", "0.5,0.6,0.7,0.8"], "At most 14"),
        (["--learning-rate", ","], "with commas between"),
        (["--schedule", "plateau"], "no schedule called"),
        (["--surface", "bowl", "--points", "1,1; 2,2"], "Leave it out"),
        (["--domain", "0,1,0,1"], "Leave it out"),
        (["--present", "0.5,2"], "above 0"),
        (["--present", "0.5,0.5,0.5"], "2 at most"),
        (["--start", ";".join(["1,1"] * 101)], "100 starts at most"),
        (["--learning-rate", ",".join(["0.1"] * 14), "--steps", "20000"], "steps in all"),
        (["--starts", "100", "--steps", "20000"], "from all starts"),
        (["--formula", "x^2", "--domain", "3,1,0,1"], "four numbers"),
        (["--formula", "x^2", "--domain", "-inf,1,0,1"], "four numbers"),
        (["--start", "1,1; 2"], "two numbers"),
    ],
)
def test_command_refuses_with_a_sentence(arguments, said, capsys):
    assert main(["descend", *arguments]) == 2
    found = capsys.readouterr()
    assert said in found.err
    assert not found.out
    assert len(found.err) < 400


def test_problems_are_named_all_at_once():
    with pytest.raises(ConfigError) as caught:
        read({"steps": "x", "seed": "-1"}, [{"learning_rate": "0"}])
    assert len(caught.value.problems) == 3
    with pytest.raises(FormulaError):
        read({"formula": "2x"}, [{}])
    assert issubclass(FormulaError, DlkitError)


@pytest.mark.parametrize("formula", ["1/0", "log(0-1)", "x/0", "sqrt(0-x^2) + y", "1e308*1e308*x"])
def test_formula_that_is_nowhere_defined_ends_at_its_start(formula, capsys):
    assert main(["descend", "--formula", formula, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "left the domain"
    assert len(document["path"]) == 1
