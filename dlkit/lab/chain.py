"""A small convolutional network as a chain of blocks, whose shapes are checked while it is typed.

A block a line, or with commas between: "conv 16 3, relu, maxpool 2, flatten, linear 10". Settings are those of torch's
layers, in the same order and with the same defaults.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.descent.asked import Number
from dlkit.errors import ConfigError

Shape = tuple[int, ...]  # of one example: (channels, height, width), or (numbers,)

MOST_BLOCKS = 40
MOST_PARAMETERS = 20_000_000
MOST_WORK = 5_000_000_000  # multiply-adds for one picture: more than any backbone of the catalog but the largest
KERNEL = Number("Kernel", 3, 1, 31, is_whole=True)
STRIDE = Number("Stride", 1, 1, 16, is_whole=True)
PADDING = Number("Padding", 0, 0, 15, is_whole=True)


@dataclass(frozen=True)
class BlockKind:
    """What may stand in a chain: its settings in their order, and what torch calls it.

    `shape` and `costs` are functions of the shape that comes in and of the settings: what goes out, and the parameters
    and multiply-adds. `torch` is written with `incoming`, the channels or numbers that come in, and the settings.
    """

    name: str
    summary: str
    settings: Mapping[str, Number]
    takes_pictures: bool | None  # None: whatever comes
    torch: str
    shape: Callable[[Shape, Mapping[str, float]], Shape] = lambda shape, _: shape
    costs: Callable[[Shape, Shape, Mapping[str, float]], tuple[int, int]] = lambda *_: (0, 0)


@dataclass(frozen=True)
class Block:
    """One block in its place: what comes in and goes out, its parameters, and its multiply-adds for one picture."""

    kind: BlockKind
    settings: Mapping[str, float]
    incoming: Shape
    outgoing: Shape
    parameters: int = field(init=False)
    multiply_adds: int = field(init=False)

    def __post_init__(self) -> None:
        parameters, work = self.kind.costs(self.incoming, self.outgoing, self.settings)
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "multiply_adds", work)

    def code(self) -> str:
        """Return how it is written in PyTorch."""
        settings = {name: f"{value:g}" for name, value in self.settings.items()}
        return self.kind.torch.format(incoming=self.incoming[0], **settings)


def read_chain(text: str, incoming: Shape, classes: int) -> list[Block]:
    """Read a chain for pictures of the shape `incoming`; ConfigError names the block that will not do, and why."""
    parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if not 1 <= len(parts) <= MOST_BLOCKS:
        raise ConfigError([f"A network must have from 1 to {MOST_BLOCKS} blocks; got {len(parts)}."])
    blocks: list[Block] = []
    for number, part in enumerate(parts, 1):
        shape = blocks[-1].outgoing if blocks else incoming
        blocks.append(_block(f"Block {number} ({part[:30]})", part.split(), shape))
    if blocks[-1].outgoing != (classes,):
        made = written(blocks[-1].outgoing)
        raise ConfigError([f"The last block must give {classes} numbers, one for each class; it gives {made}."])
    for what, most in (("parameters", MOST_PARAMETERS), ("multiply_adds", MOST_WORK)):
        found = sum(getattr(block, what) for block in blocks)
        if found > most:
            raise ConfigError([f"The network may have {most:,} {what.replace('_', '-')}; it has {found:,}. Shrink it."])
    return blocks


def code_of_chain(blocks: list[Block]) -> str:
    """Return the chain in PyTorch."""
    return "\n".join(("nn.Sequential(", *(f"    {block.code()}," for block in blocks), ")"))


def written(shape: Shape) -> str:
    """Write a shape: 16×14×14, or a vector of 3136."""
    return "×".join(map(str, shape)) if len(shape) > 1 else f"a vector of {shape[0]}"


def _block(where: str, words: list[str], incoming: Shape) -> Block:
    name, *values = words
    if name not in KINDS:
        raise ConfigError([f"{where}: there is no such block. Use one of: {', '.join(KINDS)}."])
    kind, is_picture = KINDS[name], len(incoming) == 3
    settings = _settings(where, kind, values)
    if kind.takes_pictures is True and not is_picture:
        raise ConfigError([f"{where} takes pictures, channels×height×width; here comes {written(incoming)}."])
    if kind.takes_pictures is False and is_picture:
        flat = written((prod(incoming),))
        raise ConfigError([f"{where} takes a vector; here comes {written(incoming)}. Put flatten before it: {flat}."])
    outgoing = kind.shape(incoming, settings)
    if min(outgoing) < 1:
        window = f"{settings['kernel']:g}×{settings['kernel']:g}"
        raise ConfigError([f"{where}: a window of {window} does not fit into {written(incoming)}. Make it smaller."])
    return Block(kind, settings, incoming, outgoing)


def _settings(where: str, kind: BlockKind, values: list[str]) -> dict[str, float]:
    """Read the numbers behind a block's name; a pool's stride is its kernel where it is not said."""
    if len(values) > len(kind.settings):
        takes = ", ".join(kind.settings) or "nothing"
        raise ConfigError([f"{where} has {len(values)} numbers; {kind.name} takes {takes}."])
    settings: dict[str, float] = {}
    for place, (name, rule) in enumerate(kind.settings.items()):
        value = values[place] if place < len(values) else ""
        number = rule.read(f"{name} of {where[0].lower()}{where[1:]}", value)
        number = settings.get("kernel") if number is None else number
        if number is None:
            raise ConfigError([f"{where} needs a number: {name}."])
        settings[name] = number
    return settings


def _windows(incoming: Shape, settings: Mapping[str, float], channels: int) -> Shape:
    kernel, stride, padding = (int(settings.get(name, 0)) for name in ("kernel", "stride", "padding"))
    return (channels, *((side + 2 * padding - kernel) // stride + 1 for side in incoming[1:]))


def _of_conv(incoming: Shape, outgoing: Shape, settings: Mapping[str, float]) -> tuple[int, int]:
    filters, height, width = outgoing
    each = incoming[0] * int(settings["kernel"]) ** 2
    return filters * (each + 1), filters * height * width * each


def _of_linear(incoming: Shape, outgoing: Shape, _: Mapping[str, float]) -> tuple[int, int]:
    return outgoing[0] * (incoming[0] + 1), outgoing[0] * incoming[0]


_POOL = {"kernel": Number("Kernel", 2, 1, 31, is_whole=True), "stride": Number("Stride", None, 1, 16, is_whole=True)}
_KINDS = (
    BlockKind(
        "conv",
        "Slides a kernel over the picture for each of its filters.",
        {
            "filters": Number("Filters", None, 1, 1024, is_whole=True),
            "kernel": KERNEL,
            "stride": STRIDE,
            "padding": PADDING,
        },
        True,
        "nn.Conv2d({incoming}, {filters}, {kernel}, {stride}, {padding})",
        lambda shape, settings: _windows(shape, settings, int(settings["filters"])),
        _of_conv,
    ),
    BlockKind(
        "batchnorm",
        "Takes the batch's mean off each channel and divides by its deviation.",
        {},
        True,
        "nn.BatchNorm2d({incoming})",
        costs=lambda incoming, *_: (2 * incoming[0], 0),
    ),
    BlockKind(
        "maxpool",
        "Keeps the largest value of each window.",
        _POOL,
        True,
        "nn.MaxPool2d({kernel}, {stride})",
        lambda shape, settings: _windows(shape, settings, shape[0]),
    ),
    BlockKind(
        "avgpool",
        "Takes the mean of each window.",
        _POOL,
        True,
        "nn.AvgPool2d({kernel}, {stride})",
        lambda shape, settings: _windows(shape, settings, shape[0]),
    ),
    BlockKind(
        "globalpool",
        "Takes the mean of each channel.",
        {},
        True,
        "nn.AdaptiveAvgPool2d(1)",
        lambda shape, _: (shape[0], 1, 1),
    ),
    BlockKind(
        "flatten",
        "Puts all values of a picture in one row.",
        {},
        True,
        "nn.Flatten()",
        lambda shape, _: (prod(shape),),
    ),
    BlockKind(
        "linear",
        "Adds up all values, each times a weight, for each of its units.",
        {"units": Number("Units", None, 1, 10_000, is_whole=True)},
        False,
        "nn.Linear({incoming}, {units})",
        lambda _, settings: (int(settings["units"]),),
        _of_linear,
    ),
    BlockKind(
        "dropout",
        "Lets each value through by chance in training, so that none is relied on alone.",
        {"share": Number("Share", 0.5, 0, 0.95)},
        None,
        "nn.Dropout({share})",
    ),
    *(
        BlockKind(entry.name, entry.summary, {}, None, entry.torch)
        for entry in ACTIVATIONS.values()
        if entry.name != "linear"
    ),
)
KINDS: dict[str, BlockKind] = {kind.name: kind for kind in _KINDS}
