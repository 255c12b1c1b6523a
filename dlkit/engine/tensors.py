"""Tensors as they are: each example is a line of PyTorch that is run here, and what it made with shape and memory.

Nothing that somebody types is run as Python: it is read into sizes, indices and numbers, and the line that is shown is
written from these. Elements count from 0 on, so that each says its place in memory.
"""

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal, InvalidOperation, localcontext
from types import EllipsisType

import numpy as np
import torch

from dlkit.errors import FormulaError

MOST_DIMENSIONS, MOST_ELEMENTS, MOST_INDICES = 7, 480, 8
Index = int | slice | list[int] | EllipsisType | None


@dataclass(frozen=True, eq=False)
class Made:
    """A tensor and the line that made it: its numbers, and how they lie in memory.

    `values` is float64 with the tensor's shape; `strides` and `offset` count elements. `shares`: it has no memory of
    its own, but is another look at the first tensor's.
    """

    code: str
    values: np.ndarray
    strides: tuple[int, ...]
    offset: int
    dtype: str
    is_contiguous: bool
    shares: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes, one for each dimension."""
        return self.values.shape


def read_shape(text: str) -> tuple[int, ...]:
    """Read "2, 3, 4"; nothing is the shape of a single number. FormulaError for what is no shape that can be drawn."""
    parts = [part.strip() for part in text.strip(" ()").rstrip(",").split(",")] if text.strip(" (),") else []
    if len(parts) > MOST_DIMENSIONS:
        raise FormulaError(f"A shape has {MOST_DIMENSIONS} dimensions at most here; got {len(parts)}.")
    for part in parts:
        if not re.fullmatch(r"\d{1,4}", part, re.ASCII):
            raise FormulaError(f"A shape is whole numbers with commas between, as in 2, 3, 4; got {part[:20]!r}.")
    shape = tuple(int(part) for part in parts)
    if math.prod(shape) > MOST_ELEMENTS:
        raise FormulaError(f"{_written(shape)} has {math.prod(shape):,} elements; {MOST_ELEMENTS} can be drawn.")
    return shape


def counted(shape: tuple[int, ...]) -> tuple[torch.Tensor, str]:
    """Return the tensor 0, 1, 2, … of this shape, int64, and the line that makes it."""
    line = f"torch.arange({math.prod(shape)}).reshape({_written(shape)})"
    return torch.arange(math.prod(shape)).reshape(shape), line


def first(shape: tuple[int, ...]) -> Made:
    """Return the tensor that the examples begin with."""
    tensor, line = counted(shape)
    return _made(f"t = {line}", tensor, tensor)


def read_index(text: str) -> tuple[tuple[Index, ...], str]:
    """Read what stands in t[…]: whole numbers, from:to:by, lists of numbers, ..., None, with commas between.

    Returns the index and how it is written. Raises FormulaError for anything else.
    """
    text = text.strip().removesuffix(",")
    items = [item.strip() for item in re.split(r",(?![^\[]*\])", text)]  # at commas outside of lists
    if not text or len(items) > MOST_INDICES:
        raise FormulaError(
            f"Write 1 to {MOST_INDICES} indices with commas between, as in 0, :, 1:3; got {text[:40]!r}."
        )
    index = tuple(_read_item(item) for item in items)
    return index, ", ".join(_item_written(item) for item in index)


def indexed(shape: tuple[int, ...], text: str) -> tuple[Made, Made]:
    """Return a tensor and what an index takes of it; FormulaError where it has no such elements."""
    tensor, _ = counted(shape)
    index, written = read_index(text)
    code = f"result = t[{written}]"
    return first(shape), _made(code, _tried(code, lambda: tensor[index]), tensor)


def added(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Made, Made, Made]:
    """Return two tensors and their sum, their shapes broadcast; FormulaError with both shapes where they do not fit."""
    (a, line_a), (b, line_b) = counted(left), counted(right)
    total = _tried("result = a + b", lambda: a + b)
    if total.numel() > MOST_ELEMENTS:
        raise FormulaError(f"The sum has {total.numel():,} elements; {MOST_ELEMENTS} can be drawn.")
    return _made(f"a = {line_a}", a, a), _made(f"b = {line_b}", b, b), _made("result = a + b", total, a)


@dataclass(frozen=True)
class Fit:
    """Two sizes below each other when shapes are broadcast; None where a shape has no such dimension."""

    left: int | None
    right: int | None

    @property
    def result(self) -> int | None:
        """The size of the sum, None where they do not fit."""
        left, right = self.left or (1 if self.left is None else 0), self.right or (1 if self.right is None else 0)
        return left if right == 1 else right if left in (1, right) else None


def aligned(left: tuple[int, ...], right: tuple[int, ...]) -> list[Fit]:
    """Put two shapes below each other, the last dimensions above each other."""
    length = max(len(left), len(right))
    rows = [(*(None,) * (length - len(shape)), *shape) for shape in (left, right)]
    return [Fit(*pair) for pair in zip(*rows, strict=True)]


#: other looks at a tensor t of 3 × 4, and copies of it: what is shown beside its line
VIEWS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "row": ("t[1]", lambda t: t[1]),
    "column": ("t[:, 1]", lambda t: t[:, 1]),
    "every-other": ("t[:, ::2]", lambda t: t[:, ::2]),
    "transposed": ("t.T", lambda t: t.T),
    "reshaped": ("t.reshape(2, 6)", lambda t: t.reshape(2, 6)),
    "transposed-reshaped": ("t.T.reshape(2, 6)", lambda t: t.T.reshape(2, 6)),
    "contiguous": ("t.T.contiguous()", lambda t: t.T.contiguous()),
    "expanded": ("t[:, :1].expand(3, 5)", lambda t: t[:, :1].expand(3, 5)),
    "unsqueezed": ("t.unsqueeze(0)", lambda t: t.unsqueeze(0)),
    "diagonal": ("t.diagonal()", lambda t: t.diagonal()),
    "windows": ("t.unfold(1, 2, 1)", lambda t: t.unfold(1, 2, 1)),
    "by-list": ("t[[0, 2]]", lambda t: t[[0, 2]]),
    "flipped": ("t.flip(0)", lambda t: t.flip(0)),
    "cloned": ("t.clone()", lambda t: t.clone()),
    "other-type": ("t.to(torch.float32)", lambda t: t.to(torch.float32)),
}
VIEWED = (3, 4)
WRITTEN = 99


def viewed(name: str) -> tuple[Made, Made, Made]:
    """Return a tensor of 3 × 4, a look at it or a copy, and the first after 99 was written into the second's first."""
    tensor, _ = counted(VIEWED)
    line, look = VIEWS[name]
    before, result = first(VIEWED), look(tensor)
    seen = _made(f"result = {line}", result, tensor)
    place = ", ".join("0" * result.ndim)
    result[(0,) * result.ndim] = WRITTEN
    return before, seen, _made(f"result[{place}] = {WRITTEN}", tensor, tensor)


FLOATS = ("float64", "float32", "bfloat16", "float16")
WHOLE = ("int64", "int32", "uint8")
EXPONENT_BITS = {"float64": 11, "float32": 8, "bfloat16": 8, "float16": 5}
TIMES = 1000  # that a number is added to itself
SHOWN_DIGITS, FEW_DIGITS = 24, 8
ENOUGH_DIGITS = 1200  # for the exact difference of any two float64
ROUNDS = 5


@dataclass(frozen=True)
class Stored:
    """A number as one type keeps it, written out exactly; `off` is what it differs by from what was typed.

    `bits` are sign, exponent and fraction of a floating-point type, or all bits of a whole one. `step` is how far the
    next larger number of the type is, `total` what TIMES of it added one by one come to; both None for whole numbers.
    """

    dtype: str
    bytes: int
    value: str
    off: str
    bits: tuple[str, ...]
    step: str | None
    total: str | None
    code: str


def read_number(text: str) -> Decimal:
    """Read a decimal number; FormulaError for anything else, and beyond 10^300."""
    try:
        number = Decimal(text.strip().replace("−", "-"))
    except InvalidOperation as error:
        raise FormulaError(f"Write a number, as in 0.1 or 3e8; got {text[:40]!r}.") from error
    if not number.is_finite() or len(number.as_tuple().digits) > 60 or (number and abs(number.adjusted()) > 300):
        raise FormulaError("Write a number of at most 60 digits between 1e-300 and 1e300.")
    return number


def stored(text: str) -> list[Stored]:
    """Return how each type keeps a number; whole types that cannot hold it are left out."""
    number = read_number(text)
    with localcontext(prec=ENOUGH_DIGITS):
        found = [_as_float(number, name) for name in FLOATS]
        return found + [_as_whole(number, name) for name in WHOLE if abs(number) < 2**63]


@dataclass(frozen=True)
class Timed:
    """What a device took, medians in ms: to get 1,000 × 1,000 float32 numbers from the CPU, and to multiply them."""

    device: str
    copy: float
    product: float


def devices() -> list[str]:
    """Return the names of what torch can compute on here, the CPU first."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return found + ["mps"] * torch.backends.mps.is_available()


def timed(device: str) -> Timed:
    """Try a copy and a product of matrices on a device, some times each."""
    matrix = torch.rand(1000, 1000)
    there = matrix.to(device)
    of_copy = _milliseconds(device, lambda: matrix.to(device, copy=True))
    return Timed(device, of_copy, _milliseconds(device, lambda: there @ there))


def _milliseconds(device: str, work: Callable[[], torch.Tensor]) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        begun = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)  # it was only asked for so far
        elif device == "mps":
            torch.mps.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[1:])


def _as_float(number: Decimal, name: str) -> Stored:
    dtype = getattr(torch, name)
    kept = torch.tensor(float(number), dtype=torch.float64).to(dtype)
    exact = Decimal(kept.item())
    of_bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    size = 8 * dtype.itemsize
    pattern = kept.view(of_bits).item()
    bits = f"{pattern & (2**size - 1):0{size}b}"
    exponent = EXPONENT_BITS[name]
    total = torch.zeros((), dtype=dtype)
    for _ in range(TIMES):
        total += kept
    step = None
    if math.isfinite(kept.item()):
        following = (kept.abs().view(of_bits) + 1).view(dtype)
        step = _digits(Decimal(following.item()) - abs(exact), FEW_DIGITS) if math.isfinite(following.item()) else None
    return Stored(
        name,
        dtype.itemsize,
        _digits(exact),
        _digits(exact - number, FEW_DIGITS) if exact.is_finite() else "–",
        (bits[0], bits[1 : 1 + exponent], bits[1 + exponent :]),
        step,
        _digits(Decimal(total.item()), FEW_DIGITS),
        f"torch.tensor({float(number)!r}, dtype=torch.float64).to(torch.{name})",
    )


def _as_whole(number: Decimal, name: str) -> Stored:
    dtype = getattr(torch, name)
    kept = torch.tensor(int(number)).to(dtype)
    size = 8 * dtype.itemsize
    return Stored(
        name,
        dtype.itemsize,
        str(kept.item()),
        _digits(Decimal(kept.item()) - number, FEW_DIGITS),
        (f"{kept.item() & (2**size - 1):0{size}b}",),
        None,
        None,
        f"torch.tensor({int(number)}).to(torch.{name})",
    )


def _digits(number: Decimal, most: int = SHOWN_DIGITS) -> str:
    """Write a number with so many digits at most; what is left off is told by an ellipsis."""
    if not number.is_finite():
        return "∞" if number > 0 else "−∞" if number < 0 else "no number"
    if not number:
        return "0"
    with localcontext(prec=most, rounding=ROUND_DOWN):
        cut = +number
    text, more = f"{cut.normalize()}", "" if cut == number else "…"
    digits, exponent, power = text.partition("E")
    if exponent and 0 < cut.adjusted() < SHOWN_DIGITS and not more:
        digits, exponent, power = f"{cut.normalize():f}", "", ""
    return f"{digits}{more}{'e' if exponent else ''}{power.removeprefix('+')}".replace("-", "−")


def _made(code: str, tensor: torch.Tensor, base: torch.Tensor) -> Made:
    return Made(
        code,
        tensor.double().numpy().copy(),
        tuple(tensor.stride()),
        int(tensor.storage_offset()),
        str(tensor.dtype).removeprefix("torch."),
        tensor.is_contiguous(),
        tensor.untyped_storage().data_ptr() == base.untyped_storage().data_ptr(),
    )


def _tried(code: str, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what a line makes, or say in torch's own words why it makes nothing."""
    try:
        return work()
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise FormulaError(f"{code}: {str(error).splitlines()[0]}") from error


def _read_item(item: str) -> Index:
    if item == "...":
        return Ellipsis
    if item == "None":
        return None
    if item.startswith("[") and item.endswith("]"):
        return [_read_whole(part) for part in item[1:-1].split(",") if part.strip()]
    if ":" in item:
        parts = item.split(":")
        if len(parts) <= 3:
            return slice(*(_read_whole(part) if part.strip() else None for part in parts))
    return _read_whole(item)


def _read_whole(text: str) -> int:
    text = text.strip().replace("−", "-")
    if not re.fullmatch(r"-?\d{1,6}", text, re.ASCII):
        raise FormulaError(f"An index is a whole number, from:to, a list as [0, 2], ... or None; got {text[:20]!r}.")
    return int(text)


def _item_written(item: Index) -> str:
    if item is Ellipsis:
        return "..."
    if isinstance(item, slice):
        start, stop = ("" if end is None else str(end) for end in (item.start, item.stop))
        return f"{start}:{stop}" + ("" if item.step is None else f":{item.step}")
    return str(item)


def _written(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape)) or "()"
