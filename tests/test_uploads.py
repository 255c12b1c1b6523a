"""What was sent is kept as one zip until it is imported, by a worker, once and as a whole."""

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlkit.catalog.datasets import DATASETS
from dlkit.data import uploads
from dlkit.data.dataset import open_dataset
from dlkit.data.importing import import_pictures
from dlkit.data.plans import make_plan, read_labels_of
from dlkit.data.uploads import drop_upload, keep_upload, open_upload
from dlkit.errors import DatasetError, DiskFullError
from dlkit.jobs import worker
from dlkit.runs import service
from dlkit.runs.records import Failure, Kind, Run, Slot, State
from dlkit.settings import settings
from tests.archive_maker import picture, zipped
from tests.job_home import job_home, wait_for_end

PETS = {
    f"{label}/{number}.png": picture(10 * place + number) for place, label in enumerate("cd") for number in range(6)
}
TABLE = b"".join(b"%d.png,%s\n" % (number, (b"a", b"b")[number % 2]) for number in range(6))
FLAT = {f"{number}.png": picture(number) for number in range(6)}


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a data folder of its own, where nothing takes the runs."""
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


def sent(content: dict[str, bytes]) -> list[tuple[str, io.BytesIO]]:
    return [(name, io.BytesIO(data)) for name, data in content.items()]


def lots(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "uploads").iterdir())


def worked(run: Run, wish: Callable[[str], Run] | None = None) -> Run:
    """Let a worker do the run in this process; somebody wishes something of it as soon as it has been taken."""
    claimed = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    assert claimed is not None
    assert claimed.id == run.id
    if wish is not None:
        wish(run.id)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert worker.main(claimed.id, claimed.attempt) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    return service.run(run.id)


def test_zip_is_kept_as_it_is(home):
    data = zipped(PETS)
    lot = keep_upload(sent({"My photos.zip": data}))
    assert lots(home) == [f"{lot}.zip"]
    assert (home / "uploads" / f"{lot}.zip").read_bytes() == data
    with open_upload(lot, "My photos.zip") as source:
        assert source.title == "My photos.zip"
        assert len(source.files) == 12
    drop_upload(lot)
    assert lots(home) == []
    with pytest.raises(DatasetError, match="Send them again"):
        open_upload(lot, "My photos.zip")


def test_many_files_are_kept_with_their_names(home, tmp_path):
    files = [
        *sent({**PETS, "../../evil.png": picture(99), "c/odd\0name.png": picture(98)}),
        *sent({"c/0.png": picture(97)}),
    ]
    lot = keep_upload(files)
    with open_upload(lot, "14 files") as source:
        contents = {file.name: source.read(file, 10**6) for file in source.files}
    assert PETS.items() <= contents.items()
    assert contents["c/0 (2).png"] == picture(97)
    assert not any("evil" in name for name in contents)
    assert lots(home) == [f"{lot}.zip"]


@pytest.mark.parametrize("name", ["", "..", "0" * 31, "0" * 33, "G" * 32, "../" * 10 + "ab"])
def test_no_other_name_is_a_lot(name):
    for use in (drop_upload, lambda lot: open_upload(lot, "x")):
        with pytest.raises(DatasetError, match="no upload"):
            use(name)


def test_upload_without_files_or_room_is_refused(home, monkeypatch):
    with pytest.raises(DatasetError, match="No files were sent"):
        keep_upload([])
    monkeypatch.setattr("dlkit.data.uploads.files.free_bytes", lambda folder: 10)
    with pytest.raises(DiskFullError, match="needed for the upload"):
        keep_upload(sent(PETS))
    monkeypatch.setenv("DLKIT_IMPORT_MB", "1")
    settings.cache_clear()
    with pytest.raises(DatasetError, match=r"has 2 MB; the limit is 1 MB"):
        keep_upload(sent({"a.zip": bytes(2_000_000)}))
    assert lots(home) == []


def test_what_nobody_imports_is_swept_after_a_day(home):
    old, used, new = (keep_upload(sent(PETS)) for _ in range(3))
    long_ago = time.time() - 2 * uploads.KEPT_SECONDS
    for lot in (old, used):
        os.utime(home / "uploads" / f"{lot}.zip", (long_ago, long_ago))
    service.submit_import(used, "photos.zip", "pets")
    service.sweep()
    assert lots(home) == sorted(f"{lot}.zip" for lot in (used, new))


def test_worker_imports_what_was_sent_and_tells_what_came_of_it(home):
    run = service.submit_import(keep_upload(sent({**PETS, "c/torn.png": b"x"})), "13 files", "my pets")
    assert (run.kind, run.needs, run.name) == (Kind.IMPORT, Slot.NETWORK, "Import my pets")
    done = worked(run)
    assert (done.state, done.failure) == (State.SUCCEEDED, None)
    assert done.summary["report"] == [
        "my pets: 2 classes, 10 images to learn from, 2 to be checked with.",
        "1 of 13 images holds no picture and was left out: c/torn.png.",
    ]
    assert done.summary["dataset"] == "my pets"
    assert open_dataset("my pets").classes == ("c", "d")
    assert lots(home) == []


def test_worker_takes_the_label_file_that_was_named():
    content = {**FLAT, "a.csv": TABLE, "b.csv": b"nothing,of,this"}
    run = service.submit_import(keep_upload(sent(content)), "8 files", "two", labels="a.csv", seed=3)
    assert worked(run).state == State.SUCCEEDED
    assert open_dataset("two").classes == ("a", "b")


def test_label_file_that_is_not_there_is_said():
    with open_upload(keep_upload(sent(FLAT)), "photos") as source:
        with pytest.raises(DatasetError, match=r"There is no file x\.csv in photos"):
            read_labels_of(source, "x.csv")
        with pytest.raises(DatasetError, match="No class folders"):
            make_plan(source, *read_labels_of(source, None))


def test_import_that_fails_says_why_and_may_be_tried_again(home):
    lot = keep_upload(sent({"a.zip": b"no zip"}))
    done = worked(service.submit_import(lot, "a.zip", "pets"))
    assert (done.state, done.failure_kind) == (State.FAILED, Failure.DATA)
    assert done.failure == "a.zip is no zip archive. Make a plain zip of the pictures."
    assert lots(home) == [f"{lot}.zip"]


@pytest.mark.parametrize(
    ("wish", "state"), [(service.cancel, State.CANCELLED), (service.stop, State.STOPPED), (service.pause, State.PAUSED)]
)
def test_import_that_is_ended_leaves_nothing_and_can_be_done_again(home, wish, state):
    run = service.submit_import(keep_upload(sent(PETS)), "12 files", "pets")
    assert worked(run, wish).state == state
    assert "pets" not in DATASETS
    assert [path.name for path in (home / "datasets").iterdir() if path.name != ".names.lock"] == []
    if state == State.STOPPED:
        return
    (service.resume if state == State.PAUSED else service.retry)(run.id)
    assert worked(run).state == State.SUCCEEDED
    assert "pets" in DATASETS


def test_name_is_looked_at_before_it_is_queued():
    with pytest.raises(DatasetError, match="already"):
        service.submit_import("0" * 32, "a.zip", "flowers-mini")
    assert service.store().list_runs() == []


def test_attempt_after_one_that_died_at_the_very_end_succeeds(home):
    """The set was in place, and the worker died before its run was on record as done."""
    lot = keep_upload(sent(PETS))
    run = service.submit_import(lot, "12 files", "pets")
    with open_upload(lot, "12 files") as source:
        for _ in import_pictures(source, make_plan(source), "pets", identity=run.id):
            pass
    assert worked(run).state == State.SUCCEEDED
    assert DATASETS["pets"].folder == run.id
    assert lots(home) == []


def test_import_is_done_by_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.undo()
    with job_home(tmp_path / "jobs"):
        run = wait_for_end(service.submit_import(keep_upload(sent(PETS)), "12 files", "pets"))
        assert (run.state, run.failure) == (State.SUCCEEDED, None)
        assert DATASETS["pets"].train_images == 10
