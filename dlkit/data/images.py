"""The one careful reader of pictures: whatever the bytes are, an RGB picture or an ImageError comes out.

It knows nothing of data sets, models or sizes that a network wants. At its peak it holds 8 to 9 bytes a pixel.
"""

import hashlib
import io
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageCms

from dlkit.errors import ImageError
from dlkit.settings import settings

# "MPO" must not be in the list: `Image.open` (Pillow 13) then raises KeyError on an unknown file. JPEG opens MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MANY_FRAMES = ("PNG", "WEBP", "GIF", "TIFF")
FORMAT_WORDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
HEIF_WORDS = "export it as JPEG. Where pillow-heif is installed, it is read as it is."
LARGEST_ASPECT = 100  # a side 100 times the other, brought to 224 pixels, makes 5 megapixels; without a limit, anything

LARGEST_PROFILE = 4 << 20  # bytes of a colour profile that is applied
MOST_SCANS = 50  # of a JPEG: each takes the time of a whole picture, and an empty one takes 40 bytes
PROGRESSIVE_SHARE = 0.5  # of the megapixels: a progressive JPEG is decoded in up to three times the memory
LARGE_MEGAPIXELS = 12  # pictures beyond are decoded one at a time, whoever asks
BAND_PIXELS = 1 << 20  # that are converted at a time
SMALL_SIDE = 128  # pixels of the short side of a small copy at most, and more than half of them if the picture has
AVERAGED = ("L", "RGB", "CMYK")  # modes whose pixels may be averaged as they are
SAME_COLOUR = 3  # of 255: how far a profile may lie from sRGB and yet count as sRGB

_FORMAT_STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*", re.DOTALL)
_OTHER_KINDS = (
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "AVIF pictures"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", re.DOTALL), "SVG drawings"),
    (re.compile(rb"%PDF"), "PDF documents"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript drawings"),
    (re.compile(rb"SIMPLE  ="), "FITS images"),
)
_HEIF = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)
_ENDINGS = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG"), ".png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"GIF8"), ".gif"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tif"),
    (_HEIF, ".heic"),
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
SIDEWAYS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_BITS_TAG = 258  # TIFF 6.0, section 4: BitsPerSample
_one_large_picture = threading.Lock()


Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Picture:
    """An RGB picture; `is_first_of_many` where the file has more frames or pages, which are left out."""

    image: Image.Image
    is_first_of_many: bool


@dataclass(frozen=True, eq=False)
class Looks:
    """What a picture is, upright, in pixels, and a small RGB copy of it; `is_first_of_many` as in Picture."""

    width: int
    height: int
    is_first_of_many: bool
    small: Image.Image


def read_image(
    source: bytes | Path | BinaryIO,
    *,
    name: str | None = None,
    max_megapixels: float | None = None,
    max_mb: float | None = None,
) -> Image.Image:
    """Return the picture alone; see `read_picture`."""
    return read_picture(source, name=name, max_megapixels=max_megapixels, max_mb=max_mb).image


def read_picture(
    source: bytes | Path | BinaryIO,
    *,
    name: str | None = None,
    max_megapixels: float | None = None,
    max_mb: float | None = None,
) -> Picture:
    """Return the picture as RGB in sRGB, upright, its first frame, transparency on white, without any metadata.

    `name` stands in the messages (default: the file's own name). A limit that is None is the server's setting.
    Raises ImageError, and nothing else, for a file that is missing, too big, cut off, damaged, longer than
    LARGEST_ASPECT times its width (or the reverse) or of another format.
    """
    return _decoded(source, name, max_megapixels, max_mb, _picture)


def read_thumbnail(path: Path, side: int) -> bytes:
    """Return a picture as a JPEG that fits into `side` × `side` pixels; raises what `read_picture` raises.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, in a fraction of the time.
    """
    return thumbnail_jpeg(_decoded(path, None, None, None, _picture, 2 * side).image, side)


def check_picture(source: bytes | Path | BinaryIO, *, name: str | None = None) -> Looks:
    """Decode a picture as `read_picture` does, with what that raises, but make no second copy of all its pixels."""
    return _decoded(source, name, None, None, _looks)


def _picture(image: Image.Image, data: bytes) -> Picture:
    return Picture(_to_rgb(_upright(image)), _has_more(image, data))


def _looks(image: Image.Image, data: bytes) -> Looks:
    turn = _turn(image)
    width, height = image.size[::-1] if turn in SIDEWAYS else image.size
    small = _small(image)
    return Looks(width, height, _has_more(image, data), small if turn is None else small.transpose(turn))


def _decoded(
    source: bytes | Path | BinaryIO,
    name: str | None,
    max_megapixels: float | None,
    max_mb: float | None,
    use: Callable[[Image.Image, bytes], Found],
    fewest_pixels: int | None = None,
) -> Found:
    """Return what `use` makes of the decoded picture and the file's bytes; whatever it raises is an ImageError.

    With `fewest_pixels` a JPEG may be decoded smaller, as long as each side keeps so many.
    """
    shown = shown_name(name or (source.name if isinstance(source, Path) else "The picture"))
    max_mb = settings().max_image_mb if max_mb is None else max_mb
    max_megapixels = settings().max_image_megapixels if max_megapixels is None else max_megapixels
    data = _read_bytes(source, shown, max_mb)
    image = _open(data, shown)
    _check_size(image, shown, max_megapixels)
    _check_scans(image, data, shown, max_megapixels)
    width, height = image.size
    with _one_large_picture if width * height > LARGE_MEGAPIXELS * 1e6 else nullcontext():
        try:
            if (
                image.format == "PNG"
            ):  # decoding skips the checksums of the pixels; verify() spoils what it is called on
                Image.open(io.BytesIO(data), formats=FORMATS).verify()
            if fewest_pixels is not None:
                image.draft(None, (fewest_pixels, fewest_pixels))
            image.load()
            return use(image, data)
        except Exception as error:  # Pillow's decoders raise a dozen types, SyntaxError and struct.error among them
            raise _damaged(shown) from error


def looks_of(image: Image.Image) -> Looks:
    """Return the looks of an RGB picture that was read already."""
    return Looks(*image.size, False, _small(image))


def image_digest(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def ending_of_content(data: bytes) -> str:
    """Return the ending that a picture's file should have, by its first bytes: ".jpg"; "" for what is no picture."""
    return next((ending for pattern, ending in _ENDINGS if pattern.match(data)), "")


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
        text = f"{shown} cannot be opened. Check that it is there and may be read."
        raise ImageError(text, "cannot be opened") from error
    if not data:
        raise ImageError(f"{shown} is empty. Choose the file again.", "are empty")
    if len(data) > limit:
        text = f"{shown} is larger than {max_mb:g} MB, the limit for a picture. Save it smaller."
        raise ImageError(text, f"are larger than {max_mb:g} MB")
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
        return Image.open(io.BytesIO(data), formats=(*FORMATS, "HEIF") if _HEIF.match(data) and _heif() else FORMATS)
    except Image.DecompressionBombError as error:
        text = f"{shown} has far too many pixels to be read. Save it smaller."
        raise ImageError(text, "have too many pixels") from error
    except Exception as error:
        raise _unreadable(data, shown) from error


@lru_cache(maxsize=1)
def _heif() -> bool:
    """Let Pillow read HEIC where pillow-heif is installed; tell whether it is."""
    try:
        from pillow_heif import register_heif_opener  # half a second that only HEIC needs
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


def _unreadable(data: bytes, shown: str) -> ImageError:
    for pattern, kind in _OTHER_KINDS:
        if pattern.match(data[:1024]):
            text = f"{shown}: {kind} cannot be read here: export it as JPEG."
            return ImageError(text, f"are in a format that cannot be read here ({kind})")
    if _HEIF.match(data) and not _heif():
        text = f"{shown}: HEIC photos cannot be read here: {HEIF_WORDS}"
        return ImageError(text, "are in a format that cannot be read here (HEIC photos)")
    if _FORMAT_STARTS.match(data) or _HEIF.match(data):
        return _damaged(shown)
    return ImageError(f"{shown} is not a picture that can be read here. Use {FORMAT_WORDS}.", "hold no picture")


def _damaged(shown: str) -> ImageError:
    text = f"{shown} is damaged or cut off, or a rare variant of its format. Export it again as JPEG or PNG."
    return ImageError(text, "are damaged")


def _check_size(image: Image.Image, shown: str, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{shown} has {width * height / 1e6:.0f} megapixels ({width} × {height}); "
            f"the limit is {max_megapixels:g}. Save it smaller.",
            f"have more than {max_megapixels:g} megapixels",
        )
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise ImageError(
            f"{shown} is {width} × {height} pixels: one side may be at most {LARGEST_ASPECT} times the other. Crop it.",
            f"have a side more than {LARGEST_ASPECT} times the other",
        )


def _check_scans(image: Image.Image, data: bytes, shown: str, max_megapixels: float) -> None:
    """Refuse a JPEG that takes far more time or memory than its pixels; in its data FF is never followed by DA."""
    if image.format not in ("JPEG", "MPO"):
        return
    if data.count(b"\xff\xda") > MOST_SCANS:
        text = f"{shown} is built of more than {MOST_SCANS} scans. Export it again as ordinary JPEG."
        raise ImageError(text, f"are built of more than {MOST_SCANS} scans")
    width, height = image.size
    limit = max_megapixels * PROGRESSIVE_SHARE
    if "progressive" in image.info and width * height > limit * 1e6:
        raise ImageError(
            f"{shown} is a progressive JPEG of {width * height / 1e6:.0f} megapixels; the limit for these is "
            f"{limit:g}. Save it smaller, or as ordinary JPEG.",
            f"are progressive and larger than {limit:g} megapixels",
        )


def _has_more(image: Image.Image, data: bytes) -> bool:
    """Tell whether there is a second frame or page; one that cannot be reached is none."""
    if image.format not in MANY_FRAMES:
        return False
    try:
        return bool(getattr(Image.open(io.BytesIO(data), formats=FORMATS), "is_animated", False))
    except Exception:  # of a frame that nobody asks for
        return False


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what the EXIF orientation asks for; unreadable EXIF asks for nothing. (Pillow turns a TIFF by itself.)"""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # whatever broken metadata raises, the pixels are fine
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a copy, so that no open file hangs on it; a large picture goes band by band, as its steps take memory."""
    convert = _converter(image)
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    if rows >= height or convert is _plain:
        rgb = convert(image)
    else:
        rgb = Image.new("RGB", image.size)
        for top in range(0, height, rows):
            box = (0, top, width, min(top + rows, height))
            rgb.paste(convert(image.crop(box)), box)
    rgb.info = {}
    return rgb


def _small(image: Image.Image) -> Image.Image:
    """Return a small RGB copy; where colours cannot be averaged it has every second, third, … pixel."""
    convert, factor = _converter(image), -(-min(image.size) // SMALL_SIDE)
    if image.mode in AVERAGED:
        part = image.reduce(factor)
    else:
        width, height = (-(-side // factor) for side in image.size)
        part = image.resize((width, height), Image.Resampling.NEAREST)
    small = convert(part)
    small.info = {}
    return small


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes RGB of the picture, or of any part of it."""
    if image.mode.startswith("I;16"):
        bits = _bits(image)
        return lambda part: _grey((np.asarray(part) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        black, white = _ends(image)
        return lambda part: _grey(_eight_bits(np.asarray(part, dtype=np.float32), black, white))
    if image.mode == "LAB":
        return partial(_apply, _from_lab())
    flat = _on_white if image.has_transparency_data else _plain
    transform = _transform(image.info.get("icc_profile"), image.mode)
    if transform is None:
        return flat
    if transform.input_mode == image.mode:
        return partial(_apply, transform)
    return lambda part: _apply(transform, flat(part))


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    found = ImageCms.applyTransform(image, transform)
    assert found is not None, "it is None only where it is asked to work in place"
    return found


def _plain(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _bits(image: Image.Image) -> int:
    """Return how many bits white has: a TIFF of 12 bits is read into 16."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_TAG, (16,))[0]
    return bits if 8 < bits <= 16 else 16


@lru_cache(maxsize=64)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings a picture from its colour profile to sRGB; None where it has none that differs or is usable.

    Grey and CMYK profiles are for pictures of that mode, all others take RGB.
    """
    if not isinstance(profile, bytes) or len(profile) > LARGEST_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        takes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "")
        if not takes or (takes != "RGB" and takes != mode) or (takes == "RGB" and mode == "CMYK"):
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), takes, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if takes == "RGB" and _is_srgb(transform) else transform


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tell whether it leaves colours as they are: sRGB has many profiles, and rounding would change pixels by one."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, -1, 3)
    found = np.asarray(_apply(transform, Image.fromarray(colours)))
    return bool(np.abs(found.astype(int) - colours).max() <= SAME_COLOUR)


@lru_cache(maxsize=1)
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _ends(image: Image.Image) -> tuple[float, float]:
    """Return black and white of numbers without a scale: 0, and 1, 255 or 65535 if they fit below it, or their own."""
    low, high = 0.0, -np.inf
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        values = _finite(np.asarray(image.crop((0, top, width, min(top + rows, height))), dtype=np.float32))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, next((white for white in (1.0, 255.0, 65535.0) if low == 0 and high <= white), high)


def _eight_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Scale grey values, float32 (H, W), to 0–255."""
    return np.rint((_finite(values) - black) * (255 / max(white - black, 1e-30))).astype(np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(-1e30, 1e30)


def _on_white(image: Image.Image) -> Image.Image:
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow knows no other way
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
