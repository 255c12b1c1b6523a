"""Autograd's view: the graph of a typed formula, forward and backward, one step at a time."""

import streamlit as st

from dlkit.catalog.formulas import FUNCTIONS, names_in
from dlkit.catalog.views import VIEWS
from dlkit.descent.asked import Number
from dlkit.errors import DlkitError, FormulaError
from dlkit.figures.lessons import graph_figure
from dlkit.lab.code import code_of_graph
from dlkit.lab.graph import Graph, graph_of
from dlkit.words import escape_markdown
from pages.parts import lesson
from pages.parts.notices import show_error

PREFIX = "graph_"
FIRST = "(max(0, w*x + b) - y)^2"
FIRST_VALUES = {"w": "2", "x": "1.5", "b": "-1", "y": "3"}
OTHERWISE = "1"  # the value of a name that nobody gave one
CONTROLS = ("view", "formula", "values", "step", "text", "code")
GOOD, STEP = f"{PREFIX}good", f"{PREFIX}step"


def show() -> None:
    """Show the graph of a formula after so many steps."""
    with st.container(border=True):
        text = (
            lesson.ask_text(
                "formula",
                "Formula",
                key=f"{PREFIX}formula",
                placeholder=FIRST,
                help=f"Any names, numbers, pi, e, + - * / ^, parentheses, and {', '.join(FUNCTIONS)}.",
            )
            or FIRST
        )
        try:
            graph = ask_graph(text)
            if (hole := graph.undefined()) is not None:
                raise FormulaError(f"{hole.text} is {hole.value:g} here, and no number. Change a value.")
            st.session_state[GOOD] = text, graph
        except DlkitError as error:
            show_error(error)
    text, graph = st.session_state.get(GOOD) or (FIRST, graph_of(FIRST, FIRST_VALUES))
    show_steps(graph)
    lesson.show_text(VIEWS["graph"])
    lesson.show_code(code_of_graph(text, graph))


def ask_graph(text: str) -> Graph:
    """Ask for a number for each name; DlkitError where formula or numbers will not do."""
    names, values = names_in(text), {}
    grid = st.grid(columns=6, min_column_width=90)
    for name in names:
        default = FIRST_VALUES.get(name, OTHERWISE)
        with grid:
            values[name] = lesson.ask_text("values", name, key=f"{PREFIX}of_{name}", placeholder=default) or default
    return graph_of(text, values)


def show_steps(graph: Graph) -> None:
    """Let the visitor go through the steps, and show the graph after the last of them with its arithmetic."""
    forward = list(graph.forward())
    most = len(forward) + len(graph.backward)
    if STEP not in st.session_state:
        try:
            asked = Number("Step", most, 0, 1e6, is_whole=True).read("graph_step", st.query_params.get(STEP))
        except DlkitError as error:
            show_error(error)
            asked = most
        st.session_state[STEP] = int(asked or 0)
    st.session_state[STEP] = step = min(st.session_state[STEP], most)
    if most and not lesson.is_hidden("step"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            held = lesson.is_locked("step")
            st.button(
                "Back", key="do_back", icon=":material/skip_previous:", on_click=go, args=(step - 1,), disabled=held
            )
            st.button("Next", key="do_next", icon=":material/skip_next:", on_click=go, args=(step + 1,), disabled=held)
            st.button(
                "Start again", key="do_first", icon=":material/restart_alt:", on_click=go, args=(0,), disabled=held
            )
            step = st.slider("Step", 0, most, key=STEP, disabled=held)
    if step == most:
        st.query_params.pop(STEP, None)
    else:
        st.query_params[STEP] = str(step)
    if 0 < step <= len(forward):
        st.markdown(
            f"**Forward, step {step} of {len(forward)}**: {escape_markdown(graph.nodes[forward[step - 1].place].text)}"
        )
        st.latex(forward[step - 1].latex)
    elif step > len(forward):
        one = graph.backward[step - len(forward) - 1]
        sender, receiver = (escape_markdown(graph.nodes[place].text) for place in (one.sender, one.receiver))
        st.markdown(f"**Backward, step {step - len(forward)} of {len(graph.backward)}**: from {sender} to {receiver}")
        slope = " = ".join(dict.fromkeys(one.latex.split(" = ")))  # of a sum it is 1, which is not written twice
        share = rf"\text{{gradient}} \cdot \text{{it}} = {one.gradient:.6g} \cdot {one.slope:.6g} = {one.share:.6g}"
        with st.container(horizontal=True, gap="large"):
            st.latex(rf"\text{{own derivative: }} {slope}", width="content")
            st.latex(share, width="content")
            st.latex(rf"\text{{in all so far }} {one.total:.6g}", width="content")
    st.plotly_chart(graph_figure(graph, step), width="stretch", key=f"{PREFIX}figure")
    if step == most:
        told = ", ".join(f"∂/∂{escape_markdown(name)} = {value:.6g}" for name, value in graph.gradients().items())
        st.markdown(f"Value {graph.value:.6g}{'; ' if told else ''}{told}")


def go(step: int) -> None:
    """Go to a step."""
    st.session_state[STEP] = max(0, step)
