"""Fixtures that several test files use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlkit.settings import settings
from tests.browser import ARGUMENTS, require_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ.setdefault("DLKIT_MEASURE_SPEED", "0")  # float32 everywhere, or a test's numbers would be the machine's


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data folder for one test."""
    monkeypatch.setenv("DLKIT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of the training after each step, however quick it was."""
    monkeypatch.setattr("dlkit.engine.training.REPORT_SECONDS", 0)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium, closed before the next module: while Playwright 1.65 is open, `asyncio.run` fails."""
    executable = require_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()
