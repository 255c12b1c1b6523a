"""What the layers page looks at: which network at which checkpoint, which picture, and what was seen, kept a while."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image

from dlkit.catalog.datasets import DATASETS
from dlkit.data.dataset import is_here
from dlkit.descent.asked import Number
from dlkit.errors import DatasetError, ImageError, RunError
from dlkit.runs import artifacts, service
from dlkit.runs.artifacts import IMAGENET
from dlkit.settings import settings
from dlkit.words import escape_markdown
from pages.parts import classify, link, warmth
from pages.parts.kept import Kept
from pages.parts.pictures import dataset_of

if TYPE_CHECKING:
    from dlkit.engine.inside import Look, Source
    from dlkit.engine.layers import Layer, Statistics
    from dlkit.engine.one_step import OneStep

PREFIX = "layers_"
BEST = "best"  # what stands for the model that a run keeps among its checkpoints
UPLOAD, DATA = "upload", "data"
EXAMPLE = Number("Validation picture", 0, 0, 10**7, is_whole=True)

_squares: Kept[Image.Image] = Kept(20)
_statistics: Kept[list["Statistics"]] = Kept(50)
_looks: Kept["Look"] = Kept(6)
_steps: Kept["OneStep"] = Kept(2)  # all numbers of a parameter several times over


def ask_checkpoint(model: str, *, has_best: bool) -> str:
    """Let the visitor choose a checkpoint of a run, or with `has_best` the model that it keeps; return its number.

    It is BEST for the kept model, and where nothing else is there to choose. The newest comes first.
    """
    known = [] if model == IMAGENET else service.store().checkpoints(model)
    titles = {BEST: "Best epoch, as it is kept"} if has_best else {}
    titles |= {str(one.number): f"Checkpoint after step {one.step}" for one in known}
    if not known:
        return BEST
    key = f"{PREFIX}{'checkpoint' if has_best else 'from'}"
    return link.choose(
        st.selectbox, "As of", list(titles), key=key, default=next(iter(titles)), format_func=titles.__getitem__
    )


def source_of(model: str, checkpoint: str = BEST) -> "Source":
    """Return the network that was chosen; RunError or BundleError where it is gone."""
    with warmth.torch_loaded():
        from dlkit.engine.inside import Source

        if model == IMAGENET:
            return Source()
        folder = service.run_folder(service.run(model).id)
        if checkpoint == BEST:
            return Source(folder, "", artifacts.read_description(folder / "model")["sha256"])
        for one in service.store().checkpoints(model):
            if str(one.number) == checkpoint:
                return Source(folder, one.file, one.sha256)
    raise RunError("This checkpoint is no longer kept: a run keeps its last two. Choose another.")


def ask_picture(model: str) -> classify.Picture:
    """Let the visitor choose a picture: one that comes with dlkit, their own, or one of the run's data set."""
    titles = {name: title for title, name in classify.SAMPLES.items()} | {UPLOAD: "Upload"}
    dataset = _dataset_of_run(model)
    if dataset:
        titles[DATA] = "From its data set"
    key = f"{PREFIX}picture"
    chosen = link.choose(
        st.segmented_control, "Picture", list(titles), key=key, default="chelsea", format_func=titles.__getitem__
    )
    if chosen == UPLOAD:
        file = st.file_uploader(
            "Drop a photo", type="image", key=f"{PREFIX}photo", max_upload_size=int(settings().max_image_mb)
        )
        if file is None:
            raise ImageError("Drop a photo to look at. A link does not carry it.")
        return classify.uploaded(file)
    if chosen == DATA:
        return _example(dataset)
    return classify.sample(titles[chosen])


def _dataset_of_run(model: str) -> str:
    """Return the data set of a run's model, where it is on this machine; else nothing."""
    if model == IMAGENET:
        return ""
    name = str(service.run(model).config.get("dataset", ""))
    return name if name in DATASETS and is_here(name) else ""


def _example(name: str) -> classify.Picture:
    dataset = dataset_of(name)
    text = st.text_input(EXAMPLE.title, key=f"{PREFIX}example", placeholder="0", bind="query-params")
    place, count = int(EXAMPLE.read(f"{PREFIX}example", text) or 0), len(dataset.val)
    if place >= count:
        raise DatasetError(f"There are {count} validation pictures, numbered from 0; there is no picture {place}.")
    st.caption(escape_markdown(dataset.classes[int(dataset.val.labels[place])]))
    return classify.validation_picture(dataset, place)


def layers(source: "Source") -> Sequence["Layer"]:
    """Return the layers of a network."""
    with warmth.torch_loaded(), st.spinner("Opening the network …"):
        from dlkit.engine import inside

        return inside.layers(source)


def classes(source: "Source") -> tuple[str, ...]:
    """Return the names of the classes that a network tells apart."""
    from dlkit.engine import inside

    return inside.classes(source)


def square(source: "Source", picture: classify.Picture) -> Image.Image:
    """Return what the network sees of a picture."""
    from dlkit.engine import inside

    key = source, picture.key
    return _squares.get(key) or _squares.put(key, inside.square(source, picture.read()))


def statistics(source: "Source", picture: classify.Picture) -> list["Statistics"]:
    """Return what each layer makes of a picture."""
    from dlkit.engine import inside

    key = source, picture.key
    return _statistics.get(key) or _statistics.put(key, inside.statistics(source, picture.read()))


def look(source: "Source", picture: classify.Picture, layer: str, call: int) -> "Look":
    """Return what one layer makes of a picture."""
    from dlkit.engine import inside

    key = source, picture.key, layer, call
    return _looks.get(key) or _looks.put(key, inside.look(source, picture.read(), layer, call))


def step(source: "Source", parameter: str, batch: int) -> "OneStep":
    """Return the step that a run would take from a checkpoint."""
    with warmth.torch_loaded(), st.spinner("Taking a step aside …"):
        from dlkit.engine import inside

        key = source, parameter, batch
        return _steps.get(key) or _steps.put(key, inside.step(source, parameter, batch))
