"""Boxes for what went wrong, what is not there yet, and what a state is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import streamlit as st

from dlkit.errors import ConfigError, DlkitError
from dlkit.runs.records import State
from dlkit.words import escape_markdown

COLOURS: dict[State, Literal["gray", "blue", "green", "orange", "red"]] = {
    State.QUEUED: "gray",
    State.RUNNING: "blue",
    State.PAUSED: "orange",
    State.SUCCEEDED: "green",
    State.STOPPED: "orange",
    State.CANCELLED: "gray",
    State.FAILED: "red",
    State.INTERRUPTED: "orange",
}


@contextmanager
def told() -> Iterator[None]:
    """Show an error that the user can mend as a box, and go on with the rest of the page."""
    try:
        yield
    except DlkitError as error:
        show_error(error)


def show_error(error: DlkitError) -> None:
    """Show one error, a line for each problem."""
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    st.error("\n\n".join(escape_markdown(problem) for problem in problems), icon=":material/error:")


def show_state(state: State) -> None:
    """Show the state of a run as a badge."""
    st.badge(state.value, color=COLOURS[state])


def show_empty(text: str, page: str, label: str) -> None:
    """Say that there is nothing yet, with the one link that changes that."""
    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        st.markdown(text, text_alignment="center", width="stretch")
        st.page_link(page, label=label, icon=":material/arrow_forward:")
        st.space("small")
