"""Tensors: shapes, indices, broadcasting, memory, number types and devices, each a line of PyTorch that is run."""

from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st

from dlkit.catalog.views import TENSOR_VIEWS
from dlkit.errors import DlkitError
from dlkit.figures.tensors import bits_html, tensor_html
from dlkit.words import count
from pages.parts import lesson, warmth
from pages.parts.notices import show_error

CONTROLS = ("view", "shape", "index", "left", "right", "look", "number", "text", "code")
NAMES = {1: "a row", 2: "a grid", 3: "a colour picture", 4: "a batch of pictures", 5: "a batch of films"}
#: what is typed for each view: title and default
FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "shapes": {"shape": ("Shape", "2, 3, 4")},
    "indexing": {"shape": ("Shape", "2, 3, 4"), "index": ("Index", "0, :, 1:3")},
    "broadcasting": {"left": ("Shape of a", "4, 1, 3"), "right": ("Shape of b", "2, 1")},
    "memory": {},
    "numbers": {"number": ("Number", "0.1")},
    "devices": {},
}


def asked(view: str) -> dict[str, str]:
    """Return what is typed into the view's fields."""
    fields = FIELDS[view]
    columns = st.columns(max(1, len(fields)))
    found = {}
    for column, (name, (title, default)) in zip(columns, fields.items(), strict=False):
        with column:
            text = lesson.ask_text(name, title, key=f"tensors_{name}", placeholder=default)
            found[name] = text.strip() or default
    return found


def show_shapes(shape: str) -> str:
    """Show a tensor of the shape that is asked for; return the code."""
    made = tensors.first(tensors.read_shape(shape))
    draw(made, "t")
    if made.values.size:
        last = tuple(size - 1 for size in made.shape)
        sums = " + ".join(f"{index}·{stride}" for index, stride in zip(last, made.strides, strict=True)) or "0"
        st.markdown(f"`t[{', '.join(map(str, last))}]` lies at {sums} = {int(made.values[last])} in memory.")
    return made.code


def show_indexing(shape: str, index: str) -> str:
    """Show what an index takes of a tensor; return the code."""
    base, taken = tensors.indexed(tensors.read_shape(shape), index)
    draw(base, "t", np.isin(base.values, taken.values))
    draw(taken, "result")
    say_whose(taken)
    return f"{base.code}\n{taken.code}"


def show_broadcasting(left: str, right: str) -> str:
    """Show two tensors, how their shapes fit, and their sum; return the code."""
    first, second = tensors.read_shape(left), tensors.read_shape(right)
    show_fits(tensors.aligned(first, second))
    a, b, total = tensors.added(first, second)
    for name, made in (("a", a), ("b", b)):
        draw(made, name)
        if made.shape != total.shape:
            st.caption(f"{name} as it is added, {written(total.shape)}: the pale ones are repeated, not copied.")
            stretched = np.broadcast_to(made.values, total.shape)
            st.html(tensor_html(stretched, name, own(made.shape, total.shape)))
    draw(total, "result")
    return f"{a.code}\n{b.code}\n{total.code}"


def show_fits(fits: Sequence["tensors.Fit"]) -> None:
    """Show two shapes below each other, and what they make."""
    rows = {
        "a": ["missing" if fit.left is None else str(fit.left) for fit in fits],
        "b": ["missing" if fit.right is None else str(fit.right) for fit in fits],
        "result": ["do not fit" if fit.result is None else str(fit.result) for fit in fits],
    }
    if fits:
        places = [f"dimension {number}" for number in range(len(fits))]
        st.dataframe(
            [{"": name, **dict(zip(places, sizes, strict=True))} for name, sizes in rows.items()], hide_index=True
        )


def show_memory() -> str:
    """Show a look at a tensor or a copy, what is shared, and what writing into it changes; return the code."""
    lines = {name: line for name, (line, _) in tensors.VIEWS.items()}
    name = lesson.ask_choice(
        "look",
        "Another look",
        list(lines),
        key="tensors_look",
        default="transposed",
        titles=lines.__getitem__,
    )
    before, seen, after = tensors.viewed(name)
    draw(before, "t")
    draw(seen, "result")
    say_whose(seen)
    if seen.shares:
        st.caption("In memory: the places that the result looks at.")
        st.html(tensor_html(before.values.ravel(), "memory", np.isin(before.values, seen.values).ravel()))
    st.code(after.code, language="python")
    st.caption("t afterwards: it has changed." if seen.shares else "t afterwards: as before.")
    st.html(tensor_html(after.values, "t", after.values != before.values))
    return f"{before.code}\n{seen.code}\n{after.code}\nprint(t)"


def show_numbers(number: str) -> str:
    """Show how each number type keeps a number; return the code."""
    kept = tensors.stored(number)
    rows = [
        {
            "type": one.dtype,
            "bytes": one.bytes,
            "is kept as": one.value,
            "off by": one.off,
            "next larger": f"+ {one.step}" if one.step else "–",
            f"{count(tensors.TIMES)} added up": one.total or "–",
        }
        for one in kept
    ]
    st.dataframe(rows, hide_index=True, width="stretch")
    st.caption("The bits. Of floating-point types: sign, exponent, fraction.")
    st.html("".join(bits_html(one.dtype, one.bits) for one in kept))
    return "\n".join(f"print({one.code}.item())" for one in kept)


def show_devices() -> str:
    """Show what torch can compute on here, and what it takes there; return the code."""
    found = timed()
    rows = [
        {"device": one.device, "1000 × 1000 numbers to it, ms": one.copy, "their product there, ms": one.product}
        for one in found
    ]
    number = st.column_config.NumberColumn(format="%.2f")
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={name: number for name in rows[0] if name.endswith("ms")},
    )
    if len(found) == 1:
        st.info("This machine has no GPU that torch can use, so everything is computed on the CPU.")
    return (
        'device = "cuda" if torch.cuda.is_available() else "cpu"\n'
        "t = torch.rand(1000, 1000).to(device)\nresult = t @ t\nprint(result.device)"
    )


@st.cache_data(show_spinner="Trying them …", ttl=600)
def timed() -> list["tensors.Timed"]:
    """Return what each device takes, tried every ten minutes at most."""
    return [tensors.timed(device) for device in tensors.devices()]


def draw(made: "tensors.Made", name: str, strong: np.ndarray | None = None) -> None:
    """Show the line, the picture, and how it lies in memory."""
    st.code(made.code, language="python")
    st.html(tensor_html(made.values, name, strong))
    dimensions = len(made.shape)
    kind = f", {dimensions} dimension{'s' * (dimensions > 1)} as {NAMES[dimensions]} has" if dimensions in NAMES else ""
    st.caption(
        f"{written(made.shape)}{kind} · {count(made.values.size)} elements · {made.dtype} · strides "
        f"{written(made.strides)} · offset {made.offset} · {'contiguous' if made.is_contiguous else 'not contiguous'}"
    )


def say_whose(made: "tensors.Made") -> None:
    """Say whether a result has memory of its own."""
    st.markdown("It is a **view**: the same memory." if made.shares else "It is a **copy**: memory of its own.")


def own(shape: tuple[int, ...], whole: tuple[int, ...]) -> np.ndarray:
    """Return which elements of a stretched tensor, bool of shape `whole`, are not repetitions."""
    is_own = np.zeros(whole, bool)
    padded = (*(1,) * (len(whole) - len(shape)), *shape)
    is_own[tuple(slice(1) if size == 1 else slice(None) for size in padded)] = True
    return is_own


def written(shape: tuple[int, ...]) -> str:
    """Return a shape as Python writes it."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


SHOWS: dict[str, Callable[..., str]] = {
    "shapes": show_shapes,
    "indexing": show_indexing,
    "broadcasting": show_broadcasting,
    "memory": show_memory,
    "numbers": show_numbers,
    "devices": show_devices,
}

st.title("Tensors")
lesson.check(CONTROLS)
view = lesson.ask_choice(
    "view",
    "View",
    list(TENSOR_VIEWS),
    key="tensors_view",
    default="shapes",
    titles=lambda name: TENSOR_VIEWS[name].title,
    draw=st.segmented_control,
)
if not lesson.may_load("Run the examples", "play_arrow"):
    lesson.show_text(TENSOR_VIEWS[view])
    st.stop()
with st.spinner("Loading PyTorch …", show_time=True), warmth.torch_loaded():
    from dlkit.engine import tensors
values = asked(view)
good = f"tensors_good_{view}"
try:
    with st.container():
        code = SHOWS[view](**values)
    st.session_state[good] = values
except DlkitError as error:
    show_error(error)
    code = SHOWS[view](**st.session_state.get(good, {name: default for name, (_, default) in FIELDS[view].items()}))
lesson.show_text(TENSOR_VIEWS[view])
if code:
    lesson.show_code(f"import torch\n\n{code}\n")
