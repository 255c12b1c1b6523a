"""A form from the config: each setting's widget, label, help and default come from its one field.

Numbers are text fields on purpose: whatever is typed stays there, and the config words what is wrong with it. An empty
field means the default, which stands in it in grey; so a filled field is a changed one.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import streamlit as st

from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.config import CATALOGS, FinetuneConfig, Setting, describe
from pages.parts import link

GROUPS = {
    "Training": (
        "epochs",
        "head_epochs",
        "unfreeze_from",
        "batch_size",
        "image_size",
        "early_stopping",
        "seed",
        "device",
        "name",
    ),
    "Optimizer": (
        "weight_decay",
        "momentum",
        "beta1",
        "beta2",
        "epsilon",
        "rho",
        "smoothing",
        "learning_rate_decay",
        "momentum_decay",
        "backbone_rate_factor",
        "layer_rate_decay",
        "gradient_clipping",
        "ema_decay",
    ),
    "Schedule": ("schedule", "decay", "decay_epochs", "rise", "start_divisor", "patience"),
    "Pictures": ("augmentation", "views", "mixing", "mixing_alpha"),
    "Loss and regularisation": (
        "label_smoothing",
        "class_weights",
        "dropout",
        "freeze_batchnorm",
        "precision",
        "compile",
    ),
}
RATES = [float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 2, 5)]


def has_expert_settings(names: Iterable[str]) -> bool:
    """Tell whether a link speaks of settings that the basic form does not show."""
    return any(name in FinetuneConfig.model_fields and not describe(name).is_basic for name in names)


def draw(name: str, defaults: Mapping[str, Any] | None = None) -> Any:
    """Draw the widget of one setting and return what it holds, unread."""
    setting = describe(name)
    if setting.choices:
        return _choice(setting)
    if setting.kind is bool:
        return st.toggle(setting.title, setting.default, key=name, help=setting.help, bind="query-params")
    return _text(setting, (defaults or {}).get(name, setting.default))


def draw_group(title: str, names: Iterable[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Draw some settings behind a fold and return what they hold."""
    with st.expander(title):
        grid = st.grid(columns=3, min_column_width=200)
        values = {}
        for name in names:
            with grid:
                values[name] = draw(name, defaults)
        return values


def draw_rate(optimizer: str) -> Any:
    """Draw the learning rate: a field for any number, and a logarithmic slider that fills it.

    A number that is typed gets a new slider, which starts there. The old one cannot be moved: a browser that has not
    heard of the move yet sends the old place with the next change, and Streamlit 1.67 takes that for the user's wish.
    """
    setting, default = describe("learning_rate"), OPTIMIZERS[optimizer].learning_rate
    text = _text(setting, default)
    start, place = st.session_state.get("rate_start"), _nearest_rate(text.strip() or str(default))
    is_slid = text == st.session_state.get("rate_slid") and f"rate_slider_{start}" in st.session_state
    if start is None or (place not in (None, start) and not is_slid):
        start = place or _nearest_rate(str(default))
        st.session_state["rate_slid"] = None
    st.session_state["rate_start"] = start
    st.select_slider(
        "Learning rate, logarithmic",
        RATES,
        start,
        key=f"rate_slider_{start}",
        format_func=lambda rate: f"{rate:g}",
        label_visibility="collapsed",
        on_change=_take_slider,
        args=(start,),
    )
    return text


def _take_slider(start: float) -> None:
    """Fill the field from the slider that started there, unless only its start is heard, or an older slider."""
    rate = st.session_state[f"rate_slider_{start}"]
    if start == st.session_state["rate_start"] and (rate != start or st.session_state["rate_slid"]):
        st.session_state["learning_rate"] = st.session_state["rate_slid"] = f"{rate:g}"


def _nearest_rate(text: str) -> float | None:
    """Return the slider's rate that is nearest to what the field says; None where that is no rate."""
    try:
        wanted = math.log(float(text))
    except ValueError:
        return None
    return min(RATES, key=lambda known: abs(math.log(known) - wanted)) if math.isfinite(wanted) else None


def _text(setting: Setting, default: Any) -> str:
    shown = "" if default in (None, "") else f"{default:g}" if isinstance(default, float) else str(default)
    help_text = setting.help if setting.kind is str else f"{setting.help} It must be {setting.rule}."
    return st.text_input(setting.title, key=setting.name, placeholder=shown, help=help_text, bind="query-params")


def _choice(setting: Setting) -> str:
    """Draw a choice: few as buttons, many as a list; entries of a catalog show their titles, which are longer."""
    catalog, options = CATALOGS.get(setting.name, {}), list(setting.choices or ())
    asked = st.query_params.get(setting.name)
    if asked is not None and asked not in options and asked in catalog:  # a version of a data set is in no list
        options.append(asked)
    draw = partial(st.segmented_control, required=True) if len(options) <= (3 if catalog else 4) else st.selectbox
    return link.choose(
        draw,
        setting.title,
        options,
        key=setting.name,
        default=setting.default,
        help=setting.help,
        format_func=lambda name: catalog[name].title if name in catalog else name,
    )


def unread(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were given: an empty field is left to its default."""
    return {
        name: value for name, value in values.items() if value not in (None, "") and name in FinetuneConfig.model_fields
    }
