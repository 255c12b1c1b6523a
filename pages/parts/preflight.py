"""The pre-flight card: what a run will take on this machine, before it is launched, and what to change."""

import streamlit as st

from dlkit.config import FinetuneConfig
from dlkit.estimate import Estimate, by_strategy
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.words import about, about_size, escape_markdown
from pages.parts.notices import told
from pages.parts.progress import follow


def show_strategies(estimates: dict[str, Estimate]) -> None:
    """Show in one line what each strategy would take, where that is known."""
    known = [f"{name} {about(one.seconds)}" for name, one in estimates.items() if one.seconds is not None]
    if known:
        st.caption(" · ".join(known))


def show_card(config: FinetuneConfig, estimates: dict[str, Estimate]) -> None:
    """Show time, memory and disk, what they rest on, and what does not fit; offer to measure what is not known."""
    expected = estimates[config.strategy]
    figures = (
        ("Time", _short(about(expected.seconds)), _phases(expected)),
        (
            "Memory",
            _short(about_size(expected.memory_mb)),
            "The most that the run needs at a time; on a GPU, of the GPU's memory.",
        ),
        ("Disk", _short(about_size(expected.disk_mb)), "What the run may write at most while it goes on."),
    )
    with st.container(horizontal=True, gap="small"):  # not as metrics: three of them are wider than the card
        for label, value, meaning in figures:
            st.markdown(f":gray[{label}]  \n**{value}**", help=meaning, width="content")
    st.caption(escape_markdown(expected.basis))
    for note in expected.notes:
        st.info(escape_markdown(note), icon=":material/info:")
    show_measuring(config, estimates)


def show_measuring(config: FinetuneConfig, estimates: dict[str, Estimate]) -> None:
    """Show how far the measuring of such a run is, or offer it where it is missing.

    What it finds is shown as it comes: this strategy's first.
    """
    run = service.latest_measure(config)
    if run is not None and run.is_active:
        follow(run.id, lambda: by_strategy(config) != estimates)
        return
    if estimates[config.strategy].is_measured:
        return
    if run is not None and run.state == State.FAILED:
        st.error(escape_markdown(run.failure or "The measuring failed."), icon=":material/error:")
    if st.button(
        "Measure",
        icon=":material/speed:",
        key="measure",
        help="Tries a few batches on this machine, for ten seconds or so: once per data set, backbone, image size, "
        "number format, and where the last layers begin.",
    ):
        with told():
            service.submit_measure(config)
            st.rerun()


def estimates_of(config: FinetuneConfig | None) -> dict[str, Estimate]:
    """Return what each strategy would take with these settings."""
    return {} if config is None else by_strategy(config)


def _short(estimated: str) -> str:
    """Write an estimate with a sign for its "about", so that three of them stand side by side."""
    return estimated.replace("about ", "≈\u202f")


def _phases(expected: Estimate) -> str:
    return " · ".join(f"{what} {about(seconds)}" for what, seconds in expected.phases) or "Not measured here yet."
