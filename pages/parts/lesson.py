"""What the views of a lesson share: controls that live in the URL, which a teacher may hide or lock there, and texts.

`?hide=optimizer,batch&lock=activation` takes two controls away and holds a third as it is; what the link says of them
counts. It keeps a class to the question at hand, and keeps nobody from anything: the address can be changed.
"""

from collections.abc import Callable, Collection, Sequence

import streamlit as st

from dlkit.catalog.views import ViewEntry
from dlkit.errors import UnknownChoice
from dlkit.words import escape_markdown
from pages.parts import link, warmth
from pages.parts.notices import show_error

HIDE, LOCK = "hide", "lock"


def check(controls: Collection[str]) -> None:
    """Say where the URL hides or locks a control that the view does not have."""
    for name in sorted(_named(HIDE) | _named(LOCK)):
        if name not in controls:
            show_error(UnknownChoice("control", name, controls))


def is_hidden(name: str) -> bool:
    """Tell whether the URL hides a control."""
    return name in _named(HIDE)


def is_locked(name: str) -> bool:
    """Tell whether the URL locks a control."""
    return name in _named(LOCK)


def is_held(name: str) -> bool:
    """Tell whether the URL hides or locks a control."""
    return is_hidden(name) or is_locked(name)


def _named(parameter: str) -> set[str]:
    return {name for name in st.query_params.get(parameter, "").split(",") if name}


def ask_text(name: str, title: str, *, key: str, placeholder: str = "", help: str | None = None) -> str:
    """Draw a text field that is the URL's parameter `key`; return what it holds."""
    if is_hidden(name):
        return st.query_params.get(key, "")
    text: str = st.text_input(
        title, key=key, placeholder=placeholder, help=help, bind="query-params", disabled=is_locked(name)
    )
    return text


def ask_choice(
    name: str,
    title: str,
    options: Sequence[str],
    *,
    key: str,
    default: str,
    titles: Callable[[str], str],
    draw: Callable[..., object] = st.selectbox,
) -> str:
    """Draw a choice that is the URL's parameter `key`; return the option's name."""
    if is_hidden(name):
        return link.named(key, options, default)
    return link.choose(draw, title, options, key=key, default=default, format_func=titles, disabled=is_locked(name))


def ask_button(name: str, title: str, icon: str, on_click: Callable[[], None], *, is_first: bool = False) -> None:
    """Draw a button."""
    if not is_hidden(name):
        st.button(
            title,
            key=f"do_{name}",
            icon=f":material/{icon}:",
            on_click=on_click,
            type="primary" if is_first else "secondary",
            disabled=is_locked(name),
        )


def may_load(title: str, icon: str) -> bool:
    """Let the visitor decide when PyTorch is loaded, where the server was not warmed up."""
    if warmth.is_loaded() or warmth.warming.is_set():
        return True
    place = st.empty()
    if not place.button(title, type="primary", icon=f":material/{icon}:", key="look"):
        return False
    place.empty()
    return True


def show_text(view: ViewEntry) -> None:
    """Show what a view is about, behind a fold that is open at first."""
    if is_hidden("text"):
        return
    with st.expander("What you see", expanded=True, icon=":material/menu_book:"):
        st.markdown(
            f"{escape_markdown(view.what)}\n\n**Why.** {escape_markdown(view.why)}\n\n"
            f"**A common mistake.** {escape_markdown(view.mistake)}"
        )
        st.caption(f"{escape_markdown(view.source)}: [source]({view.url})")


def show_code(code: str) -> None:
    """Show the PyTorch for what is on the screen, behind a fold."""
    if not is_hidden("code"):
        with st.expander("Show the code", icon=":material/code:"):
            st.code(code, language="python")
