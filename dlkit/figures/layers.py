"""What the layers page draws: the network, a layer's maps of a picture, filters, and formulas with their numbers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dlkit.catalog.formulas import latex_held, latex_number
from dlkit.figures.message import column, message
from dlkit.figures.network import MOST_BITS, latex_array
from dlkit.figures.palette import COLOURS, EVENT, MARK, TRAINING, VALIDATION
from dlkit.words import escape_html

Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]

MOST_MAPS = 40  # that are drawn of a layer, and of filters
THUMBNAIL = 32  # places along the longer side of a small map
FILTER_SIDE = 44  # pixels that a filter is drawn in
MOST_ROWS = 8  # of inputs with their shares
BINS = 60
BACK = 255  # white
#: what the numbers of an arithmetic are called in its formula
SYMBOLS = {
    "x": "x",
    "mean": r"\mu",
    "variance": r"\sigma^2",
    "epsilon": r"\epsilon",
    "scale": r"\gamma",
    "shift": r"\beta",
    "m": "m",
    "p": "p",
}
_NAMES = {symbol: name for name, symbol in SYMBOLS.items()}
_SYMBOL = re.compile(r"(?<![A-Za-z\\])(?:" + "|".join(map(re.escape, _NAMES)) + r")(?![A-Za-z])")


def network_figure(
    names: Sequence[str], kinds: Sequence[str], shapes: Sequence[tuple[int, ...]], chosen: int
) -> go.Figure:
    """Draw a network as a row of blocks, one a layer: as high as its maps and as dark as they are many.

    Each kind has a colour, and a block may be clicked: its place is the point's x.
    """
    figure = go.Figure()
    colours = dict(zip(dict.fromkeys(kinds), COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
    for kind, colour in colours.items():
        places = [place for place, one in enumerate(kinds) if one == kind]
        sides = [_side(shapes[place]) for place in places]
        figure.add_bar(
            x=places,
            y=sides,
            base=[-side / 2 for side in sides],
            name=kind,
            width=0.86,
            marker_color=colour,
            customdata=[[escape_html(names[place]), "×".join(map(str, shapes[place]))] for place in places],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra>" + escape_html(kind) + "</extra>",
        )
    half = _side(shapes[chosen]) / 2
    figure.add_shape(
        x0=chosen - 0.5, x1=chosen + 0.5, y0=-half, y1=half, xref="x", yref="y", line={"color": EVENT, "width": 3}
    )
    figure.update_xaxes(visible=False, range=[-0.7, len(names) - 0.3])
    figure.update_yaxes(visible=False, fixedrange=True)
    return figure.update_layout(
        height=240,
        barmode="overlay",
        margin={"l": 0, "r": 0, "t": 5, "b": 5},
        legend={"orientation": "h", "y": -0.05},
        clickmode="event+select",
    )


def _side(shape: tuple[int, ...]) -> float:
    """Return how high a block is: the maps' side, or that of a square of as many tokens; of a vector a little."""
    side = max(shape[-2:]) if len(shape) == 3 else shape[0] ** 0.5 if len(shape) == 2 else 1
    return float(np.log2(1 + side))


def framed(image: Image.Image, top: int, bottom: int, left: int, right: int) -> Image.Image:
    """Return a picture with a frame around some of its rows and columns, both ends included."""
    scale = max(1, 448 // max(image.size))
    drawn = image.resize((image.width * scale, image.height * scale))
    box = (left * scale, top * scale, (right + 1) * scale - 1, (bottom + 1) * scale - 1)
    ImageDraw.Draw(drawn).rectangle(box, outline=EVENT, width=4)
    return drawn


@dataclass(frozen=True)
class Maps:
    """What a layer makes of one picture, as maps: `values` (maps, rows, columns), `places` where each stands in it.

    `order` is the maps' numbers, that with the largest value first.
    """

    values: Floats
    places: NDArray[np.int64]
    shape: tuple[int, ...]

    @property
    def order(self) -> NDArray[np.int64]:
        return np.argsort(-self.values.max((1, 2)), kind="stable")

    def strongest(self) -> tuple[int, int, int]:
        """Return the map, row and column of the largest value."""
        number, row, across = (int(at) for at in np.unravel_index(self.values.argmax(), self.values.shape))
        return number, row, across

    def index(self, number: int, row: int, column: int) -> tuple[int, ...]:
        """Return where a value of a map stands in what the layer puts out."""
        return tuple(int(at) for at in np.unravel_index(self.places[number, row, column], self.shape))


def maps_of(outputs: Floats) -> Maps:
    """Return a layer's output for one picture as maps.

    Maps have their channels in front (C, H, W), or at the end where both sides in front are equal and those behind are
    not; tokens (T, D) are a map for each of D, in a square where they are one, with or without a first token that
    stands for the whole; a vector (C,) has maps of one place.
    """
    places = np.arange(outputs.size).reshape(outputs.shape)
    return Maps(_as_maps(outputs), _as_maps(places), outputs.shape)


def _as_maps(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 3:
        rows, columns, last = values.shape
        return values.transpose(2, 0, 1) if rows == columns != last else values
    if values.ndim == 2:
        tokens = len(values)
        for first in (0, 1):
            side = round((tokens - first) ** 0.5)
            if side * side == tokens - first:
                return values[first:].T.reshape(-1, side, side)
        return values.T[:, None, :]
    return values.reshape(-1, 1, 1)


def sheet(maps: Maps, number: int, row: int, column_: int, labels: Sequence[str] = ()) -> bytes:
    """Return what is drawn of a layer's maps: the strongest ones small, and one of them at its full size.

    `labels` are the maps' names, where they have names: the classes. A value of the map `number` is marked.
    """
    shown = maps.order[:MOST_MAPS].tolist()
    shown = shown if number in shown else [number, *shown[:-1]]
    small = _small(maps.values[shown])
    return message(
        {
            "count": len(maps.values),
            "shown": [
                {"number": one, "name": labels[one] if labels else f"{one}", "largest": float(maps.values[one].max())}
                for one in shown
            ],
            "small": {"rows": small.shape[1], "columns": small.shape[2], "bits": _bits(small)},
            "whole": {
                "rows": maps.values.shape[1],
                "columns": maps.values.shape[2],
                "values": column(maps.values[number]),
            },
            "chosen": {"number": number, "row": row, "column": column_},
        }
    )


def _small(values: Floats) -> Floats:
    """Return maps with THUMBNAIL places along their longer side at most, each the mean of what it stands for."""
    _, rows, columns = values.shape
    most = max(rows, columns)
    if most <= THUMBNAIL:
        return values
    size = max(1, columns * THUMBNAIL // most), max(1, rows * THUMBNAIL // most)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in values])


def _bits(values: Floats) -> NDArray[np.int8]:
    """Return maps as a byte a place: each one's farthest value from zero is ±127."""
    largest = np.abs(values).max((1, 2), keepdims=True)
    return np.rint(values / np.where(largest > 0, largest, 1) * MOST_BITS).astype(np.int8).reshape(-1)


def filters_image(filters: Floats, unit: int) -> Image.Image:
    """Draw filters (units, inputs, rows, columns): of three inputs each unit's in colours, else one unit's by inputs.

    In colours grey is zero; else blue is above zero and orange below, on white. The strongest come first.
    """
    if filters.shape[1] == 3:
        squares = filters.transpose(0, 2, 3, 1)
        largest = np.abs(squares).max((1, 2, 3), keepdims=True)
        pixels = 127.5 + 127.5 * squares / np.where(largest > 0, largest, 1)
    else:
        squares = filters[unit][..., None]
        ends = np.where(squares > 0, _rgb(COLOURS[0]), _rgb(COLOURS[1]))
        pixels = BACK + np.abs(squares) / (np.abs(squares).max() or 1) * (ends - BACK)
    order = np.argsort(-np.abs(squares).sum((1, 2, 3)))
    images = [Image.fromarray(np.rint(pixels[one]).astype(np.uint8)) for one in order[:MOST_MAPS]]
    columns = min(len(images), 10)
    rows, step = -(-len(images) // columns), FILTER_SIDE + 4
    drawn = Image.new("RGBA", (columns * step - 4, rows * step - 4), (0, 0, 0, 0))
    for place, image in enumerate(images):
        across, down = place % columns, place // columns
        drawn.paste(image.resize((FILTER_SIDE, FILTER_SIDE), Image.Resampling.NEAREST), (across * step, down * step))
    return drawn


def _rgb(colour: str) -> NDArray[np.int64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])


@dataclass(frozen=True)
class Written:
    """One value's arithmetic: `formulas` in LaTeX, with a title each, what is said of it, and the largest shares."""

    formulas: Mapping[str, str]
    note: str = ""
    rows: Sequence[Mapping[str, float]] = ()


def written(formula: str, parts: Mapping[str, Numbers], value: float, inputs: tuple[int, ...]) -> Written:
    """Write out how a value comes about: see `engine.arithmetic`; `inputs` is the shape of what the layer was given."""
    result = latex_number(value)
    if "w x" in parts:
        return _of_products(formula, parts, result)
    if "winner" in parts:
        row, across = parts["winner"].astype(int).tolist()
        return Written(
            {"the value": rf"{formula} = {result}", "the window x": _matrix(parts["x"])},
            f"Row {row}, column {across} of the window wins, counted from 0. Its gradient comes back to it alone.",
        )
    if "e" in parts:
        return _of_softmax(formula, parts, result)
    if "place" in parts:
        place = parts["place"].astype(int).tolist()
        terms = " + ".join(
            " · ".join(map(str, (at, *inputs[axis + 1 :]))) for axis, at in enumerate(place) if inputs[axis + 1 :] or at
        )
        return Written(
            {"the value": rf"{formula} = {result}"},
            f"It stood at {tuple(place)} of {'×'.join(map(str, inputs))}, and stands at {terms or 0} now: nothing is "
            "computed, rows are put behind each other.",
        )
    if "n" in parts:
        count = int(parts["n"])
        total = latex_number(float(parts["x"].sum()))
        return Written(
            {"the value": rf"{formula} = \frac{{{total}}}{{{count}}} = {result}", "the map x": _matrix(parts["x"])},
        )
    return Written({"the value": f"{formula} = {_filled(formula, parts)} = {result}"})


def _of_products(formula: str, parts: Mapping[str, Numbers], result: str) -> Written:
    """Write out a sum of products: by inputs, of which that with the largest share is shown with all its numbers."""
    products, bias = parts["w x"], float(parts["b"])
    shares = products.reshape(len(products), -1).sum(1)
    order, first = np.argsort(-np.abs(shares), kind="stable"), int(parts.get("first", np.zeros(())))
    head = rf"{formula} = {latex_number(float(shares.sum()))} + {latex_held(bias)} = {result}"
    if products.ndim == 1 or products[0].size == 1:
        flat = {name: parts[name].reshape(-1) for name in ("w", "x", "w x")}
        rows = [
            {"input": first + int(one), "w": flat["w"][one], "x": flat["x"][one], "w · x": flat["w x"][one]}
            for one in order[:MOST_ROWS]
        ]
        return Written({"the value": head}, _left(len(shares), "inputs"), rows)
    best = int(order[0])
    whose = f"of input {first + best}"
    formulas = {
        "the value": head,
        f"kernel w {whose}": _matrix(parts["w"][best]),
        f"patch x {whose}": _matrix(parts["x"][best]),
        f"their products, in all {float(shares[best]):.4g}": _matrix(products[best]),
    }
    rows = [{"input": first + int(one), "Σ w · x": shares[one]} for one in order[:MOST_ROWS]]
    return Written(formulas, _left(len(shares), "inputs"), rows if len(shares) > 1 else ())


def _of_softmax(formula: str, parts: Mapping[str, Numbers], result: str) -> Written:
    order = np.argsort(-parts["z"], kind="stable")[:MOST_ROWS]
    total = parts["e"].sum()
    rows = [
        {"class": int(one), "z": parts["z"][one], "e": parts["e"][one], "p": parts["e"][one] / total} for one in order
    ]
    first, where = formula.split(r", \quad ")
    numbers = {
        "the value": f"{first} = {result}",
        "where": where,
        "the largest": rf"\max z = {latex_number(float(parts['z'].max()))}",
        "of all": rf"\sum e = {latex_number(float(total))}",
    }
    return Written(numbers, _left(len(parts["z"]), "classes"), rows)


def _left(count: int, what: str) -> str:
    return f"The {MOST_ROWS} of {count} {what} with the largest shares:" if count > MOST_ROWS else ""


def _matrix(values: Numbers) -> str:
    return latex_array(np.squeeze(values), digits=3).replace("-inf", r"-\infty")


def _filled(formula: str, parts: Mapping[str, Numbers]) -> str:
    """Return a formula with the numbers in place of their names."""

    def number(found: re.Match[str]) -> str:
        name = _NAMES[found[0]]
        return latex_held(float(parts[name])) if name in parts else found[0]

    return _SYMBOL.sub(number, formula)


def spread_figure(weights: Numbers, gradient: Numbers, delta: Numbers) -> go.Figure:
    """Draw how a parameter's weights, gradients and steps are spread, by powers of ten of their sizes."""
    figure = go.Figure()
    with np.errstate(divide="ignore"):
        sizes = {
            name: np.log10(np.abs(values).ravel())
            for name, values in (("weights", weights), ("gradients", gradient), ("steps", delta))
        }
    kept = {name: values[np.isfinite(values)] for name, values in sizes.items()}
    known = [values for values in kept.values() if values.size]
    if known:
        edges = np.linspace(min(map(np.min, known)), max(map(np.max, known)) + 1e-9, BINS + 1)
        for (name, values), colour in zip(kept.items(), (MARK, VALIDATION, TRAINING), strict=True):
            counts, _ = np.histogram(values, edges)
            figure.add_scatter(
                x=(edges[1:] + edges[:-1]) / 2,
                y=counts / max(1, len(sizes[name])),
                mode="lines",
                fill="tozeroy",
                name=name,
                line={"color": colour, "shape": "hvh"},
            )
    figure.update_xaxes(title="size", tickprefix="10<sup>", ticksuffix="</sup>", dtick=1)
    figure.update_yaxes(title="share", tickformat=".0%", rangemode="tozero")
    return figure.update_layout(
        height=280, margin={"l": 50, "r": 10, "t": 30, "b": 40}, legend={"orientation": "h", "y": 1.15}
    )
