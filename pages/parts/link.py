"""Choices that live in the URL under their catalog names, so that a link shows what its sender saw.

Streamlit's own binding writes what a widget shows (titles) into the URL; links and commands speak names.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import streamlit as st

from dlkit.errors import UnknownChoice
from pages.parts.notices import show_error


def named(key: str, options: Collection[str], default: str) -> str:
    """Return the choice that the URL names, also before its widget is drawn; the default where it is no choice."""
    asked = st.query_params.get(key, default)
    return asked if asked in options else default


def choose(
    draw: Callable[..., Any], label: str, options: Sequence[str], *, key: str, default: str, **arguments: Any
) -> str:
    """Draw a widget of one choice (`st.selectbox`, `st.segmented_control`) whose value is the URL's parameter `key`."""
    asked = st.query_params.get(key, default)
    if asked not in options:
        show_error(UnknownChoice(label.lower(), asked, options))
    st.session_state[key] = named(key, options, default)

    def remember() -> None:
        if st.session_state[key] in (None, default):
            st.query_params.pop(key, None)
        else:
            st.query_params[key] = st.session_state[key]

    return draw(label, options, key=key, on_change=remember, **arguments) or default
