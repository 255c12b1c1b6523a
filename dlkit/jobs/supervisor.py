"""Gives waiting runs to worker processes: `python -m dlkit.jobs.supervisor`, started by whoever submits a run.

One per data folder (a file lock), and without a state of its own: it may die at any moment and another takes over,
while the workers go on. It ends by itself when there has been nothing to do for a while, unless it is to stay. Never
imports torch.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from dlkit import files, locks, machine
from dlkit.errors import StoreError
from dlkit.evidence import worker_threads
from dlkit.runs import service
from dlkit.runs.records import Failure, Run, Slot, State, Wish
from dlkit.settings import settings

POLL_SECONDS = 0.1
IDLE_SECONDS = 30
SILENCE_SECONDS = 60  # a worker shows life twice a second; importing torch on a busy machine may hold it for long
#: between a wish and the end of the process: who cancels has nothing to lose, who stops or pauses a step
GRACE_SECONDS = {Wish.CANCEL: 20, Wish.STOP: 60, Wish.PAUSE: 60}
ATTEMPTS = 3  # in a row without a new step
UNBOUND_SECONDS = 20  # of a worker that another supervisor has started: it loads nothing heavy before it shows life
ROOM_SECONDS = 2  # between two looks at the disk for those that wait for room
LONGEST_WAIT_SECONDS = 600
TROUBLE_SECONDS = 1  # after the store could not be used
#: glibc gives large blocks back to the system after every operation and faults them in again, unless these are in the
#: environment when the process starts; `benchmarks.finetune` prints what that costs
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": "268435456",
}
#: how often a thread of OpenMP looks whether there is more to do before it sleeps. By GNU's default, which is far more
#: often, the threads of a training keep the cores from each other beside another busy process
SPINS = "3000"


def main(stays: bool = False) -> int:
    """Supervise until there is nothing left to do; 3 where another supervisor is already there.

    One that stays waits for the other to end, and then supervises until it is told to end.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the workers go on
    path = settings().folder() / "supervisor.lock"
    lock = _take_lock(path)
    while lock is None and stays:
        time.sleep(1)
        lock = _take_lock(path)
    if lock is None:
        return 3
    while True:
        supervise(stays)
        lock.close()
        # a run that was queued between the last look and the release saw the lock held: look once more
        if not service.store().has_work():
            return 0
        lock = _take_lock(path)
        if lock is None:
            return 0


def supervise(stays: bool = False) -> None:
    """Start and watch workers until nothing has been waiting or running for IDLE_SECONDS, or for ever."""
    watch = Watch()
    idle_since = time.monotonic()
    while stays or time.monotonic() - idle_since < IDLE_SECONDS:
        try:
            if watch.look():
                idle_since = time.monotonic()
        except (StoreError, OSError) as error:  # a full disk, a lock held by another: the workers go on, and so do we
            print(error, file=sys.stderr, flush=True)
            watch.forget()
            time.sleep(TROUBLE_SECONDS)
        time.sleep(POLL_SECONDS)
    watch.end()


class Watch:
    """What one supervisor remembers between two looks; nothing is lost with it."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._seen: dict[str, tuple[object, float]] = {}
        self._room_at = 0.0
        self._woken: dict[str, tuple[float, float]] = {}
        self._warm = Warm() if settings().warm_worker else None

    def look(self) -> bool:
        """Let go of runs whose worker is gone, give waiting ones a worker; tell whether there is anything to do."""
        ended = [key for key, child in self._children.items() if child.poll() is not None]
        reconcile(self._seen, self._children)
        for key in ended:  # who ends after this line is seen by the next look
            del self._children[key]
        if time.monotonic() - self._room_at > ROOM_SECONDS:
            self._room_at = time.monotonic()
            wake_where_room(self._woken)
        run = service.store().claim(_slots())
        if run is None:
            return service.store().has_work()
        try:
            self._children[run.id, run.attempt] = self._start(run)
        except OSError as error:
            _not_started(run, error)
        return True

    def _start(self, run: Run) -> subprocess.Popen[bytes]:
        """Start a worker; return the process without which it cannot begin: its own, or the one that forks it."""
        warm = self._warm.start(run) if self._warm is not None and run.needs != Slot.NETWORK else None
        return warm or start_worker(run)

    def forget(self) -> None:
        """Begin to count anew for how long workers are silent: they could not be heard."""
        self._seen.clear()

    def end(self) -> None:
        """Let the warm process go; workers that it has started go on."""
        if self._warm is not None:
            self._warm.end()


def reconcile(
    seen: dict[str, tuple[object, float]], children: Mapping[tuple[str, int], subprocess.Popen[bytes]] | None = None
) -> None:
    """Find the running runs whose worker is gone, silent or overdue, and let them go.

    `seen` is the caller's to keep: what was last seen of each run, and when by a clock that stands while the machine
    sleeps and that nobody sets. `children` are what this process has started, by run and attempt: a worker, or what is
    to fork it.
    """
    for run in service.store().running():
        child = (children or {}).get((run.id, run.attempt))
        code = None if child is None else child.poll()
        wish_seconds = _seconds_unchanged(seen, f"{run.id} wish", run.wish)
        if run.pid is not None and machine.process_identity(run.pid) != run.process:
            _lose(run, "its worker process ended without a word")
        elif run.pid is None and code is not None:
            _lose(run, f"its worker process ended before it began (exit code {code})")
        elif _seconds_unchanged(seen, f"{run.id} beat", run.beat_at) > (silence := _silence(run, child)):
            _lose(run, f"its worker showed no life for {silence} seconds", is_alive=True)
        elif run.wish and wish_seconds > GRACE_SECONDS[run.wish]:
            _lose(run, f"its worker did not end within {GRACE_SECONDS[run.wish]} seconds")


def wake_where_room(woken: dict[str, tuple[float, float]]) -> None:
    """Queue the runs again that were paused for lack of room, where there is room now.

    `woken` is the caller's to keep: when a run may be woken again, and how long it then waits. Room that cannot be seen
    from here, a quota, is asked for less and less often.
    """
    for run in service.store().awaiting_room():
        due, wait = woken.get(run.id, (0.0, ROOM_SECONDS))
        if time.monotonic() < due:
            continue
        free = files.free_bytes(settings().data_folder)
        if run.awaits_bytes is not None and free >= run.awaits_bytes:
            woken[run.id] = time.monotonic() + wait, min(2 * wait, LONGEST_WAIT_SECONDS)
            service.store().requeue_where_room(run, f"there is room again: {free / 1e6:,.0f} MB")


def start_worker(run: Run) -> subprocess.Popen[bytes]:
    """Start the worker process of a claimed run; what it prints goes to the run's log."""
    folder = service.run_folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    module = ["dlkit.jobs.worker", run.id, str(run.attempt)]
    return service.start_process(module, folder / "log.txt", _worker_environment(run))


class Warm:
    """A process with torch loaded that forks a worker for each run: `dlkit.jobs.warm`. Requests go by its input."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._spawn()

    def start(self, run: Run) -> subprocess.Popen[bytes] | None:
        """Ask for a worker; return who is to fork it, None where that is gone: the next run finds another."""
        if self._process is None or self._process.poll() is not None:
            self._spawn()
            return None
        folder = service.run_folder(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        environment = _worker_environment(run)
        request = {"run": run.id, "attempt": run.attempt, "log": str(folder / "log.txt"), "environment": environment}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        return self._process

    def end(self) -> None:
        """Let it end: it does when its input is closed."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _spawn(self) -> None:
        # a BLAS that has threads of its own could not be forked
        environment = {**_common_environment(), "OPENBLAS_NUM_THREADS": "1"}
        log = settings().folder() / "supervisor.log"
        self._process = service.start_process(["dlkit.jobs.warm"], log, environment, subprocess.PIPE)


def _worker_environment(run: Run) -> dict[str, str]:
    environment = _common_environment()
    if run.needs == Slot.GPU and run.slot:
        # NVML counts the GPUs by their place on the bus; CUDA counts the fastest first unless it is told to do the same
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": run.slot.removeprefix("gpu")}
    return environment


def _common_environment() -> dict[str, str]:
    threads = str(worker_threads())
    return {**ALLOCATOR, "GOMP_SPINCOUNT": SPINS, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _slots() -> dict[Slot, list[str]]:
    return {
        Slot.GPU: [f"gpu{gpu.index}" for gpu in _gpus()],
        Slot.CPU: [f"cpu{number}" for number in range(settings().cpu_slots)],
        Slot.NETWORK: [f"network{number}" for number in range(settings().network_slots)],
    }


def _gpus() -> tuple[machine.Gpu, ...]:
    global _known_gpus  # asking NVML ten times a second would be waste; GPUs do not come and go
    if _known_gpus is None:
        _known_gpus = machine.gpus()
    return _known_gpus


_known_gpus: tuple[machine.Gpu, ...] | None = None


def _lose(run: Run, reason: str, is_alive: bool = False) -> None:
    """Let the run go, and end what may be left of its worker: not before the store has it, which may be locked."""
    state = service.store().lose(run, reason, ATTEMPTS, is_alive)
    if state is not None:
        _kill(run)
    if state == State.CANCELLED:
        service.discard(run.id)


def _not_started(run: Run, error: OSError) -> None:
    print(f"the worker of {run.id} could not be started: {error}", file=sys.stderr, flush=True)
    if error.errno not in files.FULL:
        _lose(run, f"its worker could not be started ({error.strerror})")
        return
    full = files.disk_full(settings().data_folder, service.room_of(run))
    service.store().finish(run.id, run.attempt, State.PAUSED, {}, str(full), Failure.DISK, full.needed)


def _silence(run: Run, child: subprocess.Popen[bytes] | None) -> int:
    return UNBOUND_SECONDS if run.pid is None and child is None else SILENCE_SECONDS


def _kill(run: Run) -> None:
    if run.pid is not None and machine.process_identity(run.pid) == run.process:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(run.pid, signal.SIGKILL)  # a worker leads a process group of its own


def _seconds_unchanged(seen: dict[str, tuple[object, float]], what: str, value: object) -> float:
    """Return for how long `value` has been seen as it is."""
    known, since = seen.get(what, (None, 0.0))
    if what not in seen or known != value:
        seen[what] = value, time.monotonic()
        return 0.0
    return time.monotonic() - since


def _take_lock(path: Path) -> IO[bytes] | None:
    """Take the lock; a few tries, as a probe by a submitter holds it for a moment."""
    for _ in range(10):
        lock = locks.try_lock(path)
        if lock is not None:
            return lock
        time.sleep(0.05)
    return None


if __name__ == "__main__":
    sys.exit(main())
