"""Curating on a page: pictures are looked at and chosen, and every change makes a version, which can be undone.

A change is made by a callback, on the version that was shown: what is chosen and typed is read when the button is
pressed, so that neither a quick hand nor somebody else's change turns it into another one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import streamlit as st

from dlkit.catalog.datasets import DatasetEntry
from dlkit.data.cases import open_case
from dlkit.data.comparing import Comparison, compare
from dlkit.data.doctor import copies_in, leak_free
from dlkit.data.edits import SPLIT_TITLES, Drop, Edit, Merge, Move, Relabel, Rename, Resplit
from dlkit.data.manifests import Picture
from dlkit.data.shelf import pinned, set_name
from dlkit.data.thumbnails import thumbnails
from dlkit.data.versions import Past, Version, edit, history, open_version, restore
from dlkit.errors import DlkitError
from dlkit.words import count, escape_csv, escape_markdown
from pages.parts import link, picker

PARTS = {"pictures": "Pictures", "classes": "Classes", "splits": "Splits", "versions": "Versions"}
SPLITS = {"": "All splits", **{name: title.capitalize() for name, title in SPLIT_TITLES.items()}}
WHICH = {"chosen": "The chosen ones", "all": "All that are found"}
AT_ONCE = 60
VERSIONS_AT_ONCE = 10
EXAMPLES = 24  # of what is different between two versions
PICKER = "curate_picker"


@dataclass(frozen=True)
class Outcome:
    """What came of a change of the version that was `seen`: the number that was `made`, or why it was refused."""

    seen: Version
    made: int = 0
    refusal: str = ""
    edits: tuple[Edit, ...] = ()


def show_curate(entry: DatasetEntry) -> None:
    """Show what can be changed in an imported set, and what was."""
    past, name = history(entry.name), set_name(entry.name)
    show_outcome(past[0], entry)
    if entry.version != past[0].number:
        st.info(
            f"This is version {entry.version}. Changes are made on the newest, version {past[0].number}.",
            icon=":material/history:",
        )
        st.page_link("data.py", label="To the newest", icon=":material/arrow_forward:", query_params={"dataset": name})
        return
    part = link.choose(
        st.segmented_control, "Curate", list(PARTS), key="curate", default="pictures", format_func=PARTS.__getitem__
    )
    version = version_of(entry.pinned, entry.folder)
    if part == "pictures":
        show_pictures(version)
    elif part == "classes":
        show_class_forms(version)
    elif part == "splits":
        show_split_form(version)
    else:
        show_versions(version, past)


@st.cache_resource(max_entries=4, show_spinner="Reading this version …")
def version_of(name: str, folder: str) -> Version:
    """Return a version; the folder tells it from one that was deleted and had its name."""
    return open_version(name)


def show_pictures(version: Version) -> None:
    """Show pictures that are looked for, some at a time, and what can be done with them."""
    forget_unless("curate_class", ("", *version.classes))
    left, middle, right = st.columns([2, 2, 2], vertical_alignment="bottom")
    with left:
        label = link.choose(
            st.selectbox,
            "Class",
            ["", *version.classes],
            key="curate_class",
            default="",
            format_func=lambda name: name or "All classes",
        )
    with middle:
        split = link.choose(
            st.selectbox, "Split", list(SPLITS), key="curate_split", default="", format_func=SPLITS.__getitem__
        )
    text = right.text_input("Name has", key="curate_name", bind="query-params")
    found = version.find(label, split, text)
    if not found:
        st.info("No picture is so. Look for others.", icon=":material/search_off:")
        return
    pages = -(-len(found) // AT_ONCE)
    st.caption(f"{count(len(found))} of {count(len(version.pictures))} pictures · Shift and a click choose all between")
    page = show_pages(pages, "curate_page")
    rows = found[(page - 1) * AT_ONCE : page * AT_ONCE]
    mark = f"{version.folder.name} {version.number} {' '.join(map(str, rows))}"
    picker.show(cells(version, rows), mark, key=PICKER)
    show_picture_actions(version, found, rows)


def show_pages(pages: int, key: str) -> int:
    """Draw the turning of pages where there are several; return the page, from 1."""
    if pages == 1:
        return 1
    if st.session_state.get(key, 1) > pages:
        st.session_state[key] = pages
    return st.pagination(pages, key=key)


def cells(version: Version, rows: Sequence[int]) -> list[dict[str, str]]:
    """Return what is shown of these pictures."""
    pictures = [version.pictures[row] for row in rows]
    return [
        picker.cell(source, picture.label, SPLIT_TITLES[picture.split], picture.name)
        for source, picture in zip(thumbnails(version, rows), pictures, strict=True)
    ]


def show_picture_actions(version: Version, found: list[int], rows: list[int]) -> None:
    """Show what can be done with the chosen pictures, or with all that were found."""
    st.session_state.setdefault("curate_which", "chosen")  # in no link: it would make a press change all
    which = st.segmented_control(
        "Change",
        list(WHICH),
        key="curate_which",
        required=True,
        format_func=lambda name: f"{WHICH[name]} ({count(len(found))})" if name == "all" else WHICH[name],
    )

    def wanted() -> list[int]:
        return found if which == "all" else [rows[place] for place in picker.chosen(key=PICKER)]

    def button(title: str, key: str, edits: Callable[[], list[Edit]]) -> None:
        number = len(wanted())
        change_button(f"{title} ({count(number)})" if number else title, key, version, edits, is_idle=not number)

    label, split, drop = st.columns([3, 3, 2], vertical_alignment="bottom")
    with label, st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Their class", version.classes, key="curate_to_class", accept_new_options=True)
        button("Set class", "relabel", lambda: [Relabel(wanted(), state("curate_to_class"))])
    with split, st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Their split", list(SPLIT_TITLES), key="curate_to_split", format_func=SPLITS.__getitem__)
        button("Set split", "move", lambda: [Move(wanted(), state("curate_to_split"))])
    with drop:
        button("Leave out", "drop", lambda: [Drop(wanted())])
    st.page_link(
        "data.py",
        label="Add pictures",
        icon=":material/add_photo_alternate:",
        query_params={"import": "new", "into": version.name},
    )


def show_class_forms(version: Version) -> None:
    """Show how to rename and to merge classes."""
    forget_unless("rename_from", version.classes)
    st.markdown("**Rename a class**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Class", version.classes, key="rename_from")
        st.text_input("New name", key="rename_to", max_chars=100)
        change_button("Rename", "rename", version, lambda: [Rename(state("rename_from"), state("rename_to"))])
    st.markdown("**Make one class of several**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        merged = f"merge_{version.number}"
        st.multiselect("Classes", version.classes, key=merged)
        st.text_input("Their name", key="merge_to", max_chars=100)
        change_button("Merge", "merge", version, lambda: [Merge(st.session_state[merged], state("merge_to"))])
    rows = [{"class": escape_csv(name), **of_each} for name, of_each in version.counts().items()]
    st.dataframe(rows, hide_index=True, width="stretch", alt="Pictures of each class in each split")


def show_split_form(version: Version) -> None:
    """Show how to divide the pictures anew."""
    sizes = [f"{count(len(version.rows(name)))} {title}" for name, title in SPLIT_TITLES.items() if version.rows(name)]
    st.markdown(f"Now {', '.join(sizes)}.")
    st.caption(
        "Of each class the same share is drawn to check the model with; copies of a picture stay on one side. What is "
        "kept for testing stays where it is."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.slider("Share to check with", 0.05, 0.5, 0.2, 0.05, key="resplit_share")
        st.number_input("Seed", 0, 2**31 - 1, 0, key="resplit_seed")
        change_button(
            "Split anew",
            "resplit",
            version,
            lambda: [split_anew(version)],
        )


def split_anew(version: Version) -> Resplit:
    """Return the edit that the form asks for, with the copies that are known of."""
    case = open_case(pinned(version.name, version.number))
    return leak_free(case, copies_in(case), st.session_state["resplit_share"], st.session_state["resplit_seed"])


def show_versions(version: Version, past: Sequence[Past]) -> None:
    """Show all versions with what changed, a way back to each, its zip, and two of them beside each other."""
    page = show_pages(-(-len(past) // VERSIONS_AT_ONCE), "versions_page")
    for one in past[(page - 1) * VERSIONS_AT_ONCE : page * VERSIONS_AT_ONCE]:
        with st.container(border=True):
            show_past(version, one)
    if len(past) > 1:
        show_comparison(version, [one.number for one in past])


def show_past(version: Version, past: Past) -> None:
    """Show one version."""
    base = f" · made of version {past.based_on}" if past.based_on else ""
    when = past.made_at[:16].replace("T", " ")
    st.markdown(f"**Version {past.number}** · {when} UTC{base}  \n{escape_markdown(past.change)}")
    numbers = {title: getattr(past, split) for split, title in SPLIT_TITLES.items()}
    counts = [f"{count(number)} {title}" for title, number in numbers.items() if number]
    st.caption(f"{count(past.classes)} classes · {' · '.join(counts)}")
    name = pinned(version.name, past.number)
    with st.container(horizontal=True, vertical_alignment="center"):
        if past.number == version.number:
            st.badge("newest", icon=":material/check:", color="green")
        else:
            st.button(
                "Go back to it",
                key=f"restore_{past.number}",
                icon=":material/undo:",
                on_click=go_back,
                args=(version, past.number),
            )
            st.page_link("data.py", label="Look at it", icon=":material/visibility:", query_params={"dataset": name})
        st.link_button("Zip", f"/export?dataset={quote(name, safe='')}", icon=":material/download:", help="All of it")


def show_comparison(version: Version, numbers: list[int]) -> None:
    """Show what is different between two versions."""
    st.markdown("**Compare**")
    names = [str(number) for number in numbers]
    left, right = st.columns(2)
    with left:
        before = link.choose(st.selectbox, "From version", names, key="compare_from", default=names[1])
    with right:
        after = link.choose(st.selectbox, "To version", names, key="compare_to", default=names[0])
    found = comparison_of(version.name, version.folder.name, int(before), int(after))
    st.markdown("\n".join(f"- {escape_markdown(line)}" for line in found.sentences() or ["Nothing is different."]))
    rows = [
        {"class": escape_csv(name), "before": old, "after": new}
        for name, (old, new) in found.counts.items()
        if old != new
    ]
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch", alt="Classes with another number of pictures")
    notes = [
        *((picture, "added") for picture in found.added),
        *((picture, "left out") for picture in found.dropped),
        *((pair.after, f"was {pair.before.label}") for pair in found.relabelled),
        *((pair.after, f"was {SPLIT_TITLES[pair.before.split]}") for pair in found.moved),
    ][:EXAMPLES]
    show_examples(version, notes, f"{before} {after}")


@st.cache_resource(max_entries=8, show_spinner=False)
def comparison_of(name: str, folder: str, before: int, after: int) -> Comparison:
    """Return what is different between two versions, which never changes."""
    return compare(version_of(pinned(name, before), folder), version_of(pinned(name, after), folder))


def show_examples(version: Version, notes: Sequence[tuple[Picture, str]], mark: str) -> None:
    """Show pictures with what is different about each."""
    if notes:
        shown = Version(version.name, version.number, version.folder, tuple(picture for picture, _ in notes))
        drawn = zip(thumbnails(shown, range(len(notes))), notes, strict=True)
        examples = [picker.cell(source, picture.label, note, picture.name) for source, (picture, note) in drawn]
        picker.show(examples, f"{version.folder.name} {mark}", key="compare_pictures", fixed=True)


def change_button(
    title: str, key: str, version: Version, edits: Callable[[], list[Edit]], is_idle: bool = False
) -> None:
    """Draw a button that makes the next version."""
    st.button(title, key=f"curate_{key}", disabled=is_idle, on_click=change, args=(version, edits))


def change(version: Version, edits: Callable[[], list[Edit]]) -> None:
    """Make an edit of the version that was shown; where that is not the newest any more, keep it for another press."""
    wanted = tuple(edits())
    if "curate_which" in st.session_state:
        st.session_state["curate_which"] = "chosen"  # a change of all is asked for each time
    make(version, lambda: edit(version.name, wanted, version.number), wanted)


def go_back(version: Version, number: int) -> None:
    """Make an earlier version the newest again."""
    make(version, lambda: restore(version.name, number, version.number))


def put_on_top(version: Version, edits: Sequence[Edit]) -> None:
    """Make an edit of an older version on the newest one."""
    make(version, lambda: edit(version.name, edits, version.number, on_top=True))


def make(version: Version, write: Callable[[], Version], edits: Sequence[Edit] = ()) -> None:
    """Write a version; what came of it is shown when the page is drawn."""
    try:
        st.session_state["curated"] = Outcome(version, made=write().number)
    except DlkitError as error:
        st.session_state["curated"] = Outcome(version, refusal=str(error), edits=tuple(edits))


def show_outcome(newest: Past, entry: DatasetEntry) -> None:
    """Say what came of the last change, and offer to undo it, or to make it all the same where somebody was quicker."""
    outcome: Outcome | None = st.session_state.get("curated")
    name = set_name(entry.name)
    if outcome is None or (outcome.seen.name, outcome.seen.folder.name) != (name, entry.folder):
        return
    if outcome.refusal:
        del st.session_state["curated"]
        st.error(escape_markdown(outcome.refusal), icon=":material/error:")
        if outcome.edits and outcome.seen.number != newest.number:
            again = (outcome.seen, outcome.edits)
            st.button("Put it on top of the newest", key="curate_on_top", on_click=put_on_top, args=again)
    elif outcome.made == newest.number:
        st.success(escape_markdown(newest.change), icon=":material/check:")
        back = (version_of(pinned(name, newest.number), entry.folder), newest.based_on)
        st.button("Undo", key="curate_undo", icon=":material/undo:", on_click=go_back, args=back)


def state(key: str) -> str:
    """Return what a widget has now, also between two drawings of the page."""
    return str(st.session_state.get(key) or "")


def forget_unless(key: str, options: Sequence[str]) -> None:
    """Let a widget, and the address, begin anew where what it has is no option any more."""
    if st.session_state.get(key, options[0]) not in options:
        st.session_state.pop(key)
        st.query_params.pop(key, None)
