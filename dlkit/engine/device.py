"""Where the work is done: the device that was asked for, or a sentence; never silently another one."""

import torch

from dlkit.errors import DeviceError


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
