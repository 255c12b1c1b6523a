"""The one careful reader of pictures: whatever the bytes are, an RGB picture or an ImageError comes out.

It knows nothing of data sets, models or sizes that a network wants. Colour profiles (ICC) are not applied.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dlkit.errors import ImageError
from dlkit.settings import settings

# "MPO" must not be in the list: `Image.open` (Pillow 13) then raises KeyError on an unknown file. JPEG opens MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FORMAT_WORDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
LARGEST_ASPECT = 100  # a side 100 times the other, brought to 224 pixels, makes 5 megapixels; without a limit, anything

_FORMAT_STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*", re.DOTALL)
_OTHER_KINDS = (
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "AVIF pictures"),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "HEIC photos"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", re.DOTALL), "SVG drawings"),
    (re.compile(rb"%PDF"), "PDF documents"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript drawings"),
    (re.compile(rb"SIMPLE  ="), "FITS images"),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4


def read_image(
    source: bytes | Path | BinaryIO,
    *,
    name: str | None = None,
    max_megapixels: float | None = None,
    max_mb: float | None = None,
) -> Image.Image:
    """Return the picture as RGB, upright, its first frame, transparency on white, without any metadata.

    `name` stands in the messages (default: the file's own name). A limit that is None is the server's setting.
    Raises ImageError, and nothing else, for a file that is missing, too big, cut off, damaged, longer than
    LARGEST_ASPECT times its width (or the reverse) or of another format.
    """
    shown = shown_name(name or (source.name if isinstance(source, Path) else "The picture"))
    max_mb = settings().max_image_mb if max_mb is None else max_mb
    max_megapixels = settings().max_image_megapixels if max_megapixels is None else max_megapixels
    data = _read_bytes(source, shown, max_mb)
    image = _open(data, shown)
    _check_size(image, shown, max_megapixels)
    try:
        if (
            image.format == "PNG"
        ):  # decoding skips the checksums of the pixels; verify() spoils the image it is called on
            Image.open(io.BytesIO(data), formats=FORMATS).verify()
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # Pillow's decoders raise a dozen types, SyntaxError and struct.error among them
        raise ImageError(_damaged(shown)) from error


def image_digest(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def thumbnail_jpeg(image: Image.Image, side: int) -> bytes:
    """Return an RGB image as JPEG, shrunk to fit into `side` × `side` pixels; it is never enlarged."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def shown_name(name: str) -> str:
    """Return a file's name without control and direction characters, at most 60 long, its ending kept."""
    clean = "".join(character for character in name if character.isprintable()).strip() or "The picture"
    return clean if len(clean) <= 60 else f"{clean[:44]}…{clean[-15:]}"


def _read_bytes(source: bytes | Path | BinaryIO, shown: str, max_mb: float) -> bytes:
    limit = int(max_mb * 1e6)
    try:
        data = _at_most(source, limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a closed file, a NUL in a path
        raise ImageError(f"{shown} cannot be opened. Check that it is there and may be read.") from error
    if not data:
        raise ImageError(f"{shown} is empty. Choose the file again.")
    if len(data) > limit:
        raise ImageError(f"{shown} is larger than {max_mb:g} MB, the limit for a picture. Save it smaller.")
    return data


def _at_most(source: bytes | Path | BinaryIO, count: int) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(count)
    return source.read(count)


def _open(data: bytes, shown: str) -> Image.Image:
    """Read the header only."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown} has far too many pixels to be read. Save it smaller.") from error
    except Exception as error:
        raise ImageError(_unreadable(data, shown)) from error


def _unreadable(data: bytes, shown: str) -> str:
    for pattern, kind in _OTHER_KINDS:
        if pattern.match(data[:1024]):
            return f"{shown}: {kind} cannot be read here: export it as JPEG."
    if _FORMAT_STARTS.match(data):
        return _damaged(shown)
    return f"{shown} is not a picture that can be read here. Use {FORMAT_WORDS}."


def _damaged(shown: str) -> str:
    return f"{shown} is damaged or cut off, or a rare variant of its format. Export it again as JPEG or PNG."


def _check_size(image: Image.Image, shown: str, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{shown} has {width * height / 1e6:.0f} megapixels ({width} × {height}); "
            f"the limit is {max_megapixels:g}. Save it smaller."
        )
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise ImageError(
            f"{shown} is {width} × {height} pixels: one side may be at most {LARGEST_ASPECT} times the other. Crop it."
        )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF counts as none. (TIFF is turned by Pillow when it is loaded.)"""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # whatever broken metadata raises, the pixels are fine
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float32)))
    elif image.has_transparency_data:
        image = _on_white(image)
    image = image.convert("RGB")  # always a copy, so that no open file hangs on it
    image.info = {}
    return image


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values (H, W) to 0–255: white is 1, 255 or 65535 if they fit below it; else they are stretched."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(-1e30, 1e30)
    black, largest = min(values.min(), 0), values.max()
    white = next((white for white in (1, 255, 65535) if black == 0 and largest <= white), largest)
    return np.rint((values - black) * (255 / max(white - black, 1e-30))).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
