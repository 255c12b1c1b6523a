"""Curves of a run by step and epoch, the drawn schedule, and the balance of classes."""

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go

from dlkit.config import FinetuneConfig, first_phases, learning_rates
from dlkit.figures.palette import EVENT, MARK, RATE, TRAINING, VALIDATION
from dlkit.runs.records import Change, Point, in_words
from dlkit.words import escape_html

MOST_POINTS = 2000
HEIGHT = 260


def loss_figure(points: Iterable[Point], events: Iterable[tuple[float, str]] = ()) -> go.Figure:
    """Draw the loss of each step, and of training and validation at each epoch's end; mark (epoch, text) events."""
    series = _series(points)
    figure = _figure("Loss (nats)")
    _add(figure, series.get("step/loss", []), "each step", MARK, width=1)
    _add(figure, series.get("train/loss", []), "training", TRAINING, has_markers=True)
    _add(figure, series.get("val/loss", []), "validation", VALIDATION, has_markers=True)
    return _marked(figure, events)


def accuracy_figure(points: Iterable[Point]) -> go.Figure:
    """Draw the accuracy of training and validation at each epoch's end."""
    series = _series(points)
    figure = _figure("Accuracy")
    _add(figure, series.get("train/accuracy", []), "training", TRAINING, has_markers=True)
    _add(figure, series.get("val/accuracy", []), "validation", VALIDATION, has_markers=True)
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02])


def rate_figure(points: Iterable[Point], events: Iterable[tuple[float, str]] = ()) -> go.Figure:
    """Draw the learning rate of each step; mark (epoch, text) events."""
    figure = _figure("Learning rate")
    _add(figure, _series(points).get("learning_rate", []), "learning rate", RATE)
    figure.update_yaxes(exponentformat="e")  # 4e-4, not 400µ
    return _marked(figure.update_layout(showlegend=False), events)


def schedule_figure(config: FinetuneConfig, batches: int) -> go.Figure:
    """Draw the learning rate that the config will use over all its epochs of so many batches, phase by phase.

    A long run is sampled before it is computed: a link may ask for a hundred million steps.
    """
    phases = [epochs for _, epochs in first_phases(config)]
    every = -(-sum(phases) * batches // (MOST_POINTS // 2))
    points: list[Point] = []
    for place, epochs in enumerate(phases):
        before, total = sum(phases[:place]) * batches, epochs * batches
        steps = sorted({*range(0, total, every), total - 1} if total else ())
        rates = learning_rates(config, epochs, batches, steps)
        for step, rate in zip(steps, rates, strict=True):
            number = before + step + 1
            points.append(Point("learning_rate", number, number / batches, rate))
    return rate_figure(points)


def balance_figure(counts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Draw how many pictures each class has: {split: {class: count}}."""
    figure = _figure("Pictures")
    for (split, classes), colour in zip(counts.items(), (TRAINING, VALIDATION), strict=False):
        names = [escape_html(name) for name in classes]
        figure.add_bar(x=names, y=list(classes.values()), name=split, marker_color=colour)
    return figure.update_layout(barmode="group").update_xaxes(title=None)


def change_events(changes: Iterable[Change], points: Sequence[Point]) -> list[tuple[float, str]]:
    """Return where changes that took effect stand on the curves of these points, as (epoch, text)."""
    ratio = next((point.epoch / point.step for point in reversed(points) if point.step), 0.0)
    return [(change.step * ratio, in_words(change.what, change.value)) for change in changes if change.step is not None]


def _marked(figure: go.Figure, events: Iterable[tuple[float, str]]) -> go.Figure:
    """Draw a thin line with a text at each event; texts of neighbours stand one below the other.

    Beyond the middle a text stands before its line, as one that leaves the curves would make them narrow.
    """
    middle = max((x for trace in figure.data for x in trace.x), default=0) / 2
    for number, (epoch, text) in enumerate(events):
        figure.add_vline(x=epoch, line={"color": EVENT, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=epoch,
            y=0.98 - 0.1 * (number % 4),
            yref="paper",
            text=escape_html(text),
            showarrow=False,
            xanchor="left" if epoch <= middle else "right",
            xshift=3 if epoch <= middle else -3,
            font={"size": 11},
        )
    return figure


def _series(points: Iterable[Point]) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.key, []).append(point)
    return series


def _add(
    figure: go.Figure, points: Sequence[Point], name: str, colour: str, width: float = 2, has_markers: bool = False
) -> None:
    shown = _thinned(points)
    figure.add_scatter(
        x=[point.epoch for point in shown],
        y=[point.value for point in shown],
        customdata=[point.step for point in shown],
        hovertemplate="epoch %{x:.3g}, step %{customdata}: %{y:.4g}<extra>" + name + "</extra>",
        name=name,
        mode="lines+markers" if has_markers else "lines",
        line={"color": colour, "width": width},
    )


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Keep every n-th point and the last where there are more than MOST_POINTS."""
    every = -(-(len(points) - 1) // (MOST_POINTS - 1))
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def _figure(title: str) -> go.Figure:
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
    figure = go.Figure(layout={"height": HEIGHT, "margin": {"l": 8, "r": 8, "t": 28, "b": 8}, "legend": legend})
    return figure.update_xaxes(title="Epoch", rangemode="tozero").update_yaxes(title=title)
