"""The learning-rate finder on a page: a button, the work, the curve, and a button for each rate that it suggests."""

from contextlib import suppress

import streamlit as st

from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.config import FinetuneConfig
from dlkit.errors import RunError
from dlkit.figures.rates import finder_figure
from dlkit.runs import service
from dlkit.runs.records import Run, State
from dlkit.words import escape_markdown, rate
from pages.parts.notices import told
from pages.parts.progress import follow

READING = (
    "A trial training in which the learning rate grows from step to step. Where the rate is too small the loss hardly "
    "changes, where it is too large it rises. Choose a rate at which it still falls steeply, well before the lowest "
    "point; *valley* is a good first choice. Source: [Smith 2017](https://arxiv.org/abs/1506.01186); the names are "
    "fastai's."
)


def show_finder(config: FinetuneConfig | None) -> None:
    """Offer to search a rate for this config, or show how far the search is, and what it has found."""
    run = _search_for(config)
    if run is not None and run.is_active:
        follow(run.id)
        return
    is_asked = st.button(
        "Find a learning rate",
        icon=":material/query_stats:",
        key="find_rate",
        disabled=config is None,
        help="Tries a hundred rates, a step at each, on a copy of the model. Takes a fraction of a training.",
    )
    if is_asked and config is not None:
        with told():
            st.session_state["search"] = service.submit_find(config).id
            st.rerun()
    if run is None:
        return
    if run.state == State.FAILED:
        st.error(escape_markdown(run.failure or "The search failed."), icon=":material/error:")
        st.page_link("runs.py", label="What happened", icon=":material/history:", query_params={"run": run.id})
    if run.state == State.SUCCEEDED:
        with st.container(border=True):
            changed = [] if config is None else service.differences(run, config)
            if changed:
                st.warning(
                    f"Since this curve was made these settings have changed: {', '.join(changed)}. Search again.",
                    icon=":material/history:",
                )
            show_curve(run)
            _offer(run)


def show_curve(run: Run) -> None:
    """Show what a search has found as a curve, and how to read it."""
    if not run.summary:
        return
    found = run.summary
    st.plotly_chart(
        finder_figure(found["rates"], found["losses"], found["smoothed"], found["suggestions"]),
        key=f"curve_{run.id}",
        config={"displayModeBar": False},
        alt="The loss of a trial training over its growing learning rate",
    )
    if found["note"]:
        st.info(escape_markdown(found["note"]), icon=":material/info:")
    st.caption(READING)


def _offer(run: Run) -> None:
    """Draw a button for each suggested rate."""
    with st.container(horizontal=True):
        for name, value in run.summary["suggestions"].items():
            entry = SUGGESTIONS[name]
            label = f"Use {rate(value)} ({entry.title})"
            st.button(label, key=f"use_{name}", help=entry.summary, on_click=_use, args=(rate(value),))


def _use(text: str) -> None:
    """Fill the field of the learning rate; its slider follows."""
    st.session_state["learning_rate"] = text


def _search_for(config: FinetuneConfig | None) -> Run | None:
    """Return the search to show: this session's while it is at work or fits, else one that fits, else this session's.

    One that fits may be older than the session, so that a reload or a second tab shows it too.
    """
    own = None
    with suppress(RunError):  # an older one that was removed meanwhile
        own = service.run(st.session_state.get("search", ""))
    if own is not None and (own.is_active or (config is not None and not service.differences(own, config))):
        return own
    fitting = None if config is None else service.latest_find(config)
    return fitting or own
