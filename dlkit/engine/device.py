"""Where the work is done: the device that was asked for, or a sentence; never silently another one."""

import sys
from collections.abc import Mapping

import torch

from dlkit.errors import DeviceError

#: what torch's allocators for the CPU and for MPS, and cuBLAS, say in a plain RuntimeError
MEMORY_WORDS = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def resolve(name: str) -> torch.device:
    """Return the device called `name`; auto takes CUDA, then MPS, then the CPU. DeviceError where it is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("The device cuda was asked for, and PyTorch finds no CUDA GPU here. Choose auto or cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("The device mps was asked for, and PyTorch finds no Apple GPU here. Choose auto or cpu.")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """Name the device for a person."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory that this process has had: on CUDA of the device, else its own; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an operation failed for lack of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def release_memory(device: torch.device) -> None:
    """Give back what the device's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "mps":
        torch.mps.empty_cache()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the generators that work on this device draws from, as uint8 tensors on the CPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Put the generators back; a state of another kind of device is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
