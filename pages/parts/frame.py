"""What stands at the foot of the sidebar on every page: running work and the machine."""

import streamlit as st

from dlkit import machine
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.words import escape_markdown
from pages.parts.notices import told
from pages.parts.progress import show_bar


def show_frame() -> None:
    """Draw the foot of the sidebar; it refreshes by itself while something runs."""
    active = service.store().active()
    service.keep_going()
    with st.sidebar:
        if service.store().unwritable:
            st.warning(
                "The data folder can only be read: you can look and classify, not launch.", icon=":material/lock:"
            )
        st.fragment(_work, run_every=2 if active else None, key="frame_work")(len(active))
        st.caption(f":material/memory: {_machine().headline}")


@told()
def _work(known: int) -> None:
    active = service.store().active()
    for run in active:
        if run.state != State.RUNNING:
            continue
        st.page_link(
            "runs.py", label=escape_markdown(run.name), icon=":material/play_circle:", query_params={"run": run.id}
        )
        show_bar(run)
    running = sum(run.state == State.RUNNING for run in active)
    if active:
        st.caption(f"{running} running · {len(active) - running} queued")
    if len(active) != known and not active:
        st.rerun()  # nothing runs any more: draw the page once without the timer


@st.cache_data(ttl=10, show_spinner=False)
def _machine() -> machine.Machine:
    return machine.describe()
