"""Looks into a small network: what each unit says of the plane, and how well gradients come through its layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.point_sets import Array
from dlkit.descent.losses import Domain, grid
from dlkit.lab.learning import Step
from dlkit.lab.network import Layer, Network, Pass
from dlkit.lab.points import DOMAIN
from dlkit.lab.softmax import softmax

VANISHING, EXPLODING = 1e-3, 1e3  # of the signal in the first layer, by that in the last


def maps(network: Network, domain: Domain = DOMAIN, count: int = 40) -> list[Array]:
    """Return what each layer's units say of the plane, (units, count, count), row by row from the lowest y.

    Of the last layer the probabilities of the classes.
    """
    _, _, places = grid(domain, count)
    with np.errstate(all="ignore"):
        outputs = [passed.outputs for passed in network.forward(places)]
        outputs[-1] = softmax(outputs[-1])
    return [values.T.reshape(-1, count, count) for values in outputs]


@dataclass(frozen=True)
class Health:
    """How one layer learns; the first is number 1.

    `dead` units had a slope of zero at every point, so nothing can come through them; `resting` is the share of zero
    slopes of all units and points. Both are 0 in the last layer. Norms are of the layer's weights, of their gradient
    and of the step they took. `signal` is the root mean square of the gradients that came back to the layer's sums, of
    one example's loss.
    """

    number: int
    units: int
    dead: int
    resting: float
    weight_norm: float
    gradient_norm: float
    step_norm: float
    signal: float

    @property
    def ratio(self) -> float:
        """What the step was of the weights; about a thousandth is common in practice."""
        return self.step_norm / self.weight_norm if self.weight_norm else float("inf")


def health(network: Network, points: Array, step: Step) -> list[Health]:
    """Tell how each layer learns, by one step and by what the network makes of `points` (N, 2) now."""
    passes = network.forward(points)
    parts = network.parts(step.values["delta"][0])
    found = []
    for number, (layer, passed, back) in enumerate(zip(network.layers, passes, step.look.backs, strict=True), 1):
        is_flat = flat(layer, passed)
        found.append(
            Health(
                number,
                len(layer.bias),
                int(is_flat.all(0).sum()),
                float(is_flat.mean()),
                float(np.linalg.norm(layer.weight)),
                float(np.linalg.norm(back.weight)),
                float(np.linalg.norm(parts[f"{number}.weight"])),
                float(np.sqrt(((len(back.sums) * back.sums) ** 2).mean())),
            )
        )
    return found


def flat(layer: Layer, passed: Pass) -> NDArray[np.bool_]:
    """Tell at which examples the slope of a layer's units is zero, (N, units) bool."""
    if layer.activation is None:
        return np.zeros(passed.sums.shape, bool)
    slope = layer.activation.slope(passed.scaled, passed.activated)
    return np.broadcast_to(slope == 0, passed.sums.shape)


def flow(layers: Sequence[Health]) -> str:
    """Say in a sentence what becomes of the gradient on its way to the first layer; nothing where it comes through."""
    first, last = layers[0], layers[-1]
    if not first.signal:
        return "Nothing comes back to the first layer: it cannot learn."
    share = first.signal / last.signal
    if share < VANISHING:
        return f"The gradient vanishes: of what the last layer gets, {share:.0e} comes back to the first."
    if share > EXPLODING:
        return f"The gradient explodes: the first layer gets {share:.0e} times what the last one gets."
    return ""
