"""The view of one step of a run: a batch, a parameter and one of its weights, with every number on the way."""

from typing import TYPE_CHECKING

import streamlit as st

from dlkit.catalog.formulas import latex_held, latex_number, read_formula
from dlkit.catalog.updates import RULES, SYMBOLS
from dlkit.catalog.views import STEP_VIEW
from dlkit.descent.asked import Number
from dlkit.errors import ConfigError
from dlkit.figures.layers import spread_figure
from dlkit.lab.code import code_of_step
from dlkit.words import escape_markdown, number
from pages.parts import lesson, link, looking
from pages.parts.notices import show_empty, show_error

if TYPE_CHECKING:
    from dlkit.engine.inside import Source
    from dlkit.engine.one_step import OneStep

PREFIX = looking.PREFIX
FIRST = "head.weight"  # learns in every phase
BATCH = Number("Batch", 0, 0, 10**6, is_whole=True)
PARAMETER = f"{PREFIX}parameter"
ROOM = r"\vphantom{\frac{10^{-5}}{1}}"  # above a fraction, whose numerator Streamlit 1.67 cuts otherwise


def show_none() -> None:
    """Say what a step is taken from, where there is nothing."""
    show_empty("A step is taken from a run's checkpoint. Choose a run above that has one.", "train.py", "Train")


def show(model: str, checkpoint: str) -> None:
    """Show what one more step of a run would do to one weight."""
    source = looking.source_of(model, checkpoint)
    left, middle, right = st.columns([1, 3, 1])
    with left:
        text = st.text_input(
            BATCH.title,
            key=f"{PREFIX}batch",
            placeholder="0",
            bind="query-params",
            help="Of the run's first epoch, counted from 0.",
        )
    batch = int(BATCH.read(f"{PREFIX}batch", text) or 0)
    step = take(source, batch)
    with middle:
        link.choose(
            st.selectbox,
            "Parameter",
            list(step.learning),
            key=PARAMETER,
            default=FIRST,
            format_func=lambda name: f"{name}, {'×'.join(map(str, step.learning[name])) or 'a number'}",
        )
    with right:
        index = ask_index(step)
    show_numbers(step, index)
    show_lines(step, index)
    update = step.update
    st.markdown(f"**All weights of {escape_markdown(step.parameter)}**: how large they, their gradients and steps are")
    figure = spread_figure(update.weights, update.gradient, update.delta)
    st.plotly_chart(figure, key=f"{PREFIX}spread", config={"displayModeBar": False}, alt="Sizes by powers of ten")
    norms = step.of_weight(index)["norms"]
    share = norms["delta"] / norms["weights"] if norms["weights"] else float("inf")
    st.caption(f"‖step‖ / ‖weights‖ = {number(share)}; about a thousandth is common in practice.")
    lesson.show_text(STEP_VIEW)
    one = update.at(index)
    lesson.show_code(code_of_step(one.rule, one.given, one.memory))


def take(source: "Source", batch: int) -> "OneStep":
    """Return the step for the chosen parameter; where it does not learn, say so and take that of the head."""
    asked = st.session_state.get(PARAMETER) or st.query_params.get(PARAMETER, FIRST)
    try:
        return looking.step(source, asked, batch)
    except ConfigError as error:
        if asked == FIRST:
            raise
        show_error(error)
        st.session_state.pop(PARAMETER, None)
        st.query_params.pop(PARAMETER, None)
        return looking.step(source, FIRST, batch)


def ask_index(step: "OneStep") -> tuple[int, ...]:
    """Let the visitor choose one weight of the parameter, and say where there is none like it."""
    first = (0,) * len(step.learning[step.parameter])
    text = st.text_input(
        "Weight at",
        key=f"{PREFIX}index",
        placeholder=",".join(map(str, first)),
        bind="query-params",
        help=f"Its place in a tensor of the shape {step.learning[step.parameter]}, counted from 0.",
    )
    if not text:
        return first
    try:
        index = tuple(int(part) for part in text.split(","))
        step.update.at(index)
    except ValueError:
        show_error(ConfigError([f"A place is whole numbers with commas between, as in 2,7; it is {text[:40]!r}."]))
        return first
    except ConfigError as error:
        show_error(error)
        return first
    return index


def show_numbers(step: "OneStep", index: tuple[int, ...]) -> None:
    """Show what the batch said: what the unit put out, the loss, and how large all gradients are together."""
    columns = st.columns(4)
    columns[0].metric("Loss of the batch", number(step.loss), help=f"{len(step.pictures)} pictures.")
    columns[1].metric("Gradient of this weight", number(float(step.update.at(index).gradient)))
    clipped = f"Clipped: all were multiplied by {step.clipping:.3g}." if step.clipping < 1 else "Not clipped."
    columns[2].metric("Norm of all gradients", number(step.norm), help=clipped)
    if step.outputs is not None and index:
        unit = step.outputs.of(index[0])
        columns[3].metric(
            f"Output of unit {index[0]}",
            number(unit["mean"]),
            help=f"Mean over the batch; its deviation is {number(unit['deviation'])}.",
        )


def show_lines(step: "OneStep", index: tuple[int, ...]) -> None:
    """Show the optimizer's lines with this weight's numbers."""
    told = step.of_weight(index)
    rule = RULES[told["rule"]]
    now, lines = dict(told["given"]), told["lines"]
    st.markdown(
        f"**Step {step.number}**, {escape_markdown(step.phase)}: {escape_markdown(step.parameter)} at "
        f"{', '.join(map(str, index)) or 'its only place'}, by {escape_markdown(rule.title)}. It begins with"
    )
    with st.container(horizontal=True, gap="medium"):
        for name, value in now.items():
            st.latex(f"{SYMBOLS[name]} = {latex_number(value)}", width="content")
    st.markdown("and becomes, line by line,")
    for line in lines:
        name, formula = line["name"], read_formula(line["formula"], now)
        numbers = formula.latex({inner: latex_number(now[inner]) for inner in formula.names()}, are_numbers=True)
        now[name] = line["value"]
        with st.container(horizontal=True, gap=None):
            st.latex(rf"{SYMBOLS[name]} = {formula.latex(SYMBOLS)}\;", width="content")
            st.latex(rf"= {ROOM} {numbers}\;", width="content")
            st.latex(rf"= {latex_number(now[name])}", width="content")
    delta = latex_held(told["delta"])
    with st.container(horizontal=True, gap=None):
        st.latex(rf"w + \Delta = {latex_number(now['w'])} + {delta}\;", width="content")
        st.latex(rf"= {latex_number(told['after'])}", width="content")
