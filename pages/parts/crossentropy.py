"""The view of softmax and cross-entropy: logits on sliders, probabilities, loss and gradient at once."""

import streamlit as st

from dlkit.catalog.views import VIEWS
from dlkit.errors import DlkitError
from dlkit.figures.lessons import judged_figure, losses_figure
from dlkit.lab.code import code_of_question
from dlkit.lab.softmax import NUMBERS, Question, read
from dlkit.words import number
from pages.parts import lesson
from pages.parts.notices import show_error

PREFIX = "softmax_"
FIRST = "2,1,-1"
REACH, MOST_SLIDERS = 20.0, 12
CONTROLS = ("view", "logits", *NUMBERS, "weights", "text", "code")
GOOD = f"{PREFIX}good"


def show() -> None:
    """Show what softmax and cross-entropy make of one example's logits."""
    with st.container(border=True):
        texts = {
            "logits": lesson.ask_text(
                "logits", "Logits, one for each class", key=f"{PREFIX}logits", placeholder=FIRST, help="2,1,-1"
            )
            or FIRST
        }
        grid = st.grid(columns=4, min_column_width=130)
        for name, about in NUMBERS.items():
            with grid:
                texts[name] = lesson.ask_text(name, about.title, key=PREFIX + name, placeholder=f"{about.default:g}")
        with grid:
            texts["weights"] = lesson.ask_text(
                "weights", "Class weights", key=f"{PREFIX}weights", placeholder="all 1", help="One for each: 1,1,3"
            )
        try:
            st.session_state[GOOD] = read(texts)
        except DlkitError as error:
            show_error(error)
        question: Question = st.session_state.get(GOOD) or read({"logits": FIRST})
        show_sliders(question)
    show_judged(question)
    lesson.show_text(VIEWS["softmax"])
    lesson.show_code(code_of_question(question))


def show_sliders(question: Question) -> None:
    """Show a slider for each logit; they follow the field, and fill it when they are moved."""
    if lesson.is_hidden("logits") or len(question.logits) > MOST_SLIDERS:
        return
    keys = [f"{PREFIX}logit_{place}" for place in range(len(question.logits))]

    def moved(place: int) -> None:
        logits = [f"{logit:g}" for logit in question.logits]
        logits[place] = f"{st.session_state[keys[place]]:g}"
        st.session_state[f"{PREFIX}logits"] = ",".join(logits)

    grid = st.grid(columns=4, min_column_width=130)
    for place, (key, logit) in enumerate(zip(keys, question.logits, strict=True)):
        st.session_state[key] = min(REACH, max(-REACH, logit))
        with grid:
            st.slider(
                f"Logit of class {place}",
                -REACH,
                REACH,
                step=0.1,
                key=key,
                on_change=moved,
                args=(place,),
                disabled=lesson.is_locked("logits"),
            )


def show_judged(question: Question) -> None:
    """Show probabilities, targets and gradient, both losses, and what happens to the letter of the formula."""
    judged, squared = question.judge(), question.by_squared_error()
    with st.container(horizontal=True, gap="large", vertical_alignment="center"):
        st.latex(r"p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}", width="content")
        st.latex(rf"L = -\sum_i q_i \log p_i = {judged.loss:.6g}", width="content")
        st.latex(r"\frac{\partial L}{\partial z} = \frac{p - y}{T} \text{ if unsmoothed}", width="content")
    left, right = st.columns(2)
    left.plotly_chart(judged_figure(judged), width="stretch", key=f"{PREFIX}judged")
    curves = losses_figure(question.along_right_logit(), question.logits[question.label])
    right.plotly_chart(curves, width="stretch", key=f"{PREFIX}losses")
    st.caption(
        f"The squared error says {number(squared.loss)}; its gradient by the right class's logit is "
        f"{number(float(squared.gradient[0, question.label]))}, that of cross-entropy "
        f"{number(float(judged.gradient[0, question.label]))}."
    )
    st.markdown("**By the letter and safely.** The plain loss, without temperature, smoothing and weights:")
    rows = [
        {
            "Precision": one.name,
            "By the letter": f"{one.naive_loss:.6g}",
            "Largest logit taken off first": f"{one.loss:.6g}",
            "The letter is": "right" if one.is_naive_enough else "wrong",
        }
        for one in question.precisions()
    ]
    st.dataframe(rows, hide_index=True, width="content")
