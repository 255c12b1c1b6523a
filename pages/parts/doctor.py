"""The doctor on a page: what is wrong with a data set, with its pictures, and a button for each way to mend it.

A button makes a version of the set, as curating does, and can be undone. Sets that were not imported are looked at, but
cannot be changed.
"""

import streamlit as st

from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DatasetEntry
from dlkit.data.cases import Case, open_case, traces
from dlkit.data.doctor import Finding, Fix, Group, Severity
from dlkit.data.edits import SPLIT_TITLES
from dlkit.data.opinions import BACKBONE, Opinions, read_opinions
from dlkit.data.suspicions import examine, unexamined
from dlkit.data.versions import Version, history
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.words import count, escape_markdown
from pages.parts import curating, pictures
from pages.parts.progress import follow

BADGES: dict[Severity, tuple[str, str]] = {
    Severity.SERIOUS: ("serious", "red"),
    Severity.WORTH_A_LOOK: ("worth a look", "orange"),
    Severity.MINOR: ("minor", "gray"),
}
GROUPS_AT_ONCE = 12
PICTURES_AT_ONCE = 6  # of a group
WIDTH = 112  # pixels of a picture


def show_doctor(entry: DatasetEntry) -> None:
    """Show what is wrong with a data set, the worst first, and what has not been looked at."""
    version = changeable(entry)
    case, opinions, findings = examined(entry)
    if version is not None:
        curating.show_outcome(history(entry.name)[0], entry)
    show_missing(entry, case, opinions)
    if not findings and not case.unseen:
        st.success("Nothing was found.", icon=":material/check:")
    elif findings and version is None:
        st.caption("Of a copy of your own, or of the newest version of one, what is found can be mended at a press.")
    for finding in findings:
        with st.container(border=True):
            show_finding(case, finding, version)


def changeable(entry: DatasetEntry) -> Version | None:
    """Return the version that is shown where it can be changed: the newest of an imported set."""
    if not entry.folder or history(entry.name)[0].number != entry.version:
        return None
    return curating.version_of(entry.pinned, entry.folder)


def examined(entry: DatasetEntry) -> tuple[Case, Opinions | None, list[Finding]]:
    """Return what is known of a data set, and what is wrong with it."""
    fingerprint = "" if entry.folder else pictures.dataset_of(entry.name).fingerprint
    return _examined(entry.pinned, entry.folder, fingerprint, traces(entry.pinned, fingerprint))


@st.cache_resource(max_entries=8, show_spinner="Examining the pictures …")
def _examined(name: str, folder: str, fingerprint: str, known: str) -> tuple[Case, Opinions | None, list[Finding]]:
    case = open_case(name)
    opinions = read_opinions(case, BACKBONE)
    return case, opinions, examine(case, opinions)


def show_missing(entry: DatasetEntry, case: Case, opinions: Opinions | None) -> None:
    """Say what has not been looked at, and offer to, or show how far that is."""
    run = service.latest_doctor(entry.name)
    if run is not None and run.is_active:
        follow(run.id)
        return
    if run is not None and run.state == State.FAILED:
        st.error(escape_markdown(run.failure or "The examination failed."), icon=":material/error:")
    missing = unexamined(case, opinions)
    if missing:
        st.info(escape_markdown(" ".join(missing)), icon=":material/visibility_off:")
    with st.container(horizontal=True):
        if case.unseen and st.button("Look at the pictures", key="doctor_look", icon=":material/visibility:"):
            service.submit_doctor(entry.name)
            st.rerun()
        if opinions is None or not opinions.is_known[case.learnt_rows()].all():
            about = (
                f"{BACKBONES[BACKBONE].title} looks at every picture once; a head learns from the others and judges it."
            )
            if st.button("Check the labels", key="doctor_features", icon=":material/neurology:", help=about):
                service.submit_doctor(entry.name, BACKBONE)
                st.rerun()


def show_finding(case: Case, finding: Finding, version: Version | None) -> None:
    """Show one finding: how bad, why it matters, what may be done, and its pictures."""
    words, colour = BADGES[finding.severity]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{escape_markdown(finding.title)}**", width="content")
        st.badge(words, color=colour)  # type: ignore[arg-type]
    st.markdown(escape_markdown(finding.why))
    show_fixes(finding.fixes, f"doctor_{finding.kind}", version)
    pages = -(-len(finding.groups) // GROUPS_AT_ONCE)
    page = curating.show_pages(pages, f"doctor_page_{finding.kind}") if pages else 1
    first = (page - 1) * GROUPS_AT_ONCE
    shown = finding.groups[first : first + GROUPS_AT_ONCE]
    grid = st.grid(columns=4 if all(len(group.rows) == 1 for group in shown) else 2, min_column_width=170)
    for place, group in enumerate(shown, start=first):
        with grid, st.container(border=True, height="stretch"):
            show_group(case, group)
            show_fixes(group.fixes, f"doctor_{finding.kind}_{place}", version)


def show_group(case: Case, group: Group) -> None:
    """Show pictures that belong together, each with its class, split and name."""
    rows = group.rows[:PICTURES_AT_ONCE]
    with st.container(horizontal=True, gap="small"):
        for row in rows:
            st.image(case.album.thumbnail(int(case.album_rows[row])), caption=caption(case, row), width=WIDTH)
    if len(group.rows) > len(rows):
        st.caption(f"and {count(len(group.rows) - len(rows))} more")
    if group.note:
        st.markdown(escape_markdown(group.note))


def caption(case: Case, row: int) -> str:
    """Return what stands under a picture."""
    label, split = case.classes[case.labels[row]], SPLIT_TITLES[str(case.splits[row])]
    return f"{escape_markdown(label)} · {split} · {escape_markdown(case.names[row].rpartition('/')[2])}"


def show_fixes(fixes: tuple[Fix, ...], key: str, version: Version | None) -> None:
    """Draw a button for each way to mend it, where the set can be changed."""
    if version is None or not fixes:
        return
    with st.container(horizontal=True):
        for place, fix in enumerate(fixes):
            arguments = (version, lambda edits=fix.edits: list(edits))
            st.button(escape_markdown(fix.title), key=f"{key}_{place}", on_click=curating.change, args=arguments)
