"""The server: the pages behind the guard, warmed up while nobody waits. Start it with `streamlit run app.py`."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import streamlit as st
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from streamlit.runtime import get_instance

from dlkit import machine
from dlkit.errors import DlkitError
from dlkit.guard import Guard
from dlkit.settings import settings
from pages.parts import warmth

logger = logging.getLogger(__name__)

WATCH_SECONDS = 5
TURNS_PER_TRIM = 12


def is_held(session: str, file: str) -> bool:
    """Tell whether Streamlit still keeps an uploaded file: until it is removed, or its closed session expires."""
    return bool(get_instance().uploaded_file_mgr.get_files(session, [file]))


def warm_up() -> None:
    """Load torch, the ImageNet model and what the other pages draw with, so that no visitor waits for them.

    Which number format is quickest is tried last, when the first answers can be given already.
    """
    try:
        import pandas  # noqa: F401
        import plotly.graph_objects  # noqa: F401

        from dlkit.engine import prediction

        prediction.warm_up()
    except Exception:
        logger.exception("The warm-up failed, so the first prediction will be slower or fail.")
        return
    finally:
        warmth.warming.clear()
        warmth.settle()
    try:
        prediction.choose_format()
    except Exception:
        logger.exception("No number format could be tried, so the model goes on in float32.")


def watch(keep_going: Callable[[], None], sweep: Callable[[], None]) -> None:
    """See to it, also while nobody looks at a page, that what is to run has a supervisor, and give memory back.

    First sweep away what imports that were killed have left.
    """
    with suppress(DlkitError, OSError):
        sweep()
    for turn in count(1):
        if turn % TURNS_PER_TRIM == 0:  # uploads that were removed, above all
            machine.give_back_memory()
        with suppress(DlkitError, OSError):  # a store or a disk in trouble: the pages say it
            keep_going()
        time.sleep(WATCH_SECONDS)


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    """Load what the home page needs before the first visitor, and torch beside the first visitors."""
    machine.keep_freed_memory()
    from dlkit.runs import service
    from pages.parts import classify, frame  # noqa: F401

    Thread(target=watch, args=(service.keep_going, service.sweep), name="watch", daemon=True).start()
    warmth.settle()
    if settings().warm_up:
        warmth.warming.set()
        Thread(target=warm_up, name="warm-up", daemon=True).start()
    yield


async def plotly(_: Request) -> FileResponse:
    """Send the plotting library that the installed plotly comes with: the descent page draws with it by itself."""
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return FileResponse(script, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})


async def export(request: Request) -> Response:
    """Send a version of an imported data set as a zip that is made while it is sent."""
    from dlkit.data.exporting import check_whole, export_chunks, safe_part
    from dlkit.data.versions import open_version

    try:
        version = await run_in_threadpool(open_version, request.query_params.get("dataset", ""))
        await run_in_threadpool(check_whole, version)
    except DlkitError as error:
        return PlainTextResponse(str(error), 404)
    name = quote(f"{safe_part(version.name)}-{version.number}.zip")
    disposition = f"attachment; filename=\"dataset.zip\"; filename*=UTF-8''{name}"
    headers = {"Content-Disposition": disposition, "Cache-Control": "no-store"}
    return StreamingResponse(export_chunks(version), media_type="application/zip", headers=headers)


app = st.App(
    "pages/shell.py",
    routes=[Route("/vendor/plotly.js", plotly), Route("/export", export)],
    middleware=[Middleware(Guard, settings=settings(), is_held=is_held)],
    lifespan=lifespan,
)
