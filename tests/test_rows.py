"""Rows that are kept in memory, then in a file, then not at all: always those that were put, whatever the disk does."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from dlkit.engine import rows as module
from dlkit.engine.rows import Resident, Room, Rows

COUNT, WIDTH = 8, 3
CPU = torch.device("cpu")


def filled(values: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)[:, None].expand(-1, WIDTH)


def kept(rows: Rows) -> dict[int, float]:
    """Return what is there, by reading the rows one at a time and all at once."""
    there = np.flatnonzero(rows.has(np.arange(len(rows))))
    one_by_one = {int(index): rows.get(np.array([index])) for index in there}
    assert all(torch.equal(row[0], both) for row, both in zip(one_by_one.values(), rows.get(there), strict=True))
    assert all((row == row[0, 0]).all() for row in one_by_one.values())
    return {index: row[0, 0].item() for index, row in one_by_one.items()}


puts = draw.lists(draw.dictionaries(draw.integers(0, COUNT - 1), draw.integers(-99, 99)), max_size=6)


@settings(deadline=None)
@given(puts, draw.integers(0, COUNT + 1), draw.integers(0, COUNT + 1))
def test_rows_are_a_dict_that_takes_no_more_than_fits(puts, in_memory, on_disk):
    row_bytes = WIDTH * 4
    rows = Rows(COUNT, (WIDTH,), torch.float32, Room(in_memory * row_bytes, (on_disk + 0.5) * row_bytes, Path("/tmp")))
    expected: dict[int, int] = {}
    for values in puts:
        rows.put(np.array(list(values), dtype=np.int64), filled(list(values.values())))
        known = [index for index in values if index in expected]
        new = [index for index in values if index not in expected][: max(0, in_memory + on_disk - len(expected))]
        expected |= {index: values[index] for index in (*known, *new)}
        assert kept(rows) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_any_type_and_shape_comes_back_as_it_was_from_both_tiers(tmp_path, dtype, shape):
    values = (torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)) * 50).abs().to(dtype)
    row_bytes = values[0].numel() * dtype.itemsize
    rows = Rows(6, shape, dtype, Room(2 * row_bytes, 9 * row_bytes, tmp_path))
    order = np.array([3, 0, 5, 1])
    rows.put(order, values[torch.from_numpy(order)].requires_grad_(dtype.is_floating_point))
    asked = np.array([1, 3, 3, 5, 0])
    found = rows.get(asked)
    assert (found.dtype, found.shape) == (dtype, (5, *shape))
    assert torch.equal(found, values[torch.from_numpy(asked)])


def test_rows_in_another_layout_and_type_are_taken_as_what_they_mean():
    images = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
    rows = Rows(2, (3, 2, 2), torch.int16, Room())
    rows.put(np.array([1, 0]), images)
    assert torch.equal(rows.get(np.array([1, 0])), images.to(torch.int16))


def test_missing_rows_are_named():
    rows = Rows(9, (WIDTH,), torch.float32, Room(2 * WIDTH * 4))
    rows.put(np.array([7, 3, 5]), filled([1, 2, 3]))
    assert rows.has(np.array([3, 5, 7])).tolist() == [True, False, True]
    with pytest.raises(KeyError, match=r"\[5, 0\]"):
        rows.get(np.array([3, 5, 0]))


def test_what_is_taken_out_is_a_copy():
    rows = Rows(2, (WIDTH,), torch.float32, Room())
    rows.put(np.array([0, 1]), filled([1, 2]))
    rows.get(np.array([0, 1])).zero_()
    assert kept(rows) == {0: 1.0, 1: 2.0}


# A device


def resident(device_rows: float, room: float = 0.0) -> Rows:
    """Return rows for which there is so much room on a device, and in memory once they have left it."""
    row_bytes = WIDTH * 4
    return Rows(COUNT, (WIDTH,), torch.float32, Room(room * row_bytes, resident=Resident(CPU, device_rows * row_bytes)))


def test_rows_are_on_the_device_where_all_of_them_fit():
    fitting, large = resident(COUNT), resident(COUNT - 0.5, room=3)
    assert (fitting.resident_bytes, large.resident_bytes) == (COUNT * WIDTH * 4, 0)
    assert (fitting.room, large.room) == (COUNT, 3)


@settings(deadline=None)
@given(puts, draw.integers(0, COUNT + 1))
def test_rows_on_a_device_are_a_dict_and_leave_it_as_far_as_there_is_room(puts, in_memory):
    rows, expected = resident(COUNT, in_memory), dict[int, int]()
    for values in puts:
        rows.put(np.array(list(values), dtype=np.int64), filled(list(values.values())))
        expected |= values
        assert kept(rows) == expected
    rows.leave_device()
    assert kept(rows) == {index: expected[index] for index in sorted(expected)[:in_memory]}
    rows.put(np.arange(COUNT), filled([1] * COUNT))
    assert len(kept(rows)) == rows.room == min(COUNT, in_memory)


def test_room_on_a_device_is_shared_and_given_back():
    device = Resident(CPU, 20 * WIDTH * 4)
    room = Room(memory=1e6, resident=device)
    first, second, third = (Rows(COUNT, (WIDTH,), torch.float32, room) for _ in range(3))
    assert [bool(rows.resident_bytes) for rows in (first, second, third)] == [True, True, False]
    del second
    fourth = Rows(COUNT, (WIDTH,), torch.float32, room)
    assert fourth.resident_bytes
    first.put(np.array([2, 4]), filled([7, 8]))
    assert device.clear()
    assert not device.clear(), "nobody is left"
    assert kept(first) == {2: 7.0, 4: 8.0}
    assert not Rows(COUNT, (WIDTH,), torch.float32, room).resident_bytes, "where memory ran out nobody comes again"


def test_device_that_has_less_memory_than_it_said_keeps_nothing(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    assert resident(COUNT).resident_bytes == 0


# The disk


def on_disk(folder: Path) -> Rows:
    return Rows(COUNT, (WIDTH,), torch.float32, Room(0, 1e6, folder))


def test_file_has_no_name_so_that_nothing_is_left_of_it(tmp_path):
    rows = on_disk(tmp_path / "cache")
    rows.put(np.arange(3), filled([1, 2, 3]))
    assert kept(rows) == {0: 1.0, 1: 2.0, 2: 3.0}
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_that_fails_keeps_what_it_has_and_takes_more_when_it_can(tmp_path, monkeypatch, number):
    rows = on_disk(tmp_path)
    rows.put(np.arange(2), filled([1, 2]))

    def fail(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        rows.put(np.array([1, 2, 3]), filled([20, 30, 40]))
    assert kept(rows) == {0: 1.0}, "of a row that may be half the old one and half the new one nothing is kept"
    rows.put(np.array([1, 3]), filled([20, 40]))
    assert kept(rows) == {0: 1.0, 1: 20.0, 3: 40.0}


def test_write_that_is_cut_short_counts_as_none(tmp_path, monkeypatch):
    rows, real = on_disk(tmp_path), os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda file, data, place: real(file, data[:5], place))
        rows.put(np.arange(2), filled([1, 2]))
    assert kept(rows) == {}


def test_folder_that_cannot_be_made_means_no_disk(tmp_path):
    (tmp_path / "file").write_text("in the way")
    rows = on_disk(tmp_path / "file" / "cache")
    rows.put(np.arange(2), filled([1, 2]))
    assert kept(rows) == {}


def test_disk_is_never_filled_to_the_brim(tmp_path, monkeypatch):
    free = [module.SPARED_BYTES + 2 * WIDTH * 4]

    def write(file: int, data: memoryview, place: int, real=os.pwrite) -> int:
        free[0] -= len(data)
        return real(file, data, place)

    monkeypatch.setattr(module, "_free", lambda descriptor: free[0])
    monkeypatch.setattr(os, "pwrite", write)
    rows = on_disk(tmp_path)
    rows.put(np.arange(4), filled([1, 2, 3, 4]))
    assert kept(rows) == {0: 1.0, 1: 2.0}
    assert free[0] == module.SPARED_BYTES
