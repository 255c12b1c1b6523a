"""What is promised where something breaks: `python -m benchmarks.faults [--kills 50] [--seed 0] [--only NAME]`.

Real processes are killed, writes fail, the disk is full, the database locked, the clock set back, the memory too small;
then it is counted what was lost. A row that begins with BROKEN is a promise not kept, and the exit code is 1. Each part
runs in a process of its own that has torch loaded and forks the workers that it breaks. Full disks are small tmpfs
mounts: without the right to mount those rows are skipped, which they say.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.machine import headline
from benchmarks.samples import spread
from dlkit import files, machine
from dlkit.errors import DlkitError, RunError, StoreError
from dlkit.jobs import supervisor
from dlkit.runs import service
from dlkit.runs.artifacts import has_bundle, read_description
from dlkit.runs.records import Failure, Kind, Run, Slot, State
from dlkit.settings import settings

ROOT = Path(__file__).parents[1]
CPU = {Slot.CPU: ["cpu0"]}
SHAPES: dict[str, Any] = {"dataset": "shapes", "image_size": 64}
TINY = {**SHAPES, "epochs": 2, "augmentation": "none"}
HEAD = {**SHAPES, "epochs": 100, "augmentation": "strong", "dropout": 0.3, "ema_decay": 0.95}
FULL = {
    **SHAPES,
    "strategy": "full",
    "head_epochs": 1,
    "epochs": 1,
    "augmentation": "strong",
    "dropout": 0.3,
    "ema_decay": 0.95,
    "mixing": "mixup",
    "freeze_batchnorm": False,
}
KILLED = {"head": HEAD, "full": FULL}
PATIENCE_SECONDS = 180
PROMISED_OVERHEAD = 1.03

Row = tuple[str, str, str, bool]


@dataclass(frozen=True)
class Options:
    """How much of each fault there is."""

    kills: int
    seed: int
    every: int  # n-th write that fails
    sizes: tuple[int, ...]  # pictures that fit into the memory
    hold: float  # seconds for which the database is locked
    rounds: int
    runs: int
    pairs: int


# What a run has left behind


def left_by(run_id: str) -> dict[str, Any]:
    """Return what must be equal, bit for bit, whatever happened on the way: weights, curve and validation results."""
    folder = service.run_folder(run_id)
    points = [(point.key, point.step, point.epoch, point.value) for point in service.store().curve(run_id)]
    return {
        "model": read_description(folder / "model")["sha256"],
        "points": sorted(map(list, points)),
        "validation": files.sha256_of(folder / "validation.npz"),
    }


def temporary_files(folder: Path) -> list[str]:
    """Return what an interrupted write has left."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]


def differences(run_id: str, expected: Mapping[str, Any]) -> list[str]:
    """Return in what a run differs from what is expected of it."""
    found = left_by(run_id)
    return [name for name in expected if found[name] != expected[name]]


# Processes


@contextmanager
def data_folder(folder: Path, **variables: str) -> Iterator[Path]:
    """Use `folder` as data folder, here and in what is started from here; at the end no process of it is left."""
    before = dict(os.environ)
    os.environ.update({"DLKIT_HOME": str(folder), "DLKIT_CHECKPOINT_SECONDS": "0.3", **variables})
    settings.cache_clear()
    try:
        yield folder
    finally:
        for name in ("supervisor", "warm", "worker"):
            while alive := processes(folder, name):
                for process in alive:
                    with suppress(psutil.Error):
                        process.kill()
                psutil.wait_procs(alive, timeout=0.1)
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()


def processes(folder: Path, name: str) -> list[psutil.Process]:
    """Return the living processes `python -m dlkit.jobs.NAME` of a data folder; those that end are none."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_ours = f"dlkit.jobs.{name}" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if is_ours and process.environ().get("DLKIT_HOME") == str(folder):
                found.append(process)
    return found


def wait_for(look: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Return what `look` finds, or None after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def ended(run: Run) -> Run:
    """Return a run once it is at its end, or as it is after a long while."""
    wait_for(lambda: not service.run(run.id).is_active)
    return service.run(run.id)


def in_fork(folder: Path, work: Callable[[], Any]) -> Any:
    """Call `work` in a forked process with this data folder, and return its result: None, or what JSON can hold.

    What it prints goes to a file in the folder. This process must have computed nothing.
    """
    return Forked(folder, work).result()


class Forked:
    """A forked process at work."""

    def __init__(self, folder: Path, work: Callable[[], Any]) -> None:
        import json

        folder.mkdir(parents=True, exist_ok=True)
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        code = 1
        try:
            os.environ["DLKIT_HOME"] = str(folder)
            settings.cache_clear()
            with suppress(OSError):  # of a folder that can only be read
                output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
            service.ensure_supervisor = lambda: None
            os.write(writer, json.dumps(work()).encode())  # less than a pipe holds
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)

    def result(self) -> Any:
        """Wait for its end; RuntimeError where it broke."""
        import json

        with os.fdopen(self._reader, "rb") as pipe:
            printed = pipe.read()
        os.waitpid(self.pid, 0)
        if not printed:
            raise RuntimeError("the forked process broke; see output.txt in its data folder")
        return json.loads(printed)


def launch(values: Mapping[str, Any]) -> str:
    """Queue a run and give it a slot; return its id."""
    run = service.submit(values)
    claim(run.id)
    return run.id


def claim(run_id: str) -> int:
    """Give a waiting run a slot; return the attempt."""
    run = service.store().claim(CPU)
    if run is None or run.id != run_id:
        raise RuntimeError("the run cannot be claimed")
    return run.attempt


def attempt(run_id: str) -> dict[str, Any]:
    """Do the run in this process as a worker does; return how it is left."""
    from dlkit.jobs import worker

    code = worker.main(run_id, service.run(run_id).attempt)
    run = service.run(run_id)
    return {"code": code, "state": run.state, "failure": run.failure, "kind": run.failure_kind}


def whole(values: Mapping[str, Any]) -> dict[str, Any]:
    """Do a run without any fault; return its digest."""
    run_id = launch(values)
    if attempt(run_id)["state"] != State.SUCCEEDED:
        raise RuntimeError("a run without a fault failed")
    return digest(run_id)


def digest(run_id: str) -> dict[str, Any]:
    """Return what `left_by` does, short enough for a pipe."""
    import hashlib

    left = left_by(run_id)
    return {**left, "points": hashlib.sha256(repr(left["points"]).encode()).hexdigest()}


# 1. Killed processes


class Watcher(threading.Thread):
    """Counts how often two workers of one run were alive at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self.doubles, self.looks = folder, 0, 0
        self.done = threading.Event()

    def run(self) -> None:
        """Look several times a second."""
        while not self.done.wait(0.2):
            runs = Counter(_run_of(process) for process in processes(self._folder, "worker"))
            self.looks += 1
            self.doubles += any(count > 1 for run_id, count in runs.items() if run_id)


def _run_of(process: psutil.Process) -> str:
    with suppress(psutil.Error, IndexError):
        return process.cmdline()[-2]
    return ""


def kills(options: Options) -> Iterator[Row]:
    """Kill workers, supervisors and servers at random instants; who was killed is started again as by a visitor."""
    from tests.live_server import LiveServer

    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name, data_folder(Path(name) / "home") as home:
        expected: dict[str, dict[str, Any]] = {}
        lives: dict[str, float] = {}
        server = LiveServer(home).__enter__()
        watcher = Watcher(home)
        watcher.start()
        found: Counter[str] = Counter()
        done: Counter[str] = Counter()
        runs: list[tuple[str, str]] = []
        try:
            while done.total() < options.kills:
                title = ("head", "full")[len(runs) % 2]
                if title not in expected:
                    started, run = time.monotonic(), ended(service.submit(KILLED[title]))
                    expected[title], lives[title] = left_by(run.id), time.monotonic() - started
                run = service.submit(KILLED[title])
                runs.append((title, run.id))
                of_worker = 0
                for _ in range(min(3, options.kills - done.total())):
                    victim = chance.choice(("worker", "supervisor", "server", "all"))
                    if victim in ("worker", "all"):
                        of_worker += 1  # three in a row before its first step would end a run, as they should
                        victim = "supervisor" if of_worker > 2 else victim
                    instant = time.monotonic() + chance.uniform(0, lives[title])
                    while time.monotonic() < instant and service.run(run.id).is_active:
                        time.sleep(0.02)
                    if not service.run(run.id).is_active:
                        break
                    server = _strike(victim, home, run, server)
                    done[victim] += 1
                after = ended(run)
                if after.state != State.SUCCEEDED:
                    found[f"ended {after.state}"] += 1
                    print(f"{title} {run.id}: {after.state} {after.failure}", file=sys.stderr)
                    continue
                points = service.store().curve(run.id)
                keys = [(point.key, point.step) for point in points]
                found["lost"] += len({tuple(point[:2]) for point in expected[title]["points"]} - set(keys))
                found["duplicate"] += len(keys) - len(set(keys))
                if wrong := differences(run.id, expected[title]):
                    found["different"] += 1
                    print(f"{title} {run.id} differs in {wrong}", file=sys.stderr)
        finally:
            watcher.done.set()
            watcher.join()
            server.stop()
        orphans = [run for run in service.store().running() if machine.process_identity(run.pid or 0) != run.process]
        unfinished = sum(count for what, count in found.items() if what.startswith("ended"))
        leftovers = temporary_files(home)
    killed = ", ".join(f"{count} {victim}" for victim, count in sorted(done.items()))
    yield "kill -9", f"{done.total()} ({killed}) in {len(runs)} runs", f"≥ {options.kills}", True
    for what, count in (
        ("metric rows lost", found["lost"]),
        ("metric rows twice", found["duplicate"]),
        ("runs that did not succeed in the end", unfinished),
        ("runs that are running without a process", len(orphans)),
        (f"two workers of one run, in {watcher.looks} looks", watcher.doubles),
        ("runs whose weights, curve or validation results are others than the uninterrupted run's", found["different"]),
        ("temporary files left", len(leftovers)),
    ):
        yield what, str(count), "0", count == 0


def _strike(victim: str, home: Path, run: Run, server: Any) -> Any:
    """Kill, and start again what a visitor would; return the server that is there afterwards."""
    if victim in ("supervisor", "all"):
        for process in processes(home, "supervisor"):
            _kill(process)
    if victim in ("worker", "all"):  # it may be just about to be started
        wait_for(lambda: [process for process in processes(home, "worker") if _run_of(process) == run.id], 2)
        for process in processes(home, "worker"):
            _kill(process)
    if victim in ("server", "all"):
        server.process.kill()
        server.process.wait()
        server = type(server)(home).__enter__()
    if victim in ("supervisor", "all"):
        service.ensure_supervisor()
    return server


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


# 2. Writes that fail


class FailingWrites:
    """Makes the n-th write, fsync or rename of `dlkit.files` fail, and counts them; the number 0 lets all succeed."""

    def __init__(self, number: int, code: int) -> None:
        self.number, self.code, self.count = number, code, 0

    def __enter__(self) -> "FailingWrites":
        write, fsync, replace = files.HashingFile.write, os.fsync, os.replace

        def failing_write(file: files.HashingFile, data: Any) -> int:
            if self._fails():  # half of it reaches the disk
                write(file, memoryview(data).cast("B")[: len(data) // 2])
                raise OSError(self.code, os.strerror(self.code))
            return write(file, data)

        def failing(call: Callable[..., None]) -> Callable[..., None]:
            def maybe(*arguments: Any) -> None:
                if self._fails():
                    raise OSError(self.code, os.strerror(self.code))
                call(*arguments)

            return maybe

        files.HashingFile.write = failing_write  # type: ignore[assignment,method-assign]
        os.fsync, os.replace = failing(fsync), failing(replace)
        return self

    def __exit__(self, *_: object) -> None:
        """The process ends."""

    def _fails(self) -> bool:
        self.count += 1
        return self.count == self.number


def _by_epochs_only() -> None:
    """Let reports and checkpoints depend on no clock, so that every run writes the same in the same order."""
    from dlkit.engine import finetuning, training

    class Each:
        def __init__(self, _: float) -> None:
            self._asked = 0

        @property
        def is_due(self) -> bool:
            self._asked += 1
            return self._asked % 3 == 0

        def saved(self, _: float) -> None: ...

    training.REPORT_SECONDS = 1e9
    finetuning.Cadence = Each  # type: ignore[assignment,misc]


def writes(options: Options) -> Iterator[Row]:
    """Let each write of a short run fail, once; the state must be readable, and the next attempt must end as ever."""
    import errno

    def counted() -> list[Any]:
        _by_epochs_only()
        with FailingWrites(0, 0) as failing:
            return [whole(TINY), failing.count]

    def broken(number: int) -> dict[str, Any]:
        _by_epochs_only()
        run_id = launch(TINY)
        with FailingWrites(number, (errno.EIO, errno.ENOSPC)[number // options.every % 2]) as failing:
            outcome = attempt(run_id)
            return {**outcome, "run": run_id, "failed": failing.count >= number}

    def mended(run_id: str) -> list[Any]:
        _by_epochs_only()
        unreadable = _unreadable(run_id)
        state = service.run(run_id).state
        if state == State.FAILED:
            service.retry(run_id)
        if state == State.PAUSED:
            service.resume(run_id)
        if state != State.SUCCEEDED:
            claim(run_id)
            attempt(run_id)
        run = service.run(run_id)
        return [unreadable, run.state, digest(run_id) if run.state == State.SUCCEEDED else {}]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected, total = in_fork(folder / "whole", counted)
        states: Counter[str] = Counter()
        unreadable, different, leftovers, tried = 0, 0, 0, range(1, total + 1, options.every)
        for number in tried:
            home = folder / str(number)
            outcome = in_fork(home, partial(broken, number))
            states[f"{outcome['state']} ({outcome['kind']})" if outcome["kind"] else outcome["state"]] += 1
            problems, state, found = in_fork(home, partial(mended, outcome["run"]))
            unreadable += bool(problems)
            is_wrong = state != State.SUCCEEDED or found != expected
            different += is_wrong
            leftovers += len(temporary_files(home))
            if problems or is_wrong:
                print(f"write {number}: {outcome} {problems} {state}", file=sys.stderr)
    yield (
        "the n-th write, fsync or rename fails",
        f"{len(tried)} of {total}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}",
        "a named state",
        not set(states) - {State.SUCCEEDED, f"{State.PAUSED} ({Failure.DISK})", f"{State.FAILED} ({Failure.BUG})"},
    )
    yield "unreadable states after it", str(unreadable), "0", unreadable == 0
    yield "second attempts that do not end like the whole run", str(different), "0", different == 0
    yield "temporary files left by it", str(leftovers), "0", leftovers == 0


def _unreadable(run_id: str) -> list[str]:
    """Return what of a run cannot be read: its row, both newest checkpoints, its model, its validation results."""
    from dlkit.engine.bundle import load_bundle
    from dlkit.engine.checkpoint import load_checkpoint
    from dlkit.runs.artifacts import read_validation

    found, folder = [], service.run_folder(run_id)
    known = service.store().checkpoints(run_id)[:2]
    readable = 0
    for checkpoint in known:
        with suppress(DlkitError):
            load_checkpoint(folder / checkpoint.file, checkpoint.sha256)
            readable += 1
    if known and not readable:
        found.append("checkpoints")
    try:
        if has_bundle(folder / "model"):
            load_bundle(folder / "model")
        read_validation(folder)
    except DlkitError as error:
        found.append(str(error))
    return found


# 3. Disk, database and clock


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """Mount a small tmpfs; None where that is not permitted."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", name]
        try:
            is_mounted = subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            is_mounted = False
        if not is_mounted:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)  # this process has the store open still


def fill(folder: Path, left: int) -> Path:
    """Write a file that leaves so many bytes; return it."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        while (free := files.free_bytes(folder) - left) > 0:
            file.write(bytes(min(free, 1 << 20)))
            file.flush()
    return ballast


SKIPPED = ("skipped: this process may not mount a disk", "–", True)


def disk(options: Options) -> Iterator[Row]:
    """Fill the disk under a run, and make room again."""
    with tempfile.TemporaryDirectory() as name, data_folder(Path(name) / "home"):
        expected = left_by(ended(service.submit(FULL)).id)
    with small_disk(400) as mounted:
        if mounted is None:
            yield "disk full in mid-run", *SKIPPED
            return
        with data_folder(mounted / "home") as home:
            run = service.submit(FULL)
            wait_for(lambda: service.store().checkpoints(run.id))
            ballast = fill(home, 4_000_000)
            wait_for(lambda: service.run(run.id).state == State.PAUSED, 60)
            paused, room = service.run(run.id), files.free_bytes(home)
            try:
                service.submit(FULL)
                refusal = ""
            except DlkitError as error:
                refusal = str(error)
            ballast.unlink()
            after = ended_after_pause(run)
            is_equal = after.state == State.SUCCEEDED and not differences(run.id, expected)
            leftovers = temporary_files(home)
    is_named = paused.state == State.PAUSED and paused.failure_kind == Failure.DISK and "MB" in (paused.failure or "")
    yield "disk full in mid-run", f"{paused.state}: {paused.failure}", "paused, with a sentence", is_named
    yield "room left by it for the store", f"{room / 1e6:.1f} MB", "> 0", room > 0
    yield "a launch on the full disk", refusal or "accepted", "refused with a sentence", "MB" in refusal
    yield "goes on by itself when there is room", f"{after.state}, equal: {is_equal}", "succeeded, equal", is_equal
    yield "temporary files left on it", str(len(leftovers)), "0", not leftovers


def ended_after_pause(run: Run) -> Run:
    """Return a run once it has ended: a pause is no end."""
    wait_for(lambda: service.run(run.id).has_ended)
    return service.run(run.id)


def readonly(options: Options) -> Iterator[Row]:
    """Look, predict and launch where the data folder can only be read."""
    with small_disk(200) as mounted:
        if mounted is None:
            yield "data folder that can only be read", *SKIPPED
            return
        home = mounted / "home"
        run_id = in_fork(home, lambda: [launch(TINY)])[0]
        in_fork(home, lambda: attempt(run_id))
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)

        def look() -> list[Any]:
            from dlkit.data.images import read_image
            from dlkit.engine.prediction import predict

            photo = read_image(ROOT / "dlkit" / "samples" / "photos" / "coffee.jpg")
            run = service.run(run_id)
            answer = predict(service.run_folder(run_id) / "model", [photo], top_k=1)[0][0].label
            sentences = []
            for ask in (lambda: service.submit(TINY), lambda: service.go_on(run_id, 1)):
                try:
                    ask()
                    sentences.append("")
                except StoreError as error:
                    sentences.append(str(error))
            return [run.state, len(service.store().curve(run_id)), answer, sentences]

        state, points, answer, sentences = in_fork(home, look)
    is_read = state == State.SUCCEEDED and points > 0 and bool(answer)
    yield "read-only folder: runs, curves, prediction", f"{state}, {points} points, {answer}", "work", is_read
    said = sentences[0]
    yield "read-only folder: launch and continue", said or "accepted", "refused with a sentence", all(sentences)


def locked(options: Options) -> Iterator[Row]:
    """Hold the database locked in mid-run for longer than anyone waits for it."""
    import sqlite3

    def hold() -> bool:
        path = settings().data_folder / "store.sqlite3"
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        wait_for(lambda: connection.execute("select max(step) from runs").fetchone()[0] > 0)
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(options.hold)
        connection.execute("COMMIT")
        return True

    with tempfile.TemporaryDirectory() as name:
        expected = in_fork(Path(name) / "whole", lambda: whole(HEAD))
        home = Path(name) / "home"
        run_id = in_fork(home, lambda: [launch(HEAD)])[0]
        holder = Forked(home, hold)
        outcome = in_fork(home, lambda: attempt(run_id))
        holder.result()
        is_equal = in_fork(home, lambda: digest(run_id)) == expected
    measured = f"{outcome['state']}, equal: {is_equal}"
    yield f"database locked for {options.hold:g} s", measured, "succeeded, equal", is_equal


def clock(options: Options) -> Iterator[Row]:
    """Set the clock back by an hour in mid-run."""

    def turned_back() -> list[Any]:
        from datetime import timedelta

        from dlkit.runs import records, store

        run_id, real, before = launch(HEAD), records.now, store.Store.beat

        def beat(self: store.Store, *arguments: Any) -> Any:
            if arguments[2].step > 100:
                store.now = lambda: real() - timedelta(hours=1)
            return before(self, *arguments)

        store.Store.beat = beat  # type: ignore[assignment,method-assign]
        started = time.monotonic()
        outcome = attempt(run_id)
        passed, run = time.monotonic() - started, service.run(run_id)
        return [outcome["state"], passed, run.seconds, run.summary["seconds"], digest(run_id)]

    with tempfile.TemporaryDirectory() as name:
        expected = in_fork(Path(name) / "whole", lambda: whole(HEAD))
        state, passed, seconds, summary, found = in_fork(Path(name) / "home", turned_back)
    is_right = 0 <= passed - seconds < 2 and 0 < summary <= seconds and found == expected
    measured = f"{state}, equal: {found == expected}, {seconds:.1f} of {passed:.1f} s counted"
    yield "clock set back an hour in mid-run", measured, "no loss, right durations", is_right


# 4. Memory


def memory(options: Options) -> Iterator[Row]:
    """Let no more pictures than so many fit into the memory."""
    values = {**FULL, "batch_size": 64, "epochs": 1, "augmentation": "light"}

    def bounded(size: int) -> list[Any]:
        import torch

        def refuse(module: torch.nn.Module, inputs: Any) -> None:
            is_network = not type(module).__module__.startswith("torchvision")  # which has augmentations
            if is_network and inputs and isinstance(inputs[0], torch.Tensor) and len(inputs[0]) > size:
                raise torch.OutOfMemoryError("simulated")

        torch.nn.modules.module.register_module_forward_pre_hook(refuse)
        run_id = launch(values)
        outcome = attempt(run_id)
        notes = [line.text for line in service.store().history(run_id) if line.text.startswith("out of memory")]
        return [outcome, notes, service.run(run_id).step]

    with tempfile.TemporaryDirectory() as name:
        for size in options.sizes:
            outcome, notes, steps = in_fork(Path(name) / str(size), partial(bounded, size))
            if size == 0:
                is_kept = outcome["kind"] == Failure.MEMORY and bool(outcome["failure"])
                yield "memory for no picture at all", outcome["failure"], "fails with a sentence", is_kept
                continue
            is_kept = outcome["state"] == State.SUCCEEDED and (bool(notes) or size >= 64)
            said = f"{len(notes)} halvings noted" if notes else "nothing to change"
            yield f"memory for {size} pictures", f"{outcome['state']}, {steps} steps, {said}", "succeeded", is_kept


# 5. and 6. Many at once


CLAIMER = """
import json, sys, time
from pathlib import Path
from dlkit.runs.records import Slot, State
from dlkit.runs.store import open_store
store, slots, claimed = open_store(Path(sys.argv[1])), {Slot.CPU: ["cpu0", "cpu1"]}, []
time.sleep(max(0, float(sys.argv[2]) - time.time()))
while store.has_work():
    run = store.claim(slots)
    taken = [other.slot for other in store.running()]
    assert len(taken) == len(set(taken)) <= 2, taken
    if run is not None:
        claimed.append([run.id, run.attempt])
        assert store.finish(run.id, run.attempt, State.SUCCEEDED, {})
print(json.dumps(claimed))
"""


def claims(options: Options) -> Iterator[Row]:
    """Let four supervisors take from one queue."""
    import json

    with tempfile.TemporaryDirectory() as name, data_folder(Path(name) / "home") as home:
        ids = [f"{number:032x}" for number in range(options.runs)]
        for run_id in ids:
            service.store().add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "you")
        command = [sys.executable, "-c", CLAIMER, str(home), str(time.time() + 2)]
        children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        printed = [child.communicate()[0] for child in children]
        claimed = Counter(tuple(claim) for text in printed if text for claim in json.loads(text))
        twice = sum(count - 1 for count in claimed.values())
        missing = len(set(ids) - {run_id for run_id, _ in claimed})
        leaked = sum(run.slot is not None for run in service.store().list_runs())
        crashed = sum(child.returncode != 0 for child in children)
    yield f"4 supervisors, {options.runs} runs: claimed twice", str(twice), "0", twice == 0
    yield "runs that nobody claimed", str(missing), "0", missing == 0
    yield "slots leaked", str(leaked + crashed), "0", leaked + crashed == 0


def tabs(options: Options) -> Iterator[Row]:
    """Let two tabs press at once, and a browser send one form many times."""
    import multiprocessing

    context = multiprocessing.get_context("fork")

    def press(ask: Callable[..., Any], barrier: Any, runs: list[tuple[str, int]]) -> list[str]:
        said = []
        for run_id, version in runs:
            barrier.wait(60)
            try:
                ask(run_id, seen=version)
                said.append("")
            except RunError as error:
                said.append(str(error))
        return said

    def submit_once(barrier: Any) -> str:
        barrier.wait(60)
        return service.submit(TINY, token="one form").id

    def paused() -> list[tuple[str, int]]:
        found = [service.pause(service.submit(TINY).id) for _ in range(options.rounds)]
        return [(run.id, run.version) for run in found]

    def verbs_on_deleted(run_id: str) -> list[str]:
        service.delete(run_id)
        said = []
        for ask in (service.pause, service.stop, service.cancel, service.resume, service.retry, service.delete):
            try:
                ask(run_id)
                said.append("")
            except RunError as error:
                said.append(str(error))
        return said

    with tempfile.TemporaryDirectory() as name:
        home, barrier = Path(name) / "home", context.Barrier(2)
        runs = in_fork(home, paused)
        both = [Forked(home, partial(press, ask, barrier, runs)) for ask in (service.stop, service.resume)]
        stops, resumes = (pressed.result() for pressed in both)
        once = sum((not stop) != (not resume) for stop, resume in zip(stops, resumes, strict=True))
        meant = in_fork(home, lambda: [service.run(run_id).state for run_id, _ in runs])
        right = sum(
            state == (State.QUEUED if stop else State.STOPPED) for state, stop in zip(meant, stops, strict=True)
        )
        many = context.Barrier(20)
        sent = [Forked(Path(name) / "form", lambda: submit_once(many)) for _ in range(20)]
        ids = {each.result() for each in sent}
        stopped = next((run_id for (run_id, _), stop in zip(runs, stops, strict=True) if not stop), None)
        if stopped is None:
            stopped = in_fork(home, lambda: service.stop(runs[0][0]).id)
        said = in_fork(home, lambda: verbs_on_deleted(stopped))
    wins = f"{once} of {options.rounds} ({stops.count('')} stop, {resumes.count('')} resume)"
    is_kept = once == right == options.rounds
    yield "Stop and Resume pressed at once in two tabs: one wins", wins, str(options.rounds), is_kept
    yield "20 submissions with one token: runs", str(len(ids)), "1", len(ids) == 1
    told = sum("There is no run" in sentence for sentence in said)
    yield "verbs on a deleted run that are told so", f"{told} of {len(said)}", str(len(said)), told == len(said)


# 7. What it costs


LONGER = {**TINY, "strategy": "full", "head_epochs": 1, "epochs": 16}

BARE = """
import json, sys, tempfile
from pathlib import Path
from dlkit.config import parse
from dlkit.engine import finetuning
finetuning._save = lambda *_: None  # no checkpoints
for event in finetuning.finetune(parse(json.loads(sys.argv[1])), Path(tempfile.mkdtemp(dir=sys.argv[2]))):
    pass
print(event.summary["seconds"])
"""


def overhead(options: Options) -> Iterator[Row]:
    """Train with all that keeps the work, and without, several times; now the one goes first, now the other."""
    ratios, cpu_ratios, saved, lengths = [], [], [], []
    with tempfile.TemporaryDirectory() as name, data_folder(Path(name) / "home", DLKIT_CHECKPOINT_SECONDS="60"):
        ended(service.submit(TINY))  # the supervisor is there, and the files are in the system's memory
        for pair in range(options.pairs):
            order: list[Callable[[], Spent]] = [_kept_seconds, partial(_bare_seconds, Path(name))]
            measured = [(measure, measure()) for measure in (order if pair % 2 == 0 else order[::-1])]
            with_all, bare = (next(spent for asked, spent in measured if asked is measure) for measure in order)
            ratios.append(with_all.seconds / bare.seconds)
            cpu_ratios.append(with_all.cpu / bare.cpu)
            saved.append(with_all.checkpoints)
            lengths.append(with_all.seconds)
    figures = f"{spread(ratios, 3)}; of CPU time {spread(cpu_ratios, 3)}; {options.pairs} pairs"
    what = f"{median(saved):g} checkpoints in {median(lengths):.0f} s, reports, supervisor: ratio to the time without"
    yield what, figures, f"≤ {PROMISED_OVERHEAD}", median(ratios) <= PROMISED_OVERHEAD
    seconds = _checkpoint_seconds()
    share = median(seconds) / 60
    yield "a checkpoint, s, and its share of a minute", f"{spread(seconds, 3)}, {share:.2%}", "≤ 3 %", share <= 0.03
    for title, warm in (("cold", "0"), ("warm", "1")):
        variables = {"DLKIT_WARM_WORKER": warm, "DLKIT_CHECKPOINT_SECONDS": "60"}
        with tempfile.TemporaryDirectory() as name, data_folder(Path(name) / "home", **variables):
            ended(service.submit(TINY))  # the first finds the supervisor, and the other process, still starting
            seconds = [_seconds_to_first_step() for _ in range(options.pairs)]
        yield f"submit to first step on record, {title} worker, s", spread(seconds, 1), "–", True


#: a few steps of a training, and then its checkpoint nine times; the seconds are printed
CHECKPOINTS = """
import json, sys, time
from pathlib import Path
from dlkit.config import parse
from dlkit.data.dataset import open_dataset
from dlkit.engine.checkpoint import save_checkpoint
from dlkit.engine.finetuning import make_learner
from dlkit.engine.training import train
config = parse({**json.loads(sys.argv[1]), "head_epochs": 0}).resolved()
learner = make_learner(config, open_dataset(config.dataset))
next(report for report in train(learner) if learner.step > 2)
for _ in range(9):
    started = time.perf_counter()
    save_checkpoint(learner.state(), Path(sys.argv[2]), 1)
    print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Spent:
    """What a training took: seconds of its own account, CPU seconds of its process, and checkpoints."""

    seconds: float
    cpu: float
    checkpoints: int = 0


def _kept_seconds() -> Spent:
    run, cpu = service.submit(LONGER), 0.0
    while (now := service.run(run.id)).is_active:
        with suppress(psutil.Error):
            cpu = max(cpu, _cpu_seconds(psutil.Process(now.pid))) if now.pid else cpu
        time.sleep(0.2)
    newest = max(checkpoint.number for checkpoint in service.store().checkpoints(run.id))
    return Spent(now.summary["seconds"], cpu, newest)


def _bare_seconds(folder: Path) -> Spent:
    environment = {**os.environ, **supervisor._common_environment()}
    command = [sys.executable, "-c", BARE, json.dumps(LONGER), str(folder)]
    # a session of its own, as a worker has: Linux shares the cores out between sessions first
    bare = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    cpu = 0.0
    while bare.poll() is None:
        with suppress(psutil.Error):
            cpu = max(cpu, _cpu_seconds(psutil.Process(bare.pid)))
        time.sleep(0.2)
    assert bare.stdout is not None
    return Spent(float(bare.stdout.read()), cpu)


def _checkpoint_seconds() -> list[float]:
    """Return how long it takes to write the checkpoint of a training of all layers, several times."""
    environment = {**os.environ, **supervisor._common_environment()}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHECKPOINTS, json.dumps(LONGER), folder]
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [float(seconds) for seconds in found.stdout.split()]


def _seconds_to_first_step() -> float:
    started = time.monotonic()
    run = service.submit(TINY)
    wait_for(lambda: service.run(run.id).step > 0)
    passed = time.monotonic() - started
    ended(run)
    return passed


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


PARTS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "kills": kills,
    "writes": writes,
    "disk": disk,
    "readonly": readonly,
    "locked": locked,
    "clock": clock,
    "memory": memory,
    "claims": claims,
    "tabs": tabs,
    "overhead": overhead,
}


def main() -> int:
    """Break things, count, print; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--every", type=int, default=1, help="let only every n-th write fail")
    parser.add_argument("--sizes", default="64,32,16,8,4,2,1,0", help="pictures that fit into the memory")
    parser.add_argument("--hold", type=float, default=30, help="seconds for which the database is locked")
    parser.add_argument("--rounds", type=int, default=50, help="of two tabs")
    parser.add_argument("--runs", type=int, default=500, help="that four supervisors share")
    parser.add_argument("--pairs", type=int, default=5, help="of runs with and without checkpoints")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # this is the process of one part
    given = parser.parse_args()
    if given.inside:
        sizes = tuple(map(int, given.sizes.split(",")))
        options = Options(
            given.kills, given.seed, given.every, sizes, given.hold, given.rounds, given.runs, given.pairs
        )
        return _inside(given.only, options)
    print(headline(), f"load {os.getloadavg()[0]:.1f}, seed {given.seed}", sep="\n")
    print("\n| what | measured | wanted |\n| --- | --- | --- |", flush=True)
    environment = {**os.environ, **supervisor._common_environment(), "OPENBLAS_NUM_THREADS": "1"}
    codes = [
        subprocess.run(
            [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:], "--only", part, "--inside"],
            cwd=ROOT,
            env=environment,
        ).returncode
        for part in ([given.only] if given.only else PARTS)
    ]
    return int(any(codes))


def _inside(part: str, options: Options) -> int:
    from dlkit.engine import finetuning  # noqa: F401 - what is forked has torch loaded

    is_kept = True
    for what, measured, wanted, is_row_kept in PARTS[part](options):
        is_kept &= is_row_kept
        print(f"| {what} | {'' if is_row_kept else 'BROKEN: '}{measured} | {wanted} |", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
