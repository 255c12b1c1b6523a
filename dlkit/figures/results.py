"""Pictures of what a model says: softmax bars over an image, the confusion matrix, and sheets of small images."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageOps

from dlkit.figures.palette import SEQUENCE
from dlkit.words import escape_html, percent

SHOWN_SIDE = 720

# the bars lie on the picture, dark under white in both themes; a narrow picture keeps room for them
FIGURE_STYLE = "position:relative;margin:0 auto;max-width:640px;min-height:240px;background:#0a0e14;border-radius:8px;overflow:hidden"
IMAGE_STYLE = "display:block;margin:0 auto;width:100%;max-height:560px;min-height:240px;object-fit:contain"
BARS_STYLE = "position:absolute;left:0;right:0;bottom:0;padding:8px;background:rgba(10,14,20,0.66);color:#fff"
ROW_STYLE = (
    "position:relative;height:26px;margin:3px 0;border-radius:4px;overflow:hidden;background:rgba(255,255,255,0.08)"
)
FILL_STYLE = "position:absolute;left:0;top:0;bottom:0;background:#1f7bbf"
TEXT_STYLE = "position:relative;padding:0 8px;font-size:15px;line-height:26px;white-space:nowrap"


def softmax_html(image: Image.Image, labels: Sequence[str], probabilities: Sequence[float]) -> str:
    """Return HTML of the RGB image with the probabilities as bars over its lower part, likeliest on top."""
    shown = ImageOps.contain(image, (SHOWN_SIDE, SHOWN_SIDE))
    rows = "".join(_bar(label, share) for label, share in zip(labels, probabilities, strict=True))
    return (
        f'<figure style="{FIGURE_STYLE}"><img src="{data_uri(shown)}" alt="The picture" style="{IMAGE_STYLE}">'
        f'<figcaption style="{BARS_STYLE}">{rows}</figcaption></figure>'
    )


def _bar(label: str, share: float) -> str:
    return (
        f'<div style="{ROW_STYLE}"><div style="{FILL_STYLE};width:{100 * share:.2f}%"></div>'
        f'<div style="{TEXT_STYLE}"><b>{percent(share)}</b> {escape_html(label)}</div></div>'
    )


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Draw the confusion matrix (C, C): rows are what the pictures show, columns what the model said.

    Each cell is also an invisible point whose custom data is (actual, predicted), so that a click can name it.
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


def contact_sheet(images: Sequence[Image.Image], columns: int, side: int = 96, gap: int = 4) -> Image.Image:
    """Lay small squares of the images in rows on a transparent ground."""
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap), (0, 0, 0, 0))
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet.paste(ImageOps.fit(image, (side, side)), (column * (side + gap), row * (side + gap)))
    return sheet


def data_uri(image: Image.Image) -> str:
    """Return the image as a JPEG that a page can hold without a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
