"""A network layer by layer: what each is and costs and sees of a picture, and what it makes of one.

It knows no architecture: which layers run, in which order, is seen by running the network once. While it runs, hooks
hang on its modules, so two threads must not look into the same network at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit.engine.bundle import Bundle, load_bundle
from dlkit.engine.fields import Box, Fields
from dlkit.engine.model import BATCHNORM_LAYERS
from dlkit.engine.prediction import imagenet_bundle
from dlkit.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """One layer as it runs: `name` is the module's path, and `call` counts how often it has run, from 1.

    `shape` is that of its output for one picture, without the batch. `parameters` are its own, counted at its first
    call; `multiply_adds` those of convolutions, matrices and attention. `field` is what the value in the middle sees
    of the picture; None where it sees nothing of it.
    """

    name: str
    kind: str
    call: int
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    field: Box | None


@dataclass(frozen=True)
class Seen:
    """What one layer was given and what it made of it, before anything later changed that in place."""

    module: nn.Module
    inputs: torch.Tensor
    outputs: torch.Tensor


@dataclass(frozen=True)
class Statistics:
    """What a layer made of pictures: the mean, deviation, least and largest of its outputs, and how many are zero."""

    mean: float
    deviation: float
    least: float
    largest: float
    zeros: float  # a share


def open_model(source: Path | None) -> Bundle:
    """Return a saved model, or the ImageNet model for None, as it was saved: with every layer of its own.

    BundleError where it cannot be loaded.
    """
    return imagenet_bundle() if source is None else load_bundle(source)


def pictures_for(bundle: Bundle, images: Sequence[Image.Image]) -> torch.Tensor:
    """Return RGB pictures as the network takes them, (N, 3, S, S) float32."""
    squares = [torch.tensor(bundle.preprocessing.square(image)) for image in images]
    return bundle.preprocessing.normalise(torch.stack(squares)).contiguous()


def layers_of(network: nn.Module, size: int) -> list[Layer]:
    """Return all layers in the order in which they end, for a picture of `size`; what passes all on is left out.

    A layer is a module within which no other runs, or one that has parameters or does work beside those within it.
    """
    picture = torch.zeros(1, 3, size, size)
    fields, calls = Fields(picture), Counter[str]()
    layers: list[Layer] = []

    def note(name: str, module: nn.Module, output: torch.Tensor, work: int) -> None:
        calls[name] += 1
        middle = [0, *(side // 2 for side in output.shape[1:])]
        kind, shape = type(module).__name__, tuple(output.shape[1:])
        layers.append(Layer(name, kind, calls[name], shape, 0, work, fields.box(output, middle)))

    with fields:
        _run(network, picture, note)
    owned = _parameters(network, calls.keys())
    return [replace(layer, parameters=owned[layer.name]) if layer.call == 1 else layer for layer in layers]


def statistics_of(network: nn.Module, pictures: torch.Tensor) -> list[Statistics]:
    """Return what each layer makes of pictures (N, 3, S, S), in the order of `layers_of`."""
    found: list[Statistics] = []

    def note(name: str, module: nn.Module, output: torch.Tensor, work: int) -> None:
        deviation, mean = torch.std_mean(output, correction=0)
        measured = (mean, deviation, *output.aminmax(), (output == 0).float().mean())
        found.append(Statistics(*(float(value) for value in measured)))

    _run(network, pictures, note)
    return found


def seen_in(network: nn.Module, pictures: torch.Tensor, name: str, call: int = 1) -> Seen:
    """Return what the layer `name` takes and makes of pictures (N, 3, S, S) when it runs for the `call`th time.

    The network runs up to there and no further. ConfigError where it has no such layer, or does not run it so often.
    """
    modules = dict(network.named_modules())
    if name not in modules:
        near = get_close_matches(name, modules, 3, 0.0)
        raise ConfigError([f"There is no layer called {name[:60]!r}. Near to it: {', '.join(near)}."])
    taken: list[torch.Tensor] = []

    def take(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.append(inputs[0].clone())

    def make(_: nn.Module, __: object, output: Any) -> None:
        if len(taken) == call:
            raise _Enough(_first(output).clone())

    hooks = [modules[name].register_forward_pre_hook(take), modules[name].register_forward_hook(make)]
    try:
        with torch.no_grad():
            network.eval()(pictures)
    except _Enough as enough:
        return Seen(modules[name], taken[-1], enough.outputs)
    finally:
        for hook in hooks:
            hook.remove()
    raise ConfigError([f"{name} runs only so often in this network: {len(taken)}. There is no call {call}."])


class _Enough(Exception):
    """A network has run as far as it was to."""

    def __init__(self, outputs: torch.Tensor) -> None:
        self.outputs = outputs


@dataclass
class _Frame:
    """One module while it runs: whether it is, or is in, a BatchNorm; whether another runs within it; its own work."""

    is_in_norm: bool
    has_inner: bool = False
    work: int = 0


Note = Callable[[str, nn.Module, torch.Tensor, int], None]


def _run(network: nn.Module, pictures: torch.Tensor, note: Note) -> None:
    """Run a network in eval mode, and call `note` after each layer, with what it put out and its multiply-adds.

    A BatchNorm layer of timm, which has its activation within it, is one layer.
    """
    names = {module: name for name, module in network.named_modules()}
    frames: list[_Frame] = []

    def before(module: nn.Module, _: object) -> None:
        is_in_norm = isinstance(module, BATCHNORM_LAYERS)
        if frames:
            frames[-1].has_inner = True
            is_in_norm = is_in_norm or frames[-1].is_in_norm
        frames.append(_Frame(is_in_norm))

    def after(module: nn.Module, _: object, output: Any) -> None:
        frame = frames.pop()
        is_inside = bool(frames) and frames[-1].is_in_norm
        has_own = any(True for _ in module.parameters(recurse=False))
        if not is_inside and not _passes_on(module) and (has_own or frame.work or not frame.has_inner):
            note(names[module], module, _first(output), frame.work)

    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        with torch.no_grad(), _Work(frames):
            network.eval()(pictures)
    finally:
        for hook in hooks:
            hook.remove()


class _Work(TorchDispatchMode):
    """Counts the multiply-adds of convolutions, matrices and attention, for the module that runs."""

    def __init__(self, frames: list[_Frame]) -> None:
        super().__init__()
        self._frames = frames

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            self._frames[-1].work += result.numel() * prod(args[1].shape[1:])
        elif name in ("mm", "bmm", "addmm", "baddbmm"):
            self._frames[-1].work += result.numel() * args[-2].shape[-1]
        elif name == "_native_multi_head_attention":
            pictures, tokens, width = args[0].shape
            self._frames[-1].work += pictures * (4 * tokens * width**2 + 2 * tokens**2 * width)
        return result


def _first(output: Any) -> torch.Tensor:
    """Return a module's output; of several, as of attention with its weights, the first."""
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _passes_on(module: nn.Module) -> bool:
    """Tell whether a module never changes anything: one that only stands for another, or a dropout of 0."""
    share = getattr(module, "p", getattr(module, "drop_prob", None))
    return isinstance(module, nn.Identity) or share == 0


def _parameters(network: nn.Module, layers: Iterable[str]) -> Counter[str]:
    """Return how many parameters each layer has; each belongs to the innermost layer that it is in, or to none."""
    known, owned = set(layers), Counter[str]()
    for name, parameter in network.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in known:
            owner = owner.rpartition(".")[0]
        owned[owner] += parameter.numel()
    return owned
