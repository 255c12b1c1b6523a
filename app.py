"""The server: the pages behind the guard, warmed up while nobody waits. Start it with `streamlit run app.py`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from threading import Thread

import streamlit as st
from starlette.middleware import Middleware
from streamlit.runtime import get_instance

from dlkit.errors import StoreError
from dlkit.guard import Guard
from dlkit.settings import settings
from pages.parts import warmth

logger = logging.getLogger(__name__)


def is_held(session: str, file: str) -> bool:
    """Tell whether Streamlit still keeps an uploaded file: until it is removed, or its closed session expires."""
    return bool(get_instance().uploaded_file_mgr.get_files(session, [file]))


def warm_up() -> None:
    """Load torch, the ImageNet model and what the other pages draw with, so that no visitor waits for them."""
    try:
        import pandas  # noqa: F401
        import plotly.graph_objects  # noqa: F401

        from dlkit.engine import prediction

        prediction.warm_up()
    except Exception:
        logger.exception("The warm-up failed, so the first prediction will be slower or fail.")
    finally:
        warmth.warming.clear()
        warmth.settle()


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    """Load what the home page needs before the first visitor, and torch beside the first visitors."""
    from dlkit.runs import service
    from pages.parts import classify, frame  # noqa: F401

    with suppress(StoreError):  # the pages say it
        service.keep_going()
    warmth.settle()
    if settings().warm_up:
        warmth.warming.set()
        Thread(target=warm_up, name="warm-up", daemon=True).start()
    yield


app = st.App(
    "pages/shell.py",
    middleware=[Middleware(Guard, settings=settings(), is_held=is_held)],
    lifespan=lifespan,
)
