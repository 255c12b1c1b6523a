"""The line that says on what the figures were measured."""

import platform
from importlib.metadata import version

from dlkit import machine

PACKAGES = ("torch", "torchvision", "streamlit", "plotly", "pandas")


def headline() -> str:
    """Name the processor's architecture, cores, memory, Python and packages."""
    here = machine.describe()
    packages = " ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{platform.machine()}, {here.headline}, Python {platform.python_version()}, {packages}"


def print_table(rows: list[tuple[str, str, str]]) -> None:
    """Print (what, measured, wanted) as a Markdown table."""
    print("\n| what | measured | wanted |\n| --- | --- | --- |")
    print(*(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows), sep="\n")
