"""Which pictures of a set are copies of each other: looked for once in all that an album has seen, and kept with it."""

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from dlkit import files
from dlkit.data.duplicates import duplicate_pairs, groups_of
from dlkit.data.looks import Album

PAIRS_NAME = "pairs.npz"


def copies_among(album: Album, rows: np.ndarray) -> np.ndarray:
    """Return for each picture the first that shows the same, or is joined to it by others, int64 (N,).

    `rows`, int64 (N,), say where in the album what was seen of each picture lies; −1 is alone, and what is no picture.
    """
    known = np.flatnonzero(rows >= 0)
    known = known[album.records["width"][rows[known]] > 0]
    if not len(known):
        return np.arange(len(rows))
    first = np.full(len(album.records), -1)
    first[rows[known][::-1]] = known[::-1]
    pairs = first[_pairs(album)]
    pairs = pairs[(pairs >= 0).all(axis=1)]
    same = np.stack([first[rows[known]], known], axis=1)  # pictures that share a record
    return groups_of(len(rows), np.concatenate([pairs, same]))


def _pairs(album: Album) -> np.ndarray:
    """Return the pairs of an album's records, int64 (M, 2); they are looked for where it has grown since."""
    count, path = len(album.records), album.folder / PAIRS_NAME
    found = _read(path, count)
    if found is None:
        found = duplicate_pairs(album.records)
        buffer = io.BytesIO()
        np.savez(buffer, count=count, pairs=found)
        with suppress(OSError):  # a disk that is full: they are looked for again
            files.write_whole(path, buffer.getvalue())
    return found


def _read(path: Path, count: int) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            pairs: np.ndarray = kept["pairs"]
            is_whole = int(kept["count"]) == count and (not len(pairs) or ((pairs >= 0).all() and pairs.max() < count))
            return pairs if is_whole else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
