"""The perceptron's view: one example after the other, its own rule, and the wall of XOR."""

import streamlit as st

from dlkit.catalog.point_sets import POINT_SETS
from dlkit.catalog.views import VIEWS
from dlkit.descent.asked import Number
from dlkit.errors import DlkitError
from dlkit.figures.lessons import mistakes_figure, perceptron_figure
from dlkit.lab.code import code_of_perceptron
from dlkit.lab.perceptron import after, next_mistake
from dlkit.lab.points import Points, drawn
from dlkit.words import number
from pages.parts import lesson
from pages.parts.notices import show_error

PREFIX = "perceptron_"
COUNT, NOISE = 60, 0.03
MOST_SEEN = 6000
NUMBERS = {
    "rate": Number("Learning rate", 1, 0, 1000, is_from=False),
    "seed": Number("Seed", 0, 0, 2**31 - 1, is_whole=True),
    "seen": Number("Examples seen", 0, 0, MOST_SEEN, is_whole=True),
}
DATA = {name: entry.title for name, entry in POINT_SETS.items()}
CONTROLS = (
    "view",
    "data",
    *NUMBERS,
    "one_example",
    "one_mistake",
    "one_epoch",
    "restart",
    "to_network",
    "text",
    "code",
)
GOOD = f"{PREFIX}good"


def show() -> None:
    """Show a perceptron after so many examples."""
    with st.container(border=True):
        grid = st.grid(columns=4, min_column_width=110)
        with grid:
            data = lesson.ask_choice(
                "data", "Data", list(DATA), key=f"{PREFIX}data", default="blobs", titles=DATA.__getitem__
            )
        texts = {}
        for name, about in NUMBERS.items():
            with grid:
                texts[name] = lesson.ask_text(name, about.title, key=PREFIX + name, placeholder=f"{about.default:g}")
    try:
        rate, seed, seen = (about.read(name, texts[name]) or 0.0 for name, about in NUMBERS.items())
        st.session_state[GOOD] = data, rate, int(seed), int(seen)
    except DlkitError as error:
        show_error(error)
    data, rate, seed, seen = st.session_state.get(GOOD, (data, 1.0, 0, 0))
    points = drawn(data, COUNT, 2, NOISE, seed)
    show_buttons(points, rate, seed, seen)
    show_line(points, rate, seed, seen)
    lesson.ask_button("to_network", "Learn these with a hidden layer", "hub", lambda: to_network(data))
    lesson.show_text(VIEWS["perceptron"])
    lesson.show_code(code_of_perceptron(rate))


def show_buttons(points: Points, rate: float, seed: int, seen: int) -> None:
    """Show what lets it see more examples."""
    epoch = len(points.train()[1])
    with st.container(horizontal=True):
        lesson.ask_button("one_example", "One example", "looks_one", lambda: see(seen + 1), is_first=True)
        lesson.ask_button(
            "one_mistake",
            "Next mistake",
            "error",
            lambda: see(next_mistake(points, seen, min(seen + 10 * epoch, MOST_SEEN), rate, seed)),
        )
        lesson.ask_button("one_epoch", "One epoch", "redo", lambda: see((seen // epoch + 1) * epoch))
        lesson.ask_button("restart", "Start again", "restart_alt", lambda: see(0))


def to_network(data: str) -> None:
    """Go to the view of networks, with the same kind of points."""
    st.session_state["network_view"] = "network"
    st.query_params["network_data"] = data


def see(seen: int) -> None:
    """Fill the field of how many examples are seen."""
    st.session_state[f"{PREFIX}seen"] = str(min(seen, MOST_SEEN))


def show_line(points: Points, rate: float, seed: int, seen: int) -> None:
    """Show the line, the last correction with its numbers, and the mistakes of each epoch."""
    found = after(points, seen, rate, seed)
    left, right = st.columns(2)
    left.plotly_chart(perceptron_figure(points, found), width="stretch", key=f"{PREFIX}line")
    right.plotly_chart(mistakes_figure(found), width="stretch", key=f"{PREFIX}mistakes")
    wrong, perceptron = len(found.perceptron.wrong()), found.perceptron
    told = f"{seen} examples seen, {perceptron.mistakes} mistakes corrected; {wrong} of {COUNT} points are wrong now."
    if not wrong:
        told += f" A line with this margin is found after {number(perceptron.longest())} mistakes at most (Novikoff)."
    st.markdown(told)
    if found.last:
        one, (x, y) = found.last, points.train()[0][found.last.place]
        sign = "wrong" if one.is_mistake else "right"
        before = one.weights - one.delta
        st.latex(
            rf"w \cdot x + b = {before[0]:.4g} \cdot ({x:.4g}) + ({before[1]:.4g}) \cdot ({y:.4g})"
            rf" + ({one.bias - one.bias_delta:.4g}) = {one.sum:.4g}, \quad \text{{side }} {one.side:+d}"
            rf"\text{{: {sign}}}"
        )
        if one.is_mistake:
            st.latex(
                rf"w \leftarrow w + \eta \cdot \text{{side}} \cdot x = ({one.weights[0]:.4g}, {one.weights[1]:.4g}),"
                rf" \quad b \leftarrow b + \eta \cdot \text{{side}} = {one.bias:.4g}"
            )
