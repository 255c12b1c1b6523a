"""Pictures without Plotly: softmax bars over an image, and sheets of small images. Loads nothing heavy."""

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageOps

from dlkit.words import escape_html, percent

SHOWN_SIDE = 720

# the bars lie on the picture, dark under white in both themes; a narrow picture keeps room for them
FIGURE_STYLE = (
    "position:relative;margin:0 auto;max-width:640px;min-height:330px;background:#0a0e14;"
    "border-radius:8px;overflow:hidden"
)
IMAGE_STYLE = (
    "display:block;margin:0 auto;width:100%;max-height:560px;min-height:330px;object-fit:contain;object-position:top"
)
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
    image.convert("RGB").save(buffer, "JPEG", quality=78)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
