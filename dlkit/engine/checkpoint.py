"""Checkpoints: a training's whole state in one file, written so that it is either whole or not there.

A file holds tensors, numbers and texts, and is read with `weights_only=True` after its SHA-256 was found to be the
recorded one. Which file is the newest is not for the files to say: the caller keeps that.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

import torch

from dlkit import files
from dlkit.errors import BundleError

FORMAT = 3
FOLDER = "checkpoints"
SHORTEST_SECONDS = 5
#: saving costs at most one part in so many of the time
PARTS = 100


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has just been written: its name in the run's folder, its size in bytes, and what is in it."""

    file: str
    size: int
    sha256: str
    step: int


def save_checkpoint(state: Mapping[str, Any], folder: Path, attempt: int) -> Saved:
    """Write a learner's state into a run's folder; DiskFullError where there is no room.

    An attempt has names of its own: a worker that was taken for dead cannot overwrite what its successor wrote. No file
    is written twice, also not where two are of one step: the first may be on record, and the second is not yet.
    """
    step = state["position"]["step"]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    names = (f"{FOLDER}/{attempt:04}-{step:09}-{number}.pt" for number in count(1))
    name = next(name for name in names if not (folder / name).exists())
    content = {"format": FORMAT, "torch": str(torch.__version__), **state}
    written = files.write_whole(folder / name, partial(_write, content))
    return Saved(name, written.size, written.sha256, step)


def _write(content: Mapping[str, Any], file: files.HashingFile) -> None:
    try:
        torch.save(content, cast(IO[bytes], file))
    except RuntimeError as error:  # torch's writer says of a write that failed only that it failed
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_checkpoint(path: Path, sha256: str) -> dict[str, Any]:
    """Return the state in a file; BundleError where the file is gone, damaged, or of another version."""
    try:
        if files.sha256_of(path) != sha256:
            raise BundleError(
                f"The checkpoint {path.name} does not have the checksum that was recorded: it is damaged."
            )
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BundleError(f"The checkpoint {path.name} is gone.") from error
    except (BundleError, OSError, MemoryError):  # the latter are not the file's fault
        raise
    except Exception as error:  # whatever a file raises that is torn, or holds more than tensors and numbers
        raise BundleError(f"The checkpoint {path.name} cannot be read ({type(error).__name__}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BundleError(f"The checkpoint {path.name} is of another version of dlkit.")
    return state


class Cadence:
    """Tells when it is time for a checkpoint: soon where saving is quick, and at the latest after `longest` seconds."""

    def __init__(self, longest: float) -> None:
        self._longest, self._cost, self._last = longest, 0.0, time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        passed = time.perf_counter() - self._last
        return passed >= min(self._longest, max(SHORTEST_SECONDS, PARTS * self._cost))

    def saved(self, seconds: float) -> None:
        """Take note of a checkpoint that took so long to write."""
        self._cost, self._last = seconds, time.perf_counter()
