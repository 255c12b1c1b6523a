"""Layers: what a network makes of a picture, layer by layer, and what one step of a run does to a weight."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dlkit.catalog.views import view_of_layer
from dlkit.errors import ConfigError, DlkitError
from dlkit.figures.layers import Maps, filters_image, framed, maps_of, network_figure, sheet, written
from dlkit.lab.code import code_of_layer
from dlkit.runs.artifacts import IMAGENET
from dlkit.words import count, escape_markdown, number, percent
from pages.parts import classify, lesson, link, looking, onestep
from pages.parts import sheet as sheets
from pages.parts.notices import show_error, told

if TYPE_CHECKING:
    from dlkit.engine.inside import Look
    from dlkit.engine.layers import Layer, Statistics

PREFIX = looking.PREFIX
VIEWS = {"layers": "Layers", "step": "One step"}
CONTROLS = ("view", "text", "code")
LAYER, AT, TRAINING = f"{PREFIX}layer", f"{PREFIX}at", f"{PREFIX}training"
SEED = 0  # of dropout's mask
CHANGES_IN_TRAINING = ("BatchNorm", "Dropout")
PLAIN = {"displayModeBar": False}


def show_page() -> None:
    """Show the chosen view of the chosen network."""
    st.title("Layers")
    view = lesson.ask_choice(
        "view",
        "View",
        list(VIEWS),
        key=f"{PREFIX}view",
        default="layers",
        titles=VIEWS.__getitem__,
        draw=st.segmented_control,
    )
    lesson.check(CONTROLS)
    with st.container(border=True):
        left, right = st.columns([3, 2])
        with left:
            model = classify.choose_model(f"{PREFIX}model")
        with right:
            checkpoint = looking.ask_checkpoint(model, has_best=view == "layers")
        picture = None
        if view == "layers":
            with told():
                picture = looking.ask_picture(model)
    if view == "step" and checkpoint == looking.BEST:
        onestep.show_none()
        return
    if not lesson.may_load("Look inside", "layers"):
        return
    if view == "step":
        onestep.show(model, checkpoint)
    elif picture is not None:
        show_layers(model, checkpoint, picture)


def show_layers(model: str, checkpoint: str, picture: classify.Picture) -> None:
    """Show the network as a row of blocks and as a table, and one of its layers."""
    source = looking.source_of(model, checkpoint)
    layers = looking.layers(source)
    found = looking.statistics(source, picture)
    names = names_of(layers)
    place = names.index(link.named(LAYER, names, names[0]))
    left, right = st.columns([1, 4], vertical_alignment="center")
    image = looking.square(source, picture)
    field = layers[place].field
    framed_image = image if field is None else framed(image, **vars(field))
    with left:
        st.image(framed_image, width="stretch", alt="What the network sees of the picture")
        st.caption("Framed: what a value in the middle of the layer sees.")
    with right:
        show_row(layers, names, place)
    show_table(layers, found, names)
    chosen = link.choose(st.selectbox, "Layer", names, key=LAYER, default=names[0], on_change=forget_value)
    place = names.index(chosen)
    show_facts(layers[place], found[place])
    layer = layers[place]
    seen = looking.look(source, picture, layer.name, layer.call)
    maps = maps_of(seen.outputs)
    is_last = place == len(layers) - 1
    labels = looking.classes(source) if is_last else ()
    at = value_chosen(maps)
    sheets.show(sheet(maps, *at, labels), key=f"{PREFIX}sheet", on_choose=choose_value)
    try:
        show_arithmetic(layer, seen, maps.index(*at), labels)
    except ConfigError as error:  # a block, or attention: nothing that went wrong
        st.info(escape_markdown(str(error)), icon=":material/info:")
    if (filters := seen.filters) is not None:
        with st.expander("Filters", icon=":material/grid_on:"):
            whose = "Each map's kernel, in the colours that it answers to" if filters.shape[1] == 3 else ""
            st.caption(whose or f"The kernel of map {at[0]}, for the inputs with the largest weights")
            st.image(filters_image(filters, at[0]), alt="Kernels as small images")
    lesson.show_text(view_of_layer(layer.kind))
    lesson.show_code(
        code_of_layer(layer.name, layer.call, maps.index(*at), is_imagenet=model == IMAGENET, is_last=is_last)
    )


def names_of(layers: Sequence["Layer"]) -> list[str]:
    """Return what the layers are called here: a module that runs several times has its name with a number behind."""
    return [layer.name + (f" ({layer.call})" if layer.call > 1 else "") for layer in layers]


def show_row(layers: Sequence["Layer"], names: list[str], place: int) -> None:
    """Show the network as a row of blocks; a click chooses one."""

    def clicked() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            choose_layer(names[int(points[0]["x"])])

    key = f"{PREFIX}row"
    st.plotly_chart(
        network_figure(names, [layer.kind for layer in layers], [layer.shape for layer in layers], place),
        key=key,
        config=PLAIN,
        on_select=clicked,
        selection_mode="points",
        alt="The layers as blocks, as high as their maps",
    )


def show_table(layers: Sequence["Layer"], found: Sequence["Statistics"], names: list[str]) -> None:
    """Show all layers with their numbers; a click on a row chooses one."""
    parameters, work = (sum(getattr(layer, name) for layer in layers) for name in ("parameters", "multiply_adds"))
    title = f"{len(layers)} layers, {count(parameters)} parameters, {count(work)} multiply-adds for this picture"
    key = f"{PREFIX}table"

    def clicked() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows:
            choose_layer(names[rows[0]])

    with st.expander(title, icon=":material/table_rows:"):
        table = pd.DataFrame(
            {
                "layer": names,
                "kind": [layer.kind for layer in layers],
                "output": ["×".join(map(str, layer.shape)) for layer in layers],
                "parameters": [layer.parameters for layer in layers],
                "multiply-adds": [layer.multiply_adds for layer in layers],
                "sees": [f"{layer.field.height}×{layer.field.width}" if layer.field else "" for layer in layers],
                "least": [one.least for one in found],
                "mean": [one.mean for one in found],
                "largest": [one.largest for one in found],
                "zeros": [one.zeros for one in found],
            }
        )
        st.dataframe(
            table,
            key=key,
            hide_index=True,
            height=320,
            on_select=clicked,
            selection_mode="single-row",
            column_config={
                "zeros": st.column_config.NumberColumn(format="percent"),
                **{name: st.column_config.NumberColumn(format="%.3g") for name in ("least", "mean", "largest")},
            },
        )


def choose_layer(name: str) -> None:
    st.session_state[LAYER] = name
    forget_value()


def forget_value() -> None:
    st.query_params.pop(AT, None)


def choose_value(map_number: int, row: int, column: int) -> None:
    st.query_params[AT] = f"{map_number},{row},{column}"


def value_chosen(maps: Maps) -> tuple[int, int, int]:
    """Return the map, row and column of the URL; where it names none, the place of the largest value of all."""
    text, shape = st.query_params.get(AT, ""), maps.values.shape
    best = maps.strongest()
    if not text:
        return best
    try:
        at = tuple(int(part) for part in text.split(","))
        if len(at) == 3 and all(0 <= place < side for place, side in zip(at, shape, strict=True)):
            return at[0], at[1], at[2]
    except ValueError:
        pass
    wanted = "map,row,column from 0,0,0 to " + ",".join(str(side - 1) for side in shape)
    show_error(ConfigError([f"A value ({AT}) of this layer must be {wanted}; got {text[:40]}."]))
    return best


def show_facts(layer: "Layer", found: "Statistics") -> None:
    """Show what the layer is and costs, and what it made of the picture."""
    facts = {
        layer.kind: "×".join(map(str, layer.shape)),
        "Parameters": count(layer.parameters),
        "Multiply-adds": count(layer.multiply_adds),
        "One value sees": f"{layer.field.height}×{layer.field.width}" if layer.field else "nothing of it",
        "Least": number(found.least),
        "Mean": number(found.mean),
        "Largest": number(found.largest),
        "Zeros": percent(found.zeros, 0),
    }
    grid = st.grid(columns=4, min_column_width=120)
    for title, value in facts.items():
        with grid:
            st.metric(title, value)


def show_arithmetic(layer: "Layer", seen: "Look", index: tuple[int, ...], labels: Sequence[str]) -> None:
    """Show how the chosen value comes about, with its numbers."""
    at = ", ".join(map(str, index))
    st.markdown(f"**The value at {at}**" + (f", {escape_markdown(labels[index[-1]])}" if labels else ""))
    is_training = False
    if any(kind in layer.kind for kind in CHANGES_IN_TRAINING):
        is_training = st.toggle(
            "As in training", key=TRAINING, bind="query-params", help="Here the batch is this one picture."
        )
    found = seen.arithmetic(index, training=is_training, seed=SEED)
    show_written(found.formula, found.parts, found.value, seen)
    if labels:
        st.markdown("**Its probability**")
        chance = seen.probability(index[-1])
        show_written(chance.formula, chance.parts, chance.value, seen, labels)


def show_written(
    formula: str, parts: Mapping[str, Any], value: float, seen: "Look", labels: Sequence[str] = ()
) -> None:
    told_of = written(formula, parts, value, seen.inputs.shape)
    with st.container(horizontal=True, gap="large"):
        for title, latex in told_of.formulas.items():
            with st.container(width="content", gap=None):
                st.caption(title)
                st.latex(latex, width="content")
    if told_of.note:
        st.caption(told_of.note)
    if told_of.rows:
        table = pd.DataFrame(told_of.rows)
        if labels:
            table["class"] = [labels[int(one)] for one in table["class"]]
        st.dataframe(table, hide_index=True, height="content", width="content")


try:
    show_page()
except DlkitError as error:
    show_error(error)
