"""What the network page draws in the browser: a small network as it learns, some times a second, so it is kept small.

What units say of the plane is sent as a byte a place, and of wide layers and many points a part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlkit.catalog.formulas import latex_number
from dlkit.catalog.point_sets import Array
from dlkit.figures.message import column, message
from dlkit.figures.palette import COLOURS, TRAINING, VALIDATION
from dlkit.lab.learning import Measured
from dlkit.lab.live import Live
from dlkit.lab.looking import Health, flat, flow, health, maps
from dlkit.lab.points import DOMAIN, Points

SIDE = 40  # places along each side of the plane
EVERY = 2  # of these, each second one is sent of a unit that is not of the last layer
MOST_UNITS = 16  # that are drawn of a layer
MOST_POINTS = 1000  # that are drawn
MOST_BITS = 127


def picture(live: Live, *, can_draw: bool = False, is_editable: bool = True) -> bytes:
    """Return what is drawn of a training: the network with its last gradients, its decision, points and curves.

    `can_draw`: a click into the plane adds a point or takes one away. `is_editable`: weights are fields.
    """
    training, points = live.training, live.training.task.points
    sheets, rows = maps(training.network, count=SIDE), health_of(live)
    sent = {
        "domain": DOMAIN,
        "classes": points.classes,
        "colours": COLOURS[: len(points.classes)],
        "canDraw": can_draw,
        "isEditable": is_editable,
        "layers": layers(live, sheets),
        **_decision(sheets[-1]),
        **_points(points, [] if live.last is None else live.last.look.examples.tolist()),
        **_curves(training.curve),
        "rows": [_row(one) for one in rows],
        "flow": flow(rows) if rows else "",
    }
    return message(sent)


def health_of(live: Live) -> list[Health]:
    """Tell how each layer learnt in the last step; nothing before the first."""
    return [] if live.last is None else health(live.training.network, live.training.task.points.train()[0], live.last)


def layers(live: Live, sheets: Sequence[Array]) -> list[dict[str, Any]]:
    """Return each layer as it is drawn: weights and gradients (units, inputs), maps, and which units are dead."""
    network, gradients = live.training.network, {}
    if live.last:
        gradients = network.parts(live.last.look.gradient)
    passes = network.forward(live.training.task.points.train()[0])
    found: list[dict[str, Any]] = []
    for number, (layer, passed, sheet) in enumerate(zip(network.layers, passes, sheets, strict=True), 1):
        units, inputs = (min(MOST_UNITS, size) for size in layer.weight.shape)
        drawn = sheet[:units, ::EVERY, ::EVERY]
        found.append(
            {
                "units": len(layer.bias),
                "drawn": units,
                "inputs": inputs,
                "weights": column(layer.weight[:units, :inputs]),
                "biases": column(layer.bias[:units]),
                "gradients": column(gradients[f"{number}.weight"][:units, :inputs]) if gradients else None,
                "dead": flat(layer, passed)[:, :units].all(0).tolist(),
                "largest": [float(size) for size in np.abs(np.nan_to_num(drawn)).max((1, 2))],
                "maps": _bits(drawn),
            }
        )
    return found


def _bits(sheets: Array) -> NDArray[np.int8]:
    """Return maps (units, rows, columns) as a byte a place: each unit's farthest value from zero is ±127."""
    sheets = np.nan_to_num(sheets)
    largest = np.abs(sheets).max((1, 2), keepdims=True)
    return np.rint(sheets / np.where(largest > 0, largest, 1) * MOST_BITS).astype(np.int8).reshape(-1)


def _decision(probabilities: Array) -> dict[str, Any]:
    """Return the likeliest class at each place, and how sure it is: 0 as likely as any other, 255 certain."""
    classes, best = len(probabilities), np.nan_to_num(probabilities).max(0)
    sure = np.clip((best - 1 / classes) / (1 - 1 / classes), 0, 1)
    winner = np.nan_to_num(probabilities).argmax(0)
    return {
        "side": SIDE,
        "winner": winner.astype(np.uint8).reshape(-1),
        "sure": np.rint(255 * sure).astype(np.uint8).reshape(-1),
    }


def _points(points: Points, learnt: Sequence[int]) -> dict[str, Any]:
    """Return the points; `learnt` are places among those that are learnt from, which the last step looked at."""
    is_learnt = np.zeros(len(points.labels), bool)
    is_learnt[np.flatnonzero(~points.is_test)[learnt]] = True
    kept = slice(0, MOST_POINTS)
    return {
        "count": len(points.labels),
        "places": column(points.points[kept]),
        "labels": points.labels[kept].astype(np.uint8),
        "isTest": points.is_test[kept].astype(np.uint8),
        "isLearnt": is_learnt[kept].astype(np.uint8),
    }


def _curves(curve: Sequence[Measured]) -> dict[str, Any]:
    now = curve[-1]
    has_test = now.test_loss is not None
    lines = [{"name": "train", "colour": TRAINING, "values": column(np.array([one.train_loss for one in curve]))}]
    if has_test:
        tests = np.array([one.test_loss for one in curve], float)
        lines.append({"name": "test", "colour": VALIDATION, "values": column(tests)})
    return {
        "steps": column(np.array([one.step for one in curve])),
        "curves": lines,
        "step": now.step,
        "epoch": now.epoch,
        "worth": [
            {"name": name, "loss": _number(loss), "accuracy": accuracy}
            for name, loss, accuracy in (
                ("train", now.train_loss, now.train_accuracy),
                ("test", now.test_loss, now.test_accuracy),
            )
            if loss is not None
        ],
    }


def _row(one: Health) -> Mapping[str, Any]:
    return {
        "number": one.number,
        "units": one.units,
        "dead": one.dead,
        "resting": one.resting,
        "signal": _number(one.signal),
        "gradient": _number(one.gradient_norm),
        "ratio": _number(one.ratio),
    }


def _number(value: float) -> float | None:
    """Return a number as JSON knows it: None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def latex_array(values: Array, most: int = 8, digits: int = 4) -> str:
    """Write numbers, (), (n,) or (n, m), as LaTeX: a number, a row in brackets, or a matrix; of many the first."""
    if not values.ndim:
        return latex_number(float(f"{float(values):.{digits}g}"))
    rows = np.atleast_2d(values) + 0.0  # no −0
    cells = [[latex_number(float(f"{one:.{digits}g}")) for one in row[:most].tolist()] for row in rows[:most]]
    cells = [[*row, r"\cdots"] if rows.shape[1] > most else row for row in cells]
    if len(rows) > most:
        cells.append([r"\vdots"])
    return r"\begin{bmatrix}" + r" \\ ".join(" & ".join(row) for row in cells) + r"\end{bmatrix}"
