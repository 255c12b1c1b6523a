"""Runs in real processes, which are killed, stopped and started again; and their parts in this one."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest
from PIL import Image

from dlkit import locks, machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.remote import RemoteFile
from dlkit.data.dataset import is_here
from dlkit.data.weights import download_path
from dlkit.errors import ConfigError, DeviceError, DlkitError, RunError, UnknownChoice
from dlkit.jobs import supervisor, worker
from dlkit.runs import service
from dlkit.runs.artifacts import has_bundle, read_validation
from dlkit.runs.records import Kind, Point, Progress, Run, Slot, State
from dlkit.settings import settings
from tests.file_server import FileServer
from tests.job_home import (
    LONG,
    NEVER,
    TINY,
    WAITING,
    job_home,
    processes,
    supervisor_of,
    wait_for,
    wait_for_end,
    wait_for_worker,
)

ROOT = Path(__file__).parents[1]
CPU = {Slot.CPU: ["cpu0"]}


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose supervisor and workers are real."""
    with job_home(tmp_path / "home") as home:
        yield home


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run that has ended well; its supervisor is still there."""
    with job_home(tmp_path_factory.mktemp("trained")):
        yield wait_for_end(service.submit({**TINY, "epochs": 2}, "ada"))


@pytest.fixture
def quiet(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without a supervisor: what is submitted waits until the test takes it."""
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)
    return home


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, as a worker does, and knows no wishes."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def texts(run: Run) -> list[str]:
    return [line.text for line in service.store().history(run.id)]


def model_folder(run: Run) -> Path:
    return service.run_folder(run.id) / "model"


def claimed(values: dict[str, Any] = TINY) -> Run:
    """Submit and claim a run, as a supervisor does before it starts the worker."""
    service.submit(values)
    run = service.store().claim(CPU)
    assert run is not None
    return run


def claimed_by(process: subprocess.Popen[bytes], attempt: int = 1) -> Run:
    """Return a running run that this process has bound itself to."""
    run = claimed()
    for _ in range(attempt - 1):
        service.store().lose(run, "gone", is_final=False)
        run = service.store().claim(CPU) or run
    assert service.store().bind(run.id, run.attempt, process.pid, machine.process_identity(process.pid) or "")
    return service.run(run.id)


# A run from its submission to its model


def test_submitted_run_is_trained_by_processes_that_start_by_themselves(trained):
    assert trained.state == State.SUCCEEDED, trained.failure
    assert (trained.attempt, trained.slot, trained.pid, trained.failure) == (1, None, None, None)
    history = [(line.actor, line.text) for line in service.store().history(trained.id)]
    assert history == [
        ("ada", "launched"),
        ("supervisor", "started on cpu0, attempt 1"),
        ("worker", "succeeded"),
    ]


def test_summary_says_what_came_of_it(trained):
    summary = trained.summary
    assert (summary["epochs"], summary["steps"], summary["classes"], summary["image_size"]) == (2, 24, 6, 64)
    assert summary["train_images"] == 360
    assert summary["val_images"] == 120
    assert summary["val_accuracy"] > 1.5 / 6, "a pretrained backbone beats guessing after two epochs"
    assert 0 < summary["seconds"] <= trained.seconds
    assert summary["images_per_second"] == pytest.approx(720 / summary["seconds"])
    threads = supervisor.worker_threads()
    assert summary["device"] == f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def test_curve_has_every_step_and_epoch(trained):
    steps = [point.step for point in service.store().curve(trained.id, keys=["step/loss"])]
    assert steps == list(range(1, 25))
    scores = service.store().curve(trained.id, keys=["val/accuracy"])
    assert [(point.step, point.epoch) for point in scores] == [(0, 0.0), (12, 1.0), (24, 2.0)]
    assert max(point.value for point in scores[1:]) == trained.summary["val_accuracy"]
    assert trained.progress.share == 1.0


def test_validation_results_agree_with_the_summary(trained):
    validation = read_validation(service.run_folder(trained.id))
    assert validation is not None
    assert validation.probabilities.shape == (120, 6)
    assert np.mean(validation.predicted == validation.labels) == pytest.approx(trained.summary["val_accuracy"])
    assert validation.losses.mean() == pytest.approx(trained.summary["val_loss"], rel=1e-4)


def test_saved_model_can_be_loaded(trained):
    from dlkit.engine.bundle import load_bundle

    bundle = load_bundle(model_folder(trained))
    assert len(bundle.classes) == 6
    assert bundle.about["val_accuracy"] == trained.summary["val_accuracy"]


def test_log_is_there_and_has_no_traceback(trained):
    assert (service.run_folder(trained.id) / "log.txt").is_file()
    assert "Traceback" not in service.log_tail(trained.id)


def test_supervisor_is_small_and_knows_no_torch(trained):
    process = supervisor_of(settings().data_folder)
    assert process.memory_info().rss < 60 * 2**20
    assert not [part.path for part in process.memory_maps() if "torch" in part.path]


def test_second_supervisor_goes_at_once(trained):
    first = supervisor_of(settings().data_folder)
    second = subprocess.run([sys.executable, "-m", "dlkit.jobs.supervisor"], cwd=ROOT, timeout=30)
    assert second.returncode == 3
    assert first.is_running()


# Killed processes


def test_run_survives_its_supervisor_and_is_adopted_by_the_next(jobs):
    run = service.submit(WAITING)
    process, first = wait_for_worker(run), supervisor_of(jobs)
    first.kill()
    psutil.wait_procs([first], timeout=5)
    beaten = service.run(run.id).beat_at
    wait_for(lambda: service.run(run.id).beat_at > beaten)

    service.ensure_supervisor()
    second = supervisor_of(jobs)
    assert second.pid != first.pid
    time.sleep(0.5)  # five of its looks
    found = service.run(run.id)
    assert (found.state, found.attempt, found.pid) == (State.RUNNING, 1, process.pid)
    assert process.is_running()

    process.kill()  # not its child, and yet it notices
    assert wait_for_worker(run, attempt=2).pid != process.pid


def test_killed_worker_is_replaced_and_the_run_succeeds(jobs):
    run = service.submit(TINY)
    wait_for_worker(run).kill()
    ended = wait_for_end(run)
    assert (ended.state, ended.attempt, ended.failure) == (State.SUCCEEDED, 2, None)
    assert texts(run)[1:] == [
        "started on cpu0, attempt 1",
        "interrupted: its worker process ended without a word (attempt 1 of 3)",
        "started on cpu0, attempt 2",
        "succeeded",
    ]
    steps = [point.step for point in service.store().curve(run.id, keys=["step/loss"])]
    assert steps == list(range(1, 13))
    assert has_bundle(model_folder(run))


def test_run_whose_worker_dies_three_times_fails_with_the_reason(jobs):
    run = service.submit(WAITING)
    for attempt in (1, 2, 3):
        wait_for_worker(run, attempt).kill()
    ended = wait_for_end(run)
    assert (ended.state, ended.attempt, ended.slot) == (State.FAILED, 3, None)
    assert ended.failure == "its worker process ended without a word (attempt 3 of 3)"
    assert texts(run).count("started on cpu0, attempt 3") == 1


# Stop and cancel


def test_stopped_run_keeps_its_model(jobs):
    from dlkit.engine.bundle import load_bundle

    run = service.submit(LONG)
    wait_for(lambda: has_bundle(model_folder(run)))
    service.stop(run.id, "ada")
    ended = wait_for_end(run)
    assert (ended.state, ended.failure) == (State.STOPPED, None)
    assert 1 <= ended.summary["epochs"] < 1000
    assert load_bundle(model_folder(run)).about["val_accuracy"] == ended.summary["val_accuracy"]
    assert read_validation(service.run_folder(run.id)) is not None
    assert texts(run)[-2:] == ["asked to stop", "stopped"]


def test_cancelled_run_keeps_nothing_but_its_log(jobs):
    run = service.submit(LONG)
    wait_for(lambda: has_bundle(model_folder(run)))
    service.cancel(run.id, "ada")
    ended = wait_for_end(run)
    assert (ended.state, ended.failure, ended.summary) == (State.CANCELLED, None, {})
    assert [path.name for path in service.run_folder(run.id).iterdir()] == ["log.txt"]


def test_second_run_waits_for_the_only_slot_and_may_be_stopped_meanwhile(jobs):
    first, second, third = (service.submit(WAITING) for _ in range(3))
    wait_for_worker(first)
    time.sleep(0.3)  # three more looks of the supervisor
    assert [service.run(run.id).state for run in (second, third)] == [State.QUEUED, State.QUEUED]
    assert service.stop(second.id).state == State.STOPPED
    service.cancel(first.id)
    wait_for_worker(third)
    assert service.run(first.id).state == State.CANCELLED
    assert service.run(second.id).attempt == 0
    assert not service.run_folder(second.id).exists()


def test_download_does_not_wait_for_a_training(tmp_path):
    with job_home(tmp_path / "home", DLKIT_CPU_SLOTS="2"):
        trainings = [service.submit(WAITING) for _ in range(3)]
        download = service.submit_fetch("dataset", NEVER)
        wait_for_worker(download)
        found = [service.run(run.id) for run in (*trainings, download)]
        assert [run.slot for run in found] == ["cpu0", "cpu1", None, "network0"]
        assert found[3].progress.phase in ("", "starting", f"waiting {NEVER}")
        service.stop(download.id)
        assert wait_for_end(download).state == State.STOPPED


# What a worker is given, and what it says of its end


def test_worker_has_the_allocator_its_threads_and_a_group_of_its_own(tmp_path):
    with job_home(tmp_path / "home", DLKIT_WORKER_THREADS="3") as home:
        process = wait_for_worker(service.submit(WAITING))
        environment = process.environ()
        expected = {**supervisor.ALLOCATOR, "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "DLKIT_HOME": str(home)}
        assert expected.items() <= environment.items()
        assert "CUDA_VISIBLE_DEVICES" not in environment
        assert os.getpgid(process.pid) == process.pid
        assert [part for part in processes(home) if part.pid != process.pid] == [supervisor_of(home)]


def test_worker_says_the_users_mistake_in_a_sentence_and_ours_in_the_log(jobs):
    """Settings of an older version, and a record that cannot be: no form lets them through."""
    wrong = {**TINY, "epochs": 0}
    theirs = service.store().add_run("a" * 32, Kind.FINETUNE, "theirs", wrong, Slot.CPU, "ada")
    ours = service.store().add_run("b" * 32, Kind.FETCH, "ours", {"what": "dataset"}, Slot.NETWORK, "ada")
    service.ensure_supervisor()
    ended = wait_for_end(theirs)
    assert (ended.state, ended.attempt) == (State.FAILED, 1)
    assert ended.failure.startswith("Epochs (epochs) must be a whole number from 1 to 1000")
    assert "Traceback" not in service.log_tail(theirs.id)

    ended = wait_for_end(ours)
    assert (ended.state, ended.failure) == (State.FAILED, "This is a mistake of ours: the run's log has the details.")
    assert "Traceback" in service.log_tail(ours.id)
    assert "KeyError: 'name'" in service.log_tail(ours.id)
    assert "Traceback" not in "".join(texts(ours))


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError, which is told by its name."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (DlkitError("The picture is torn. Mend it."), "The picture is torn. Mend it."),
        (MemoryError(), "There was not enough memory. Choose a smaller batch size or image size."),
        (OutOfMemoryError(), "The GPU's memory was not enough. Choose a smaller batch size or image size."),
        (OSError(28, "No space left on device"), "The disk is full. Make room, then launch the run again."),
        (OSError(5, "Input/output error"), "This is a mistake of ours: the run's log has the details."),
    ],
)
def test_failed_run_says_why(quiet, monkeypatch, capfd, error, failure):
    def work(*_: object) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    assert (service.run(run.id).state, service.run(run.id).failure) == (State.FAILED, failure)
    assert ("Traceback" in capfd.readouterr().err) == (not isinstance(error, (DlkitError, MemoryError)))


def test_last_points_and_progress_are_written_before_the_end(quiet, monkeypatch):
    def work(_: Run, reporter: worker.Reporter) -> dict[str, Any]:
        reporter.add([Point("val/loss", 1, 1.0, 0.5)])
        reporter.say(Progress("done", 1.0))
        return {"val_loss": 0.5}

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    ended = service.run(run.id)
    assert (ended.state, ended.summary, ended.progress) == (State.SUCCEEDED, {"val_loss": 0.5}, Progress("done", 1.0))
    assert len(service.store().curve(run.id)) == 1


def test_worker_of_another_attempt_leaves_the_run_alone(quiet, monkeypatch):
    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, lambda *_: pytest.fail("it must not begin"))
    run = claimed()
    assert worker.main(run.id, 2) == worker.NOT_OURS
    assert service.run(run.id) == run


@pytest.mark.parametrize("wish", [None, "cancel"])
def test_replaced_worker_does_not_remove_the_next_ones_model(quiet, monkeypatch, wish):
    """It was silent for too long, wakes up, and finds the run taken over."""

    def work(run: Run, reporter: worker.Reporter) -> dict[str, Any]:
        service.store().lose(run, "no life", is_final=False)
        assert service.store().claim(CPU).attempt == 2
        model_folder(run).mkdir(parents=True)
        if wish is None:
            wait_for(lambda: reporter.is_lost, 5)
        raise worker.Interrupted(wish or "cancel")

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == worker.NOT_OURS
    assert model_folder(run).is_dir()
    assert (service.run(run.id).state, service.run(run.id).attempt) == (State.RUNNING, 2)


@pytest.mark.parametrize(("ask", "state"), [(service.stop, State.STOPPED), (service.cancel, State.CANCELLED)])
def test_wish_ends_a_download(quiet, monkeypatch, ask, state):
    run = claimed()
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)

    def endless(_: str) -> Iterator[worker.FetchProgress]:
        yield worker.FetchProgress("x.bin", 1, 4)
        ask(run.id)
        while True:
            time.sleep(0.01)
            yield worker.FetchProgress("x.bin", 1, 4)

    monkeypatch.setattr(worker, "prepare", endless)
    assert worker.main(run.id, 1) == 0
    assert (service.run(run.id).state, service.run(run.id).progress) == (state, Progress("fetching x.bin", 0.25))


# Downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with FileServer(tmp_path / "served") as running:
        yield running


def offered(server: FileServer, name: str, content: bytes) -> RemoteFile:
    (server.folder / name).write_bytes(content)
    return RemoteFile(f"{server.url}/{name}", name, "md5:" + hashlib.md5(content).hexdigest(), 0.001)


def two_classes() -> bytes:
    """A .tgz of one picture for each of two classes and two splits."""
    buffer, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"):
            member = tarfile.TarInfo(path)
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    return buffer.getvalue()


def fetched(what: str, name: str) -> Run:
    run = service.submit_fetch(what, name)
    assert service.store().claim({Slot.NETWORK: ["network0"]}).id == run.id
    assert worker.main(run.id, 1) == 0
    return service.run(run.id)


def test_data_set_is_fetched_as_a_run(quiet, server, monkeypatch):
    entry = dataclasses.replace(
        DATASETS["imagenette"], files=(offered(server, "tiny.tgz", two_classes()),), options={}, layout="class_folders"
    )
    monkeypatch.setitem(DATASETS, "imagenette", entry)
    run = fetched("dataset", "imagenette")
    assert (run.state, run.failure, run.name) == (State.SUCCEEDED, None, f"Fetch {entry.title}")
    assert is_here("imagenette")


def test_weights_are_fetched_once(quiet, server, monkeypatch):
    entry = dataclasses.replace(BACKBONES["resnet18"], weights=offered(server, "resnet18.pth", b"weights" * 1000))
    monkeypatch.setitem(BACKBONES, "resnet18", entry)
    assert fetched("backbone", "resnet18").state == State.SUCCEEDED
    assert download_path(entry).read_bytes() == b"weights" * 1000
    assert fetched("backbone", "resnet18").state == State.SUCCEEDED
    assert len(server.requests) == 1


def test_refused_download_fails_in_a_sentence(quiet, server, monkeypatch, capfd):
    entry = dataclasses.replace(BACKBONES["resnet18"], weights=offered(server, "resnet18.pth", b"weights"))
    monkeypatch.setitem(BACKBONES, "resnet18", entry)
    server.status = 503
    run = fetched("backbone", "resnet18")
    assert run.state == State.FAILED
    assert "refused resnet18.pth (HTTP 503" in run.failure
    assert "Traceback" not in capfd.readouterr().err


def test_same_download_is_queued_once(quiet):
    first = service.submit_fetch("dataset", NEVER)
    assert service.submit_fetch("dataset", NEVER) == first
    assert service.submit_fetch("backbone", "resnet18") != first
    service.cancel(first.id)
    assert service.submit_fetch("dataset", NEVER).id != first.id


@pytest.mark.parametrize("what", ["dataset", "backbone"])
def test_unknown_download_is_refused(quiet, what):
    with pytest.raises(UnknownChoice, match="called 'nothing'"):
        service.submit_fetch(what, "nothing")
    assert service.store().list_runs() == []


# The service


def test_submitted_run_is_recorded_with_every_default(quiet):
    run = service.submit({"optimizer": "adamw", "epochs": "3"})
    assert run.config["epochs"] == 3
    defaults = {"learning_rate": OPTIMIZERS["adamw"].learning_rate, **OPTIMIZERS["adamw"].settings, "image_size": 224}
    assert defaults.items() <= run.config.items()
    assert run.name == run.config["name"] == "Flowers (mini) · EfficientNet-Lite0 · head"


def test_wrong_settings_are_refused_before_a_row_is_written(quiet):
    with pytest.raises(ConfigError) as caught:
        service.submit({"epochs": 0, "dataset": "nothing"})
    assert len(caught.value.problems) == 2
    assert service.store().list_runs() == []


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_the_machine_does_not_have_is_refused_before_a_row_is_written(quiet, monkeypatch, device):
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(2, 8.0, (), False))
    with pytest.raises(DeviceError, match=f"The device {device} was asked for, and this machine"):
        service.submit({"device": device})
    assert service.store().list_runs() == []


GPU = machine.Gpu(0, "H100", 80.0, 1.0)


@pytest.mark.parametrize(
    ("device", "gpus", "has_mps", "needs"),
    [
        ("auto", (), False, Slot.CPU),
        ("auto", (GPU,), False, Slot.GPU),
        ("cuda", (GPU,), False, Slot.GPU),
        ("cpu", (GPU,), False, Slot.CPU),
        ("auto", (), True, Slot.CPU),
        ("mps", (), True, Slot.CPU),
    ],
)
def test_run_occupies_what_its_device_is(quiet, monkeypatch, device, gpus, has_mps, needs):
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(2, 8.0, gpus, has_mps))
    assert service.submit({"device": device}).needs == needs


@pytest.mark.parametrize("text", ["", "x" * 32, "A" * 32, "../../etc", "a" * 31, "a" * 33, "é" * 32])
def test_what_is_no_id_reaches_neither_store_nor_disk(quiet, text):
    for ask in (service.run, service.run_folder, service.stop, service.cancel, service.delete, service.log_tail):
        with pytest.raises(RunError, match="32 letters and digits"):
            ask(text)


def test_run_is_found_by_the_beginning_of_its_id(quiet):
    for run_id in ("ab" + "0" * 30, "ab" + "1" * 30, "cd" + "0" * 30):
        service.store().add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "ada")
    assert service.find("c").id == "cd" + "0" * 30
    assert service.find("ab1").id == "ab" + "1" * 30
    with pytest.raises(RunError, match="2 runs begin with 'ab'"):
        service.find("ab")
    for text in ("e", "", "%", "ab_"):
        with pytest.raises(RunError, match="No run begins with"):
            service.find(text)


def test_deleted_run_takes_its_folder_with_it(quiet):
    run = claimed()
    model_folder(run).mkdir(parents=True)
    with pytest.raises(RunError, match="Only a run that has ended"):
        service.delete(run.id)
    assert model_folder(run).is_dir()
    service.store().finish(run.id, 1, State.SUCCEEDED, {})
    service.delete(run.id)
    assert not service.run_folder(run.id).exists()
    with pytest.raises(RunError, match="There is no run"):
        service.run(run.id)


def test_log_tail_is_the_end_of_the_log(quiet):
    run = service.submit({})
    assert service.log_tail(run.id) == ""
    service.run_folder(run.id).mkdir(parents=True)
    (service.run_folder(run.id) / "log.txt").write_bytes(b"one\ntwo\n\xff three\n")
    assert service.log_tail(run.id, 2) == "two\n\N{REPLACEMENT CHARACTER} three"


def test_cancelled_while_interrupted_keeps_no_model(quiet):
    run = claimed()
    model_folder(run).mkdir(parents=True)
    service.store().lose(run, "gone", is_final=False)
    assert service.cancel(run.id).state == State.CANCELLED
    assert not model_folder(run).exists()


# The supervisor's looks


def later(monkeypatch, seconds):
    monkeypatch.setattr(supervisor.time, "monotonic", lambda real=time.monotonic: real() + seconds)


def test_run_of_a_living_worker_is_left_alone(quiet, sleeper):
    run = claimed_by(sleeper)
    supervisor.reconcile({})
    assert service.run(run.id) == run


def test_process_of_the_same_number_is_not_the_worker(quiet, sleeper):
    run = claimed()
    service.store().bind(run.id, 1, sleeper.pid, "of before the last boot")
    supervisor.reconcile({})
    assert service.run(run.id).state == State.INTERRUPTED
    assert sleeper.poll() is None, "whoever has the number now is not to be killed"


def test_silent_worker_is_killed_and_its_run_taken_up_again(quiet, sleeper, monkeypatch):
    run, seen = claimed_by(sleeper), {}
    supervisor.reconcile(seen)
    later(monkeypatch, supervisor.SILENCE_SECONDS + 1)
    supervisor.reconcile(seen)
    assert sleeper.wait(5) == -9
    assert service.run(run.id).state == State.INTERRUPTED
    assert texts(run)[-1] == "interrupted: its worker showed no life for 60 seconds (attempt 1 of 3)"


def test_worker_that_never_bound_itself_is_given_up(quiet, monkeypatch):
    run, seen = claimed(), {}
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING
    later(monkeypatch, supervisor.SILENCE_SECONDS + 1)
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.INTERRUPTED


def test_worker_is_not_silent_because_the_clock_was_set_or_the_machine_slept(quiet, sleeper):
    run, seen = claimed_by(sleeper), {}
    supervisor.reconcile(seen)
    service.store().beat(run.id, 1, Progress("training"), [])
    with service.store()._write() as connection:  # as after an hour's sleep: the last sign of life is long ago
        connection.exec_driver_sql("update runs set beat_at = '2001-01-01T00:00:00+00:00'")
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING


def test_last_attempt_fails(quiet, sleeper):
    run = claimed_by(sleeper, attempt=3)
    sleeper.kill()
    sleeper.wait()
    supervisor.reconcile({})
    found = service.run(run.id)
    assert (found.state, found.failure) == (
        State.FAILED,
        "its worker process ended without a word (attempt 3 of 3)",
    )


def test_worker_that_does_not_cancel_in_time_is_killed_and_keeps_nothing(quiet, sleeper, monkeypatch):
    run = claimed_by(sleeper)
    model_folder(run).mkdir(parents=True)
    service.cancel(run.id)
    seen = {}
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING, "it is given time"
    later(monkeypatch, supervisor.GRACE_SECONDS + 1)
    supervisor.reconcile(seen)
    assert sleeper.wait(5) == -9
    assert service.run(run.id).state == State.CANCELLED
    assert not model_folder(run).exists()


def test_worker_may_take_its_time_to_stop(quiet, sleeper, monkeypatch):
    run = claimed_by(sleeper)
    service.stop(run.id)
    supervisor.reconcile(seen := {})
    later(monkeypatch, supervisor.GRACE_SECONDS + 1)
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING
    assert sleeper.poll() is None


def test_supervisor_ends_when_nothing_is_left_and_gives_the_lock_back(quiet, monkeypatch):
    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 0.2)
    assert supervisor.main() == 0
    assert not locks.is_held(quiet / "supervisor.lock")


def test_supervisor_looks_once_more_after_it_gave_the_lock_back(quiet, monkeypatch):
    """A run that came between its last look and the release found the lock held, and nobody else would take it."""
    looks = []

    def supervise() -> None:
        looks.append(locks.is_held(quiet / "supervisor.lock"))
        if len(looks) == 1:
            service.submit({})
        else:
            service.store().wish(service.store().list_runs()[0].id, "stop", "ada")

    monkeypatch.setattr(supervisor, "supervise", supervise)
    assert supervisor.main() == 0
    assert looks == [True, True]


def test_supervisor_is_started_only_where_none_is(home, monkeypatch):
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.append(options))
    lock = locks.try_lock(settings().folder() / "supervisor.lock")
    service.ensure_supervisor()
    assert started == []
    lock.close()
    service.ensure_supervisor()
    assert started[0]["start_new_session"] is True, "it must outlive the server"
    assert started[0]["env"]["DLKIT_HOME"] == str(home)


def test_gpu_worker_sees_its_own_gpu_only(quiet, monkeypatch):
    two = (GPU, dataclasses.replace(GPU, index=1))
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(2, 8.0, two, False))
    monkeypatch.setattr(supervisor, "_known_gpus", two)
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda _, env, **options: environments.append(env))
    for device in ("auto", "cuda", "cpu"):
        service.submit({"device": device})
        supervisor.start_worker(service.store().claim(supervisor._slots()))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments[:2]] == ["0", "1"]
    assert {environment["CUDA_DEVICE_ORDER"] for environment in environments[:2]} == {"PCI_BUS_ID"}
    assert all(supervisor.ALLOCATOR.items() <= environment.items() for environment in environments)


def test_worker_threads_leave_a_core_to_the_server(home, monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (8, 7)):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        assert supervisor.worker_threads() == threads
    monkeypatch.setenv("DLKIT_WORKER_THREADS", "5")
    settings.cache_clear()
    assert supervisor.worker_threads() == 5


# Locks


def test_lock_is_held_by_one_until_it_is_closed(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    lock = locks.try_lock(path)
    assert locks.is_held(path)
    assert locks.try_lock(path) is None
    lock.close()
    with locks.try_lock(path):
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_lock_goes_with_its_process_and_is_not_inherited(tmp_path):
    script = (
        "import subprocess, sys, time; from pathlib import Path; from dlkit import locks\n"
        "lock = locks.try_lock(Path(sys.argv[1]))\n"
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, close_fds=False)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(holder.stdout.readline()))
    try:
        assert locks.is_held(tmp_path / "lock")
        holder.kill()
        holder.communicate()
        assert child.is_running()
        assert not locks.is_held(tmp_path / "lock")
    finally:
        child.kill()


# The machine


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make NVML report GPUs of these names, 80 GB each, of which 5 are used."""

    def report(*names: str | bytes) -> None:
        memory = SimpleNamespace(total=80_000_000_000, used=5_000_000_000)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(names))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda index: names[index])
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)

    return report


def test_machine_without_gpus_is_named_by_its_cores(nvml, monkeypatch):
    nvml()
    monkeypatch.setattr(sys, "platform", "linux")
    here = machine.describe()
    assert here.gpus == ()
    assert here.cores == len(os.sched_getaffinity(0))
    assert here.headline.startswith(f"{here.cores} CPU core")
    assert dataclasses.replace(here, cores=1, memory_gb=8.2).headline == "1 CPU core · 8.2 GB"


def test_one_gpu_is_named_with_its_memory(nvml):
    nvml("NVIDIA H100")
    assert machine.gpus() == (machine.Gpu(0, "NVIDIA H100", 80.0, 5.0),)
    assert machine.describe().headline == "NVIDIA H100 · 5 of 80 GB"


def test_two_gpus_are_counted(nvml):
    nvml("NVIDIA H100", b"NVIDIA A100")
    assert [(gpu.index, gpu.name) for gpu in machine.gpus()] == [(0, "NVIDIA H100"), (1, "NVIDIA A100")]
    assert machine.describe().headline == "NVIDIA H100 and 1 more · 5 of 80 GB"


@pytest.mark.parametrize("where", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_gpu_whose_driver_fails_does_not_count(nvml, monkeypatch, where, code):
    def fail(*_: object) -> None:
        raise pynvml.NVMLError(code)

    nvml("NVIDIA H100")
    monkeypatch.setattr(pynvml, where, fail)
    assert machine.gpus() == ()


def test_process_keeps_its_identity(sleeper):
    identity = machine.process_identity(sleeper.pid)
    assert identity
    assert machine.process_identity(sleeper.pid) == identity
    assert machine.process_identity(os.getpid()) != identity


def test_zombie_and_dead_process_have_no_identity(sleeper):
    sleeper.kill()
    wait_for(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE, 5)
    assert machine.process_identity(sleeper.pid) is None
    sleeper.wait()
    assert machine.process_identity(sleeper.pid) is None


def test_recycled_number_has_another_identity(sleeper, monkeypatch):
    """The kernel counts through 4 million numbers before it begins anew, so the later start is pretended."""
    before, read_text = machine.process_identity(sleeper.pid), Path.read_text

    def later(path: Path) -> str:
        head, bracket, rest = read_text(path).rpartition(")")
        fields = rest.split()
        return f"{head}{bracket} {' '.join([*fields[:19], str(int(fields[19]) + 1), *fields[20:]])}"

    monkeypatch.setattr(Path, "read_text", later)
    assert machine.process_identity(sleeper.pid) not in (None, before)


def test_name_with_brackets_and_spaces_does_not_confuse(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        boot, _, ticks = (machine.process_identity(process.pid) or "").rpartition(":")
        started = psutil.boot_time() + int(ticks) / os.sysconf("SC_CLK_TCK")
        assert abs(started - time.time()) < 30
        assert boot
    finally:
        process.kill()
        process.wait()


# Devices


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Make torch find CUDA and MPS, or not."""
    import torch

    def set_found(cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return set_found


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "device"),
    [
        ("auto", True, True, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("cuda", True, False, "cuda"),
        ("mps", True, True, "mps"),
    ],
)
def test_device_is_what_was_asked_for(finds, name, cuda, mps, device):
    from dlkit.engine.device import resolve

    finds(cuda, mps)
    assert resolve(name).type == device


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_never_replaced_silently(finds, name):
    from dlkit.engine.device import resolve

    finds(name != "cuda", name != "mps")
    with pytest.raises(DeviceError, match=f"The device {name} was asked for, and PyTorch finds no .* Choose auto"):
        resolve(name)


def test_device_is_named_for_a_person(monkeypatch):
    import torch

    from dlkit.engine.device import describe

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [describe(torch.device(name)) for name in ("cuda", "mps", "cpu")] == [
        "NVIDIA H100",
        "Apple GPU",
        "CPU, 1 thread",
    ]


def test_worker_fails_in_a_sentence_where_torch_does_not_find_the_gpu(quiet, monkeypatch, finds):
    """NVML sees a GPU, but this torch was built without CUDA."""
    finds(False, False)
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(2, 8.0, (GPU,), False))
    run = service.submit({**TINY, "device": "cuda"})
    assert service.store().claim({Slot.GPU: ["gpu0"]}).id == run.id
    assert worker.main(run.id, 1) == 0
    found = service.run(run.id)
    assert found.state == State.FAILED
    assert found.failure.startswith("The device cuda was asked for, and PyTorch finds no CUDA GPU here.")
