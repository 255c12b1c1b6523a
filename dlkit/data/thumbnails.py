"""Small pictures of a version, some at a time: from its album, or decoded in threads; they are remembered."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

from dlkit import machine
from dlkit.data.images import read_thumbnail
from dlkit.data.layouts import image_path
from dlkit.data.looks import LOOKS_NAME, Album
from dlkit.data.versions import Version
from dlkit.errors import ImageError

SIDE = 144  # pixels of one that is decoded: sharp at 96 on most screens
KEPT = 4096  # of less than 10 kB each
ALBUMS = 4  # of some 100 bytes for each picture


def thumbnails(version: Version, rows: Sequence[int]) -> list[str]:
    """Return a JPEG of each of these pictures as an address that holds it; "" for one that is nowhere to be read."""
    looks = version.folder / LOOKS_NAME
    places = _places(version.folder, looks.stat().st_size if looks.is_file() else 0)
    digests = [version.pictures[row].digest for row in rows]
    with ThreadPoolExecutor(machine.cores()) as pool:
        return list(pool.map(partial(_thumbnail, version.folder), digests, [places.get(one) for one in digests]))


@lru_cache(maxsize=ALBUMS)
def _places(folder: Path, looks_size: int) -> dict[str, int]:
    """Return the row of each picture that the album has; it only grows, so its size tells whether it has changed."""
    return {bytes(digest).hex(): row for row, digest in enumerate(Album(folder).records["digest"])}


@lru_cache(maxsize=KEPT)
def _thumbnail(folder: Path, digest: str, place: int | None) -> str:
    jpeg = b"" if place is None else Album(folder).jpeg(place)
    try:
        jpeg = jpeg or read_thumbnail(folder / image_path(digest), SIDE)
    except ImageError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
