"""Figures beside the small network: a perceptron's line, softmax and its losses, the graph of a formula."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dlkit.figures.palette import COLOURS, EVENT, MARK, RATE, TRAINING, VALIDATION
from dlkit.lab.graph import NEGATIVE, NUMBER, Computed, Graph, Node, Sent
from dlkit.lab.perceptron import Seen
from dlkit.lab.points import DOMAIN, Points
from dlkit.lab.rules import Learnt
from dlkit.lab.softmax import Curves, Judged
from dlkit.words import escape_html

FEWEST_EPOCHS = 8  # for which there is room at first
MARGIN = {"l": 50, "r": 10, "t": 30, "b": 40}


def perceptron_figure(points: Points, seen: Seen) -> go.Figure:
    """Draw the points, the perceptron's line, its weights as an arrow to the side of class 1, and the last example."""
    places, labels = points.train()
    figure = go.Figure()
    for label, name in enumerate(points.classes):
        x, y = places[labels == label].T
        figure.add_scatter(x=x, y=y, mode="markers", name=f"class {escape_html(name)}", marker_color=COLOURS[label])
    low, high = DOMAIN[:2]
    (across, up), bias = seen.perceptron.weights, seen.perceptron.bias
    length = float(np.hypot(across, up))
    if length:
        middle, along = -bias * np.array((across, up)) / length**2, np.array((-up, across)) / length
        ends = np.stack((middle - 4 * along, middle + 4 * along))
        figure.add_scatter(
            x=ends[:, 0], y=ends[:, 1], mode="lines", name="w·x + b = 0", line={"color": MARK, "width": 3}
        )
        tip = middle + 0.3 * np.array((across, up)) / length
        if np.abs(middle).max() < high:
            figure.add_annotation(
                x=tip[0],
                y=tip[1],
                ax=middle[0],
                ay=middle[1],
                axref="x",
                ayref="y",
                arrowhead=2,
                arrowcolor=MARK,
                text="",
            )
    if seen.last:
        x, y = places[seen.last.place]
        marker = {"size": 16, "symbol": "circle-open", "line": {"width": 3}, "color": EVENT}
        figure.add_scatter(x=[x], y=[y], mode="markers", name="the last example", marker=marker)
    figure.update_xaxes(range=[low, high], title="x")
    figure.update_yaxes(range=[low, high], title="y", scaleanchor="x")
    return figure.update_layout(height=420, margin=MARGIN, legend={"orientation": "h", "y": 1.1})


def mistakes_figure(seen: Seen) -> go.Figure:
    """Draw how many mistakes each epoch had."""
    epochs = len(seen.mistakes)
    figure = go.Figure(go.Bar(x=list(range(1, epochs + 1)), y=seen.mistakes, marker_color=VALIDATION))
    figure.update_xaxes(title="epoch", range=[0.4, max(FEWEST_EPOCHS, epochs) + 0.6], tickformat="d")
    figure.update_yaxes(title="mistakes", rangemode="tozero")
    return figure.update_layout(height=420, margin=MARGIN)


def sides_figure(points: Points, says: np.ndarray) -> go.Figure:
    """Draw points over the classes 0 and 1 that `says`, (side²,) row by row from below, tells of the plane's places."""
    low, high = DOMAIN[:2]
    line = np.linspace(low, high, round(len(says) ** 0.5))
    figure = go.Figure()
    scale = [[0, COLOURS[0]], [1, COLOURS[1]]]
    figure.add_heatmap(
        x=line, y=line, z=says.reshape(len(line), -1), zmin=0, zmax=1, colorscale=scale, opacity=0.3, showscale=False,
        hoverinfo="skip",
    )  # fmt: skip
    for label in (0, 1):
        x, y = points.points[points.labels == label].T
        marker = {"color": COLOURS[label], "size": 6, "line": {"color": "white", "width": 1}}
        figure.add_scatter(x=x, y=y, mode="markers", name=f"class {label}", marker=marker)
    figure.update_xaxes(range=[low, high], title="x")
    figure.update_yaxes(range=[low, high], title="y", scaleanchor="x")
    return figure.update_layout(height=380, margin=MARGIN, legend={"orientation": "h", "y": 1.12})


def examples_figure(learnt: Sequence[Learnt], written: float) -> go.Figure:
    """Draw the share of test points that networks get right by how many examples they had; dashed: a written rule's."""
    figure = go.Figure()
    counts = [one.count for one in learnt]
    for seed, _ in enumerate(learnt[0].accuracies):
        shares = [one.accuracies[seed] for one in learnt]
        figure.add_scatter(
            x=counts, y=shares, mode="markers", marker={"color": TRAINING, "opacity": 0.5}, name="one network",
            showlegend=seed == 0,
        )  # fmt: skip
    means = [one.mean for one in learnt]
    figure.add_scatter(x=counts, y=means, mode="lines", name="their mean", line={"color": TRAINING, "width": 3})
    line = {"color": VALIDATION, "dash": "dash"}
    figure.add_scatter(x=counts[:1] + counts[-1:], y=[written] * 2, mode="lines", name="the written rule", line=line)
    figure.update_xaxes(type="log", title="examples that are learnt from", tickvals=counts)
    figure.update_yaxes(title="new points right", tickformat=".0%", range=[min(0.45, *means, written) - 0.02, 1.02])
    margin = {**MARGIN, "b": 90}  # on a phone the legend has two lines
    return figure.update_layout(height=360, margin=margin, legend={"orientation": "h", "y": -0.3})


def judged_figure(judged: Judged) -> go.Figure:
    """Draw one example's probabilities beside what they should be, and the gradient by each logit."""
    classes = [f"class {number}" for number in range(judged.probabilities.shape[1])]
    figure = go.Figure()
    for name, values, colour in (
        ("probability p", judged.probabilities[0], TRAINING),
        ("target", judged.targets[0], RATE),
        ("gradient of the loss by the logit", judged.gradient[0], VALIDATION),
    ):
        figure.add_bar(x=classes, y=values, name=name, marker_color=colour)
    return figure.update_layout(height=360, margin=MARGIN, legend={"orientation": "h", "y": 1.15}, barmode="group")


def losses_figure(curves: Curves, logit: float) -> go.Figure:
    """Draw cross-entropy and squared error by the right class's logit, which is `logit` now; dashed: their slopes."""
    figure = go.Figure()
    for name, values, colour, dash in (
        ("cross-entropy", curves.cross_entropy, TRAINING, "solid"),
        ("its slope", curves.cross_entropy_slope, TRAINING, "dash"),
        ("squared error", curves.squared_error, VALIDATION, "solid"),
        ("its slope ", curves.squared_error_slope, VALIDATION, "dash"),
    ):
        figure.add_scatter(x=curves.logits, y=values, mode="lines", name=name, line={"color": colour, "dash": dash})
    figure.add_vline(x=logit, line_color=MARK)
    figure.update_xaxes(title="logit of the right class", range=[float(curves.logits[0]), float(curves.logits[-1])])
    return figure.update_layout(height=360, margin=MARGIN, legend={"orientation": "h", "y": 1.15})


def graph_figure(graph: Graph, step: int) -> go.Figure:
    """Draw a formula's boxes after `step` steps, the ways forward first: values in them, gradients as they come back.

    The box of this step is filled, and the way that a gradient takes is coloured.
    """
    forward = list(graph.forward())
    known = {one.place for one in forward[:step]} | {place for place, node in enumerate(graph.nodes) if not node.inputs}
    sent = graph.backward[: max(0, step - len(forward))]
    gradients = {one.receiver: one.total for one in sent}
    if step >= len(forward) and graph.nodes[-1].varies:
        gradients |= {len(graph.nodes) - 1: 1.0}
    now = _now(forward, sent, step)
    places = _places(graph.nodes)
    figure = go.Figure()
    for place, node in enumerate(graph.nodes):
        for one in set(node.inputs):
            is_now = bool(sent) and (sent[-1].sender, sent[-1].receiver) == (place, one)
            (x, y), (to_x, to_y) = places[one], places[place]
            line = {"color": VALIDATION if is_now else MARK, "width": 4 if is_now else 1.5}
            figure.add_scatter(x=[x, to_x], y=[y, to_y], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for place, node in enumerate(graph.nodes):
        value = f"{node.value:.4g}" if place in known else "?"
        rows = [f"<b>{escape_html(_title(node))}</b>", value]
        if place in gradients:
            rows.append(f"<span style='color:#ffd9b0'>∂ {gradients[place]:.4g}</span>")
        x, y = places[place]
        colour = VALIDATION if place == now else "#33506b" if node.varies else "#5b6168"
        figure.add_annotation(
            x=x,
            y=y,
            text="<br>".join(rows),
            showarrow=False,
            bgcolor=colour,
            font={"color": "#ffffff", "size": 13},
            borderpad=5,
            hovertext=escape_html(node.text),
        )
    figure.update_xaxes(visible=False, range=[-0.5, max(x for x, _ in places) + 0.5])
    figure.update_yaxes(visible=False, range=[min(y for _, y in places) - 0.7, max(y for _, y in places) + 0.7])
    tallest = max(sum(x == column for x, _ in places) for column, _ in places)
    return figure.update_layout(height=max(260, 110 * tallest), margin={"l": 5, "r": 5, "t": 5, "b": 5})


def _now(forward: Sequence[Computed], sent: Sequence[Sent], step: int) -> int | None:
    """Return the box of the last step: that which got a value, or a gradient."""
    if sent:
        return sent[-1].receiver
    return forward[min(step, len(forward)) - 1].place if step and forward else None


def _title(node: Node) -> str:
    if node.operation == NUMBER:
        return "number" if node.text[:1].isdigit() else node.text
    return "−" if node.operation == NEGATIVE else node.operation


def _places(nodes: Sequence[Node]) -> list[tuple[float, float]]:
    """Return where boxes stand: behind what they are computed of, and below each other."""
    depths: list[int] = []
    for node in nodes:
        depths.append(1 + max((depths[place] for place in node.inputs), default=-1))
    columns: dict[int, list[int]] = {}
    for place, depth in enumerate(depths):
        columns.setdefault(depth, []).append(place)
    return [(float(depth), len(columns[depth]) / 2 - columns[depth].index(place)) for place, depth in enumerate(depths)]
