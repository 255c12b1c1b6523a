"""What the catalog says of each surface, against autograd."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.descend import torch_value
from dlkit.catalog.surfaces import SURFACES, SurfaceEntry
from dlkit.descent.losses import FiniteSum, Look, Surface, grid, is_inside, known_value


def by_name(entry: SurfaceEntry) -> str:
    return entry.name


def look(entry: SurfaceEntry, *points: tuple[float, float]) -> Look:
    return Surface.of(entry).look(np.array(points, dtype=float), bends=True)


@pytest.mark.parametrize("entry", SURFACES.values(), ids=by_name)
def test_entry_says_what_a_page_needs(entry):
    assert SURFACES[entry.name] is entry
    assert entry.teaches.endswith(".")
    assert entry.source
    left, right, low, high = entry.domain
    for x, y in (entry.start, *entry.minima, *entry.others):
        assert left <= x <= right
        assert low <= y <= high
    assert "x" in entry.formula.latex()


#: the values of the literature at the global minima
LEAST = {
    "styblinski-tang": -78.33233141,
    "goldstein-price": 3.0,
    "log-goldstein-price": -3.12912555,
    "six-hump-camel": -1.031628453,
    "mccormick": -1.913222955,
    "two-gaussians": -2.06309025,
    "bounded-saddle": -0.25,
    "easom": -1.0,
}


@pytest.mark.parametrize("entry", [entry for entry in SURFACES.values() if entry.minima], ids=by_name)
def test_listed_minimum_is_one(entry):
    seen = look(entry, *entry.minima)
    assert np.abs(seen.value - LEAST.get(entry.name, 0.0)).max() < 1e-6
    assert np.linalg.norm(seen.gradient, axis=1).max() < 1e-4


@pytest.mark.parametrize("entry", [entry for entry in SURFACES.values() if entry.minima], ids=by_name)
def test_nothing_in_the_domain_lies_below_the_minimum(entry):
    _, _, points = grid(entry.domain, 201)
    assert Surface.of(entry).look(points).value.min() >= known_value(Surface.of(entry)) - 1e-9


@pytest.mark.parametrize("entry", [entry for entry in SURFACES.values() if entry.others], ids=by_name)
def test_other_listed_points_are_stationary(entry):
    assert np.linalg.norm(look(entry, *entry.others).gradient, axis=1).max() < 1e-4


@pytest.mark.parametrize("entry", SURFACES.values(), ids=by_name)
def test_derivatives_are_those_of_autograd(entry):
    left, right, low, high = entry.domain
    points = np.array((left, low)) + np.random.default_rng(0).random((20, 2)) * np.array((right - left, high - low))
    seen = Surface.of(entry).look(points, bends=True)

    def value(point: torch.Tensor) -> torch.Tensor:
        return torch_value(entry.formula, point[None])[0]

    at = torch.tensor(points)
    values, slopes, bends = (
        torch.stack([made(point) for point in at]).numpy()
        for made in (value, torch.func.grad(value), torch.func.hessian(value))
    )
    for ours, theirs in ((seen.value, values), (seen.gradient, slopes), (seen.hessian, bends)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12 * np.abs(theirs).max())


def test_turned_surface_is_the_same_landscape_elsewhere():
    entry = SURFACES["rosenbrock"]
    plain, turned = Surface.of(entry), Surface.of(entry, 30)
    for point in (entry.start, (0.5, -0.5)):
        before, after = (
            one.look(np.array([place]), bends=True) for one, place in ((plain, point), (turned, turned.turn(point)))
        )
        assert after.value == pytest.approx(before.value)
        assert np.linalg.norm(after.gradient) == pytest.approx(np.linalg.norm(before.gradient))
        np.testing.assert_allclose(np.linalg.eigvalsh(after.hessian), np.linalg.eigvalsh(before.hessian), rtol=1e-9)
    assert turned.look(np.array(turned.minima)).value == pytest.approx([0], abs=1e-20)
    assert is_inside(np.array(turned.turn(entry.start)), turned.domain)
    moved = np.array(turned.turn(entry.start)) + np.array(((1e-6, 0), (-1e-6, 0)))
    seen = turned.look(np.vstack((turned.turn(entry.start), moved)))
    assert seen.gradient[0, 0] == pytest.approx((seen.value[1] - seen.value[2]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("kind", ["line", "logistic"])
def test_sum_over_examples_is_torchs_loss(kind):
    generator = np.random.default_rng(0)
    inputs, points = generator.normal(size=20), generator.normal(size=(5, 2))
    targets = 2 * inputs - 1 + generator.normal(size=20) if kind == "line" else (generator.random(20) < 0.5) * 1.0
    loss = FiniteSum(kind, tuple(inputs), tuple(targets))
    batch = np.array([3, 7, 11])
    for some, given in ((np.arange(20), None), (batch, batch)):
        x, y = torch.tensor(inputs[some]), torch.tensor(targets[some])

        def value(point: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            outputs = point[0] * x + point[1]
            if kind == "line":
                return functional.mse_loss(outputs, y) / 2
            return functional.binary_cross_entropy_with_logits(outputs, y)

        seen = loss.look(points, bends=True, batch=given)
        for ours, made in (
            (seen.value, value),
            (seen.gradient, torch.func.grad(value)),
            (seen.hessian, torch.func.hessian(value)),
        ):
            theirs = torch.stack([made(point) for point in torch.tensor(points)])
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    (minimum,) = loss.minima
    assert np.linalg.norm(loss.look(np.array([minimum])).gradient) < 1e-9


def test_cusp_of_ackley_has_a_finite_gradient():
    seen = look(SURFACES["ackley"], (0, 0))
    assert abs(seen.value[0]) < 1e-12
    assert seen.gradient.tolist() == [[0, 0]]


def test_three_hump_camel_has_its_minimum_at_the_origin_and_two_local_ones():
    seen = look(SURFACES["three-hump-camel"], (0, 0), *SURFACES["three-hump-camel"].others)
    assert seen.value.tolist() == pytest.approx([0, 0.298638, 0.298638, 0.877362, 0.877362], abs=1e-6)
