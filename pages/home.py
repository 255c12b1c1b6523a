"""Start: classify a photo now, train in seconds, and what ran last."""

import streamlit as st

from dlkit.runs import service
from dlkit.runs.artifacts import IMAGENET
from dlkit.runs.records import Kind, Run
from dlkit.settings import settings
from dlkit.words import duration, escape_markdown, percent
from pages.parts import classify, warmth
from pages.parts.launch import launch
from pages.parts.notices import show_state, told


def show_photo() -> None:
    """Classify an uploaded photo, or one of the samples, with the ImageNet model."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("Classify a photo")
        upload = st.file_uploader(
            "Drop a photo", type="image", key="photo", max_upload_size=int(settings().max_image_mb)
        )
        sample = st.pills(
            "or use one of these",
            list(classify.SAMPLES),
            default="Cat",
            key="sample",
            bind="query-params",
        )
        st.caption("Seen by EfficientNet-Lite0, trained on the 1 000 classes of ImageNet. Nothing leaves this machine.")
    with right, told():
        if upload is not None:
            picture = classify.uploaded(upload)
        elif sample is not None:
            picture = classify.sample(sample)
        else:
            st.info("Drop a photo or choose a sample.")
            return
        if not warmth.is_warm():  # no warm-up: the visitor decides when PyTorch is loaded
            waiting = st.empty()
            with waiting.container():
                st.image(picture.read(), width="stretch", alt="The chosen photo")
                if not st.button("Classify it", type="primary", icon=":material/image_search:", key="classify"):
                    return
            waiting.empty()
        classify.show_answer(picture, classify.classify(IMAGENET, picture, top_k=5))


@st.fragment(run_every=1)
def wait_for_model() -> None:
    """Hold the place of the first answer while the server loads PyTorch."""
    if not warmth.warming.is_set():
        st.rerun()
    st.subheader("Classify a photo")
    st.caption("The ImageNet model is being loaded: a few seconds.")
    st.skeleton(height=300)


def show_training() -> None:
    """Offer a training that ends before anyone gets bored."""
    with st.container(border=True, height="stretch"):
        st.subheader("Train on pictures")
        st.write("500 photographs of five flowers, a new last layer on a pretrained network: less than half a minute.")
        if st.button("Train the flowers sample", type="primary", icon=":material/play_arrow:", key="train_sample"):
            with told():
                launch({})
        st.page_link("train.py", label="Choose everything yourself", icon=":material/tune:")


def show_data() -> None:
    """Point to the data sets."""
    with st.container(border=True, height="stretch"):
        st.subheader("Look at the data")
        st.write("Twelve data sets: three are here, nine are fetched at first use. See what the model sees.")
        st.page_link("data.py", label="Open the gallery", icon=":material/photo_library:")


def show_lessons() -> None:
    """Point to the pages that show how a network learns."""
    st.subheader("Understand how it learns")
    lessons = (
        ("descent.py", "Descent", "Let optimizers race down a loss surface.", ":material/moving:"),
        ("network.py", "Network", "Train a small network and watch every unit of it.", ":material/hub:"),
        ("layers.py", "Layers", "Look inside a deep network, layer by layer.", ":material/layers:"),
    )
    for column, (page, title, text, icon) in zip(st.columns(3), lessons, strict=True):
        with column, st.container(border=True, height="stretch"):
            st.write(text)
            st.page_link(page, label=title, icon=icon)


def show_recent(runs: list[Run]) -> None:
    """Show the newest runs as cards."""
    st.subheader("Recent runs")
    if not runs:
        st.caption("Nothing has run yet. The first run will stand here.")
        return
    for column, run in zip(st.columns(4), runs, strict=False):
        with column, st.container(border=True):
            curve = [point.value for point in service.store().curve(run.id, keys=["val/accuracy"])]
            show_state(run.state)
            st.metric(
                escape_markdown(run.name),
                percent(run.summary.get("val_accuracy")),
                chart_data=curve or None,
                help="Validation accuracy, and how it grew.",
            )
            st.page_link("runs.py", label=f"Open · {duration(run.seconds)}", query_params={"run": run.id})


st.title("dlkit studio")
st.caption(
    "Pick data, a pretrained network and an optimizer; fine-tune, watch it learn, and classify your own pictures."
)
if warmth.warming.is_set():
    wait_for_model()
else:
    show_photo()
first, second = st.columns(2)
with first:
    show_training()
with second:
    show_data()
show_lessons()
show_recent(service.store().list_runs(Kind.FINETUNE, limit=4))
