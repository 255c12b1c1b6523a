"""Work that goes on, on a page: a bar that moves by itself until the work ends."""

from collections.abc import Callable

import streamlit as st

from dlkit.figures.curves import MOST_POINTS
from dlkit.runs import service
from dlkit.runs.records import WAITING, Kind, Point, Run, State
from dlkit.words import duration, escape_markdown, size
from pages.parts.notices import told


def show_fetch(what: str, name: str, title: str, megabytes: float) -> None:
    """Offer a download, or show how far it is; when it ends the page is drawn anew."""
    run = _latest_fetch(what, name)
    if run is not None and run.is_active:
        follow(run.id)
        return
    if run is not None and run.state == State.FAILED:
        st.error(escape_markdown(run.failure or "The download failed."), icon=":material/cloud_off:")
    st.info(
        f"{escape_markdown(title)} is not on this machine yet: {size(megabytes)} to fetch.", icon=":material/cloud:"
    )
    if st.button("Fetch it", icon=":material/cloud_download:", key=f"fetch_{name}", type="primary"):
        with told():
            service.submit_fetch(what, name)
            st.rerun()


def show_bar(run: Run) -> None:
    """Show how far a run is, and how long it still takes."""
    if run.state in WAITING:
        st.progress(0.0, text=f"{run.state}: {_start_of(run)}")
        return
    parts = [f"asked to {run.wish}" if run.wish else run.progress.phase or "starting"]
    if run.progress.seconds_left is not None:
        parts.append(f"{duration(run.progress.seconds_left)} left")
    if run.progress.images_per_second:
        parts.append(f"{run.progress.images_per_second:.3g} pictures/s")
    st.progress(min(1.0, run.progress.share or 0.0), text=" · ".join(map(escape_markdown, parts)))


def _start_of(run: Run) -> str:
    """Return the place in the queue and the expected start in words."""
    for waiting in service.queue():
        if waiting.run.id == run.id:
            soon = waiting.starts_in
            when = "when the work before it is done" if soon is None else f"in about {duration(soon)}"
            return f"place {waiting.place}, it starts " + ("now" if soon == 0 else when)
    return "it starts now"


def points_of(run: Run, changes: int = 0) -> list[Point]:
    """Return the points of a run's curves, reading only those that this session has not seen yet.

    Of a long run the store gives every 2nd, 4th, … step, so that a curve has MOST_POINTS at most; how many is a
    function of the run alone, so that all tabs show the same. All is read anew with a new attempt, and after each of
    the `changes` that took effect: they may have shortened the curve. The last step is read again: an epoch's scores
    come to the step that ended it.
    """
    key, every = f"points_{run.id}", 1
    while run.step > every * MOST_POINTS:
        every *= 2
    version = (run.attempt, every, changes)
    known, points = st.session_state.get(key, (version, []))
    if known != version:
        points = []
    last = points[-1].step if points else 0
    new = service.store().curve(run.id, last - 1, every=every)
    points = [point for point in points if point.step < last] + new
    st.session_state[key] = version, points
    return points


@st.fragment(run_every=1)
@told()
def follow(run_id: str, has_news: Callable[[], bool] = lambda: False) -> None:
    """Show how far a download or a search is, with a button that ends it.

    The page is drawn anew when it has ended, and when it `has_news`.
    """
    service.ensure_supervisor()
    run = service.run(run_id)
    if not run.is_active or has_news():
        st.rerun()
    show_bar(run)
    if st.button("Cancel", key=f"cancel_{run_id}", icon=":material/close:"):
        service.cancel(run_id)


def _latest_fetch(what: str, name: str) -> Run | None:
    wanted = {"what": what, "name": name}
    return next((run for run in service.store().list_runs(Kind.FETCH) if run.config == wanted), None)
