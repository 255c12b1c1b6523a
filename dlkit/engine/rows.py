"""Rows of numbers that are costly to compute, kept while there is room: in memory, then in a file, then not at all.

It does not know what the rows are: pictures, features, activations. What came first stays: passes over all rows take
them in turn, and there every rule that makes room for the newest throws out what is needed next.

The file is without a name from the start, so that a process that is killed leaves nothing. It is read and written by
`os.preadv` and `os.pwrite` and not mapped into memory: mapped pages count as the process's own, so that its memory
would seem to grow by what is only the system's cache of a file.
"""

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch

#: what is left of the disk for those who need it more: checkpoints, models, the store
SPARED_BYTES = 2 * 10**9
_MISSING = -1


class Rows:
    """`count` rows of one `shape` and `dtype`, none of them there at first; 8 bytes of bookkeeping each.

    At most `memory_bytes` of them lie in memory, which is taken as it is filled, then at most `disk_bytes` in a file in
    `folder`, with SPARED_BYTES left free on its disk. For one thread at a time.
    """

    def __init__(
        self,
        count: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_bytes: float,
        disk_bytes: float = 0,
        folder: Path | None = None,
    ) -> None:
        self._shape, self._dtype, self._folder = shape, dtype, folder
        self._row_bytes = math.prod(shape) * dtype.itemsize
        self._slots = np.full(count, _MISSING)  # where a row is: first those in memory, then those in the file
        self._memory_rows = min(count, int(memory_bytes // self._row_bytes))
        self._disk_rows = min(count - self._memory_rows, int(disk_bytes // self._row_bytes)) if folder else 0
        self._memory = np.empty((self._memory_rows, self._row_bytes), np.uint8)  # untouched pages are not there yet
        self._file: IO[bytes] | None = None
        self._in_memory = self._on_disk = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def room(self) -> int:
        """How many rows can be kept at most."""
        return self._memory_rows + self._disk_rows

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Tell which rows are there, bool (B,)."""
        return self._slots[indices] != _MISSING

    def get(self, indices: np.ndarray) -> torch.Tensor:
        """Return copies of rows, (B, *shape) on the CPU; KeyError with the missing ones where some are not there.

        OSError where the disk fails.
        """
        slots = self._slots[indices]
        if (missing := indices[slots == _MISSING]).size:
            raise KeyError(f"rows that are not kept: {missing.tolist()}")
        on_disk = np.flatnonzero(slots >= self._memory_rows)
        data = self._with_disk(slots, on_disk) if on_disk.size else self._memory[slots]
        return torch.from_numpy(data.ravel()).view(self._dtype).view(len(slots), *self._shape)

    def put(self, indices: np.ndarray, rows: torch.Tensor) -> None:
        """Keep rows (B, *shape) of any device and type as far as there is room; `indices` (B,) are different ones."""
        flat = rows.detach().to("cpu", self._dtype).contiguous().flatten()
        data = flat.view(torch.uint8).numpy().reshape(len(indices), self._row_bytes)  # as bytes: numpy has no bfloat16
        new = indices[~self.has(indices)][: self._memory_rows - self._in_memory]
        self._slots[new] = np.arange(self._in_memory, self._in_memory + len(new))
        self._in_memory += len(new)
        slots = self._slots[indices]
        is_in_memory = (slots != _MISSING) & (slots < self._memory_rows)
        self._memory[slots[is_in_memory]] = data[is_in_memory]
        for place in np.flatnonzero(~is_in_memory) if self._disk_rows else ():
            self._put_on_disk(int(indices[place]), data[place])

    def _with_disk(self, slots: np.ndarray, on_disk: np.ndarray) -> np.ndarray:
        """Return the bytes of rows some of which, at the places `on_disk`, are in the file."""
        data, in_memory = np.empty((len(slots), self._row_bytes), np.uint8), slots < self._memory_rows
        data[in_memory] = self._memory[slots[in_memory]]
        for place in on_disk[np.argsort(slots[on_disk])]:  # in the order of the file
            self._read(int(slots[place]), data[place])
        return data

    def _put_on_disk(self, index: int, row: np.ndarray) -> None:
        known = int(self._slots[index])
        slot = self._memory_rows + self._on_disk if known == _MISSING else known
        is_kept = slot < self._memory_rows + self._disk_rows and self._write(slot, row)
        self._slots[index] = slot if is_kept else _MISSING
        self._on_disk += is_kept and known == _MISSING

    def _write(self, slot: int, row: np.ndarray) -> bool:
        """Write one row where there is room for it; tell whether it is there. A disk that fails is one without room."""
        with contextlib.suppress(OSError):
            self._file = self._file or self._opened()
            if _free(self._file.fileno()) - len(row) >= SPARED_BYTES:
                return os.pwrite(self._file.fileno(), row.data, self._offset(slot)) == len(row)
        return False

    def _opened(self) -> IO[bytes]:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def _read(self, slot: int, row: np.ndarray) -> None:
        assert self._file is not None
        if os.preadv(self._file.fileno(), [row.data], self._offset(slot)) != len(row):
            raise OSError(f"Row {slot} of a temporary file in {self._folder} is cut off.")

    def _offset(self, slot: int) -> int:
        return (slot - self._memory_rows) * self._row_bytes


def _free(descriptor: int) -> int:
    room = os.fstatvfs(descriptor)
    return room.f_bavail * room.f_frsize
