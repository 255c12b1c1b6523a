"""Gives waiting runs to worker processes: `python -m dlkit.jobs.supervisor`, started by whoever submits a run.

One per data folder (a file lock), and without a state of its own: it may die at any moment and another takes over,
while the workers go on. It ends by itself when there has been nothing to do for a while. Never imports torch.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from dlkit import locks, machine
from dlkit.runs import service
from dlkit.runs.records import Run, Slot, State
from dlkit.settings import child_environment, settings

POLL_SECONDS = 0.1
IDLE_SECONDS = 30
SILENCE_SECONDS = 60  # a worker shows life twice a second; importing torch on a busy machine may hold it for long
GRACE_SECONDS = 20  # between the wish to cancel and the end of the process; to stop takes as long as it takes
ATTEMPTS = 3
NETWORK_SLOTS = 2
#: glibc gives large blocks back to the system after every operation and faults them in again: on a CPU that costs more
#: than half of the speed, unless these are in the environment when the process starts
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": "268435456",
}


def main() -> int:
    """Supervise until there is nothing left to do; 3 where another supervisor is already there."""
    lock = _take_lock(settings().folder() / "supervisor.lock")
    if lock is None:
        return 3
    while True:
        supervise()
        lock.close()
        # a run that was queued between the last look and the release saw the lock held: look once more
        if not service.store().has_work():
            return 0
        lock = _take_lock(settings().folder() / "supervisor.lock")
        if lock is None:
            return 0


def supervise() -> None:
    """Start and watch workers until nothing has been waiting or running for IDLE_SECONDS."""
    children: list[subprocess.Popen[bytes]] = []
    seen: dict[str, tuple[object, float]] = {}
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_SECONDS:
        children = [child for child in children if child.poll() is None]  # reaps the ended ones
        reconcile(seen)
        run = service.store().claim(_slots())
        if run is not None:
            children.append(start_worker(run))
        if run is not None or service.store().has_work():
            idle_since = time.monotonic()
        time.sleep(POLL_SECONDS)


def reconcile(seen: dict[str, tuple[object, float]]) -> None:
    """Find the running runs whose worker is gone, silent or overdue, and let them go.

    `seen` is the caller's to keep: what was last seen of each run, and when by a clock that stands while the machine
    sleeps and that nobody sets.
    """
    for run in service.store().running():
        if run.pid is not None and machine.process_identity(run.pid) != run.process:
            _lose(run, "its worker process ended without a word")
        elif _seconds_unchanged(seen, f"{run.id} beat", run.beat_at) > SILENCE_SECONDS:
            _kill(run)
            _lose(run, f"its worker showed no life for {SILENCE_SECONDS} seconds")
        elif run.wish == "cancel" and _seconds_unchanged(seen, f"{run.id} wish", run.wish) > GRACE_SECONDS:
            _kill(run)
            _lose(run, f"its worker did not end within {GRACE_SECONDS} seconds")


def start_worker(run: Run) -> subprocess.Popen[bytes]:
    """Start the worker process of a claimed run; what it prints goes to the run's log."""
    folder = service.run_folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dlkit.jobs.worker", run.id, str(run.attempt)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env=child_environment(**_worker_environment(run)),
        )


def worker_threads() -> int:
    """Return how many CPU threads a worker uses: what the settings say, or its share of all cores but the server's."""
    return settings().worker_threads or max(1, (machine.cores() - 1) // settings().cpu_slots)


def _worker_environment(run: Run) -> dict[str, str]:
    threads = str(worker_threads())
    environment = {**ALLOCATOR, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if run.needs == Slot.GPU and run.slot:
        # NVML counts the GPUs by their place on the bus; CUDA counts the fastest first unless it is told to do the same
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": run.slot.removeprefix("gpu")}
    return environment


def _slots() -> dict[Slot, list[str]]:
    return {
        Slot.GPU: [f"gpu{gpu.index}" for gpu in _gpus()],
        Slot.CPU: [f"cpu{number}" for number in range(settings().cpu_slots)],
        Slot.NETWORK: [f"network{number}" for number in range(NETWORK_SLOTS)],
    }


def _gpus() -> tuple[machine.Gpu, ...]:
    global _known_gpus  # asking NVML ten times a second would be waste; GPUs do not come and go
    if _known_gpus is None:
        _known_gpus = machine.gpus()
    return _known_gpus


_known_gpus: tuple[machine.Gpu, ...] | None = None


def _lose(run: Run, reason: str) -> None:
    is_final = run.attempt >= ATTEMPTS
    state = service.store().lose(run, f"{reason} (attempt {run.attempt} of {ATTEMPTS})", is_final)
    if state == State.CANCELLED:
        service.discard(run.id)


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
