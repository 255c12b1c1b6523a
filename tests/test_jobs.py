"""Runs in real processes, which are killed, stopped and started again; and their parts in this one."""

import dataclasses
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest
from PIL import Image

from benchmarks.faults import left_by, temporary_files
from dlkit import files, locks, machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.remote import RemoteFile
from dlkit.data.dataset import is_here
from dlkit.data.weights import download_path
from dlkit.errors import (
    BundleError,
    ConfigError,
    DatasetError,
    DeviceError,
    DiskFullError,
    DivergedError,
    DlkitError,
    ImageError,
    MemoryFullError,
    OfflineError,
    RunError,
    StoreError,
    UnknownChoice,
)
from dlkit.jobs import supervisor, worker
from dlkit.runs import service, tables
from dlkit.runs.artifacts import has_bundle, read_validation
from dlkit.runs.records import Change, Checkpoint, Failure, Kind, Point, Progress, Run, Slot, State, Wish, in_words
from dlkit.runs.store import Beat
from dlkit.settings import settings
from tests.file_server import FileServer
from tests.job_home import (
    LONG,
    NEVER,
    TINY,
    WAITING,
    end_processes,
    job_home,
    processes,
    supervisor_of,
    wait_for,
    wait_for_end,
    wait_for_worker,
)
from tests.live_server import LiveServer

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
        service.store().lose(run, "gone", supervisor.ATTEMPTS)
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


def test_server_replaces_a_killed_supervisor_while_nobody_looks(jobs):
    with LiveServer(jobs):
        service.submit(WAITING)
        first = supervisor_of(jobs)
        first.kill()
        psutil.wait_procs([first], timeout=10)
        assert supervisor_of(jobs).pid != first.pid


def test_killed_worker_is_replaced_and_the_run_succeeds(jobs):
    run = service.submit(TINY)
    wait_for_worker(run).kill()
    ended = wait_for_end(run)
    assert (ended.state, ended.attempt, ended.failure) == (State.SUCCEEDED, 2, None)
    assert texts(run)[1:] == [
        "started on cpu0, attempt 1",
        "interrupted: its worker process ended without a word (attempt 1 of 3 without a new step)",
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
    assert ended.failure == "its worker process ended without a word (attempt 3 of 3 without a new step)"
    assert texts(run).count("started on cpu0, attempt 3") == 1


# Runs that are interrupted, in every way, and go on

#: a run that is long enough to be interrupted, with all that draws random numbers or remembers
STEADY = {**TINY, "epochs": 1000, "batch_size": 24, "dropout": 0.3, "ema_decay": 0.95}
OFTEN = {"DLKIT_CHECKPOINT_SECONDS": "0.3"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that was started cold and never interrupted."""
    with job_home(tmp_path_factory.mktemp("uninterrupted"), DLKIT_CHECKPOINT_SECONDS="60"):
        return left_by(wait_for_end(service.submit(STEADY)).id)


def checkpoints_of(run: Run) -> list[Checkpoint]:
    return service.store().checkpoints(run.id)


def wait_for_checkpoint(run: Run, attempt: int) -> psutil.Process:
    """Return the worker of this attempt once it has a checkpoint on record that is further than all before it."""
    process = wait_for_worker(run, attempt)
    mark = service.run(run.id).mark
    wait_for(lambda: any(known.attempt == attempt and known.step > mark for known in checkpoints_of(run)))
    return process


def wait_for_state(run: Run, state: State) -> Run:
    return wait_for(lambda: found if (found := service.run(run.id)).state == state else None)


def warm_process(home: Path, run: Run) -> psutil.Process | None:
    """Return the warm process; its children have the same command line."""
    worker_pid = service.run(run.id).pid
    return next((part for part in processes(home, "dlkit.jobs.warm") if part.pid != worker_pid), None)


def end_all(home: Path) -> None:
    """Kill what is there of a home with a warm process."""
    end_processes(home)
    for process in processes(home):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not processes(home))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What is seen of a run with warm workers that is interrupted in every way, one after the other."""
    seen = SimpleNamespace()
    with job_home(tmp_path_factory.mktemp("interrupted"), **OFTEN, DLKIT_WARM_WORKER="1") as home:
        try:
            run = service.submit(STEADY)
            seen.workers = [wait_for_checkpoint(run, 1).cmdline()[2]]
            service.pause(run.id)
            seen.paused = wait_for_state(run, State.PAUSED)
            other = service.submit(WAITING)
            wait_for_worker(other)
            seen.meanwhile = service.run(other.id).slot
            service.cancel(other.id)
            wait_for_end(other)
            service.resume(run.id)

            wait_for_checkpoint(run, 2)
            service.pause(run.id)
            wait_for_state(run, State.PAUSED)
            end_all(home)
            service.resume(run.id)

            child = wait_for_checkpoint(run, 3)
            seen.has_group = os.getpgid(child.pid) == child.pid
            os.killpg(child.pid, signal.SIGKILL)

            child = wait_for_checkpoint(run, 4)
            child.send_signal(signal.SIGTERM)

            child = wait_for_checkpoint(run, 5)
            first, warm = supervisor_of(home), warm_process(home, run)
            first.send_signal(signal.SIGTERM)
            seen.supervisor_code = first.wait(10)
            seen.warm_ended = wait_for(lambda: not warm.is_running(), 10)
            beaten = service.run(run.id).beat_at
            wait_for(lambda: service.run(run.id).beat_at > beaten)
            seen.outlived_supervisor = child.is_running() and service.run(run.id).attempt == 5
            service.ensure_supervisor()
            child.kill()

            child = wait_for_checkpoint(run, 6)
            warm_process(home, run).kill()
            number = service.store().checkpoints(run.id)[0].number
            wait_for(lambda: service.store().checkpoints(run.id)[0].number > number)
            seen.outlived_warm = child.is_running() and service.run(run.id).attempt == 6
            service.pause(run.id)
            wait_for_state(run, State.PAUSED)
            newest = service.run_folder(run.id) / service.store().checkpoints(run.id)[0].file
            content = bytearray(newest.read_bytes())
            content[len(content) // 2] ^= 1
            newest.write_bytes(content)
            service.resume(run.id)

            seen.workers.append(wait_for_worker(run, 7).cmdline()[2])
            seen.ended = wait_for_end(run)
            seen.history, seen.left, seen.log = texts(run), left_by(run.id), service.log_tail(run.id)
            seen.leftovers, seen.newest = temporary_files(home), newest.name
        finally:
            end_all(home)
    return seen


def test_run_that_was_interrupted_in_every_way_equals_one_that_never_was(interrupted, uninterrupted):
    assert (interrupted.ended.state, interrupted.ended.attempt) == (State.SUCCEEDED, 7)
    assert interrupted.left["points"] == uninterrupted["points"]
    assert interrupted.left == uninterrupted
    assert interrupted.leftovers == []
    assert "Traceback" not in interrupted.log


def test_history_says_of_every_interruption_what_it_was(interrupted):
    history, ends = interrupted.history, ("asked", "paused", "interrupted", "succeeded")
    assert [text for text in history if text.startswith(ends)] == [
        *("asked to pause", "paused", "asked to resume") * 2,
        "interrupted: its worker process ended without a word",
        "interrupted",
        "interrupted: its worker process ended without a word",
        *("asked to pause", "paused", "asked to resume"),
        "succeeded",
    ]
    steps = [int(text.split()[-1]) for text in history if text.startswith("goes on after step")]
    assert len(steps) == 6, "each attempt goes on from a checkpoint"
    assert steps == sorted(steps)


def test_paused_run_lets_another_have_its_slot(interrupted):
    assert (interrupted.paused.slot, interrupted.paused.pid, interrupted.paused.finished_at) == (None, None, None)
    assert interrupted.meanwhile == "cpu0"


def test_damaged_checkpoint_is_told_and_the_one_before_it_used(interrupted):
    said = [text for text in interrupted.history if "damaged" in text]
    assert len(said) == 1
    assert interrupted.newest in said[0]
    assert interrupted.history[interrupted.history.index(said[0]) + 1].startswith("goes on after step ")


def test_supervisor_that_is_told_to_end_leaves_the_workers_alone(interrupted):
    assert interrupted.supervisor_code == 0
    assert interrupted.outlived_supervisor


def test_warm_process_may_end_at_any_time(interrupted):
    assert interrupted.warm_ended, "it ends with its supervisor"
    assert interrupted.outlived_warm, "a worker that it has forked goes on"
    assert interrupted.workers == ["dlkit.jobs.warm", "dlkit.jobs.worker"], "without it, a worker is started cold"
    assert interrupted.has_group


def test_worker_that_is_told_to_end_leaves_a_checkpoint_and_0(quiet, monkeypatch):
    monkeypatch.setenv("DLKIT_CHECKPOINT_SECONDS", "60")
    run = claimed(LONG)
    process = supervisor.start_worker(run)
    try:
        wait_for(lambda: service.run(run.id).step > 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
    found = service.run(run.id)
    assert (found.state, found.slot, found.failure) == (State.INTERRUPTED, None, None)
    assert service.store().checkpoints(run.id)[0].step == found.step > 0
    assert service.store().claim(CPU).id == run.id


# Workers that cannot begin


def broken_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each worker, and nothing else, end before its first line."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys\nif 'dlkit.jobs.worker' in sys.orig_argv:\n    os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_worker_that_ends_before_it_begins_is_noticed_at_once(jobs, tmp_path, monkeypatch):
    broken_start(tmp_path / "site", monkeypatch)
    started = time.monotonic()
    ended = wait_for_end(service.submit(TINY))
    assert time.monotonic() - started < 3 * 5
    assert (ended.state, ended.failure_kind, ended.attempt) == (State.FAILED, Failure.CRASHES, 3)
    assert ended.failure == (
        "its worker process ended before it began (exit code 9) (attempt 3 of 3 without a new step)"
    )


def test_worker_that_cannot_be_started_is_noticed_and_the_supervisor_goes_on(jobs):
    run = service.store().add_run("c" * 32, Kind.FINETUNE, "x", TINY, Slot.CPU, "ada")
    (service.run_folder(run.id) / "log.txt").mkdir(parents=True)
    service.ensure_supervisor()
    ended = wait_for_end(run)
    assert (ended.state, ended.failure_kind) == (State.FAILED, Failure.CRASHES)
    assert ended.failure.startswith("its worker could not be started (Is a directory)")
    other = service.submit(WAITING)
    wait_for_worker(other)


def test_worker_of_a_dead_supervisor_that_never_began_is_given_up_sooner(quiet, monkeypatch):
    run, seen = claimed(), {}
    supervisor.reconcile(seen)
    later(monkeypatch, supervisor.UNBOUND_SECONDS + 1)
    child = SimpleNamespace(poll=lambda: None)
    supervisor.reconcile(dict(seen), {(run.id, 1): child})
    assert service.run(run.id).state == State.RUNNING, "our own may be slow to begin: we see that it lives"
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.INTERRUPTED


def test_full_disk_under_a_start_pauses_the_run(quiet, monkeypatch):
    def full(_: Run) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervisor, "start_worker", full)
    run = service.submit(TINY)
    supervisor.Watch().look()
    found = service.run(run.id)
    assert (found.state, found.failure_kind) == (State.PAUSED, Failure.DISK)
    assert found.awaits_bytes == service.room_needed(service.config_of(found))


# Stop, continue, retry, change


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What is seen of runs with warm workers that are stopped, continued, retried and changed."""
    seen = SimpleNamespace()
    with job_home(tmp_path_factory.mktemp("steered"), **OFTEN, DLKIT_WARM_WORKER="1") as home:
        try:
            _stop_and_continue(seen)
            _diverge_and_retry(seen)
            _change(seen)
            _cancel_and_delete(seen)
        finally:
            end_all(home)
    return seen


def _stop_and_continue(seen: SimpleNamespace) -> None:
    run = service.submit(LONG)
    wait_for(lambda: has_bundle(model_folder(run)))
    asked = time.monotonic()
    service.stop(run.id)
    seen.stopped = wait_for_end(run)
    seen.stop_seconds = time.monotonic() - asked
    service.go_on(run.id, 0)
    steps = seen.stopped.summary["steps"]
    seen.continued = wait_for(lambda: found if (found := service.run(run.id)).step > steps else None)
    seen.continued_history = texts(run)
    service.cancel(run.id)
    wait_for_end(run)

    run = wait_for_end(service.submit(TINY))
    service.go_on(run.id, 2)
    seen.more = wait_for_end(run)
    seen.more_steps = [point.step for point in service.store().curve(run.id, keys=["step/loss"])]
    seen.more_history = texts(run)


def _diverge_and_retry(seen: SimpleNamespace) -> None:
    # with this decay each step multiplies the weights by 1 - 10 = -9
    wild = {"optimizer": "sgd", "learning_rate": 10, "weight_decay": 1, "schedule": "constant", "epochs": 30}
    run = service.submit({**TINY, **wild})
    seen.diverged = wait_for_end(run)
    service.retry(run.id)
    seen.retried = wait_for_end(run)
    service.retry(run.id, learning_rate=1e-4)
    seen.saved = wait_for_end(run)
    seen.saved_rates = {point.value for point in service.store().curve(run.id, keys=["learning_rate"])}
    seen.saved_history = texts(run)


CHANGED = {**TINY, "strategy": "full", "head_epochs": 1, "epochs": 2, "dropout": 0.3}
WANTED = {"learning_rate": 0.0005, "augmentation": "light", "frozen": True, "epochs": 3}


def _change(seen: SimpleNamespace) -> None:
    run = service.submit(CHANGED)
    wait_for_checkpoint(run, 1)
    for what, value in WANTED.items():
        service.change(run.id, what, value, "ada")
    wait_for(lambda: all(change.step is not None for change in service.store().changes(run.id)))
    first = service.store().changes(run.id)
    step = max(change.step for change in first)
    wait_for(lambda: service.run(run.id).step > step)
    wait_for_worker(run, 1).kill()
    seen.changed = wait_for_end(run)
    seen.changes, seen.first_changes, seen.changed_history = service.store().changes(run.id), first, texts(run)
    seen.changed_left = left_by(run.id)

    with pytest.MonkeyPatch.context() as patch:  # the same changes after the same steps, from the beginning
        patch.setattr(service, "ensure_supervisor", lambda: None)
        alike = service.submit(CHANGED)
        with service.store()._write() as connection:
            rows = [{"run_id": alike.id, **dataclasses.asdict(change)} for change in first]
            connection.execute(tables.changes.insert(), rows)
    service.ensure_supervisor()
    wait_for_end(alike)
    seen.alike_left = left_by(alike.id)


def _cancel_and_delete(seen: SimpleNamespace) -> None:
    run = service.submit(LONG)
    wait_for_checkpoint(run, 1)
    with pytest.raises(RunError, match="Only a run that has ended"):
        service.delete(run.id)
    service.cancel(run.id)
    wait_for_end(run)
    seen.cancelled_files = [path.name for path in service.run_folder(run.id).iterdir()]
    seen.cancelled_checkpoints = service.store().checkpoints(run.id)
    service.delete(run.id)
    seen.deleted_folder = service.run_folder(run.id)
    seen.is_deleted = not seen.deleted_folder.exists() and not service.store().curve(run.id)


def test_run_stops_soon_after_the_step(steered):
    assert steered.stopped.state == State.STOPPED
    assert steered.stop_seconds < 4, "2 seconds, on a machine that does other things too"


def test_stopped_run_goes_on_where_it_was(steered):
    assert (steered.continued.state, steered.continued.attempt) == (State.RUNNING, 2)
    assert "goes on after step " + str(steered.stopped.summary["steps"]) in steered.continued_history


def test_run_that_succeeded_learns_for_more_epochs(steered):
    assert (steered.more.state, steered.more.attempt, steered.more.summary["epochs"]) == (State.SUCCEEDED, 2, 3)
    assert steered.more_steps == list(range(1, 37))
    assert "goes on after step 12" in steered.more_history
    assert "epochs 3 from step 13 on" in steered.more_history


def test_diverged_run_succeeds_at_another_rate(steered):
    for failed in (steered.diverged, steered.retried):
        assert (failed.state, failed.failure_kind) == (State.FAILED, Failure.DIVERGED)
    assert steered.retried.failure == steered.diverged.failure, "it comes to the same step again"
    assert (steered.saved.state, steered.saved.failure, steered.saved.failure_kind) == (State.SUCCEEDED, None, None)
    assert any(text.startswith("learning rate 0.0001 from step") for text in steered.saved_history)
    assert min(steered.saved_rates) <= 1e-4


def test_changes_reach_the_running_worker(steered):
    assert steered.changed.state == State.SUCCEEDED
    assert {change.what: change.value for change in steered.changes} == WANTED
    assert all(f"asked for {in_words(what, value)}" in steered.changed_history for what, value in WANTED.items())
    for change in steered.changes:
        note = f"{in_words(change.what, change.value)} from step {change.step + 1} on"
        assert steered.changed_history.count(note) == 1
    assert steered.changed.summary["epochs"] == 4


def test_killed_after_changes_it_makes_them_again_after_the_same_steps(steered):
    assert steered.changed.attempt == 2
    assert steered.changes == steered.first_changes
    assert steered.changed_left == steered.alike_left


def test_cancelled_and_deleted_run_leaves_nothing(steered):
    assert (steered.cancelled_files, steered.cancelled_checkpoints) == (["log.txt"], [])
    assert steered.is_deleted


# What a worker tells


def reporting(run: Run, monkeypatch: pytest.MonkeyPatch) -> worker.Reporter:
    """Return the reporter of a run that this process does, which beats when it is told to."""
    monkeypatch.setattr(worker, "BEAT_SECONDS", 3600)
    assert service.store().bind(run.id, run.attempt, os.getpid(), machine.process_identity(os.getpid()) or "")
    return worker.Reporter(run)


def saved(run: Run, step: int) -> Any:
    """Write a checkpoint as the engine does."""
    from dlkit.engine.checkpoint import save_checkpoint

    return save_checkpoint({"position": {"step": step}}, service.run_folder(run.id), run.attempt)


def numbers(run: Run) -> list[int]:
    return [checkpoint.number for checkpoint in service.store().checkpoints(run.id)]


def test_points_wait_for_the_store_and_are_written_with_their_checkpoint(quiet, monkeypatch):
    run = claimed()
    with monkeypatch.context() as patch, reporting(run, monkeypatch) as reporter:

        def locked(*_: object) -> None:
            raise StoreError("locked")

        patch.setattr(service.store(), "beat", locked)
        reporter.tell((Point("step/loss", 1, 0.1, 2.0),), 1)
        assert not reporter._beat()
        reporter.tell((Point("step/loss", 2, 0.2, 1.0),), 2, saved(run, 2))
        assert not reporter._beat()
        assert (service.store().curve(run.id), numbers(run)) == ([], [])
        patch.undo()
        monkeypatch.setattr(worker, "BEAT_SECONDS", 3600)
        assert reporter._beat()
        assert [point.step for point in service.store().curve(run.id)] == [1, 2]
        assert (numbers(run), service.run(run.id).step) == ([1], 2)


def test_checkpoint_that_comes_while_another_is_being_written_has_a_number_of_its_own(quiet, monkeypatch):
    run = claimed()
    with reporting(run, monkeypatch) as reporter:
        beat = service.store().beat

        def slow(*arguments: Any) -> Any:
            reporter.tell((), 2, saved(run, 2))
            monkeypatch.setattr(service.store(), "beat", beat)
            return beat(*arguments)

        monkeypatch.setattr(service.store(), "beat", slow)
        reporter.tell((), 1, saved(run, 1))
        assert reporter._beat()
        assert reporter._beat()
        assert numbers(run) == [2, 1]


def test_two_newest_checkpoints_are_kept_and_no_file_is_written_twice(quiet, monkeypatch):
    run = claimed()
    with reporting(run, monkeypatch) as reporter:
        for step in (1, 2, 2, 2):  # the validation after step 2 takes long
            reporter.tell((), step, saved(run, step))
            reporter._beat()
        known = service.store().checkpoints(run.id)
        assert ([part.number for part in known], [part.step for part in known]) == ([4, 3], [2, 2])
        assert len({part.file for part in known}) == 2
        folder = service.run_folder(run.id)
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {Path(part.file).name for part in known}
        assert all(files.sha256_of(folder / part.file) == part.sha256 for part in known)


def test_damaged_checkpoint_does_not_count_among_the_two_that_are_kept(quiet, monkeypatch):
    run = claimed()
    with reporting(run, monkeypatch) as reporter:
        for step in (1, 2):
            reporter.tell((), step, saved(run, step))
        reporter._beat()
        service.store().forget_checkpoints(run.id, [2])  # as it is done with a damaged one
        reporter.tell((), 3, saved(run, 3))
        reporter._beat()
        assert numbers(run) == [3, 1]


def test_pause_that_is_withdrawn_too_late_does_not_end_the_run_as_if_it_were_done(quiet, monkeypatch):
    """The engine has heard of it and comes to an end; the user presses Resume meanwhile."""

    def work(run: Run, reporter: worker.Reporter) -> dict[str, Any]:
        service.pause(run.id)
        wait_for(lambda: reporter.wish, 5)
        service.resume(run.id)
        assert reporter._beat()
        return {"epochs": 1}

    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    assert service.run(run.id).state == State.INTERRUPTED, "it goes on"


def test_change_is_due_once_and_at_its_step(quiet, monkeypatch):
    run = claimed()
    with reporting(run, monkeypatch) as reporter:
        service.change(run.id, "learning_rate", 0.5)
        service.change(run.id, "frozen", "false")
        reporter._beat()
        (rate,) = reporter.due(5, set(), is_epoch_start=False)
        assert (rate.what, rate.value, rate.step) == ("learning_rate", 0.5, 5)
        (frozen,) = reporter.due(12, {rate.number}, is_epoch_start=True)
        assert (frozen.what, frozen.value, frozen.step) == ("frozen", False, 12)
        reporter._beat()
        assert list(reporter.due(13, {rate.number, frozen.number}, is_epoch_start=True)) == []
        assert list(reporter.due(4, set(), is_epoch_start=True)) == [], "replayed from before, not yet"
        assert [change.number for change in reporter.due(5, set(), is_epoch_start=False)] == [rate.number]


def test_training_puts_its_own_change_on_record(quiet, monkeypatch, capfd):
    run = claimed()
    with reporting(run, monkeypatch) as reporter:
        change = reporter.record("micro_batch", 8, 3, "out of memory with 16 pictures")
        assert change == Change(1, "micro_batch", 8, 3, "worker")
        assert service.store().changes(run.id) == [change]
        assert texts(run)[-1] == "out of memory with 16 pictures"
    assert "out of memory with 16 pictures" in capfd.readouterr().out


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


# Searching a learning rate

SEARCH = {"dataset": "flowers-mini", "image_size": 64, "views": 1, "augmentation": "none"}


def test_search_on_photographs_suggests_rates_and_keeps_no_file(jobs):
    run = wait_for_end(service.submit_find(SEARCH, "ada"))
    assert (run.state, run.attempt, run.failure) == (State.SUCCEEDED, 1, None)
    assert run.summary.keys() == {"rates", "losses", "smoothed", "suggestions", "note"}
    assert 50 < len(run.summary["rates"]) == len(run.summary["losses"]) == len(run.summary["smoothed"]) <= 100
    assert {"valley", "minimum", "steepest"} <= run.summary["suggestions"].keys()
    assert all(1e-5 < run.summary["suggestions"][name] < 1 for name in ("valley", "minimum", "steepest"))
    assert [path.name for path in service.run_folder(run.id).iterdir()] == ["log.txt"]
    assert service.log_tail(run.id) == ""
    assert service.store().curve(run.id) == service.store().checkpoints(run.id) == []


def search_in_process(monkeypatch: pytest.MonkeyPatch, find: Callable[..., Any]) -> Run:
    """Do a search in this process by another finder, and return how it was left."""
    from dlkit.engine import rate_finder

    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(rate_finder, "find", find)
    run = service.submit_find(TINY)
    assert service.store().claim(CPU)
    assert worker.main(run.id, 1) == 0
    return service.run(run.id)


@pytest.mark.parametrize(
    ("wish", "state"),
    [(service.cancel, State.CANCELLED), (service.stop, State.STOPPED), (service.pause, State.PAUSED)],
)
def test_search_ends_at_the_next_step_when_that_is_wished(quiet, monkeypatch, wish, state):
    from dlkit.engine.rate_finder import Sweep

    def find(config: object) -> Iterator[Sweep]:
        yield Sweep(Progress("trying", 0.1))
        wish(service.store().running()[0].id)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            yield Sweep(Progress("trying", 0.5))
            time.sleep(0.01)

    run = search_in_process(monkeypatch, find)
    assert (run.state, run.summary, run.failure) == (state, {}, None)


def test_search_that_fails_says_why(quiet, monkeypatch):
    def find(config: object) -> Iterator[Any]:
        raise DatasetError("The set is torn. Mend it.")
        yield

    run = search_in_process(monkeypatch, find)
    assert (run.state, run.failure, run.failure_kind) == (State.FAILED, "The set is torn. Mend it.", Failure.DATA)


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


OUT_OF_MEMORY = "The memory was not enough. Choose a smaller image size or a smaller backbone."
OURS = "This is a mistake of ours: the run's log has the details."


@pytest.mark.parametrize(
    ("error", "kind", "failure"),
    [
        (DlkitError("The picture is torn. Mend it."), Failure.SETTINGS, "The picture is torn. Mend it."),
        (ImageError("The picture is torn. Mend it."), Failure.DATA, "The picture is torn. Mend it."),
        (DatasetError("The set is torn. Mend it."), Failure.DATA, "The set is torn. Mend it."),
        (OfflineError("There is no network. Mend it."), Failure.NETWORK, "There is no network. Mend it."),
        (DivergedError(7, 0.1), Failure.DIVERGED, str(DivergedError(7, 0.1))),
        (MemoryFullError("CPU"), Failure.MEMORY, str(MemoryFullError("CPU"))),
        (MemoryError(), Failure.MEMORY, OUT_OF_MEMORY),
        (OutOfMemoryError(), Failure.MEMORY, OUT_OF_MEMORY),
        (OSError(5, "Input/output error"), Failure.BUG, OURS),
    ],
)
def test_failed_run_says_why_and_what_kind_it_is(quiet, monkeypatch, capfd, error, kind, failure):
    def work(*_: object) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    found = service.run(run.id)
    assert (found.state, found.failure_kind, found.failure) == (State.FAILED, kind, failure)
    assert ("Traceback" in capfd.readouterr().err) == (kind == Failure.BUG)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiskFullError(5_000_000, 1_000_000)])
def test_full_disk_pauses_the_run_until_there_is_room(quiet, monkeypatch, error):
    """The variant by injection: `test_run_on_a_full_disk_…` is the real one, where a disk may be mounted."""

    def work(*_: object) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    found = service.run(run.id)
    assert (found.state, found.failure_kind, found.finished_at) == (State.PAUSED, Failure.DISK, None)
    assert re.fullmatch(r"Disk full: [\d,]+ MB free, [\d.e+]+ MB needed. Make room.", found.failure)
    assert found.awaits_bytes > 0
    assert service.store().has_work(), "the supervisor stays to look for room"

    with monkeypatch.context() as patch:
        patch.setattr(files, "free_bytes", lambda _: found.awaits_bytes - 1)
        supervisor.wake_where_room({})
        assert service.run(run.id).state == State.PAUSED
        patch.setattr(files, "free_bytes", lambda _: found.awaits_bytes)
        supervisor.wake_where_room({})
    found = service.run(run.id)
    assert (found.state, found.failure, found.failure_kind, found.awaits_bytes) == (State.QUEUED, None, None, None)
    assert texts(run)[-1].startswith("there is room again: ")


def test_store_that_was_away_ends_the_attempt_and_not_the_run(quiet, monkeypatch):
    def work(*_: object) -> dict[str, Any]:
        raise StoreError("The store cannot be used just now: database is locked.")

    monkeypatch.setitem(worker.TASKS, Kind.FINETUNE, work)
    run = claimed()
    assert worker.main(run.id, 1) == 0
    found = service.run(run.id)
    assert (found.state, found.failure, found.slot) == (State.INTERRUPTED, None, None)
    assert service.store().claim(CPU).attempt == 2


def test_last_points_and_progress_are_written_before_the_end(quiet, monkeypatch):
    def work(_: Run, reporter: worker.Reporter) -> dict[str, Any]:
        reporter.tell((Point("val/loss", 1, 1.0, 0.5),), 1)
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
        service.store().lose(run, "no life", supervisor.ATTEMPTS)
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


@pytest.mark.parametrize(("device", "gpus"), [("auto", ()), ("cpu", ()), ("cpu", (GPU,))])
def test_what_needs_a_gpu_is_refused_where_none_computes(quiet, monkeypatch, device, gpus):
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(2, 8.0, gpus, False))
    with pytest.raises(DeviceError, match="compile was asked for, and it pays on an NVIDIA GPU only"):
        service.submit({"device": device, "strategy": "full", "compile": True})
    for ask in (service.submit, service.submit_find):
        with pytest.raises(DeviceError, match="float16 was asked for, and it needs an NVIDIA GPU"):
            ask({"device": device, "precision": "float16"})
    assert service.store().list_runs() == []


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
    service.store().lose(run, "gone", supervisor.ATTEMPTS)
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
    assert texts(run)[-1] == "interrupted: its worker showed no life for 60 seconds (attempt 1 of 3 without a new step)"


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
    service.store().beat(run.id, 1, Beat(Progress("training")))
    with service.store()._write() as connection:  # as after an hour's sleep: the last sign of life is long ago
        connection.exec_driver_sql("update runs set beat_at = '2001-01-01T00:00:00+00:00'")
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING


def test_third_attempt_without_a_new_step_fails(quiet, sleeper):
    run = claimed_by(sleeper, attempt=3)
    sleeper.kill()
    sleeper.wait()
    supervisor.reconcile({})
    found = service.run(run.id)
    assert found.failure_kind == Failure.CRASHES
    assert (found.state, found.failure) == (
        State.FAILED,
        "its worker process ended without a word (attempt 3 of 3 without a new step)",
    )


def test_worker_that_does_not_cancel_in_time_is_killed_and_keeps_nothing(quiet, sleeper, monkeypatch):
    run = claimed_by(sleeper)
    model_folder(run).mkdir(parents=True)
    service.cancel(run.id)
    seen = {}
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING, "it is given time"
    later(monkeypatch, supervisor.GRACE_SECONDS[Wish.CANCEL] + 1)
    supervisor.reconcile(seen)
    assert sleeper.wait(5) == -9
    assert service.run(run.id).state == State.CANCELLED
    assert not model_folder(run).exists()


def test_worker_may_take_its_time_to_stop(quiet, sleeper, monkeypatch):
    run = claimed_by(sleeper)
    service.stop(run.id)
    supervisor.reconcile(seen := {})
    later(monkeypatch, supervisor.GRACE_SECONDS[Wish.CANCEL] + 1)
    supervisor.reconcile(seen)
    assert service.run(run.id).state == State.RUNNING
    assert sleeper.poll() is None


def test_supervisor_ends_when_nothing_is_left_and_gives_the_lock_back(quiet, monkeypatch):
    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 0.2)
    assert supervisor.main() == 0
    assert not locks.is_held(quiet / "supervisor.lock")


def test_supervisor_that_stays_waits_for_the_other_and_then_supervises(jobs):
    run = service.submit(WAITING)
    wait_for_worker(run)
    first = supervisor_of(jobs)
    command = [sys.executable, "-c", "import sys; from dlkit.jobs import supervisor; sys.exit(supervisor.main(True))"]
    second = subprocess.Popen(command, cwd=ROOT)
    try:
        time.sleep(2)
        assert second.poll() is None, "it waits"
        first.kill()
        psutil.wait_procs([first], timeout=5)
        wait_for(lambda: locks.is_held(jobs / "supervisor.lock"))
        wait_for_worker(run).kill()
        wait_for_worker(run, attempt=2)
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == 0
        assert wait_for_worker(run, attempt=2).is_running()
    finally:
        second.kill()
        second.wait()


def test_supervisor_looks_once_more_after_it_gave_the_lock_back(quiet, monkeypatch):
    """A run that came between its last look and the release found the lock held, and nobody else would take it."""
    looks = []

    def supervise(_: bool) -> None:
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
    for cores, threads in ((1, 1), (2, 2), (3, 2), (8, 7)):
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


def test_float32_is_exact_on_cuda(finds):
    import torch

    from dlkit.engine.device import resolve

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    finds(True, False)
    resolve("auto")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_never_replaced_silently(finds, name):
    from dlkit.engine.device import resolve

    finds(name != "cuda", name != "mps")
    with pytest.raises(DeviceError, match=f"The device {name} was asked for, and PyTorch finds no .* Choose auto"):
        resolve(name)


def test_peak_of_cuda_is_the_training_s_own(monkeypatch):
    import torch

    from dlkit.engine import device

    told: list[str] = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: told.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 3e9)
    device.forget_peak_memory(torch.device("cpu"))
    assert told == []
    device.forget_peak_memory(torch.device("cuda"))
    assert told == ["empty_cache", "reset_peak_memory_stats"]
    assert device.peak_memory_mb(torch.device("cuda")) == 3000


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


def test_change_of_an_attempt_that_came_further_comes_before_what_is_asked_now(quiet, monkeypatch):
    run = claimed(LONG)
    for value in (0.01, 0.0005):
        service.change(run.id, "learning_rate", value)
    first, _ = service.store().changes(run.id)
    service.store().apply_change(run.id, run.attempt, first, 120)
    reporter = reporting(run, monkeypatch)
    reporter._beat()
    due = list(reporter.due(100, set(), is_epoch_start=False))
    assert [(change.number, change.value) for change in due] == [(1, 0.01), (2, 0.0005)]
    assert [change.step for change in service.store().changes(run.id)] == [100, 100]


def test_run_none_of_whose_checkpoints_is_whole_fails_and_keeps_its_model(quiet, monkeypatch):
    run = claimed()
    reporter = reporting(run, monkeypatch)
    reporter.tell((), 5, saved(run, 5))
    reporter._beat()
    model = service.run_folder(run.id) / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    for path in (service.run_folder(run.id) / "checkpoints").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(BundleError, match="None of the run's checkpoints can be read"):
        worker._last_state(service.run(run.id))
    assert (model / "model.json").exists()
    assert numbers(run) == [1]


def test_room_that_cannot_be_seen_is_asked_for_less_and_less_often(quiet):
    run = claimed()
    woken: dict[str, tuple[float, float]] = {}
    waits = []
    for _ in range(3):
        service.store().finish(run.id, service.run(run.id).attempt, State.PAUSED, {}, "full", Failure.DISK, 1)
        woken[run.id] = 0.0, woken.get(run.id, (0.0, supervisor.ROOM_SECONDS))[1]
        supervisor.wake_where_room(woken)
        assert service.run(run.id).state == State.QUEUED
        waits.append(woken[run.id][1])
        service.store().claim(CPU)
    assert waits == [4, 8, 16]
    service.store().finish(run.id, service.run(run.id).attempt, State.PAUSED, {}, "full", Failure.DISK, 1)
    supervisor.wake_where_room(woken)
    assert service.run(run.id).state == State.PAUSED, "it was woken a moment ago"
