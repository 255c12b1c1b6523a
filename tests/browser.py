"""Where the tests find a browser, and what they do without one."""

import os
import shutil

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def chromium_path() -> str | None:
    """Return the path of the system's Chromium or Chrome, or None."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


def require_chromium() -> str:
    """Return the browser's path; without one skip the test and say so, but fail it under CI."""
    path = chromium_path()
    if path is None:
        reason = "This test needs Chromium or Chrome on the PATH. Install chromium."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return path
