"""Classify: one picture or many, with the ImageNet model or with any run's model."""

import pandas as pd
import streamlit as st
from PIL import Image

from dlkit.errors import DlkitError, ImageError
from dlkit.figures.pictures import data_uri
from dlkit.runs import artifacts, service
from dlkit.settings import settings
from dlkit.words import escape_csv, escape_markdown, percent
from pages.parts import classify, link
from pages.parts.notices import show_error, told
from pages.parts.pictures import dataset_of

AT_ONCE = 8  # pictures between two movements of the progress bar
THUMBNAIL = 128


def choose_model() -> str:
    """Return the key of the chosen model; a link to one that is gone says so and shows ImageNet's."""
    names = classify.model_names()
    asked = st.query_params.get("model", classify.IMAGENET)
    if asked not in names:
        with told():
            artifacts.read_description(classify.model_folder(service.run(asked).id))
        del st.query_params["model"]
    return link.choose(
        st.selectbox, "Model", list(names), key="model", default=classify.IMAGENET, format_func=lambda key: names[key]
    )


def given_pictures(model: str) -> list[classify.Picture]:
    """Return the pictures that were dropped, taken or chosen; those that cannot be read are named and left out."""
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
    for file in [*files, *([shot] if shot else [])]:
        try:
            pictures.append(classify.uploaded(file))
        except ImageError as error:
            show_error(error)
    return pictures


def chosen_samples(model: str) -> list[classify.Picture]:
    """Offer the photographs that come with dlkit, and the validation pictures of the model's own data set."""
    chosen = st.pills("Photographs", list(classify.SAMPLES), selection_mode="multi", key="photo_samples")
    pictures = [classify.sample(title) for title in chosen]
    if model == classify.IMAGENET:
        return pictures
    dataset = dataset_of(artifacts.read_description(classify.model_folder(model))["about"]["dataset"]["name"])
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


def classify_all(model: str, pictures: list[classify.Picture], top_k: int) -> list[classify.Guesses]:
    """Return the answers for all pictures, with a bar that moves where there are many."""
    answers: list[classify.Guesses] = []
    bar = st.progress(0.0) if len(pictures) > AT_ONCE else None
    for start in range(0, len(pictures), AT_ONCE):
        answers += classify.classify(model, pictures[start : start + AT_ONCE], top_k)
        if bar is not None:
            bar.progress(len(answers) / len(pictures), text=f"{len(answers)} of {len(pictures)} pictures")
    if bar is not None:
        bar.empty()
    return answers


def show_one(picture: classify.Picture, guesses: classify.Guesses) -> None:
    """Show one answer large: the bars over the picture."""
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        classify.show_answer(picture, guesses)
        st.caption(f"{escape_markdown(picture.name)}: {escape_markdown(guesses[0][0])}, {percent(guesses[0][1])}")


def show_many(pictures: list[classify.Picture], answers: list[classify.Guesses]) -> None:
    """Show many answers as a table with small pictures, and offer it as CSV."""
    rows = [
        {"file": picture.name, "class": guesses[0][0], "probability": guesses[0][1]}
        | {f"{place}. guess": f"{label} {percent(share)}" for place, (label, share) in enumerate(guesses[1:3], start=2)}
        for picture, guesses in zip(pictures, answers, strict=True)
    ]
    table = pd.DataFrame(rows)
    small = [data_uri(_thumbnail(picture.image)) for picture in pictures]
    st.dataframe(
        table.assign(picture=small),
        hide_index=True,
        row_height=72,
        column_order=["picture", *table.columns],
        column_config={
            "picture": st.column_config.ImageColumn("Picture", width="small"),
            "file": "File",
            "class": "Class",
            "probability": st.column_config.ProgressColumn("Probability", format="percent", min_value=0, max_value=1),
        },
    )
    safe = table.map(lambda value: escape_csv(value) if isinstance(value, str) else value)
    st.download_button(
        "Download as CSV",
        safe.to_csv(index=False),
        "predictions.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


st.title("Classify")
model = choose_model()
pictures = given_pictures(model)
top_k = st.slider("Classes to name", 1, 10, 5, key="top_k", bind="query-params")
if not pictures:
    st.info("Drop a photo, take one, or choose a sample: the answer appears here.", icon=":material/image_search:")
    st.stop()
try:
    answers = classify_all(model, pictures, top_k)
except DlkitError as error:
    show_error(error)
    st.stop()
if len(pictures) == 1:
    show_one(pictures[0], answers[0])
else:
    show_many(pictures, answers)
