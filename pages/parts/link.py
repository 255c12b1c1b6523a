"""Choices that live in the URL under their catalog names, so that a link shows what its sender saw.

Streamlit's own binding writes what a widget shows (titles) into the URL; links and commands speak names. The URL is
read when a widget is first drawn on a page; from then on the widget is right and the URL follows: a browser that
changes two widgets quickly sends the second change with the address from before the first.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import streamlit as st

from dlkit.errors import UnknownChoice
from pages.parts.notices import show_error

FOLLOWED = "followed"


def follow(*names: str) -> None:
    """Bring the browser's address after a link to the page that it is on, by the parameters that such links set.

    Streamlit 1.67 runs the page with the link's parameters and leaves the address as it was, so that the next touch
    of the page would go back. Called before anything is drawn; an address that is right already stays so.
    """
    asked = {name: st.query_params[name] for name in names if name in st.query_params}
    if st.session_state.get(FOLLOWED) != asked:
        if asked:
            st.query_params.update(asked)
        elif not st.query_params:
            st.query_params.clear()
    st.session_state[FOLLOWED] = asked


def named(key: str, options: Collection[str], default: str) -> str:
    """Return the choice as it stands, also before its widget is drawn; the default where the URL names no choice."""
    asked = st.session_state.get(key) or st.query_params.get(key, default)
    return asked if asked in options else default


def choose(
    draw: Callable[..., Any], label: str, options: Sequence[str], *, key: str, default: str, **arguments: Any
) -> str:
    """Draw a widget of one choice (`st.selectbox`, `st.segmented_control`) that begins as the URL's parameter `key`.

    What was chosen here and is no longer offered is forgotten.
    """
    if st.session_state.get(key) not in (None, *options):
        del st.session_state[key]
        st.query_params.pop(key, None)
    if key not in st.session_state:
        asked = st.query_params.get(key, default)
        if asked not in options:
            show_error(UnknownChoice(label.lower(), asked, filter(None, options)))  # "" is any of them
        st.session_state[key] = named(key, options, default)
    chosen: str = draw(label, options, key=key, **arguments) or default
    if chosen != st.query_params.get(key, default):
        _write(key, chosen, default)
    return chosen


def _write(key: str, value: str, default: str) -> None:
    if value == default:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = value


def choose_many(
    label: str, options: Sequence[str], *, key: str, default: Sequence[str], titles: Callable[[str], str]
) -> list[str]:
    """Draw pills of any number of choices that begin as the URL's parameter `key`, names with commas between."""
    if key not in st.session_state:
        text = st.query_params.get(key, ",".join(default))
        asked = list(dict.fromkeys(name for name in text.split(",") if name))
        unknown = [name for name in asked if name not in options]
        if unknown:
            show_error(UnknownChoice(label.lower().removesuffix("s"), unknown[0], options))
        st.session_state[key] = [name for name in asked if name in options]
    chosen = st.pills(label, options, selection_mode="multi", key=key, format_func=titles)
    _write(key, ",".join(chosen), ",".join(default))
    return list(chosen)
