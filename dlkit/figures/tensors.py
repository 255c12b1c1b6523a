"""Tensors of any number of dimensions as pictures: cells with their numbers, in rows, grids, and grids of grids.

The last two dimensions are a grid's rows and columns; each one before lays such blocks side by side or below each
other, in turn. Loads neither torch nor Plotly.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dlkit.figures.palette import RATE, TRAINING, VALIDATION

CELL, ROW, GAP = 34, 24, 8  # px
COLOUR = ",".join(str(int(TRAINING[place : place + 2], 16)) for place in (1, 3, 5))
PALE, FULL = 0.06, 0.45  # of the colour in a cell
CELL_STYLE = (
    f"position:absolute;box-sizing:border-box;width:{CELL + 1}px;height:{ROW + 1}px;line-height:{ROW - 1}px;"
    "border:1px solid rgba(128,128,128,0.5);text-align:center;font-size:12px"
)
PARTS = (VALIDATION, RATE, TRAINING)  # of sign, exponent and fraction


def tensor_html(values: np.ndarray, title: str, strong: np.ndarray | None = None) -> str:
    """Return the picture of a tensor as HTML to stand in a page; its text has the page's colour.

    `strong`, bool of the same shape, tells which cells stand out; without it all do. `title` is what the tensor is
    called where the pointer rests on a cell, as "t": plain letters.
    """
    if not values.size:
        return f"<p>{title}: no elements</p>"
    width, height = _size(values.shape)
    cells = []
    for index, x, y in _places(values.shape):
        opacity = FULL if strong is None or strong[index] else PALE
        number = f"{values[index]:g}"
        cells.append(
            f'<div title="{title}[{", ".join(map(str, index))}] = {number}" '
            f'style="left:{x}px;top:{y}px;{CELL_STYLE};background:rgba({COLOUR},{opacity})">{number}</div>'
        )
    label = " by ".join(map(str, values.shape)) or "one number"
    return (
        f'<div style="overflow-x:auto"><div role="img" aria-label="{title}, {label}" '
        f'style="position:relative;width:{width}px;height:{height}px">{"".join(cells)}</div></div>'
    )


def bits_html(name: str, bits: Sequence[str]) -> str:
    """Return a row of bits as HTML: sign, exponent and fraction in their colours, or all of a whole number."""
    colours = PARTS if len(bits) == len(PARTS) else PARTS[-1:]
    parts = "".join(
        f'<span style="background:{colour}55;margin-right:3px;padding:1px 2px;overflow-wrap:anywhere">{part}</span>'
        for colour, part in zip(colours, bits, strict=True)
    )
    return f'<div style="font-size:13px"><b>{name}</b><br><code style="color:inherit">{parts}</code></div>'


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return width and height in px."""
    if len(shape) <= 2:
        rows, columns = (1, 1, *shape)[-2:]
        return columns * CELL + 1, rows * ROW + 1  # neighbours share a line
    width, height = _size(shape[1:])
    count, gap = shape[0], _gap(shape)
    if _is_across(shape):
        return count * (width + gap) - gap, height
    return width, count * (height + gap) - gap


def _places(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield each element's index with the upper left corner of its cell."""
    if len(shape) <= 2:
        for index in np.ndindex(shape):
            row, column = (0, 0, *index)[-2:]
            yield index, column * CELL, row * ROW
        return
    width, height = _size(shape[1:])
    right, down = (width + _gap(shape), 0) if _is_across(shape) else (0, height + _gap(shape))
    for number in range(shape[0]):
        for index, x, y in _places(shape[1:]):
            yield (number, *index), x + number * right, y + number * down


def _gap(shape: tuple[int, ...]) -> int:
    return GAP * (len(shape) - 2)


def _is_across(shape: tuple[int, ...]) -> bool:
    return len(shape) % 2 == 1
