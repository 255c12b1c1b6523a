"""Small pictures of a version, some at a time: decoded in threads and remembered, as no file of one ever changes."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from dlkit import machine
from dlkit.data.images import read_thumbnail
from dlkit.data.layouts import image_path
from dlkit.data.versions import Version
from dlkit.errors import ImageError

SIDE = 144  # pixels: sharp at 96 on most screens
KEPT = 4096  # of some 4 kB each


def thumbnails(version: Version, rows: Sequence[int]) -> list[str]:
    """Return a JPEG of each of these pictures as an address that holds it; "" for one that cannot be read any more."""
    paths = [version.folder / image_path(version.pictures[row].digest) for row in rows]
    with ThreadPoolExecutor(machine.cores()) as pool:
        return list(pool.map(_thumbnail, paths))


@lru_cache(maxsize=KEPT)
def _thumbnail(path: Path) -> str:
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(read_thumbnail(path, SIDE)).decode()}"
    except ImageError:
        return ""
