"""What this machine has, told without importing torch: cores, memory, NVIDIA GPUs, and which processes live."""

import contextlib
import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

#: how glibc shall keep memory, as (parameter of mallopt, value). As it comes, it gives every large block back to the
#: system after each operation of a network and faults it in again, which costs up to two thirds of the time.
MALLOC = (
    (-4, 0),  # M_MMAP_MAX: no block gets a mapping of its own, which is undone when it is freed
    (-1, -1),  # M_TRIM_THRESHOLD: what is freed at the end of the heap stays
    (-2, 2**28),  # M_TOP_PAD: the heap grows by 256 MiB at a time; what is not touched is not resident
    (-8, 1),  # M_ARENA_MAX: one heap for all threads, as Streamlit's would not find each other's free blocks
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as NVML sees it; memory in GB (10^9 bytes)."""

    index: int
    name: str
    memory_gb: float
    used_gb: float


@dataclass(frozen=True)
class Machine:
    """The machine under the server; memory in GB (10^9 bytes)."""

    cores: int
    memory_gb: float
    gpus: tuple[Gpu, ...]
    has_mps: bool

    @property
    def headline(self) -> str:
        """One line for the frame: the first GPU with its memory, or the CPU."""
        if self.gpus:
            gpu = self.gpus[0]
            more = f" and {len(self.gpus) - 1} more" if len(self.gpus) > 1 else ""
            return f"{gpu.name}{more} · {gpu.used_gb:.3g} of {gpu.memory_gb:.3g} GB"
        if self.has_mps:
            return f"Apple GPU · {self.memory_gb:.3g} GB"
        return f"{self.cores} CPU core{'s' if self.cores > 1 else ''} · {self.memory_gb:.3g} GB"


def describe() -> Machine:
    """Look at the machine now."""
    has_mps = sys.platform == "darwin" and platform.machine() == "arm64"
    return Machine(cores(), psutil.virtual_memory().total / 1e9, gpus(), has_mps)


@lru_cache(maxsize=1)
def cores() -> int:
    """Return how many CPU cores this process may use."""
    try:
        return len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS has no affinity
        return psutil.cpu_count() or 1


@lru_cache(maxsize=1)
def processor() -> str:
    """Return the processor's name, as exactly as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for the next operation; False where the C library is not glibc.

    Call it before torch is loaded. A process that is started anew gets the same by its environment.
    """
    return "mallopt" in _glibc() and all(_glibc()["mallopt"](*pair) for pair in MALLOC)


def give_back_memory() -> None:
    """Give back to the system what this process keeps free: after work that needed much more than what follows."""
    if "malloc_trim" in _glibc():
        _glibc()["malloc_trim"](0)


@lru_cache(maxsize=1)
def _glibc() -> dict[str, Callable[..., int]]:
    """Return the functions of glibc that are used here; none elsewhere."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    library = ctypes.CDLL(None)
    return {name: getattr(library, name) for name in ("mallopt", "malloc_trim")}


def gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()


def _gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory, name = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(index, name if isinstance(name, str) else name.decode(), memory.total / 1e9, memory.used / 1e9)


def process_identity(pid: int) -> str | None:
    """Return what tells this process from a later one of the same number; None where it is gone or a zombie.

    On Linux the boot's id and the start in clock ticks, which no change of the clock moves; elsewhere the start time.
    """
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return f"{psutil.Process(pid).create_time():.2f}"
        ticks = stat.read_text().rpartition(")")[2].split()[19]
        return f"{_boot_id()}:{ticks}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


@lru_cache(maxsize=1)
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
