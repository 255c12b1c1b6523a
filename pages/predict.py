"""Classify: one picture or many, with the ImageNet model or with any run's model."""

import csv
import time

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dlkit.errors import DlkitError
from dlkit.runs import artifacts, service
from dlkit.runs.artifacts import IMAGENET
from dlkit.settings import settings
from dlkit.words import duration, escape_csv, escape_markdown, percent
from pages.parts import classify, link
from pages.parts.notices import show_error, told
from pages.parts.pictures import dataset_of_model

TOLD_SECONDS = 0.1  # between two moves of the bar
GROWTH = 1.5  # of the table, until it is drawn again
ERRORS_SHOWN = 10
ROWS_SHOWN, ROW_PX = 9, 72  # without scrolling; one of them has the names of the columns
LEAST_DONE = 20  # before it can be told how long the rest takes

Answer = tuple[classify.Picture, classify.Answer]


def choose_model() -> str:
    """Return the key of the chosen model; a link to one that is gone says so and shows ImageNet's."""
    names = classify.model_names()
    asked = st.query_params.get("model", IMAGENET)
    if asked not in names:
        with told():
            run = service.run(asked)
            artifacts.read_description(classify.model_folder(run.id))
            names[run.id] = classify.title_of(run)  # an older one than the list goes back to
    if asked not in names:
        del st.query_params["model"]
    return link.choose(
        st.selectbox, "Model", list(names), key="model", default=IMAGENET, format_func=lambda key: names[key]
    )


def given_pictures(model: str) -> list[classify.Picture]:
    """Return the pictures that were dropped, taken or chosen."""
    pictures: list[classify.Picture] = []
    upload, camera, samples = st.tabs(
        ["Upload", "Camera", "Samples"], key="source", on_change="rerun", bind="query-params"
    )
    with upload:
        files = st.file_uploader(
            f"Drop one photo or many: together up to {settings().max_upload_mb_per_session} MB",
            type="image",
            accept_multiple_files=True,
            key="photos",
            max_upload_size=int(settings().max_image_mb),
        )
    with camera:
        # the browser asks for the camera as soon as this is drawn, so only where it is wanted
        shot = st.camera_input("Take a photo", key="shot") if camera.open else None
    with samples:
        pictures += chosen_samples(model)
    return pictures + [classify.uploaded(file) for file in [*files, *([shot] if shot else [])]]


def chosen_samples(model: str) -> list[classify.Picture]:
    """Offer the photographs that come with dlkit, and the validation pictures of the model's own data set."""
    chosen = st.pills("Photographs", list(classify.SAMPLES), selection_mode="multi", key="photo_samples")
    pictures = [classify.sample(title) for title in chosen]
    if model == IMAGENET:
        return pictures
    dataset = dataset_of_model(classify.model_folder(model))
    if dataset is None:
        return pictures
    labels = dict(enumerate(dataset.classes))
    wanted = st.pills(
        "Validation pictures of class",
        labels,
        format_func=lambda label: escape_markdown(labels[label]),
        selection_mode="multi",
        key="class_samples",
    )
    for label in wanted:
        pictures += [classify.validation_picture(dataset, int(index)) for index in dataset.val.indices_of(label)[:3]]
    return pictures


def classify_all(model: str, pictures: list[classify.Picture], top_k: int, place: DeltaGenerator) -> list[Answer]:
    """Return the answers; of many, a bar says how far it is, and the table grows in its place.

    Any touch of the page ends this run of the script, and the next one goes on from what is known.
    """
    asked = model, tuple(picture.key for picture in pictures)
    known = classify.known(model, pictures)
    before = len(known)
    if before == len(pictures):
        return list(known.items())
    if st.session_state.get("halted") == asked:
        return show_halted(known, len(pictures))
    working = st.empty()
    with working.container(horizontal=True, vertical_alignment="center"):
        bar = st.progress(0.0, text=f"0 of {len(pictures)} pictures")
        st.button("Stop", icon=":material/stop:", key="halt", on_click=halt, args=[asked])
    answers: list[Answer] = []
    began = told_at = time.monotonic()
    drawn = 0
    for picture, answer in zip(pictures, classify.classify_many(model, pictures), strict=True):
        answers.append((picture, answer))
        now, count = time.monotonic(), len(answers)
        if now >= told_at + TOLD_SECONDS:
            told_at = now
            bar.progress(count / len(pictures), text=how_far(count, len(pictures), count - before, now - began))
        if count >= GROWTH * drawn + 1:  # drawn rarely as it grows: each time all of it goes to the browser
            draw_table(place, table_of(answers, top_k))
            drawn = count
    working.empty()
    return answers


def halt(asked: tuple[str, tuple[str, ...]] | None) -> None:
    """Look at no more of these pictures; None goes on."""
    st.session_state["halted"] = asked


def show_halted(answers: dict[classify.Picture, classify.Answer], count: int) -> list[Answer]:
    """Say how far it came, and offer to go on."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Stopped after {len(answers)} of {count} pictures.", width="content")
        st.button("Go on", icon=":material/play_arrow:", key="go_on", on_click=halt, args=[None])
    return list(answers.items())


def how_far(count: int, all_of_them: int, done: int, seconds: float) -> str:
    """Return how far it is, and how long it takes yet once that can be told."""
    can_tell = done >= LEAST_DONE and seconds >= 1
    left = f", about {duration(seconds / done * (all_of_them - count))} left" if can_tell else ""
    return f"{count} of {all_of_them} pictures{left}"


def show_unread(answers: list[Answer]) -> None:
    """Name each file that is no picture; where they are many, the rest behind a fold."""
    errors = [answer for _, answer in answers if isinstance(answer, DlkitError)]
    for error in errors[:ERRORS_SHOWN]:
        show_error(error)
    if errors[ERRORS_SHOWN:]:
        with st.expander(f"{len(errors) - ERRORS_SHOWN} more files could not be read"):
            st.markdown("\n".join(f"- {escape_markdown(str(error))}" for error in errors[ERRORS_SHOWN:]))


def show_one(picture: classify.Picture, guesses: classify.Guesses) -> None:
    """Show one answer large: the bars over the picture."""
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        classify.show_answer(picture, guesses)
        st.caption(f"{escape_markdown(picture.name)}: {escape_markdown(guesses[0][0])}, {percent(guesses[0][1])}")


def table_of(answers: list[Answer], top_k: int) -> pd.DataFrame:
    """Return a row for each picture: its thumbnail, its file's name, and a class and a probability per guess."""
    rows = [
        {"picture": classify.thumbnail(picture), "file": picture.name, **_columns(answer[:top_k])}
        for picture, answer in answers
        if not isinstance(answer, DlkitError)
    ]
    return pd.DataFrame(rows)


def draw_table(place: DeltaGenerator, table: pd.DataFrame) -> None:
    """Draw the table, in place of the one that is there; none while there is no answer."""
    if table.columns.empty:
        return
    share = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
    place.dataframe(
        table,
        hide_index=True,
        height="content" if len(table) <= ROWS_SHOWN else ROWS_SHOWN * ROW_PX,
        row_height=ROW_PX,
        column_config={
            "picture": st.column_config.ImageColumn(width="small"),
            **{name: share for name in table.columns if name.startswith("probability")},
        },
    )


def choose_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Let the visitor choose what to see: by the likeliest class, and by how sure the model is of it."""
    left, right = st.columns(2)
    counts = table["class 1"].value_counts()
    wanted = left.multiselect(
        "Called",
        list(counts.index),
        format_func=lambda label: f"{label} ({counts[label]})",
        placeholder="Every class",
    )
    low, high = right.slider("Confidence", 0, 100, (0, 100), format="%d %%")
    share = table["probability 1"].clip(0, 1)  # rounding may make a little more than 1 of it
    is_wanted = table["class 1"].isin(wanted or counts.index) & share.between(low / 100, high / 100)
    if not is_wanted.all():
        st.caption(f"{is_wanted.sum()} of {len(table)} pictures")
    return table[is_wanted]


def show_many(table: pd.DataFrame, filters: DeltaGenerator, place: DeltaGenerator) -> None:
    """Show many answers as a table, and offer what it shows as CSV."""
    with filters:
        shown = choose_rows(table)
    draw_table(place, shown)
    safe = shown.drop(columns="picture").map(lambda value: escape_csv(value) if isinstance(value, str) else value)
    st.download_button(
        "Download as CSV",
        safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC),  # in quotes, no semicolon begins a cell
        "predictions.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def _columns(guesses: classify.Guesses) -> dict[str, str | float]:
    columns: dict[str, str | float] = {}
    for place, (label, probability) in enumerate(guesses, start=1):
        columns |= {f"class {place}": label, f"probability {place}": probability}
    return columns


st.title("Classify")
model = choose_model()
try:
    pictures = given_pictures(model)
    top_k = st.slider("Classes to name", 1, 10, 5, key="top_k", bind="query-params")
    if not pictures:
        st.info("Drop a photo, take one, or choose a sample: the answer appears here.", icon=":material/image_search:")
        st.stop()
    if len(pictures) == 1:
        show_one(pictures[0], classify.classify(model, pictures[0], top_k))
        st.stop()
    work, filters, place = st.container(), st.container(), st.empty()
    with work:
        answers = classify_all(model, pictures, top_k, place)
        show_unread(answers)
except DlkitError as error:
    show_error(error)
    st.stop()
table = table_of(answers, top_k)
if len(table) > 0:
    show_many(table, filters, place)
