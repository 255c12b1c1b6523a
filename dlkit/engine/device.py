"""Where the work is done: the device that was asked for, or a sentence; never silently another one.

float32 is exact on all of them: on CUDA neither cuBLAS nor cuDNN may round it to TF32, which bfloat16 beats anyway.
"""

import sys
from collections.abc import Mapping

import torch
from torch.nn import functional

from dlkit.errors import DeviceError

#: what torch's allocators for the CPU and for MPS, and cuBLAS, say in a plain RuntimeError
MEMORY_WORDS = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def resolve(name: str) -> torch.device:
    """Return the device called `name`; auto takes CUDA, then MPS, then the CPU. DeviceError where it is absent.

    On CUDA this process then computes float32 as it is, and takes the kernels that cuDNN knows to be quick: trying
    them would choose others in each process, and a run that goes on would round otherwise.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("The device cuda was asked for, and PyTorch finds no CUDA GPU here. Choose auto or cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("The device mps was asked for, and PyTorch finds no Apple GPU here. Choose auto or cpu.")
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the number formats that networks can compute in on this device; float32 is the first.

    CUDA's bfloat16 counts only where the GPU has it, from Ampere on; float16 is for CUDA alone, where it is quick.
    """
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("float32", "bfloat16", "float16") if has_bfloat16 else ("float32", "float16")
    one = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16, device=device)
    try:
        functional.conv2d(one, one)
    except RuntimeError:
        return ("float32",)
    return ("float32", "bfloat16")


def check_precision(name: str, device: torch.device) -> None:
    """Raise DeviceError where networks cannot compute in the number format called `name` on this device."""
    possible = precisions(device)
    if name not in possible:
        raise DeviceError(
            f"The number format {name} was asked for, and this device does not compute in it: {describe(device)}. "
            f"Choose auto or {' or '.join(possible)}."
        )


def describe(device: torch.device) -> str:
    """Name the device for a person."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory that this process has had; None on Windows.

    On CUDA it is the device's since `forget_peak_memory`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget_peak_memory(device: torch.device) -> None:
    """Count CUDA's peak anew: what choosing a number format needed is not the training's. Of the CPU it stays."""
    if device.type == "cuda":
        release_memory(device)
        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an operation failed for lack of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def spare_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU that has its own; 0 elsewhere, where nothing is gained by keeping data there."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device; from the CPU to CUDA through pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked for: a time that is taken before is too short."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


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
