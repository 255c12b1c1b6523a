"""The descent page: as its script draws it, what it sends, and in a browser."""

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.descent.asked import default_rate
from dlkit.descent.losses import Surface
from dlkit.descent.race import Competitor, explained, race
from dlkit.descent.verdicts import verdict
from dlkit.figures.descent import microscope, scene
from dlkit.settings import settings
from tests.live_server import REPOSITORY

LIMIT = 150 * 1024  # bytes


@pytest.fixture(autouse=True)
def _cold(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    yield
    settings.cache_clear()


def opened(**parameters: str) -> AppTest:
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=60)
    app.switch_page("descent.py")
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def table(app: AppTest) -> dict[str, str]:
    """Return what became of each optimizer."""
    frame = app.dataframe[0].value
    return dict(zip(frame["Optimizer"], frame["What became of it"], strict=True))


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_first_visit_tells_a_story():
    ends = table(opened())
    assert len(ends) == 4
    assert "learning rate × largest curvature" in ends["Stochastic gradient descent"]
    assert sum(end.startswith("diverged") for end in ends.values()) == 1


def test_link_opens_what_its_sender_saw():
    app = opened(surface="himmelblau", optimizers="adam,newton", rate_adam="0.3", descent_steps="120", view="race")
    assert app.selectbox(key="surface").value == "himmelblau"
    frame = app.dataframe[0].value
    assert list(frame["Optimizer"]) == ["Adam", "Newton's method"]
    assert list(frame["Rate"]) == ["0.3", "1"]
    assert list(frame["Gradient evaluations"]) == [120, 120]


@pytest.mark.parametrize("view", ["basins", "rates", "lesson"])
def test_every_view_is_drawn(view):
    app = opened(view=view, optimizers="sgd,adam")
    assert not app.error
    assert app.get("plotly_chart") or app.dataframe


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"formula": "x.__class__"}, "Column 1"),
        ({"formula": "x" * 10_000}, "400 characters"),
        ({"rate_sgd": "0"}, "above 0"),
        ({"rate_sgd": "nan"}, "got nan"),
        ({"descent_steps": "1000000000"}, "from 1 to"),
        ({"descent_start": "90,90"}, "outside the domain"),
        ({"surface": "everest"}, "no surface called"),
        ({"optimizers": "sgd,skynet"}, "no optimizer called"),
    ],
)
def test_what_cannot_be_is_said_in_a_box(parameters, said):
    app = opened(**parameters)
    assert any(said in box.value.replace("\\", "") for box in app.error), [box.value for box in app.error]


def test_formula_of_a_visitor_races():
    app = opened(formula="x^2 + 3*y^2", optimizers="sgd,lbfgs")
    assert not app.error
    assert len(table(app)) == 2


def test_twelve_optimizers_of_five_hundred_steps_stay_within_the_message():
    entry = SURFACES["rosenbrock"]
    rules = [rule for rule in RULES if rule != "newton"][:12]
    paths = race(Surface.of(entry), [Competitor(rule, default_rate(entry, rule)) for rule in rules], [entry.start], 500)
    verdicts = [verdict(Surface.of(entry), path) for path in paths]
    for place in (rules.index("adam"), rules.index("nadam")):
        sent = scene(Surface.of(entry), paths, verdicts, rules, is_logarithmic=True)
        sent["microscope"] = microscope(paths[place], place, sent["stride"])
        assert len(json.dumps(sent)) <= LIMIT


def test_numbers_in_the_formula_are_those_of_the_step():
    entry = SURFACES["beale"]
    for rule in RULES:
        (path,) = race(Surface.of(entry), [Competitor(rule, default_rate(entry, rule))], [entry.start], 30)
        sent, steps = microscope(path, 0, 1), list(explained(path))
        assert sent["lines"][-1]["slot"] == "delta"
        for slot, column in sent["values"].items():
            if "of" in column:
                for before, step in itertools.pairwise(steps):
                    np.testing.assert_array_equal(step[slot], before[column["of"]])
                assert (steps[0][slot] == column["first"]).all()
                continue
            numbers = unpacked(column["numbers"])
            for at, step in enumerate(steps):
                wanted = np.asarray(step[slot], dtype=np.float32).reshape(-1)
                width = column["width"]
                found = numbers[at * width : (at + 1) * width] if width else numbers
                np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))
        written = "".join(line["formula"] + line["numbers"] for line in sent["lines"])
        assert "<script" not in written
