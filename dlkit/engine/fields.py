"""Receptive fields: which rows and columns of the picture each value of a network sees.

A forward pass carries along with every value how far up, down, left and right it sees. What an operation makes of that
depends on its kind alone: whether it looks at one place, at a window or at a whole dimension. So it knows no
architecture, and tells the truth also of squeezes and of attention, which see the whole picture, and of windows.
For convolutions: Araujo, Norris & Sim 2019, Computing receptive fields, doi.org/10.23915/distill.00021.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

#: how far in one direction the values of a tensor see, in its shape. Up and left are counted as negative rows and
#: columns, so what sees the same as two others sees as far as the larger of both, in each direction
Reach = torch.Tensor
NOWHERE = -torch.inf  # of what comes from no pixel, as padding
HIDDEN = -50.0  # what hides a value from attention when it is added to its score; torchvision's windows add -100


@dataclass(frozen=True)
class Box:
    """The pixels that a value sees: rows `top` to `bottom` and columns `left` to `right`, both ends included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        return self.right - self.left + 1


class Fields(TorchDispatchMode):
    """Follows what sees how far, of all that is computed from `picture` (N, 3, H, W) while it is entered.

    Without gradients and in eval mode only. NotImplementedError names an operation that it has no rule for.
    """

    def __init__(self, picture: torch.Tensor) -> None:
        super().__init__()
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in picture.shape[-2:])
        down, across = rows[:, None].expand(picture.shape), columns.expand(picture.shape)
        self._reaches = WeakTensorKeyDictionary()
        self._reaches[picture] = (-down, down, -across, across)

    def box(self, values: torch.Tensor, index: Sequence[int]) -> Box | None:
        """Return what the value at `index` of some values sees; None where it does not come from the picture."""
        if values not in self._reaches:
            return None
        up, down, left, right = (float(reach[tuple(index)]) for reach in self._reaches[values])
        return None if down == NOWHERE else Box(int(-up), int(down), int(-left), int(right))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = [self._reaches[value] for value in _tensors(args) if value in self._reaches]
        result = func(*args, **(kwargs or {}))
        if known:
            name = func.overloadpacket.__name__
            if name not in RULES:
                raise NotImplementedError(f"receptive fields have no rule for {name}")
            each = [RULES[name](_Call(func, args, result, self._reaches, part)) for part in range(len(known[0]))]
            for output, *reaches in zip(_tensors([result]), *map(_tensors, each), strict=False):
                self._reaches[output] = tuple(reaches)
        return result


@dataclass(frozen=True)
class _Call:
    """One operation, what it was given and what came out, looked at in one of the four directions."""

    func: Any
    args: tuple[Any, ...]
    result: Any
    reaches: WeakTensorKeyDictionary
    part: int

    @property
    def shape(self) -> torch.Size:
        """The shape of what came out; of several, of the first."""
        return _tensors([self.result])[0].shape

    def reach(self, value: torch.Tensor) -> Reach:
        """Return how far a value sees."""
        if value in self.reaches:
            known: Reach = self.reaches[value][self.part]
            return known
        return torch.full((), NOWHERE).expand(value.shape)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _moved(call: _Call) -> list[Reach]:
    """Values are put elsewhere, and none is computed."""
    return _tensors([call.func(call.reach(call.args[0]), *call.args[1:])])


def _reshaped(call: _Call) -> list[Reach]:
    return [call.reach(call.args[0]).reshape(call.shape)]


def _joined(call: _Call) -> list[Reach]:
    return [call.func([call.reach(value) for value in call.args[0]], *call.args[1:])]


def _padded(call: _Call) -> list[Reach]:
    return [functional.pad(call.reach(call.args[0]), call.args[1], value=NOWHERE)]


def _each(call: _Call) -> list[Reach]:
    """Values are computed place by place, of all that stands there."""
    inputs = [value for value in _tensors(call.args) if value in call.reaches]
    return [_union(*map(call.reach, inputs)).expand(call.shape)]


def _added(call: _Call) -> list[Reach]:
    """As each; but what is far below zero is a mask, and hides an attention's score."""
    (reach,) = _each(call)
    masks = [value for value in _tensors(call.args) if value not in call.reaches and value.is_floating_point()]
    for mask in masks:
        if mask.numel() and float(mask.min()) <= HIDDEN:
            reach = torch.where(mask <= HIDDEN, torch.tensor(NOWHERE), reach)
    return [reach]


def _over(dims: Callable[[_Call], Sequence[int]]) -> Callable[[_Call], list[Reach]]:
    """Each value is computed of all along some dimensions, which are kept, or are gone or of one place."""

    def rule(call: _Call) -> list[Reach]:
        reach = call.reach(call.args[0])
        gone = {dim % reach.ndim for dim in dims(call)}
        whole = _narrow(reach).amax(tuple(gone), keepdim=True)
        if call.shape == reach.shape:
            return [whole.expand(call.shape)]
        return [whole.expand([1 if at in gone else side for at, side in enumerate(reach.shape)]).reshape(call.shape)]

    return rule


def _softmaxed(call: _Call) -> list[Reach]:
    """Each value is computed of all along a dimension, but for what is hidden from attention, which stays so."""
    reach = call.reach(call.args[0])
    return [torch.where(reach == NOWHERE, reach, reach.amax(call.args[1], keepdim=True))]


def _convolved(call: _Call) -> list[Reach]:
    picture, weight, _, stride, padding, dilation, _, _, groups = call.args
    return [_windows(call, picture, weight.shape[2:], stride, padding, dilation, groups)]


def _pooled(call: _Call) -> list[Reach]:
    picture, kernel, *rest = call.args
    stride = rest[0] if rest and rest[0] else kernel
    padding = rest[1] if len(rest) > 1 else (0, 0)
    return [_windows(call, picture, kernel, stride, padding, (1, 1), picture.shape[1])]


def _windows(
    call: _Call,
    picture: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Reach:
    """Each value is computed of a window of all channels of its group."""
    reach = call.reach(picture)
    # where all channels see the same, one of them is enough
    reach = reach[:, :1] if reach.stride(1) == 0 else reach.unflatten(1, (groups, -1)).amax(2)
    high, wide = padding
    reach = functional.pad(reach, (wide, wide, high, high), value=NOWHERE)
    reach = functional.max_pool2d(reach, tuple(kernel), tuple(stride), 0, tuple(dilation))
    if reach.shape[1] > 1:
        reach = reach.repeat_interleave(call.shape[1] // reach.shape[1], 1)
    return reach.expand(call.shape)


def _multiplied(call: _Call) -> list[Reach]:
    """Each value is computed of a row of the last matrix but one and of a column of the last."""
    left, right = (_narrow(call.reach(matrix)) for matrix in call.args[-2:])
    columns = right.amax(-2, keepdim=True)
    is_hidden = left == NOWHERE
    if call.args[-2] in call.reaches and bool(is_hidden.any()):
        # attention takes no row of the right one where its score is hidden; all of a row's values see the same
        rows = right.amax(-1)[..., None, :]
        columns = torch.where(is_hidden, left, rows).amax(-1, keepdim=True)
    return [torch.maximum(left.amax(-1, keepdim=True), columns).expand(call.shape)]


def _attended(call: _Call) -> list[Reach]:
    """Every token is computed of all tokens."""
    whole = reduce(torch.maximum, (call.reach(value).amax((1, 2), keepdim=True) for value in call.args[:3]))
    return [whole.expand(call.shape)]


def _union(*reaches: Reach) -> Reach:
    """Return how far something sees that is computed place by place."""
    shape = torch.broadcast_shapes(*(reach.shape for reach in reaches))
    return reduce(torch.maximum, map(_narrow, reaches)).expand(shape)


def _narrow(reach: Reach) -> Reach:
    """Return a reach with one place along each dimension in which it is only repeated: most channels see the same."""
    return reach[tuple(slice(None, 1 if step == 0 else None) for step in reach.stride())]


def _unseen(_: _Call) -> list[Reach]:
    """What comes out has the picture's type, but nothing of it."""
    return []


RULES: dict[str, Callable[[_Call], list[Reach]]] = {
    **dict.fromkeys(("permute", "t", "transpose", "expand", "slice", "select", "unsqueeze", "roll", "index"), _moved),
    **dict.fromkeys(("split", "split_with_sizes", "unbind"), _moved),
    **dict.fromkeys(("view", "_unsafe_view"), _reshaped),
    **dict.fromkeys(("cat", "stack"), _joined),
    "constant_pad_nd": _padded,
    **dict.fromkeys(("relu", "relu_", "hardtanh_", "hardswish_", "hardsigmoid", "silu_", "sigmoid", "gelu"), _each),
    **dict.fromkeys(("native_batch_norm", "clone", "alias", "as_strided_", "clamp_min", "mul", "div"), _each),
    **dict.fromkeys(("add", "add_"), _added),
    "mean": _over(lambda call: call.args[1]),
    "linalg_vector_norm": _over(lambda call: call.args[2]),
    "native_layer_norm": _over(lambda call: range(-len(call.args[1]), 0)),
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmaxed),
    "convolution": _convolved,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), _pooled),
    **dict.fromkeys(("mm", "bmm", "addmm"), _multiplied),
    "_native_multi_head_attention": _attended,
    "new_zeros": _unseen,
}
