"""Launching a run from a page: once, however often the button was pressed."""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from dlkit.runs import service

DOUBLE_CLICK_SECONDS = 10  # a slow server may come to the second click late


def launch(values: Mapping[str, Any]) -> None:
    """Submit a run and open its page; the same settings twice in a few seconds are a double click, and one run."""
    run = service.submit(values, token=_token(values))
    st.switch_page("runs.py", query_params={"run": run.id})


def _token(values: Mapping[str, Any]) -> str:
    """Return what tells this launch from others of this session, and this session from others."""
    session, count, at = st.session_state.get("launches", (secrets.token_hex(16), 0, 0.0))
    if time.monotonic() - at > DOUBLE_CLICK_SECONDS:
        count, at = count + 1, time.monotonic()
    st.session_state["launches"] = session, count, at
    text = json.dumps([session, count, dict(values)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
