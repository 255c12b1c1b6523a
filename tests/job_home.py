"""A data folder for tests that start real supervisors and workers, none of which is left behind."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from dlkit import locks
from dlkit.runs import service
from dlkit.runs.records import Run, State
from dlkit.settings import settings

#: the least that is real training: 360 drawn pictures, 12 steps
TINY = {"dataset": "shapes", "image_size": 64, "epochs": 1, "augmentation": "none"}
#: a run that trains until it is told to end
LONG = {**TINY, "epochs": 1000}
#: in a `job_home` this set never comes: a run that needs it holds its slot and a worker that lives and loads no torch
NEVER = "cifar-10"
WAITING = {"dataset": NEVER}

Found = TypeVar("Found")


@contextmanager
def job_home(folder: Path, **variables: str) -> Iterator[Path]:
    """Use `folder` as data folder, here and in what is started from here; at the end no process of it is left."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"DLKIT_HOME": str(folder), **variables}.items():
            patch.setenv(name, value)
        settings.cache_clear()
        lock = locks.try_lock(settings().folder("datasets") / f".{NEVER}.lock")  # another process fetches it, it seems
        assert lock is not None
        try:
            yield folder
        finally:
            end_processes(folder)
            lock.close()
    settings.cache_clear()


def processes(folder: Path, module: str = "dlkit.jobs.") -> list[psutil.Process]:
    """Return the living supervisors and workers of a data folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_ours = any(part.startswith(module) for part in process.cmdline())
            if is_ours and process.environ().get("DLKIT_HOME") == str(folder):
                found.append(process)
    return found


def supervisor_of(folder: Path) -> psutil.Process:
    """Return the supervisor, waiting for it to come up."""
    return wait_for(lambda: next(iter(processes(folder, "dlkit.jobs.supervisor")), None))


def end_processes(folder: Path) -> None:
    """Kill the supervisors first, as they would start new workers."""
    for module in ("dlkit.jobs.supervisor", "dlkit.jobs.warm", "dlkit.jobs.worker"):
        while alive := processes(folder, module):
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=0.1)  # reaps our children; who reaps the others is not our business


def wait_for(look: Callable[[], Found | None], seconds: float = 180) -> Found:
    """Return what `look` finds; the test fails where it finds nothing for so long."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing came within {seconds} seconds"
        time.sleep(0.05)
    return found


def wait_for_end(run: Run) -> Run:
    """Return the run once it has ended."""

    def look() -> Run | None:
        now = service.run(run.id)
        return None if now.is_active else now

    return wait_for(look)


def wait_for_worker(run: Run, attempt: int = 1) -> psutil.Process:
    """Return the process that has taken the run in this attempt."""

    def look() -> psutil.Process | None:
        now = service.run(run.id)
        return psutil.Process(now.pid) if now.pid and now.attempt == attempt and now.state == State.RUNNING else None

    return wait_for(look)
