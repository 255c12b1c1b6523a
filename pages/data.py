"""Data: the gallery of data sets, and one of them opened: its pictures, its balance, and what the model sees."""

import streamlit as st

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.datasets import DATASETS, DatasetEntry
from dlkit.catalog.imported import VERSION_MARK
from dlkit.config import parse
from dlkit.data.dataset import Dataset, is_here
from dlkit.errors import UnknownChoice
from dlkit.figures.curves import balance_figure
from dlkit.words import count, escape_markdown, size
from pages.parts import curating, doctor, forms, importing, link, pictures
from pages.parts.notices import show_error, told
from pages.parts.progress import show_fetch

CLASSES_AT_ONCE = 12
PER_CLASS = 8


def show_gallery() -> None:
    """Show every data set as a card."""
    st.title("Data")
    st.caption("Labelled pictures to learn from. Open one to see what is in it, or bring your own.")
    st.page_link("data.py", label="Import your own", icon=":material/upload:", query_params={"import": "new"})
    grid = st.grid(columns=3, min_column_width=280)
    for entry in DATASETS.values():
        with grid, st.container(border=True, height="stretch"):
            show_card(entry)


def show_card(entry: DatasetEntry) -> None:
    """Show one data set: nine pictures, what it is, and whether it is here."""
    if is_here(entry.name):
        st.badge("here", icon=":material/check:", color="green")
    else:
        st.badge(f"{size(entry.download_mb)} to fetch", icon=":material/cloud_download:", color="gray")
    sheet = pictures.mosaic(entry.name)
    if sheet is not None:
        st.image(sheet, width="stretch", alt=f"Nine pictures of {entry.title}")
    st.markdown(f"**{escape_markdown(entry.title)}** · {entry.classes} classes · {count(entry.train_images)} pictures")
    st.caption(escape_markdown(entry.summary))
    st.page_link("data.py", label="Open", icon=":material/arrow_forward:", query_params={"dataset": entry.name})


def show_dataset(entry: DatasetEntry) -> None:
    """Show one data set, or how to bring it here."""
    st.page_link("data.py", label="All data sets", icon=":material/arrow_back:", query_params={})
    st.title(escape_markdown(entry.title))
    st.markdown(escape_markdown(entry.summary))
    facts = st.columns(5)
    facts[0].metric("Classes", entry.classes)
    facts[1].metric("Training pictures", count(entry.train_images))
    facts[2].metric("Validation pictures", count(entry.val_images))
    facts[3].metric("Short side", f"{entry.image_size} px", help="Typical; the model sees squares of its own size.")
    if entry.folder:
        facts[4].metric("Version", entry.version)
    else:
        facts[4].metric("Download", size(entry.download_mb) if entry.download_mb else "none")
    st.caption(f"Licence: {escape_markdown(entry.licence)} · Source: {escape_markdown(entry.source)}")
    if not is_here(entry.name):
        show_fetch("dataset", entry.name, entry.title, entry.download_mb)
        return
    with told():
        titles = ["Look", "Class balance", "What the model sees", "Doctor", *(["Curate"] if entry.folder else [])]
        look, balance, seen, examined, *curate = st.tabs(titles, key="tab", on_change="rerun", bind="query-params")
        shown = {look: show_classes, balance: show_balance, seen: show_seen}
        for tab in (tab for tab in shown if tab.open):  # what is not looked at is not read either
            with tab:
                shown[tab](pictures.dataset_of(entry.name))
        if examined.open:
            with examined:
                doctor.show_doctor(entry)
        for tab in (tab for tab in curate if tab.open):
            with tab:
                curating.show_curate(entry)
        st.page_link(
            "train.py", label="Train on it", icon=":material/model_training:", query_params={"dataset": entry.name}
        )
        with st.container(horizontal=True):
            importing.show_copy(entry)
            if entry.folder and VERSION_MARK not in entry.name:  # one version is not deleted alone
                importing.show_delete(entry.name)


def show_classes(dataset: Dataset) -> None:
    """Show the first pictures of each class, some classes at a time."""
    names = {"train": "training", "val": "validation"}
    split = link.choose(
        st.segmented_control, "Split", list(names), key="split", default="train", format_func=lambda name: names[name]
    )
    pages = -(-len(dataset.classes) // CLASSES_AT_ONCE)
    page = st.pagination(pages, key="classes_page") if pages > 1 else 1
    counts = dataset.counts(split)
    for label in range((page - 1) * CLASSES_AT_ONCE, min(page * CLASSES_AT_ONCE, len(dataset.classes))):
        name = dataset.classes[label]
        st.markdown(f"**{escape_markdown(name)}** · {count(counts[name])}")
        st.image(
            pictures.class_sheet(dataset.name, dataset.fingerprint, split, label, PER_CLASS, PER_CLASS),
            alt=f"Pictures of {name}",
        )


def show_balance(dataset: Dataset) -> None:
    """Show how many pictures each class has in both splits."""
    counts = {name: dataset.counts(split) for name, split in (("training", "train"), ("validation", "val"))}
    st.plotly_chart(balance_figure(counts), key="balance", alt="Pictures of each class in both splits")


def show_seen(dataset: Dataset) -> None:
    """Show one batch as it enters the network."""
    left, middle, right = st.columns(3)
    with left:
        augmentation = forms.draw("augmentation")
    with middle:
        mixing = forms.draw("mixing")
    with right:
        backbone = forms.draw("backbone")
    view = st.slider("Epoch", 0, 9, 0, key="view", help="Each epoch draws other crops; the seed makes them repeatable.")
    st.caption(f"{AUGMENTATIONS[augmentation].summary} {MIXINGS[mixing].summary}")
    choices = {"dataset": dataset.name, "backbone": backbone, "augmentation": augmentation, "mixing": mixing}
    sheet = pictures.augmented_sheet(parse({"strategy": "full", **choices}), view)
    st.image(sheet, alt="One batch after augmentation")


link.follow("dataset", "import", "into")
chosen = st.query_params.get("dataset")
if "import" in st.query_params:
    importing.show_import()
elif chosen is None:
    show_gallery()
elif chosen in DATASETS:
    show_dataset(DATASETS[chosen])
else:
    show_error(UnknownChoice("data set", chosen, DATASETS))
    show_gallery()
