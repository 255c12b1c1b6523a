"""Train: choose data, backbone, strategy and optimizer, see what that means, and launch."""

from functools import partial
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dlkit.catalog.backbones import BACKBONES, BackboneEntry
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.config import (
    CATALOGS,
    FinetuneConfig,
    describe,
    first_phases,
    own_defaults,
    parse,
    settings_in_use,
    steps_per_epoch,
)
from dlkit.data.dataset import is_here
from dlkit.data.weights import has_weights
from dlkit.errors import ConfigError
from dlkit.figures.curves import schedule_figure
from dlkit.words import count, escape_markdown, size
from pages.parts import finder, forms, link, pictures, preflight
from pages.parts.launch import launch
from pages.parts.notices import show_error, told

STRATEGIES = {
    "head": "Only a new last layer learns; the pretrained network stays as it is. Seconds to minutes.",
    "partial": "The new last layer first, then the last layers, on what the layers before put out. Minutes.",
    "full": "The new last layer first, then every layer at a smaller rate. Slower, and better with enough pictures.",
    "auto": "The new last layer first, then as deep as your time allows; the best model so far is kept.",
}


def choose_data() -> str:
    """Choose the data set; show a few of its pictures."""
    st.subheader("1 · Data")
    name = forms.draw("dataset")
    entry, sheet = DATASETS[name], pictures.mosaic(name)
    text, picture = st.columns([3, 1])
    where = "is here" if is_here(name) else f"{size(entry.download_mb)} are fetched first"
    text.caption(
        f"{entry.classes} classes, {count(entry.train_images)} pictures to learn from and {count(entry.val_images)} to "
        f"check with; {where}. {escape_markdown(entry.summary)}"
    )
    text.page_link("data.py", label="Look at it", icon=":material/photo_library:", query_params={"dataset": name})
    if sheet is not None:
        picture.image(sheet, width="stretch", alt=f"Nine pictures of {entry.title}")
    return name


def choose_backbone() -> str:
    """Choose the pretrained network; show what it costs and can do."""
    st.subheader("2 · Backbone")
    name = forms.draw("backbone")
    st.caption(facts_of(BACKBONES[name]))
    with st.expander("Compare all backbones", key="compare", on_change="rerun") as compare:
        if compare.open:
            show_backbones()
    return name


def show_backbones() -> None:
    """Show what every backbone costs and can do, side by side."""
    rows = [
        {
            "backbone": entry.title,
            "ImageNet top-1": entry.top1 / 100,
            "million parameters": entry.parameters / 1e6,
            "GFLOPs": entry.gflops,
            "input px": entry.input_size,
            "MB": entry.weights.size_mb,
            "here": has_weights(entry),
            "licence": entry.licence,
        }
        for entry in BACKBONES.values()
    ]
    share = st.column_config.NumberColumn(format="percent")
    number = st.column_config.NumberColumn(format="%.3g")
    st.dataframe(
        rows,
        hide_index=True,
        column_config={"ImageNet top-1": share, **dict.fromkeys(("million parameters", "GFLOPs", "MB"), number)},
    )


def facts_of(entry: BackboneEntry) -> str:
    """Return one paragraph about a backbone."""
    where = "weights are here" if has_weights(entry) else f"{size(entry.weights.size_mb)} of weights are fetched first"
    return (
        f"{count(entry.parameters)} parameters · {entry.gflops:.2g} GFLOPs at {entry.input_size} px · "
        f"{entry.top1:.1f} % right on ImageNet · {where} · {escape_markdown(entry.licence)}. "
        f"{escape_markdown(entry.summary)}"
    )


def choose_how() -> tuple[dict[str, Any], DeltaGenerator]:
    """Choose the strategy, and of the one that needs it the time.

    Also return the place for what each strategy takes, which needs every setting.
    """
    st.subheader("3 · How")
    strategy, place = forms.draw("strategy"), st.container()
    st.caption(STRATEGIES[strategy])
    time = {"budget_minutes": forms.draw("budget_minutes")} if strategy == "auto" else {}
    return {"strategy": strategy, **time}, place


def choose_optimizer(strategy: str) -> tuple[dict[str, Any], DeltaGenerator]:
    """Choose the optimizer, its learning rate, and for how long it goes on where time does not decide that.

    Also return the place of the rate finder, which needs every setting.
    """
    st.subheader("4 · Optimizer")
    optimizer = forms.draw("optimizer")
    entry = OPTIMIZERS[optimizer]
    st.caption(f"{escape_markdown(entry.summary)} [{escape_markdown(entry.paper)}]({entry.url})")
    rate, place = forms.draw_rate(optimizer), st.container()
    chosen = {"optimizer": optimizer, "learning_rate": rate}
    return chosen if strategy == "auto" else {**chosen, "epochs": forms.draw("epochs")}, place


def choose_details(values: dict[str, Any]) -> dict[str, Any]:
    """Draw every other setting that the choices use, in groups."""
    chosen: dict[str, Any] = {}
    drawn_here = {name: link.named(name, CATALOGS[name], describe(name).default) for name in CATALOGS - values.keys()}
    choices = {**drawn_here, **values}
    defaults, used = own_defaults(choices), settings_in_use(choices)
    for title, names in forms.GROUPS.items():
        shown = [name for name in names if name in used and name not in values]
        if shown:
            chosen |= forms.draw_group(title, shown, defaults)
    return chosen


def show_plan(values: dict[str, Any]) -> FinetuneConfig | None:
    """Show what the choices mean: the schedule, and how many steps; or what is wrong with them."""
    try:
        config = parse(forms.unread(values)).resolved()
    except ConfigError as error:
        show_error(error)
        return None
    entry = DATASETS[config.dataset]
    steps = steps_per_epoch(entry.train_images, config.batch_size)
    epochs = sum(epochs for _, epochs in first_phases(config))
    first, second = st.columns(2)
    if config.strategy == "auto":
        first.metric(
            "Minutes", f"{config.budget_minutes:g}", help="What follows the head is decided when it has learnt."
        )
    else:
        first.metric(
            "Steps", count(steps * epochs), help=f"{steps} batches of {config.batch_size} in each of {epochs} epochs."
        )
    second.metric("Pictures seen as", f"{config.image_size} px")
    of_head = " Here for the head; what follows has it again." if config.strategy == "auto" else ""
    st.caption(f"Schedule: {SCHEDULES[config.schedule].title}. {SCHEDULES[config.schedule].summary}{of_head}")
    st.plotly_chart(
        schedule_figure(config, steps),
        key="schedule_figure",
        config={"displayModeBar": False},
        alt="The learning rate over the epochs",
    )
    with st.expander("What the model sees", key="seen", on_change="rerun") as seen:
        if seen.open and is_here(config.dataset):
            with told():
                st.image(pictures.augmented_sheet(config), width="stretch", alt="One batch after augmentation")
        elif seen.open:
            st.caption("The pictures are fetched when the run starts.")
    return config


st.title("Train")
level = link.choose(
    partial(st.segmented_control, required=True),
    "Settings",
    ["basic", "expert"],
    key="level",
    default="expert" if forms.has_expert_settings(st.query_params) else "basic",
    help="Basic shows six settings, expert all. Both have the same defaults.",
)
form, plan = st.columns([3, 2], gap="large")
with form:
    values: dict[str, Any] = {"dataset": choose_data(), "backbone": choose_backbone()}
    how, strategies_place = choose_how()
    values |= how
    chosen, finder_place = choose_optimizer(values["strategy"])
    values |= chosen
    if level == "expert":
        values |= choose_details(values)
with plan, st.container(border=True):
    st.subheader("Plan")
    card_place = st.container()
    config = show_plan(values)
    estimates = preflight.estimates_of(config)
    if config is not None and config.strategy in estimates:
        with card_place:
            preflight.show_card(config, estimates)
    if st.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        key="launch",
        disabled=config is None,
        width="stretch",
    ):
        with told():
            launch(forms.unread(values))
with strategies_place:
    preflight.show_strategies(estimates)
with finder_place:
    finder.show_finder(config)
