"""The documents tell the truth: `python -m tests.test_docs` writes docs/settings.md anew."""

import os
import re
from pathlib import Path

from dlkit.config import FinetuneConfig, describe

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "docs" / "settings.md"


def settings_table() -> str:
    """Return docs/settings.md as the config has it."""
    rows = "\n".join(_row(name) for name in FinetuneConfig.model_fields)
    head = "Made from `dlkit/config.py` by `python -m tests.test_docs`. Without a default of its own, a setting takes\n"
    tail = "the chosen optimizer's or schedule's, which `python -m dlkit optimizers` lists.\n"
    columns = "| flag | must be | default | what it does |\n| --- | --- | --- | --- |"
    return f"# Settings of a run\n\n{head}{tail}\n{columns}\n{rows}\n"


def _row(name: str) -> str:
    about = describe(name)
    default = "–" if about.default in (None, "") else about.default
    return f"| `--{name.replace('_', '-')}` | {about.rule} | {default} | {about.help} |"


def test_settings_page_is_made_from_the_config(home):
    assert SETTINGS.read_text() == settings_table()


def test_readme_names_every_server_setting_and_every_package():
    from dlkit.settings import Settings

    readme = (ROOT / "README.md").read_text()
    assert [name for name in Settings.model_fields if f"DLKIT_{name.upper()}" not in readme] == []
    packages = [path.name for path in (ROOT / "dlkit").iterdir() if (path / "__init__.py").exists()]
    modules = [path.name for path in (ROOT / "dlkit").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in (*packages, *modules) if name not in readme] == []


def test_links_between_the_documents_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    local = [(page, target) for page, target in links if "://" not in target]
    assert [(page.name, target) for page, target in local if not (page.parent / target).exists()] == []


if __name__ == "__main__":
    os.environ["DLKIT_HOME"] = os.devnull  # nobody's own data sets are among the choices
    SETTINGS.write_text(settings_table())
