"""The confusion matrix of a model."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dlkit.figures.palette import SEQUENCE
from dlkit.words import escape_html


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Draw the confusion matrix (C, C): rows are what the pictures show, columns what the model said.

    Each cell is also an invisible point, as a click selects only those: its y is the actual class, its x the called.
    """
    names = [escape_html(name) for name in classes]
    places = np.arange(len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = go.Figure(
        go.Heatmap(z=shares, x=places, y=places, colorscale=SEQUENCE, showscale=False, zmin=0, zmax=1, hoverinfo="skip")
    )
    actual, predicted = (axis.ravel() for axis in np.meshgrid(places, places, indexing="ij"))
    has_room = len(classes) <= 25
    figure.add_scatter(
        x=predicted,
        y=actual,
        mode="markers+text" if has_room else "markers",
        marker={"opacity": 0, "size": 24},
        text=[str(number) if number else "" for number in counts.ravel()],
        textfont={"color": ["#ffffff" if share > 0.55 else "#1b1f24" for share in shares.ravel()]},
        customdata=np.column_stack([actual, predicted, counts.ravel()]),
        hovertemplate="%{customdata[2]} pictures of %{y} were called %{x}<extra></extra>",
        showlegend=False,
    )
    ticks = {"tickvals": places, "ticktext": names, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="Called", **ticks).update_yaxes(title="Is", autorange="reversed", **ticks)
    side = int(min(900, max(320, 120 + 28 * len(classes))))
    return figure.update_layout(height=side, margin={"l": 8, "r": 8, "t": 8, "b": 8})
