"""Writing a file whole: whatever fails, and whenever, there is the old content or the new one, and nothing beside."""

import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlkit import files
from dlkit.errors import DiskFullError

OLD, NEW = b"old", [b"new ", b"and ", b"longer"]


def write_parts(file: files.HashingFile) -> None:
    for part in NEW:
        file.write(part)


class Failing:
    """Counts the system's calls that a write needs, and lets number `failing` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int, number: int) -> None:
        self._left, self._error, self.calls = failing, OSError(number, os.strerror(number)), 0
        for owner, name in ((os, "fsync"), (os, "replace"), (files.HashingFile, "write"), (os, "open")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Any) -> Any:
        def call(*arguments: Any, **rest: Any) -> Any:
            self.calls += 1
            if self.calls == self._left:
                raise self._error
            return real(*arguments, **rest)

        return call


def calls_of_a_write(path: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        counting = Failing(patch, 0, errno.EIO)
        files.write_whole(path, write_parts)
        return counting.calls


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("before", [OLD, None])
def test_whichever_call_fails_the_file_is_the_old_or_the_new_one(tmp_path, number, before):
    path, contents = tmp_path / "file", set()
    for failing in range(1, calls_of_a_write(tmp_path / "other") + 1):
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, failing, number)
            with pytest.raises(DiskFullError if number in files.FULL else OSError):
                files.write_whole(path, write_parts)
        content = path.read_bytes() if path.exists() else None
        assert content in (before, b"".join(NEW)), failing
        contents.add(content)
        assert {one.name for one in tmp_path.iterdir()} <= {"file", "other"}, "nothing is left of it"
    assert contents == {before, b"".join(NEW)}, "the new one is in place once the rename is done"
    assert files.write_whole(path, write_parts).size == len(b"".join(NEW))


def test_full_disk_says_how_much_is_needed_and_how_much_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 2_000_000)
    Failing(monkeypatch, 2, errno.ENOSPC)  # the file's fsync, after its one write
    with pytest.raises(DiskFullError) as caught:
        files.write_whole(tmp_path / "file", bytes(5_000_000))
    assert (caught.value.needed, caught.value.free) == (5_000_000, 2_000_000)
    assert "Disk full: 2 MB free, 5 MB needed." in str(caught.value)


def test_file_that_may_grow_no_further_is_no_file(tmp_path):
    """The system's own limit on a file's size, in a process of its own: it cannot be lifted again."""
    (tmp_path / "file").write_bytes(OLD)
    script = """if True:
        import resource, sys
        from pathlib import Path
        from dlkit import files
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            files.write_whole(Path(sys.argv[1]), bytes(200_000))
        except OSError as error:
            print(error.errno)
    """
    child = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    assert int(child.stdout) == errno.EFBIG
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("parts", [[], [b""], [b"a" * 100_000, bytearray(b"bc"), memoryview(b"defg")[::1]]])
def test_hash_and_size_are_those_of_what_was_written(tmp_path, parts):
    whole = b"".join(bytes(part) for part in parts)
    buffer = io.BytesIO()
    hashing = files.HashingFile(buffer)
    assert [hashing.write(part) for part in parts] == [len(part) for part in parts]
    hashing.flush()
    assert (hashing.size, hashing.sha256, buffer.getvalue()) == (
        len(whole), hashlib.sha256(whole).hexdigest(), whole,
    )  # fmt: skip
    written = files.write_whole(tmp_path / "file", whole)
    assert (written.size, written.sha256) == (hashing.size, hashing.sha256)
    assert files.sha256_of(tmp_path / "file") == hashing.sha256


def test_numbers_are_hashed_by_their_bytes():
    hashing = files.HashingFile(io.BytesIO())
    assert hashing.write(memoryview(bytes(16)).cast("I")) == 16
    assert hashing.size == 16


def test_sweep_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    for name in (".file.123.tmp", "file", "file.tmp", ".hidden"):
        (tmp_path / name).write_bytes(OLD)
    files.sweep(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"file", "file.tmp", ".hidden"}
    files.sweep(tmp_path / "absent")


def test_free_room_is_known_of_a_folder_that_is_still_to_be_made(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "there") > 0
