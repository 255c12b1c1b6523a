"""What is measured runs in a process of its own: started in a chosen environment, watched, and ended in time.

The process prints a JSON object a line. The one that starts it loads no torch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dlkit import machine
from dlkit.jobs import supervisor

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.25
LOOK_SECONDS = 3  # between two looks at the memory: one costs 40 ms, as the kernel walks through all pages
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
LOG_LINES = 12

Line = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """What a process has printed, and the most memory that it and its children had, in MiB.

    What several of them share counts once; a peak between two looks is seen of the process itself alone. `failure` is
    empty, or the end of what it said when it broke.
    """

    lines: tuple[Line, ...]
    peak_mib: float
    is_cut: bool = False  # it did not end in time
    failure: str = ""


def as_it_comes() -> dict[str, str]:
    """Return the environment of someone who tunes nothing: glibc's allocator, all cores."""
    return {name: value for name, value in os.environ.items() if name not in (*supervisor.ALLOCATOR, *THREADS)}


def tuned() -> dict[str, str]:
    """Return the environment in which the hardware shows what it can: the worker's allocator, all cores."""
    return {**as_it_comes(), **supervisor.ALLOCATOR, **dict.fromkeys(THREADS, str(machine.cores()))}


def as_worker() -> dict[str, str]:
    """Return the environment in which the supervisor starts a worker."""
    return {**os.environ, **supervisor._common_environment()}


def watched(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit_seconds: float,
) -> Ended:
    """Run `python -m MODULE ARGUMENTS --started NOW` to its end, or until the limit; no process of it is left then."""
    command = [sys.executable, "-m", module, *arguments, "--started", str(time.monotonic())]
    deadline, look_at, peak, is_cut = time.monotonic() + limit_seconds, 0.0, 0.0, False
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        # a session of its own, as a worker has: it is ended with all its children
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=printed, stderr=said, start_new_session=True
        )
        try:
            while process.poll() is None and not is_cut:
                if time.monotonic() > look_at:
                    peak, look_at = max(peak, _memory_mib(process.pid)), time.monotonic() + LOOK_SECONDS
                is_cut = time.monotonic() > deadline
                time.sleep(POLL_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # the loaders of one that broke, or was cut off
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines = [json.loads(line) for line in _text(printed).splitlines() if line.endswith("}")]
        failure = "" if is_cut or process.returncode == 0 else "\n".join(_text(said).splitlines()[-LOG_LINES:])
    peak = max(peak, *(line.get("peak_mib", 0.0) for line in lines)) if lines else peak
    return Ended(tuple(lines), peak, is_cut, failure or ("" if is_cut or lines else "it printed nothing"))


def printer() -> Callable[..., None]:
    """Return what prints one JSON line; all else that this process prints goes to its error output from now on."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def put(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    return put


def peak_mib() -> float:
    """Return the most memory that this process had at a time, in MiB."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def device_peak_mib(device: str) -> float | None:
    """Return the most memory of a GPU that this process took from it at a time, in MiB; None on the CPU."""
    if device != "cuda":
        return None
    import torch  # whoever used the GPU has loaded it

    return torch.cuda.max_memory_reserved() / 2**20


def _memory_mib(pid: int) -> float:
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
    return total / 2**20


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
