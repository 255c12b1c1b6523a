"""Rows of numbers that are costly to compute, kept while there is room: in memory, then in a file, then not at all.

Where all of them fit on the device that they are for, they are kept there, and nothing is copied any more. It does not
know what the rows are: pictures, features, activations. What came first stays: passes over all rows take them in turn,
and there every rule that makes room for the newest throws out what is needed next.

The file is without a name from the start, so that a process that is killed leaves nothing. It is read and written by
`os.preadv` and `os.pwrite` and not mapped into memory: mapped pages count as the process's own, so that its memory
would seem to grow by what is only the system's cache of a file.
"""

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import IO, NamedTuple
from weakref import WeakSet

import numpy as np
import torch

from dlkit.engine.device import is_out_of_memory, upload

#: what is left of the disk for those who need it more: checkpoints, models, the store
SPARED_BYTES = 2 * 10**9
MOVED_ROWS = 256  # at a time, from a device to memory
_MISSING = -1


class Resident:
    """The room for rows on one device, `room` bytes, and who has it: whoever comes first and fits as a whole."""

    def __init__(self, device: torch.device, room: float) -> None:
        self._device, self._room = device, room
        self._tenants = WeakSet[Rows]()

    def take(self, rows: "Rows", shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
        """Return a table on the device for all of these rows, filled with anything; None where it does not fit."""
        taken = sum(tenant.resident_bytes for tenant in self._tenants)
        if taken + math.prod(shape) * dtype.itemsize > self._room:
            return None
        try:
            table = torch.empty(shape, dtype=dtype, device=self._device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        self._tenants.add(rows)
        return table

    def clear(self) -> bool:
        """Let all rows move from the device, and no others come; tell whether there were any."""
        tenants, self._tenants, self._room = self._tenants, WeakSet(), 0.0
        for rows in tenants:
            rows.leave_device()
        return len(tenants) > 0


class Room(NamedTuple):
    """Where rows may be kept: on a device, or so many bytes in memory and then in a file in `folder`."""

    memory: float = 1e9
    disk: float = 0
    folder: Path | None = None
    resident: Resident | None = None

    def share(self, part: float) -> "Room":
        """Return a part of it; on the device there is room for who fits."""
        return self._replace(memory=part * self.memory, disk=part * self.disk)


class Rows:
    """`count` rows of one `shape` and `dtype`, none of them there at first; 8 bytes of bookkeeping each.

    All of them lie on a device where there is room, until they have to leave it. Else as many as fit in memory, which
    is taken as it is filled, then in a file, with SPARED_BYTES left free on its disk. For one thread at a time.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: torch.dtype, room: Room) -> None:
        self._shape, self._dtype, self._folder = shape, dtype, room.folder
        self._row_bytes = math.prod(shape) * dtype.itemsize
        self._slots = np.full(count, _MISSING)  # where a row is: first those in memory, then those in the file
        self._table = room.resident.take(self, (count, *shape), dtype) if room.resident else None
        self._memory_rows = min(count, int(room.memory // self._row_bytes))
        self._disk_rows = min(count - self._memory_rows, int(room.disk // self._row_bytes)) if room.folder else 0
        self._memory = self._empty(0 if self._table is not None else self._memory_rows)
        self._file: IO[bytes] | None = None
        self._in_memory = self._on_disk = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def room(self) -> int:
        """How many rows can be kept at most."""
        return len(self) if self._table is not None else self._memory_rows + self._disk_rows

    @property
    def resident_bytes(self) -> int:
        """How much memory of a device they have."""
        return 0 if self._table is None else self._table.nbytes

    def leave_device(self) -> None:
        """Keep what is on the device in memory and in the file from now on, as far as there is room."""
        if self._table is None:
            return
        table, there = self._table, np.flatnonzero(self._slots != _MISSING)
        self._table, self._slots[:], self._memory = None, _MISSING, self._empty(self._memory_rows)
        for start in range(0, len(table), MOVED_ROWS):  # slices, as gathering rows takes room where there is none
            some = there[(there >= start) & (there < start + MOVED_ROWS)]
            self.put(some, table[start : start + MOVED_ROWS].cpu()[some - start])

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Tell which rows are there, bool (B,)."""
        return self._slots[indices] != _MISSING

    def get(self, indices: np.ndarray) -> torch.Tensor:
        """Return copies of rows, (B, *shape) on the CPU or the device that they are on.

        KeyError with the missing ones where some are not there, OSError where the disk fails.
        """
        slots = self._slots[indices]
        if (missing := indices[slots == _MISSING]).size:
            raise KeyError(f"rows that are not kept: {missing.tolist()}")
        if self._table is not None:
            return self._table[upload(torch.from_numpy(indices), self._table.device)]
        on_disk = np.flatnonzero(slots >= self._memory_rows)
        data = self._with_disk(slots, on_disk) if on_disk.size else self._memory[slots]
        return torch.from_numpy(data.ravel()).view(self._dtype).view(len(slots), *self._shape)

    def put(self, indices: np.ndarray, rows: torch.Tensor) -> None:
        """Keep rows (B, *shape) of any device and type as far as there is room; `indices` (B,) are different ones."""
        if self._table is not None:
            places = upload(torch.from_numpy(indices), self._table.device)
            self._table[places] = upload(rows.detach(), self._table.device).to(self._dtype)
            self._slots[indices] = indices
            return
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

    def _empty(self, rows: int) -> np.ndarray:
        return np.empty((rows, self._row_bytes), np.uint8)  # untouched pages are not there yet

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
