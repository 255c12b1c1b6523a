"""Classifying on a page: which models there are, and their answers, kept for all sessions by content."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image, ImageOps
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dlkit.data.dataset import Dataset
from dlkit.data.images import image_digest, read_image
from dlkit.errors import DlkitError, ImageError
from dlkit.figures.pictures import data_uri, softmax_html
from dlkit.runs import artifacts, service
from dlkit.runs.artifacts import IMAGENET
from dlkit.runs.records import Kind, Run
from pages.parts import link, warmth
from pages.parts.kept import Kept
from pages.parts.notices import told

if TYPE_CHECKING:
    from dlkit.engine.prediction import Guess

MODELS_LISTED = 50
THUMBNAIL = 96
MOST_NAMED = 10  # classes that a page names; so many are kept, whatever is asked for
KEPT = 10_000  # more small files than one tab may hold; 4 KB each
PHOTOS = Path(artifacts.__file__).parents[1] / "samples" / "photos"

SAMPLES = {"Cat": "chelsea", "Coffee": "coffee", "Rocket": "rocket"}

Guesses = tuple[tuple[str, float], ...]  # (label, probability), likeliest first
Answer = Guesses | DlkitError  # what is no picture has its sentence

_answers: Kept[Answer] = Kept(KEPT)  # by (model, its version, picture)
_thumbnails: Kept[str] = Kept(KEPT)  # by picture
_digests: Kept[str] = Kept(KEPT)  # by Streamlit's id of an upload


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to classify, decoded when it is needed: many at full size would fill the memory."""

    name: str
    key: str  # tells its content from any other's: answers are kept under it
    read: Callable[[], Image.Image]  # RGB; ImageError where it is none
    may_be_mended: bool = False  # then what is wrong with it is not kept


def uploaded(file: UploadedFile) -> Picture:
    """Return an uploaded picture, still undecoded."""
    digest = _digests.get(file.file_id) or _digests.put(file.file_id, image_digest(file.getvalue()))
    # with the name, because what is said of a file that is no picture names it
    return Picture(file.name, f"upload {digest} {file.name}", lambda: read_image(file.getvalue(), name=file.name))


def drawn(content: bytes) -> Picture:
    """Return a drawing, a PNG."""
    return Picture("Your drawing", f"drawing {image_digest(content)}", lambda: read_image(content, name="the drawing"))


def sample(title: str) -> Picture:
    """Return one of the photographs that come with dlkit."""
    path = PHOTOS / f"{SAMPLES[title]}.jpg"
    return Picture(path.name, f"sample {title}", lambda: read_image(path))


def validation_picture(dataset: Dataset, index: int) -> Picture:
    """Return a validation picture of a data set."""
    return Picture(dataset.val.name(index), f"{dataset.fingerprint} {index}", lambda: dataset.val.read(index), True)


def model_names() -> dict[str, str]:
    """Return the models that can classify now: {key: title}, ImageNet's first, then the newest runs'."""
    newest = service.store().list_runs(Kind.FINETUNE, MODELS_LISTED)
    runs = [run for run in newest if artifacts.has_bundle(model_folder(run.id))]
    return {IMAGENET: "ImageNet, 1\u202f000 classes"} | {run.id: title_of(run) for run in runs}


def choose_model(key: str) -> str:
    """Let the visitor choose a model, which is the URL's parameter `key`; a link to one that is gone says so."""
    names = model_names()
    asked = st.query_params.get(key, IMAGENET)
    if asked not in names:
        with told():
            run = service.run(asked)
            artifacts.read_description(model_folder(run.id))
            names[run.id] = title_of(run)  # an older one than the list goes back to
    if asked not in names:
        del st.query_params[key]
    return link.choose(
        st.selectbox, "Model", list(names), key=key, default=IMAGENET, format_func=lambda chosen: names[chosen]
    )


def title_of(run: Run) -> str:
    """Return what a run's model is called in a list."""
    return f"{run.name} · {run.id[:6]}"


def model_folder(key: str) -> Path:
    """Return the folder of a run's saved model."""
    return service.run_folder(key) / "model"


def classify(model: str, picture: Picture, top_k: int) -> Guesses:
    """Return what the model says; BundleError where the model is gone, ImageError where there is no picture."""
    key = (*_version(model), picture.key)
    answer = _answers.get(key)
    if answer is None:
        with st.spinner("Looking …"), _engine() as prediction:
            (guesses,) = prediction.predict(_source(model), [picture.read()], MOST_NAMED)
            answer = _answers.put(key, _plain(guesses))
    if isinstance(answer, DlkitError):
        raise ImageError(str(answer))  # not the one that is kept: it would keep this call's frames, too
    return answer[:top_k]


def classify_many(model: str, pictures: Sequence[Picture]) -> Iterator[Answer]:
    """Yield what the model says of each picture, in order, as soon as it is known: the MOST_NAMED likeliest classes."""
    version = _version(model)
    found = {picture.key: answer for picture, answer in known(model, pictures).items()}
    unknown = {picture.key: picture for picture in pictures if picture.key not in found}
    stream = zip(unknown, _ask(model, list(unknown.values())), strict=True)
    for picture in pictures:
        while picture.key not in found:
            key, answer = next(stream)
            is_lasting = not (isinstance(answer, DlkitError) and unknown[key].may_be_mended)
            found[key] = _answers.put((*version, key), answer) if is_lasting else answer
        yield found[picture.key]


def known(model: str, pictures: Sequence[Picture]) -> dict[Picture, Answer]:
    """Return the pictures that this model has been asked about before, each with what it said."""
    version = _version(model)
    answers = {picture: _answers.get((*version, picture.key)) for picture in pictures}
    return {picture: answer for picture, answer in answers.items() if answer is not None}


def _version(model: str) -> tuple[str, str]:
    return model, "" if model == IMAGENET else artifacts.read_description(model_folder(model))["sha256"]


def _ask(model: str, pictures: Sequence[Picture]) -> Iterator[Answer]:
    if not pictures:
        return
    with _engine() as prediction:
        for answer in prediction.predict_many(_source(model), map(_reader, pictures), MOST_NAMED):
            yield answer if isinstance(answer, DlkitError) else _plain(answer)


@contextmanager
def _engine() -> Iterator[ModuleType]:
    """Lend what predicts."""
    with warmth.torch_loaded():
        from dlkit.engine import prediction

        yield prediction


def _source(model: str) -> Path | None:
    return None if model == IMAGENET else model_folder(model)


def _plain(guesses: Sequence["Guess"]) -> Guesses:
    return tuple((guess.label, guess.probability) for guess in guesses)


def _reader(picture: Picture) -> Callable[[], Image.Image]:
    """Return what reads the picture, and makes its thumbnail on the way: it will be in a table."""

    def read() -> Image.Image:
        image = picture.read()
        if _thumbnails.get(picture.key) is None:
            _keep_thumbnail(picture, image)
        return image

    return read


def show_answer(picture: Picture, guesses: Guesses) -> None:
    """Draw the bars over the picture."""
    st.html(_html(picture.key, guesses, picture))


def thumbnail(picture: Picture) -> str:
    """Return a small version of the picture as a data URI, for tables."""
    return _thumbnails.get(picture.key) or _keep_thumbnail(picture, picture.read())


def _keep_thumbnail(picture: Picture, image: Image.Image) -> str:
    return _thumbnails.put(picture.key, data_uri(ImageOps.contain(image, (THUMBNAIL, THUMBNAIL))))


@st.cache_data(max_entries=100, show_spinner=False)
def _html(key: str, guesses: Guesses, _picture: Picture) -> str:
    labels, probabilities = zip(*guesses, strict=True)
    return softmax_html(_picture.read(), labels, probabilities)
