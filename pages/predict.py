"""Classify: one picture or many, with the ImageNet model or with any run's model."""

import csv

import pandas as pd
import streamlit as st

from dlkit.catalog.datasets import DATASETS
from dlkit.data.dataset import is_here
from dlkit.errors import DlkitError, ImageError
from dlkit.runs import artifacts, service
from dlkit.runs.artifacts import IMAGENET
from dlkit.settings import settings
from dlkit.words import escape_csv, escape_markdown, percent
from pages.parts import classify, link
from pages.parts.notices import show_error, told
from pages.parts.pictures import dataset_of

Answer = tuple[classify.Picture, classify.Guesses]


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
    name = artifacts.read_description(classify.model_folder(model))["about"].get("dataset", {}).get("name")
    if name not in DATASETS or not is_here(name):
        return pictures
    dataset = dataset_of(name)
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


def classify_all(model: str, pictures: list[classify.Picture], top_k: int) -> list[Answer]:
    """Return the answers, with a bar that moves where there are many; what is no picture is named and left out."""
    answers: list[Answer] = []
    bar = st.progress(0.0) if len(pictures) > 1 else None
    for place, picture in enumerate(pictures, start=1):
        try:
            answers.append((picture, classify.classify(model, picture, top_k)))
        except ImageError as error:
            show_error(error)
        if bar is not None:
            bar.progress(place / len(pictures), text=f"{place} of {len(pictures)} pictures")
    if bar is not None:
        bar.empty()
    return answers


def show_one(picture: classify.Picture, guesses: classify.Guesses) -> None:
    """Show one answer large: the bars over the picture."""
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        classify.show_answer(picture, guesses)
        st.caption(f"{escape_markdown(picture.name)}: {escape_markdown(guesses[0][0])}, {percent(guesses[0][1])}")


def show_many(answers: list[Answer]) -> None:
    """Show many answers as a table with small pictures, and offer it as CSV: a class and a probability per guess."""
    rows = [{"file": picture.name, **_columns(guesses)} for picture, guesses in answers]
    table = pd.DataFrame(rows)
    share = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
    st.dataframe(
        table.assign(picture=[classify.thumbnail(picture.key, picture) for picture, _ in answers]),
        hide_index=True,
        row_height=72,
        column_order=["picture", *table.columns],
        column_config={
            "picture": st.column_config.ImageColumn(width="small"),
            **{name: share for name in table.columns if name.startswith("probability")},
        },
    )
    safe = table.map(lambda value: escape_csv(value) if isinstance(value, str) else value)
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
    answers = classify_all(model, pictures, top_k)
except DlkitError as error:
    show_error(error)
    st.stop()
if len(answers) == 1:
    show_one(*answers[0])
elif answers:
    show_many(answers)
