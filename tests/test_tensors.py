"""What the tensors page shows is what torch makes: each shown line is run and compared."""

import math
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlkit.engine import tensors
from dlkit.engine.tensors import FLOATS, TIMES, VIEWS, Made
from dlkit.errors import FormulaError
from dlkit.figures.tensors import tensor_html

SHAPES = [
    (),
    (5,),
    (2, 3),
    (2, 3, 4),
    (2, 1, 3, 4),
    (2, 2, 2, 3, 4),
    (1, 2, 1, 2, 3, 2),
    (2, 2, 1, 2, 2, 2, 2),
    (0,),
    (2, 0),
]


def run(*lines: str) -> dict[str, torch.Tensor]:
    names: dict[str, torch.Tensor] = {"torch": torch}
    exec("\n".join(lines), names)
    return names


def same(made: Made, tensor: torch.Tensor) -> None:
    assert made.shape == tuple(tensor.shape)
    assert (made.values == tensor.double().numpy()).all()
    assert made.strides == tensor.stride()
    assert made.offset == tensor.storage_offset()
    assert made.is_contiguous == tensor.is_contiguous()
    assert f"torch.{made.dtype}" == str(tensor.dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_tensor_counts_its_elements(shape):
    made = tensors.first(shape)
    same(made, run(made.code)["t"])
    assert made.values.ravel().tolist() == list(range(math.prod(shape)))


@pytest.mark.parametrize(
    ("text", "shape"),
    [("2, 3,4", (2, 3, 4)), ("(2,3)", (2, 3)), ("5", (5,)), ("5,", (5,)), ("", ()), ("()", ()), ("0", (0,))],
)
def test_shapes_are_read(text, shape):
    assert tensors.read_shape(text) == shape


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "whole numbers with commas"),
        ("2,-3", "whole numbers"),
        ("2,,3", "whole numbers"),
        ("2.5", "whole numbers"),
        ("١", "whole numbers"),
        ("1,1,1,1,1,1,1,1", "7 dimensions at most"),
        ("1000,1000", "1,000,000 elements; 480"),
        ("__import__('os')", "whole numbers"),
    ],
)
def test_what_is_no_shape_is_refused(text, words):
    with pytest.raises(FormulaError, match=words):
        tensors.read_shape(text)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("0", True),
        ("-1, :, 1:3", True),
        ("..., 1", True),
        ("None, 0", True),
        (":, ::2", True),
        ("1:, 2:1", True),
        ("[0, 1]", False),
        (":, [2, 0, 2], 1", False),
        ("[0, 1], [1, 2]", False),
        ("1, 2, 3", True),
    ],
)
def test_index_takes_what_torch_takes(text, shares):
    base, made = tensors.indexed((2, 3, 4), text)
    same(made, run(base.code, made.code)["result"])
    assert made.shares == shares or not made.values.size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "index 5 is out of bounds for dimension 0 with size 2"),
        ("0, 0, 0, 0", "too many indices"),
        ("::-1", "step must be greater than zero"),
        ("a", "An index is a whole number"),
        ("[0", "An index is a whole number"),
        ("1:2:3:4", "An index is a whole number"),
        ("t.data", "An index is a whole number"),
        ("", "Write 1 to 8 indices"),
        (",".join("0" * 9), "Write 1 to 8 indices"),
        ("9999999", "An index is a whole number"),
        ("[0, 1], [0, 1, 2]", "shape mismatch|broadcast"),
    ],
)
def test_index_that_takes_nothing_says_why(text, words):
    with pytest.raises(FormulaError, match=words):
        tensors.indexed((2, 3, 4), text)


@given(st.text(alphabet="0123456789-+:,[].None ()abx_", max_size=30))
def test_any_index_is_taken_as_torch_takes_it_or_refused_with_a_sentence(text):
    try:
        base, made = tensors.indexed((2, 3, 4), text)
    except FormulaError:
        return
    same(made, run(base.code, made.code)["result"])


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        ((2, 3), (3,), (2, 3)),
        ((2, 1, 3), (4, 1), (2, 4, 3)),
        ((), (2, 2), (2, 2)),
        ((1,), (0,), (0,)),
        ((3, 1), (1, 4), (3, 4)),
        ((2, 3), (2,), None),
        ((0,), (3,), None),
        ((4, 2, 3), (4, 3), None),
    ],
)
def test_shapes_are_broadcast_as_torch_does(left, right, total):
    fits = [fit.result for fit in tensors.aligned(left, right)]
    if total is None:
        assert None in fits
        with pytest.raises(FormulaError, match=r"size of tensor a \(\d\) must match the size of tensor b \(\d\)"):
            tensors.added(left, right)
        return
    a, b, made = tensors.added(left, right)
    assert (tuple(fits), made.shape) == (total, total)
    same(made, run(a.code, b.code, made.code)["result"])


def test_sum_that_cannot_be_drawn_is_refused():
    with pytest.raises(FormulaError, match="480 can be drawn"):
        tensors.added((100, 1), (1, 100))


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_and_copies_do_not(name):
    before, seen, after = tensors.viewed(name)
    names = run(before.code, seen.code)
    same(before, names["t"])
    same(seen, names["result"])
    exec(after.code, names)
    same(after, names["t"])
    assert seen.shares == bool((before.values != after.values).any())
    ends = sum(stride * (size - 1) for stride, size in zip(seen.strides, seen.shape, strict=True)) + seen.offset
    if seen.shares:
        last = seen.values[(-1,) * seen.values.ndim]
        assert before.values.ravel()[ends] == last, "strides and offset say where an element lies"


NUMBERS = (
    "0.1",
    "1",
    "0",
    "-2.7",
    "300",
    "16777217",
    "65504.5",
    "1e40",
    "-1e300",
    "1e-300",
    "2047.03125",
    "1e18",
    "9.3e18",
)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_kept_as_torch_keeps_them(number):
    for one in tensors.stored(number):
        kept = run(f"result = {one.code}")["result"]
        assert str(kept.dtype) == f"torch.{one.dtype}"
        assert kept.element_size() == one.bytes
        assert sum(map(len, one.bits)) == 8 * one.bytes
        if one.value in ("∞", "−∞"):
            assert kept.item() == float(one.value.replace("∞", "inf").replace("−", "-"))
            assert one.step is None
            continue
        shown = one.value.replace("−", "-")
        assert float(shown.replace("…", "")) == kept.item()
        if "…" not in shown:
            assert Decimal(shown) == Decimal(kept.item())
        if one.dtype in FLOATS and one.step is not None:
            step, magnitude = float(one.step.replace("…", "").replace("−", "-")), abs(kept.item())
            following = torch.tensor(magnitude + step, dtype=torch.float64).to(kept.dtype)
            assert following > kept.abs()
            assert torch.tensor(magnitude + 0.4 * step, dtype=torch.float64).to(kept.dtype) == kept.abs()


def test_bits_are_sign_exponent_and_fraction():
    for one in tensors.stored("-6.5"):
        if one.dtype in FLOATS:
            sign, exponent, fraction = one.bits
            bias = 2 ** (len(exponent) - 1) - 1
            assert (-1) ** int(sign) * 2.0 ** (int(exponent, 2) - bias) * (
                1 + int(fraction, 2) / 2 ** len(fraction)
            ) == -6.5


def test_adding_up_stops_where_the_step_is_too_large():
    found = {one.dtype: one.total for one in tensors.stored("0.1")}
    assert found["bfloat16"] == "32"
    total = torch.zeros((), dtype=torch.float32)
    for _ in range(TIMES):
        total += torch.tensor(0.1)
    assert str(Decimal(total.item())).startswith(found["float32"].removesuffix("…"))
    assert found["int64"] is None


@pytest.mark.parametrize("text", ["", "a", "nan", "inf", "1e301", "1e-301", "1" * 61, "0x10", "1_0_0e9999999999"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(FormulaError, match="Write a number"):
        tensors.stored(text)


def test_devices_are_timed():
    for device in tensors.devices():
        timed = tensors.timed(device)
        assert timed.copy > 0
        assert timed.product > 0
    assert tensors.devices()[0] == "cpu"


class Drawn(HTMLParser):
    """The cells and numbers of a picture."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.boxes: list[tuple[float, ...]] = []
        self.numbers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        style = dict(part.split(":") for part in (found["style"] or "").split(";"))
        if "role" in found:
            self.size = tuple(float(style[name].removesuffix("px")) for name in ("width", "height"))
        if "title" in found:
            box = tuple(float(style[name].removesuffix("px")) for name in ("left", "top", "width", "height"))
            self.boxes.append((*box, float(style["background"].removesuffix(")").rpartition(",")[2])))

    def handle_data(self, data: str) -> None:
        self.numbers.append(data)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape])
def test_picture_has_each_element_once_and_no_cell_over_another(shape):
    values = np.arange(math.prod(shape)).reshape(shape)
    drawn = Drawn(tensor_html(values, "t"))
    assert drawn.numbers == [str(number) for number in range(values.size)]
    corners = {(x, y) for x, y, *_ in drawn.boxes}
    assert len(corners) == values.size
    for x, y, width, height, _ in drawn.boxes:
        assert 0 <= x <= drawn.size[0] - width
        assert 0 <= y <= drawn.size[1] - height
        for other, below in corners - {(x, y)}:
            assert abs(x - other) >= width - 1 or abs(y - below) >= height - 1


def test_cells_that_stand_out_are_told():
    strong = np.array([[True, False], [False, True]])
    opacity = [box[4] for box in Drawn(tensor_html(np.zeros((2, 2)), "t", strong)).boxes]
    assert opacity[0] == opacity[3] > opacity[1] == opacity[2]


def test_tensor_without_elements_is_said():
    assert "no elements" in tensor_html(np.zeros((2, 0)), "t")
