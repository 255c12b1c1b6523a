"""Classifying on a page: which models there are, and their answers, kept between reruns by content."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image, ImageOps
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dlkit.data.dataset import Dataset
from dlkit.data.images import read_image
from dlkit.figures.pictures import data_uri, softmax_html
from dlkit.runs import artifacts, service
from dlkit.runs.artifacts import IMAGENET
from dlkit.runs.records import Kind, Run
from pages.parts import warmth

MODELS_LISTED = 50
THUMBNAIL = 128
PHOTOS = Path(artifacts.__file__).parents[1] / "samples" / "photos"

SAMPLES = {"Cat": "chelsea", "Coffee": "coffee", "Rocket": "rocket"}

Guesses = tuple[tuple[str, float], ...]  # (label, probability), likeliest first


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to classify, decoded when it is needed: many at full size would fill the memory."""

    name: str
    key: str  # tells its content from any other's: answers are kept under it
    read: Callable[[], Image.Image]  # RGB; ImageError where it is none


def uploaded(file: UploadedFile) -> Picture:
    """Return an uploaded picture, still undecoded."""
    return Picture(file.name, f"upload {file.file_id}", lambda: read_image(file.getvalue(), name=file.name))


def sample(title: str) -> Picture:
    """Return one of the photographs that come with dlkit."""
    path = PHOTOS / f"{SAMPLES[title]}.jpg"
    return Picture(path.name, f"sample {title}", lambda: read_image(path))


def validation_picture(dataset: Dataset, index: int) -> Picture:
    """Return a validation picture of a data set."""
    return Picture(dataset.val.name(index), f"{dataset.fingerprint} {index}", lambda: dataset.val.read(index))


def model_names() -> dict[str, str]:
    """Return the models that can classify now: {key: title}, ImageNet's first, then the newest runs'."""
    newest = service.store().list_runs(Kind.FINETUNE, MODELS_LISTED)
    runs = [run for run in newest if artifacts.has_bundle(model_folder(run.id))]
    return {IMAGENET: "ImageNet, 1\u202f000 classes"} | {run.id: title_of(run) for run in runs}


def title_of(run: Run) -> str:
    """Return what a run's model is called in a list."""
    return f"{run.name} · {run.id[:6]}"


def model_folder(key: str) -> Path:
    """Return the folder of a run's saved model."""
    return service.run_folder(key) / "model"


def classify(model: str, picture: Picture, top_k: int) -> Guesses:
    """Return what the model says; BundleError where the model is gone, ImageError where there is no picture."""
    version = IMAGENET if model == IMAGENET else artifacts.read_description(model_folder(model))["sha256"]
    return _answer(model, version, picture.key, top_k, picture)


def show_answer(picture: Picture, guesses: Guesses) -> None:
    """Draw the bars over the picture."""
    st.html(_html(picture.key, guesses, picture))


@st.cache_data(max_entries=2000, show_spinner=False)
def thumbnail(key: str, _picture: Picture) -> str:
    """Return a small version of the picture as a data URI, for tables."""
    return data_uri(ImageOps.contain(_picture.read(), (THUMBNAIL, THUMBNAIL)))


@st.cache_data(max_entries=2000, show_spinner="Looking …")
def _answer(model: str, version: str, key: str, top_k: int, _picture: Picture) -> Guesses:
    is_first = "dlkit.engine.prediction" not in sys.modules
    from dlkit.engine import prediction  # torch

    (top,) = prediction.predict(None if model == IMAGENET else model_folder(model), [_picture.read()], top_k)
    if is_first:
        warmth.settle()
    return tuple((guess.label, guess.probability) for guess in top)


@st.cache_data(max_entries=100, show_spinner=False)
def _html(key: str, guesses: Guesses, _picture: Picture) -> str:
    labels, probabilities = zip(*guesses, strict=True)
    return softmax_html(_picture.read(), labels, probabilities)
