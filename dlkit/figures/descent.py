"""What the descent page draws in the browser: a surface, paths on it, and the numbers of one optimizer's steps.

The browser gets all steps at once and moves through them by itself, so the message is kept small: arrays are 32 bits or
16 a number, long paths every so many steps.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dlkit.catalog.surfaces import Point
from dlkit.catalog.updates import GIVEN, RULES, SYMBOLS
from dlkit.descent.losses import Array, FiniteSum, Loss, grid, known_value
from dlkit.descent.maps import Basins, Sweep, curvatures
from dlkit.descent.race import Competitor, Path, explained
from dlkit.descent.verdicts import Verdict
from dlkit.figures.message import WORD, column, message
from dlkit.figures.palette import COLOURS, MARK
from dlkit.words import escape_html

GRID = 61  # places along each side
STEP_TICKS = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
UNDEFINED_BITS = 0xFFFF
MOST_BYTES = 150 * 1024  # of a message; names and formulas take OVERHEAD of it
OVERHEAD = 14_000


def scene(
    loss: Loss,
    paths: Sequence[Path],
    verdicts: Sequence[Verdict],
    names: Sequence[str],
    looked: int,
    *,
    is_logarithmic: bool,
    axes: tuple[str, str] = ("x", "y"),
) -> bytes:
    """Return what the browser draws: the surface on a grid, all paths, what became of them, and one with its numbers.

    `names` are those of the competitors, who have as many paths each, one from each start, in their order. `looked`:
    the place of the path that is looked into.
    """
    starts = len(paths) // len(names)
    across, up, points = grid(loss.domain, GRID)
    values = loss.look(points).value
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    heights = np.log10(1 + values - lowest) if is_logarithmic else values
    stride = _stride(paths, paths[looked])
    kept = [np.unique((*range(0, path.steps, stride), path.steps)) for path in paths]
    sent = {
        "across": [float(across[0]), float(across[-1])],
        "up": [float(up[0]), float(up[-1])],
        "count": GRID,
        **_surface(heights),
        "lowest": lowest,
        "best": known_value(loss),
        "logarithmic": is_logarithmic,
        "undefined": bool(np.isnan(heights).any()),
        "axes": axes,
        "minima": [list(point) for point in loss.minima],
        "unit": min(path.cost for path in paths) * stride,
        "stride": stride,
        "starts": starts,
        "counts": [len(steps) for steps in kept],
        "steps": [path.steps for path in paths],
        "points": column(
            np.concatenate(
                [np.column_stack((path.points, path.values))[steps] for path, steps in zip(paths, kept, strict=True)]
            )
        ),
        "competitors": [
            {
                "name": escape_html(name),
                "colour": colour,
                "cost": paths[place * starts].cost,
                "ended": ended(verdicts[place * starts : (place + 1) * starts]),
            }
            for place, (name, colour) in enumerate(
                zip(names, colours([path.competitor for path in paths[::starts]]), strict=True)
            )
        ],
        "microscope": microscope(loss, paths[looked], looked, stride),
    }
    return message(sent)


def colours(competitors: Sequence[Competitor]) -> list[str]:
    """Return a colour for each: that of its rule, or by its place where a rule competes with itself."""
    rules = [one.rule for one in competitors]
    places = [list(RULES).index(rule) for rule in rules] if len(set(rules)) == len(rules) else range(len(rules))
    return [COLOURS[place % len(COLOURS)] for place in places]


def _stride(paths: Sequence[Path], looked: Path) -> int:
    """Return of how many steps one is sent, for the message to stay within MOST_BYTES; ends are always sent."""
    settings, fixed = looked.competitor.all_settings(), 2 * GRID**2 + OVERHEAD + 60 * len(paths)
    values = {name: np.size(value) for name, value in next(explained(looked), {}).items() if name not in settings}
    for names in ({name for name in values if not name.startswith("before ")}, set(values)):
        numbers = sum(values[name] for name in names) + 4  # with curvatures and rate
        moving = WORD * (3 * sum(path.steps for path in paths) + numbers * looked.steps)
        stride = max(1, -(-moving // (MOST_BYTES - fixed)))
        if stride == 1:  # then what is remembered from the step before is not sent again
            break
    return stride


def ended(verdicts: Sequence[Verdict]) -> str:
    """Tell what became of one competitor's paths: "converged", or "12 converged, 8 stuck"."""
    counts = Counter(str(told.status) for told in verdicts).most_common()
    return counts[0][0] if len(verdicts) == 1 else ", ".join(f"{number} {status}" for status, number in counts)


def microscope(loss: Loss, path: Path, place: int, stride: int) -> dict[str, Any]:
    """Return the lines of a path's rule as MathML, with a slot for each number, and the numbers of each step.

    `place`: which of the scene's paths it is. A slot is a `<mn data-slot>`. What a rule remembers from the step before
    is not sent again: it is `of` another slot, and begins as `first`. `curvatures`: how the loss curves where each step
    begins, see `maps.curvatures`; `rates`: its learning rate.
    """
    steps = list(explained(path, stride))
    formulas = path.competitor.entry.formulas(path.competitor.all_settings())
    settings = path.competitor.all_settings()
    lines, known, used = [], {*path.competitor.entry.memory, *GIVEN} & {*formulas, *path.competitor.entry.memory}, set()
    for name, formula in formulas.items():
        words, slots = {}, {}
        for inner in formula.names():
            slot = f"before {inner}" if inner in known else inner
            words[inner] = _symbol(inner, slot != inner, inner in settings)
            slots[inner] = f"<mn data-slot='{slot}'></mn>"
            used.add(slot)
        known.discard(name)
        used.add(name)
        lines.append(
            {
                "name": _symbol(name, False, False),
                "formula": formula.mathml(words),
                "numbers": formula.mathml(slots, are_numbers=True),
                "slot": name,
            }
        )
    memory = path.competitor.entry.memory
    values: dict[str, Any] = {}
    for slot in sorted(used) if steps else ():
        name = slot.removeprefix("before ")
        is_last = stride == 1 and name != slot and name in memory and name in used
        values[slot] = {"of": name, "first": memory[name]} if is_last else _column(steps, slot)
    bends = column(curvatures(loss, path.points[: max(1, path.steps) : stride]))
    return {"path": place, "lines": lines, "values": values, "curvatures": bends, "rates": column(path.rates[::stride])}


def _column(steps: Sequence[dict[str, Array]], slot: str) -> dict[str, Any]:
    """Return one name's numbers over the steps: one for both coordinates, or one for each."""
    arrays = [np.asarray(step[slot], dtype=float).reshape(-1) for step in steps]
    if slot.startswith("before ") and arrays[0].size != arrays[-1].size:  # memory begins as a number
        arrays = [np.broadcast_to(array, arrays[-1].shape) for array in arrays]
    table = np.stack(arrays)
    if (table == table[0]).all() and table.shape[1] == 1:
        return {"width": 0, "numbers": column(table[0])}
    return {"width": table.shape[1], "numbers": column(table)}


def _symbol(name: str, is_before: bool, is_setting: bool) -> str:
    """Write a name as MathML: settings plainly, all else with the step as its index."""
    latex = SYMBOLS[name]
    accent = "^" if latex.startswith(r"\hat") else ""
    plain = latex.removeprefix(r"\hat ").replace("'", "′")
    base, _, index = plain.partition("_")
    letter = _GREEK.get(base, base)
    symbol = f"<mi>{letter}</mi>"
    if accent:
        symbol = f"<mover>{symbol}<mo>^</mo></mover>"
    if index:
        symbol = f"<msub>{symbol}<mn>{index}</mn></msub>"
    if is_setting or name in ("t", "rate"):
        return symbol
    if is_before and name in GIVEN:  # the gradient as it was, before weight decay was added
        return "<mrow><mo>∇</mo><mi>f</mi></mrow>"
    return f"<msub>{symbol}<mrow>{'<mi>t</mi><mo>−</mo><mn>1</mn>' if is_before else '<mi>t</mi>'}</mrow></msub>"


_GREEK = {
    r"\eta": "η",
    r"\Delta": "Δ",
    r"\beta": "β",
    r"\epsilon": "ε",
    r"\rho": "ρ",
    r"\rho^\infty": "ρ∞",
    r"\alpha": "α",
    r"\mu": "μ",
    r"\mu′": "μ′",
    r"\pi": "Π",
    r"\lambda": "λ",
    r"\psi": "ψ",
    r"\gamma": "γ",
}


def _surface(heights: Array) -> dict[str, Any]:
    """Return heights as 16 bits each, between the least and the most; all bits: not defined."""
    is_there = np.isfinite(heights)
    low, high = (float(heights[is_there].min()), float(heights[is_there].max())) if is_there.any() else (0.0, 0.0)
    steps = np.where(is_there, np.round((heights - low) / ((high - low) or 1.0) * UNDEFINED_BITS - 0.5), 0)
    bits = np.where(is_there, np.clip(steps, 0, UNDEFINED_BITS - 1), UNDEFINED_BITS).astype("<u2")
    return {"surface": bits, "heights": [low, high]}


def basins_figure(found: Basins, title: str) -> go.Figure:
    """Draw which minimum each start ends in, by colour; grey: in none."""
    shown = np.where(found.ends < 0, np.nan, found.ends)
    count = max(1, len(found.minima))
    picked = [COLOURS[place % len(COLOURS)] for place in range(count)]
    edges = [place / count for place in range(count + 1)]
    scale = [[edge, colour] for place, colour in enumerate(picked) for edge in edges[place : place + 2]]
    figure = go.Figure(
        go.Heatmap(
            x=found.across,
            y=found.up,
            z=shown,
            colorscale=scale,
            zmin=-0.5,
            zmax=count - 0.5,
            showscale=False,
            hovertemplate="from x %{x:.2f}, y %{y:.2f}<extra></extra>",
        )
    )
    figure.add_scatter(
        x=[x for x, _ in found.minima],
        y=[y for _, y in found.minima],
        mode="markers",
        marker={"symbol": "star", "size": 12, "color": "white", "line": {"color": "black", "width": 1}},
        hovertemplate="minimum x %{x:.4f}, y %{y:.4f}<extra></extra>",
    )
    figure.update_layout(title=title, showlegend=False, margin={"l": 40, "r": 10, "t": 40, "b": 40}, plot_bgcolor=MARK)
    figure.update_xaxes(title="start x")
    figure.update_yaxes(title="start y")
    return figure


def sweep_figure(sweeps: Sequence[tuple[str, Sweep]], competitors: Sequence[Competitor]) -> go.Figure:
    """Draw the steps to the target against the rate, and the edge of stability where it is known."""
    figure = go.Figure()
    for (name, found), colour in zip(sweeps, colours(competitors), strict=True):
        figure.add_scatter(x=found.rates, y=found.steps, mode="lines+markers", name=name, line={"color": colour})
        if found.edge is not None:
            figure.add_vline(found.edge, line={"color": colour, "dash": "dot"})
    figure.update_layout(margin={"l": 40, "r": 10, "t": 20, "b": 40}, legend={"orientation": "h", "y": -0.25})
    figure.update_xaxes(title="learning rate", type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title="steps to the target", type="log", tickvals=STEP_TICKS)
    return figure


def examples_figure(loss: FiniteSum, ends: Sequence[tuple[str, Point]], competitors: Sequence[Competitor]) -> go.Figure:
    """Draw the examples of a sum, and what the model makes of them where each competitor ended."""
    inputs, targets = np.asarray(loss.inputs), np.asarray(loss.targets)
    reach = max(float(np.abs(inputs).max()), 1.0) * 1.1
    across = np.linspace(-reach, reach, 121)
    figure = go.Figure()
    for (name, (weight, bias)), colour in zip(ends, colours(competitors), strict=True):
        with np.errstate(all="ignore"):
            outputs = weight * across + bias
            if loss.kind == "logistic":
                outputs = 1 / (1 + np.exp(-outputs))
        figure.add_scatter(x=across, y=outputs, mode="lines", name=escape_html(name), line={"color": colour})
    figure.add_scatter(x=inputs, y=targets, mode="markers", name="examples", marker={"color": MARK, "size": 9})
    low, high = (-0.1, 1.1) if loss.kind == "logistic" else (float(targets.min()) - 1, float(targets.max()) + 1)
    figure.update_layout(margin={"l": 40, "r": 10, "t": 20, "b": 40}, legend={"orientation": "h", "y": -0.25})
    figure.update_xaxes(title="input")
    figure.update_yaxes(title="chance of class 1" if loss.kind == "logistic" else "target", range=(low, high))
    return figure
