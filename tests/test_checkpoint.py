"""Checkpoints: whole or refused, and in time."""

import errno
import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dlkit import files
from dlkit.engine import checkpoint
from dlkit.engine.checkpoint import FORMAT, Cadence, load_checkpoint, save_checkpoint
from dlkit.errors import BundleError, DiskFullError

STATE = {"position": {"step": 7}, "weights": {"head": torch.arange(50_000.0)}, "texts": ["a", None, 1, 2.5, True]}


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved = save_checkpoint(STATE, tmp_path, 3)
    loaded = load_checkpoint(tmp_path / saved.file, saved.sha256)
    assert torch.equal(loaded["weights"]["head"], STATE["weights"]["head"])
    assert (loaded["position"], loaded["texts"], loaded["format"]) == (STATE["position"], STATE["texts"], FORMAT)
    assert loaded["torch"] == torch.__version__
    data = (tmp_path / saved.file).read_bytes()
    assert (saved.size, saved.sha256, saved.step) == (len(data), hashlib.sha256(data).hexdigest(), 7)


def test_no_file_is_ever_written_again(tmp_path):
    """The first may be on record, and removed under its name, when a second of the same step is written."""
    saved = [save_checkpoint({**STATE, "number": number}, tmp_path, 1) for number in range(4)]
    saved.append(save_checkpoint({**STATE, "number": 4}, tmp_path, 2))
    assert len({one.file for one in saved}) == 5
    assert [load_checkpoint(tmp_path / one.file, one.sha256)["number"] for one in saved] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_damaged_file_is_refused_wherever_the_damage_is(tmp_path, share, how):
    saved = save_checkpoint(STATE, tmp_path, 1)
    data = bytearray((tmp_path / saved.file).read_bytes())
    place = min(int(share * len(data)), len(data) - 1)
    if how == "flipped":
        data[place] ^= 1
    (tmp_path / saved.file).write_bytes(data if how == "flipped" else data[:place])
    with pytest.raises(BundleError, match=r"0001-000000007-1\.pt does not have the checksum"):
        load_checkpoint(tmp_path / saved.file, saved.sha256)


def refusal(path: Path) -> str:
    """Return why a file is refused though its checksum is the recorded one."""
    digest = files.sha256_of(path) if path.is_file() else "0" * 64
    with pytest.raises(BundleError) as caught:
        load_checkpoint(path, digest)
    return str(caught.value)


def test_what_is_no_checkpoint_is_refused_though_its_checksum_is_right(tmp_path):
    path = tmp_path / "some.pt"
    assert "The checkpoint some.pt is gone." in refusal(path)
    for data in (b"", b"PK\x03\x04", b"not one", bytes(1000)):
        path.write_bytes(data)
        assert "The checkpoint some.pt cannot be read" in refusal(path)
    for other in ({**STATE, "format": 99}, STATE, [1, 2]):
        torch.save(other, path)
        assert "is of another version of dlkit" in refusal(path)


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, is_zip):
    path, proof = tmp_path / "code.pt", tmp_path / "proof"
    content = {"format": FORMAT, "position": Code(proof)}
    torch.save(content, path) if is_zip else path.write_bytes(pickle.dumps(content, 2))
    assert "cannot be read (UnpicklingError)" in refusal(path)
    assert not proof.exists()


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EIO, OSError)])
def test_write_that_fails_says_why_and_leaves_the_one_before(tmp_path, monkeypatch, number, kind):
    """For each of the writes that torch needs for one."""
    before = save_checkpoint(STATE, tmp_path, 1)
    real, left = files.HashingFile.write, [0]

    def write(self: files.HashingFile, data: Any) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, "no")
        return real(self, data)

    monkeypatch.setattr(files.HashingFile, "write", write)
    save_checkpoint(STATE, tmp_path, 2)
    for failing in range(1, -left[0] + 1):
        left[0] = failing
        with pytest.raises(kind):
            save_checkpoint(STATE, tmp_path, 3)
    assert failing > 3
    assert {path.name[:4] for path in (tmp_path / checkpoint.FOLDER).iterdir()} == {"0001", "0002"}
    assert load_checkpoint(tmp_path / before.file, before.sha256)["position"] == {"step": 7}


@pytest.mark.parametrize(
    ("longest", "cost", "expected"), [(60, 0.0, 5), (60, 0.1, 10), (60, 0.5, 50), (60, 9.0, 60), (2, 0.0, 2)]
)
def test_saving_takes_one_part_in_a_hundred_unless_the_longest_time_is_over(monkeypatch, longest, cost, expected):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    cadence = Cadence(longest)
    cadence.saved(cost)
    for seconds, is_due in ((0, False), (expected - 0.01, False), (expected, True), (1000, True)):
        now[0] = 100 + seconds
        assert cadence.is_due is is_due
    cadence.saved(cost)
    assert not cadence.is_due
