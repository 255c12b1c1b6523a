"""Importing on a page: pictures are sent, what they would become is shown, and only then a data set is made of them."""

from collections.abc import Hashable, Sequence
from typing import BinaryIO

import streamlit as st

from dlkit.catalog.datasets import DATASETS, DatasetEntry
from dlkit.data.dataset import open_dataset
from dlkit.data.drawings import read_drawing
from dlkit.data.plans import Plan, make_plan, read_labels_of
from dlkit.data.shelf import check_room, set_name
from dlkit.data.sources import LONGEST_PART, TABLE_ENDINGS, class_name
from dlkit.data.uploads import drop_upload, keep_upload, labelled, open_upload
from dlkit.runs import service
from dlkit.runs.records import Kind, Run, State
from dlkit.settings import settings
from dlkit.words import count, escape_csv, escape_markdown, size
from pages.parts import drawing, link
from pages.parts.notices import told
from pages.parts.progress import follow

WAYS = {"files": "A zip, or pictures", "folder": "A folder", "camera": "The camera", "pad": "Drawings"}
ONE_BY_ONE = {"camera": (".jpg", "photographs"), "pad": (".png", "drawings")}
LAST_SHOWN = 12
CLASSES_SHOWN = 200
BY_LAYOUT = "Find it out"


def show_import() -> None:
    """Show the way from pictures to a data set, or into the one that the address names."""
    st.page_link("data.py", label="All data sets", icon=":material/arrow_back:", query_params={})
    into = target()
    st.title(f"Add pictures to {escape_markdown(into)}" if into else "Import")
    run = latest()
    if run is not None and run.is_active:
        st.markdown(f"**{escape_markdown(run.name)}**")
        follow(run.id)
        return
    if run is not None:
        show_end(run)
    st.caption(
        "A folder for each class, with or without train, val and test around them; or pictures with a label file: a "
        "CSV with a column of file names and one of labels. Zip what you have, or choose the files."
    )
    way = link.choose(
        st.segmented_control, "What do you have?", list(WAYS), key="way", default="files", format_func=WAYS.__getitem__
    )
    with told():
        lot, title = kept(way, 1 if into else 2)
        if lot:
            show_plan(lot, title, into)


def target() -> str | None:
    """Return the imported set that the pictures are for; None where they become one of their own."""
    with told():
        return set_name(st.query_params["into"]) if "into" in st.query_params else None
    return None


def latest() -> Run | None:
    """Return the import that this address is about."""
    asked = st.query_params.get("import", "")
    return next((run for run in service.store().list_runs(Kind.IMPORT) if run.id == asked), None)


def show_end(run: Run) -> None:
    """Say what came of an import."""
    if run.state == State.SUCCEEDED:
        name = str(run.config["name"])
        first, *rest = run.summary.get("report") or [f"{name} is imported."]
        st.success(escape_markdown(first), icon=":material/check:")
        for sentence in rest:
            st.warning(escape_markdown(sentence), icon=":material/info:")
        if name in DATASETS:
            with st.container(horizontal=True):
                parameters = {"dataset": name}
                st.page_link("data.py", label="Look at it", icon=":material/photo_library:", query_params=parameters)
                st.page_link("train.py", label="Train on it", icon=":material/model_training:", query_params=parameters)
    elif run.state == State.FAILED:
        st.error(escape_markdown(run.failure or "This failed."), icon=":material/error:")
    else:
        st.info(f"{escape_markdown(run.name)}: this was cancelled; nothing of it was kept.", icon=":material/info:")


def kept(way: str, fewest: int) -> tuple[str, str]:
    """Take what is sent and keep it on the disk; return the name of the lot and what it is called; "" before."""
    if way in ONE_BY_ONE:
        return collected(way, fewest)
    uploads = st.file_uploader(
        "Pictures",
        accept_multiple_files="directory" if way == "folder" else True,
        max_upload_size=settings().max_upload_mb_per_session,
        key=f"import_{way}",
        label_visibility="collapsed",
    )
    title = uploads[0].name if uploads and len(uploads) == 1 else f"{count(len(uploads or []))} files"
    files = [(upload.name, upload) for upload in uploads or []]
    return keep_once(tuple(upload.file_id for upload in uploads or []), files, title)


def collected(way: str, fewest: int) -> tuple[str, str]:
    """Take photographs or drawings one by one, each into a class, of so many at least; return the lot of them."""
    ending, what = ONE_BY_ONE[way]
    shots: list[tuple[str, bytes]] = st.session_state.setdefault("shots", {}).setdefault(way, [])
    hint = "cup" if way == "camera" else "seven"
    typed = st.text_input("Class", key="shot_class", placeholder=hint, max_chars=LONGEST_PART)
    label = class_name(typed) if typed.strip() else ""
    if way == "camera":
        shot = st.camera_input("Photograph", key=f"shot_{len(shots)}", disabled=not label)
        if shot is not None:
            shots.append((label, shot.getvalue()))
            st.rerun()
    elif label:
        if sent := st.session_state.pop("sent_drawing", ""):
            shots.append((label, read_drawing(sent)))
        drawing.show(key="pad", button="Keep it", on_draw=lambda sent: st.session_state.update(sent_drawing=sent))
    else:
        st.caption("Write which class you draw, then draw.")
    if shots:
        last = shots[-LAST_SHOWN:]
        st.image([content for _, content in last], [escape_markdown(name) for name, _ in last], 56)
        st.button("Take the last one away", key="unshot", on_click=shots.__delitem__, args=[-1])
    found = {name for name, _ in shots}
    least = " Two of two classes are the least." if fewest > 1 else ""
    st.caption(f"{count(len(shots))} {what} of {len(found)} classes.{least}")
    if len(found) < fewest or not st.toggle("That is all", key="shots_done"):
        return "", ""
    return keep_once(tuple(shots), labelled(shots, ending), f"{count(len(shots))} {what}")


def keep_once(key: Hashable, files: Sequence[tuple[str, BinaryIO]], title: str) -> tuple[str, str]:
    """Keep files once for this session, however often the page is drawn; what was kept before them is forgotten.

    The key tells these files from any others.
    """
    known, lot, called = st.session_state.get("lot", ((), "", ""))
    if key == known:
        return lot, called
    if lot:
        drop_upload(lot)
    st.session_state["lot"] = ((), "", "")
    if not files:
        return "", ""
    with st.spinner("Keeping them"):
        st.session_state["lot"] = (key, keep_upload(files), title)
    return st.session_state["lot"][1:]


def show_plan(lot: str, title: str, into: str | None) -> None:
    """Show what the pictures would become, a data set or a part of one, and make it so at a press."""
    with open_upload(lot, title) as source:
        tables = [file.name for file in source.files if file.ending in TABLE_ENDINGS]
        labels = st.selectbox("Label file", [BY_LAYOUT, *tables], key="labels") if tables else BY_LAYOUT
        table = read_labels_of(source, None if labels == BY_LAYOUT else labels)
        label = chosen_class(into) if into else None
        plan = make_plan(source, *table, fewest=1 if into else 2, label=label)
    show_counts(plan)
    check_room(plan)
    name = into or st.text_input("Name", key="import_name", placeholder="pets", max_chars=60)
    word = "Add" if into else "Import"
    if st.button(word, icon=":material/download:", type="primary", key="import_now", disabled=not name.strip()):
        table_name = None if labels == BY_LAYOUT else labels
        if into:
            run = service.submit_addition(lot, title, into, table_name, label=label)
        else:
            run = service.submit_import(lot, title, name, table_name)
        st.session_state.pop("lot", None)  # the import has it now
        st.session_state.pop("shots", None)
        st.query_params["import"] = run.id
        st.rerun()


def chosen_class(into: str) -> str | None:
    """Ask of which class of a data set all pictures are; None where their folders or a label file tell it."""
    known = dict.fromkeys(open_dataset(into).classes)
    label: str | None = st.selectbox(
        "Class of all of them",
        list(known),
        index=None,
        key="import_class",
        placeholder="as their folders or a label file say",
        accept_new_options=True,
    )
    return class_name(label) if label else None


def show_counts(plan: Plan) -> None:
    """Say what was understood: the layout, the classes with their counts, and what is left out."""
    counts = plan.counts()
    classes = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
    st.markdown(
        f"**{classes}, {count(len(plan.pictures))} pictures**, {size(plan.bytes / 1e6)}; found by their "
        f"{escape_markdown(plan.layout)}."
    )
    rows = [{"class": escape_csv(name), **of_each} for name, of_each in list(counts.items())[:CLASSES_SHOWN]]
    st.dataframe(rows, hide_index=True, width="stretch")
    if len(counts) > CLASSES_SHOWN:
        st.caption(f"The first {CLASSES_SHOWN} classes are shown.")
    if any("all" in of_each for of_each in counts.values()):
        st.caption("A share of each class is put aside to check with; copies of one picture stay on one side.")
    for sentence in plan.sentences():
        st.warning(escape_markdown(sentence), icon=":material/info:")


def show_copy(entry: DatasetEntry) -> None:
    """Offer to copy a data set into one of one's own, which can be curated."""
    with st.popover("Copy" if entry.folder else "Make it your own", icon=":material/content_copy:"):
        st.markdown("Its pictures are copied into a data set of yours: relabel, move, leave out and add as you like.")
        st.caption(f"The licence stays what it is: {escape_markdown(entry.licence)}.")
        name = st.text_input("Name", key="copy_name", placeholder=f"my {entry.name}", max_chars=60)
        if st.button("Copy it", key="copy_now", type="primary", disabled=not name.strip()):
            with told():
                run = service.submit_copy(entry.name, name)
                st.query_params.from_dict({"import": run.id})
                st.rerun()


def show_delete(name: str) -> None:
    """Offer to delete an imported data set."""
    with st.popover("Delete", icon=":material/delete:"):
        st.markdown(f"{escape_markdown(name)} and all its versions are deleted. Models that learned from it stay.")
        if st.button("Delete it", key="delete_dataset", type="primary"):
            with told():
                service.delete_dataset(name)
                st.query_params.clear()
                st.rerun()
