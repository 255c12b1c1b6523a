"""The curve of the learning-rate finder with the rates that it suggests."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.figures.palette import MARK, SUGGESTED, TRAINING
from dlkit.words import rate

HEIGHT = 300
CURVE_SHARE = 0.6  # of the height; above it stand the labels
ROW_SHARE = 0.08  # of the height, for one label
NOISE_SHARE = 0.1  # of the smoothed curve's height, by which a single loss may be above it
LABEL_ROOM = 1.5  # powers of ten behind the curve, for a name at its end


def finder_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestions: Mapping[str, float]
) -> go.Figure:
    """Draw the loss (nats) over the learning rate, and a line with its name for each rate that is suggested by name.

    The names stand above the curve in rows of their own, the smallest rate's on top, so that none meets another or the
    line of a greater rate. Single losses far above the smoothed curve are left out: they would run through them.
    """
    figure = go.Figure(
        layout={
            "height": HEIGHT,
            "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        }
    )
    hover = "at %{x:.2g}: %{y:.4g}<extra></extra>"
    low, highest = min(losses, default=0.0), max(smoothed, default=1.0)
    high = highest + NOISE_SHARE * (highest - low)
    shown = [loss if loss <= high else None for loss in losses]
    figure.add_scatter(x=rates, y=shown, name="each step", line={"color": MARK, "width": 1}, hovertemplate=hover)
    figure.add_scatter(x=rates, y=smoothed, name="smoothed", line={"color": TRAINING, "width": 2}, hovertemplate=hover)
    height = max(high - low, 0.1) / CURVE_SHARE
    bottom = low - 0.05 * height
    top = bottom + height
    order = sorted(suggestions, key=lambda name: suggestions[name])
    for row, name in enumerate(order):
        value = suggestions[name]
        figure.add_scatter(
            x=[value, value],
            y=[bottom, top - (row + 0.5) * ROW_SHARE * height],
            mode="lines+text",
            text=["", f"\N{NO-BREAK SPACE}{SUGGESTIONS[name].title}\N{NO-BREAK SPACE}"],  # beside the line, not on it
            textposition="middle right",
            line={"color": SUGGESTED[name], "width": 2, "dash": "dot"},
            name=SUGGESTIONS[name].title,
            hovertemplate=f"{SUGGESTIONS[name].title}: {rate(value)}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title="Learning rate", type="log", exponentformat="power", dtick=1)
    if rates:
        figure.update_xaxes(range=[math.log10(rates[0]), math.log10(rates[-1]) + LABEL_ROOM])
    return figure.update_yaxes(title="Loss (nats)", range=[bottom, top])
