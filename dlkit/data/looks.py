"""What is seen of each picture at its one decoding, and a thumbnail of it: kept in two files that only grow.

`looks.bin` has records of one length, `thumbnails.bin` the JPEGs that they point into. An imported set has both beside
its manifests, so that all its versions share them. Judges nothing: `dlkit.data.doctor` does.
"""

import hashlib
import io
import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dlkit.data.images import SMALL_SIDE

LOOKS_NAME, THUMBNAILS_NAME = "looks.bin", "thumbnails.bin"
ICON_SIDE = 32
LONGEST_SIDE, QUALITY = 2 * SMALL_SIDE, 75  # of a thumbnail, in pixels, and of its JPEG
TAIL = 0.01  # of the pixels at either end: a few specks make no picture dark or bright
_LEVELS = np.arange(256)

#: one picture: `digest` is the SHA-256 by which it is known; `low` and `high` are the grey values (0–255) below and
#: above which a hundredth of it lies; `sharpness` is how strong its Laplacian is beside the deviation of its grey
#: values; `start` and `length` say where its thumbnail lies; `icon` is all of it in grey, squeezed into a square
RECORD = np.dtype(
    [
        ("digest", "u1", (32,)),
        ("width", "<u4"),
        ("height", "<u4"),
        ("low", "u1"),
        ("high", "u1"),
        ("sharpness", "<f4"),
        ("start", "<u8"),
        ("length", "<u4"),
        ("icon", "u1", (ICON_SIDE, ICON_SIDE)),
    ]
)
_PACKED = struct.Struct(f"<32sIIBBfQI{ICON_SIDE**2}s")  # a RECORD: numpy takes ten times as long to fill one


class Seen(NamedTuple):
    """What is seen of one picture: the fields of a RECORD, and the thumbnail, a JPEG, that it is still to point to."""

    digest: bytes
    width: int
    height: int
    low: int
    high: int
    sharpness: float
    icon: bytes
    thumbnail: bytes

    def packed(self, start: int) -> bytes:
        """Return the bytes of its RECORD, with a thumbnail at `start`."""
        *fields, icon, thumbnail = self
        return _PACKED.pack(*fields, start, len(thumbnail), icon)


def look_at(small: Image.Image, digest: str, width: int, height: int) -> Seen:
    """Return what is seen of a picture of `width` × `height` pixels by its small RGB copy."""
    grey = small.convert("L")
    heap = np.array(grey.histogram())
    heaped = np.cumsum(heap)
    low, high = np.searchsorted(heaped, (TAIL * heaped[-1], (1 - TAIL) * heaped[-1])).tolist()
    deviation = math.sqrt(max(0.0, heap @ _LEVELS**2 / heaped[-1] - (heap @ _LEVELS / heaped[-1]) ** 2))
    sharpness = _laplacian(np.asarray(grey)) / deviation if deviation else 0.0
    icon = grey.resize((ICON_SIDE, ICON_SIDE), Image.Resampling.BOX).tobytes()
    return Seen(bytes.fromhex(digest), width, height, low, high, sharpness, icon, _thumbnail(small))


def pixel_digest(image: Image.Image) -> str:
    """Return the SHA-256 of an RGB picture's size and pixels: of pictures that are kept in no file of their own."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


class Album:
    """The looks and thumbnails of a folder; `records` is RECORD (N,), read from the disk as it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._thumbnails, path = folder, folder / THUMBNAILS_NAME, folder / LOOKS_NAME
        self.records = _whole_records(path, self._thumbnails)

    def rows_of(self, digests: Iterable[str]) -> np.ndarray:
        """Return for each picture its row, int64 (N,); −1 where it has none."""
        rows = {bytes(digest): row for row, digest in enumerate(self.records["digest"])}
        return np.array([rows.get(bytes.fromhex(digest), -1) for digest in digests], np.int64)

    def thumbnail(self, row: int) -> Image.Image:
        """Return a picture's thumbnail, RGB; a grey square of one that could not be read."""
        if jpeg := self.jpeg(row):
            return Image.open(io.BytesIO(jpeg)).convert("RGB")
        return Image.new("RGB", (SMALL_SIDE, SMALL_SIDE), "grey")

    def seen(self, row: int) -> Seen:
        """Return what was seen of a picture."""
        *fields, _, _, icon = _PACKED.unpack(self.records[row].tobytes())
        return Seen._make((*fields, icon, self.jpeg(row)))

    def jpeg(self, row: int) -> bytes:
        """Return a picture's thumbnail, a JPEG; nothing of one that could not be read or is being written just now."""
        record = self.records[row]
        with self._thumbnails.open("rb") as file:
            file.seek(int(record["start"]))
            content = file.read(int(record["length"]))
        return content if len(content) == record["length"] else b""


class AlbumWriter:
    """Adds to the files of a folder; for one thread at a time, and one process."""

    def __init__(self, folder: Path) -> None:
        whole = len(_whole_records(folder / LOOKS_NAME, folder / THUMBNAILS_NAME))
        self._looks, self._thumbnails = (folder / LOOKS_NAME).open("ab"), (folder / THUMBNAILS_NAME).open("ab")
        self._looks.truncate(whole * RECORD.itemsize)  # a process that was killed may have left half of one

    def add(self, seen: Seen) -> None:
        """Write one picture's looks and thumbnail."""
        self._looks.write(seen.packed(self._thumbnails.tell()))
        self._thumbnails.write(seen.thumbnail)

    def close(self) -> None:
        """Write what is not written yet."""
        self._thumbnails.close()
        self._looks.close()


def append_album(source: Path, target: Path) -> None:
    """Add what was seen of the pictures in the folder `source` to the album of `target`, unless it has them."""
    album, known = Album(source), {bytes(digest) for digest in Album(target).records["digest"]}
    with album_writer(target) as writer:
        for row in range(len(album.records)):
            if bytes(album.records["digest"][row]) not in known:
                writer.add(album.seen(row))


@contextmanager
def album_writer(folder: Path) -> Iterator[AlbumWriter]:
    """Open the files of a folder to add to them."""
    writer = AlbumWriter(folder)
    try:
        yield writer
    finally:
        writer.close()


def _whole_records(looks: Path, thumbnails: Path) -> np.ndarray:
    """Return the records, RECORD (N,), up to the first that is not whole or whose thumbnail is not.

    Thumbnails follow one another in the order of the records, so only the last ones may point beyond the file's end.
    """
    count = looks.stat().st_size // RECORD.itemsize if looks.is_file() else 0
    if not count:
        return np.zeros(0, RECORD)
    records = np.memmap(looks, RECORD, "r", shape=(count,))
    end = thumbnails.stat().st_size if thumbnails.is_file() else 0
    while count and records["start"][count - 1] + records["length"][count - 1] > end:
        count -= 1
    return records[:count]


def _thumbnail(small: Image.Image) -> bytes:
    """Return a small picture as JPEG; of one that is very long its middle."""
    if max(small.size) > LONGEST_SIDE:
        small = ImageOps.fit(small, (min(small.width, LONGEST_SIDE), min(small.height, LONGEST_SIDE)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _laplacian(grey: np.ndarray) -> float:
    """Return how strong the Laplacian of a uint8 picture (H, W) is: the root of its mean square."""
    if min(grey.shape) < 3:
        return 0.0
    values = grey.astype(np.int16)  # the smallest type that holds it is the quickest
    found = values[1:-1, 1:-1] * 4
    for neighbours in (values[1:-1, 2:], values[1:-1, :-2], values[:-2, 1:-1], values[2:, 1:-1]):
        found -= neighbours
    flat = found.ravel().astype(np.float32)
    return math.sqrt(float(flat @ flat) / len(flat))
