"""The JavaScript of components: each file with what several share before it."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHARED = "received.js"


def script(name: str) -> str:
    """Return a component's code, one module."""
    return "\n".join((FOLDER / part).read_text(encoding="utf-8") for part in (SHARED, name))
