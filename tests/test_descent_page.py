"""The descent page: as its script draws it, what it sends, and in a browser."""

import itertools
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.formulas import read_formula
from dlkit.catalog.lessons import LESSONS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.config import parse
from dlkit.descent.asked import default_rate
from dlkit.descent.losses import Surface
from dlkit.descent.race import Competitor, explained, race
from dlkit.descent.verdicts import verdict
from dlkit.figures.descent import microscope, scene
from dlkit.figures.message import message
from dlkit.settings import settings
from pages.parts import races
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


def raced(app: AppTest) -> pd.DataFrame:
    """Return the table of the race."""
    (frame,) = (one.value for one in app.dataframe if "What became of it" in one.value)
    return frame


def table(app: AppTest) -> dict[str, str]:
    """Return what became of each optimizer."""
    (text,) = (one.value for one in app.markdown if one.value.startswith("- **"))
    lines = (line.removeprefix("- **").split("**: ") for line in text.replace("\\", "").splitlines())
    return dict(lines)


def test_first_visit_tells_a_story():
    ends = table(opened())
    assert len(ends) == 4
    assert "learning rate × largest curvature" in ends["Stochastic gradient descent"]
    assert sum(end.startswith("diverged") for end in ends.values()) == 1


def test_link_opens_what_its_sender_saw():
    app = opened(surface="himmelblau", optimizers="adam,newton", rate_adam="0.3", descent_steps="120", view="race")
    assert app.selectbox(key="surface").value == "himmelblau"
    frame = raced(app)
    assert list(frame["Optimizer"]) == ["Adam", "Newton's method"]
    assert list(frame["Rate"]) == ["0.3", "1"]
    assert list(frame["Gradient evaluations"]) == [120, 120]


@pytest.mark.parametrize("view", ["basins", "rates", "lesson"])
def test_every_view_is_drawn(view):
    app = opened(view=view, optimizers="sgd,adam")
    assert not app.error
    charts, tables = {"basins": (2, 1), "rates": (1, 2), "lesson": (0, len(LESSONS))}[view]
    assert (len(app.get("plotly_chart")), len(app.dataframe)) == (charts, tables)


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
        ({"optimizers": ",".join(f"q{number}" for number in range(300))}, "no optimizer called"),
        ({"rate_sgd": ","}, "with commas between"),
        ({"rate_sgd": ",".join(["x"] * 3000)}, "14 at most"),
        ({"sgd_schedule": "foo"}, "no schedule called"),
        ({"surface": "line", "line_points": "1,1"}, "2 to 60 points"),
        ({"descent_start": ";".join(["1,1"] * 20_000)}, "100 starts at most"),
    ],
)
def test_what_cannot_be_is_said_in_a_box(parameters, said):
    app = opened(**parameters)
    assert any(said in box.value.replace("\\", "") for box in app.error), [box.value for box in app.error]


def test_problem_of_the_surface_keeps_what_the_optimizers_hold():
    app = opened(formula="x^", optimizers="adam,sgd,adam", rate_adam="0.3", adam_beta1="0.5")
    assert len(app.error) == 1
    assert app.text_input(key="rate_adam").value == "0.3"
    app.text_input(key="formula").set_value("x^2 + y^2").run()
    assert not app.error
    assert raced(app).set_index("Optimizer").loc["Adam", "Rate"] == "0.3"


def test_pad_stays_when_too_few_points_are_left():
    app = opened(surface="line", line_points=";", optimizers="sgd")
    assert any("2 to 60 points" in box.value for box in app.error)
    assert app.get("bidi_component")


def test_exact_rules_are_told_where_others_meet_noise():
    frame = raced(opened(surface="bowl", optimizers="sgd,lbfgs", descent_noise="1"))
    assert list(frame["Gradients are"]) == ["noisy", "exact"]


def test_formula_of_a_visitor_races():
    app = opened(formula="x^2 + 3*y^2", optimizers="sgd,lbfgs")
    assert not app.error
    assert len(table(app)) == 2


@pytest.mark.parametrize(
    ("rules", "starts", "steps", "looked"),
    [
        ([rule for rule in RULES if rule != "newton"][:12], 1, 500, 7),
        ([rule for rule in RULES if rule != "newton"][:12], 1, 500, 9),
        (["nadam"], 1, 6000, 0),
        (["sgd"], 1, 20_000, 0),
        (["sgd", "adam", "newton"], 100, 300, 250),
        (list(RULES), 100, 130, 900),
    ],
)
def test_message_stays_within_its_limit_and_ends_are_always_sent(rules, starts, steps, looked):
    entry = SURFACES["rosenbrock"]
    loss, generator = Surface.of(entry), np.random.default_rng(0)
    competitors = [Competitor(rule, default_rate(entry.rates, rule)) for rule in rules]
    paths = race(loss, competitors, generator.uniform(-1, 2, (starts, 2)).tolist(), steps)
    verdicts = [verdict(loss, path) for path in paths]
    raw = scene(loss, paths, verdicts, rules, looked, is_logarithmic=True)
    assert len(raw) <= LIMIT
    sent = opened_message(raw)
    if (starts, steps) == (1, 500):
        assert sent["stride"] == 1
    ends = np.cumsum(sent["counts"]) - 1
    np.testing.assert_array_equal(
        sent["points"].reshape(-1, 3)[ends, :2], np.array([path.points[-1] for path in paths], np.float32)
    )
    assert sent["steps"] == [path.steps for path in paths]


def opened_message(raw: bytes) -> Any:
    """Read a message as scene.js does: the JSON's length, the JSON, and its arrays behind it."""
    length = int.from_bytes(raw[:4], "little")
    assert length % 4 == 0
    body = raw[4 + length :]

    def read(value: dict[str, Any]) -> Any:
        if "array" not in value:
            return value
        kind, start, count = value["array"]
        assert start % 4 == 0
        return np.frombuffer(body, f"<{kind}", count, start)

    return json.loads(raw[4 : 4 + length], object_hook=read)


def test_message_holds_what_was_put_into_it():
    sent = {"one": np.array([1.5, -2], "<f4"), "words": "η", "more": [{"two": np.array([7, 8, 9], "<u2")}]}
    found = opened_message(message(sent))
    np.testing.assert_array_equal(found["one"], sent["one"])
    np.testing.assert_array_equal(found["more"][0]["two"], sent["more"][0]["two"])
    assert found["words"] == "η"


def test_numbers_in_the_formula_are_those_of_the_step():
    entry = SURFACES["beale"]
    for rule in RULES:
        (path,) = race(Surface.of(entry), [Competitor(rule, default_rate(entry.rates, rule))], [entry.start], 30)
        sent, steps = microscope(Surface.of(entry), path, 0, 1), list(explained(path))
        assert sent["lines"][-1]["slot"] == "delta"
        for slot, column in sent["values"].items():
            if "of" in column:
                for before, step in itertools.pairwise(steps):
                    np.testing.assert_array_equal(step[slot], before[column["of"]])
                assert (steps[0][slot] == column["first"]).all()
                continue
            numbers = column["numbers"]
            for at, step in enumerate(steps):
                wanted = np.asarray(step[slot], dtype=np.float32).reshape(-1)
                width = column["width"]
                found = numbers[at * width : (at + 1) * width] if width else numbers
                np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))
        hessians = Surface.of(entry).look(path.points, bends=True).hessian
        for (small, large, angle), hessian in zip(
            sent["curvatures"].reshape(-1, 3).astype(float), hessians[:-1], strict=True
        ):
            if np.isinf(large):  # beyond 32 bits, on a path that has run away
                continue
            along = np.array((np.cos(angle), np.sin(angle)))
            np.testing.assert_allclose(along @ hessian @ along, large, rtol=1e-4)
            np.testing.assert_allclose((small, large), np.linalg.eigvalsh(hessian), rtol=1e-4, atol=1e-4)


def test_values_with_commas_race_against_each_other():
    app = opened(surface="bowl", optimizers="adam", rate_adam="0.1,0.5", adam_bias_correction="0, 1")
    frame = raced(app)
    assert len(frame) == 4
    assert "Adam, learning rate 0.5, bias correction 0" in set(frame["Optimizer"])


def test_several_starts_are_counted_by_how_they_ended():
    app = opened(surface="himmelblau", optimizers="sgd", rate_sgd="0.01", descent_starts="12")
    (row,) = raced(app).to_dict("records")
    assert row["What became of it"] == "12 converged"
    assert row["Steps to within 0.001"].endswith("(12 of 12)")


def test_points_are_picked_and_drawn_and_batches_differ():
    app = opened(surface="line", optimizers="sgd", sgd_batch="1,4", descent_steps="100")
    frame = raced(app)
    assert list(frame["Optimizer"]) == [f"Stochastic gradient descent, batch size {size}" for size in (1, 4)]
    assert list(frame["Gradient evaluations"]) == [100, 100]
    app.button(key="pick_outlier").click().run()
    assert app.text_input(key="line_points").value == "outlier"
    assert not app.exception
    assert app.query_params["line_points"] == "outlier"
    app.text_input(key="line_points").set_value("1,2; 3,x").run()
    assert any("pairs of numbers" in box.value for box in app.error)


def test_classes_that_a_point_parts_have_no_minimum():
    app = opened(surface="logistic", logistic_points="parted-classes", optimizers="sgd", descent_steps="50")
    assert not app.error
    assert "Steps to within 0.001" not in raced(app)
    rates = opened(surface="logistic", logistic_points="parted-classes", optimizers="sgd", view="rates")
    assert any("no target" in box.value for box in rates.info)


def test_lesson_opens_its_race():
    app = opened(surface="beale", formula="x^2", rate_adam="7", descent_noise="3", optimizers="adam,lbfgs")
    app.segmented_control(key="view").set_value("lesson").run()
    app.button(key="open_axes").click().run()
    assert not app.exception
    assert not app.error
    assert app.query_params["surface"] == "ravine"
    assert app.query_params["descent_degrees"] == "30"
    assert "descent_noise" not in app.query_params
    assert app.text_input(key="descent_noise").value == ""
    rows = raced(app).set_index("Optimizer")
    assert rows.loc["Adam", "Steps to within 0.001"] == "260"
    assert rows.loc["SGD with momentum", "Rate"] == "0.01"


def test_race_is_as_it_was_after_a_look_at_the_lessons():
    app = opened(optimizers="adam", surface="beale")
    app.text_input(key="rate_adam").set_value("0.07").run()
    app.segmented_control(key="view").set_value("lesson").run()
    app.segmented_control(key="view").set_value("race").run()
    assert app.selectbox(key="surface").value == "beale"
    assert raced(app).set_index("Optimizer").loc["Adam", "Rate"] == "0.07"


def test_runs_optimizer_is_replayed_with_its_settings():
    config = parse({"optimizer": "adam", "learning_rate": "0.02", "beta1": "0.5", "schedule": "cosine"}).resolved()
    address = races.address_of_run(config)
    assert address is not None
    row = raced(opened(**address)).to_dict("records")[0]
    assert row["Rate"] == "0.02, cosine"
    assert row["Gradient evaluations"] == 1000
    assert address["adam_beta1"] == "0.5"
    assert address["adam_schedule"] == "cosine"
    assert races.address_of_run(parse({"optimizer": "muon"})) is None


def test_training_page_opens_with_what_was_raced():
    app = opened(surface="bowl", optimizers="rmsprop", rate_rmsprop="0.02", rmsprop_momentum="0.3")
    (way,) = (link for link in app.get("page_link") if "Train with" in link.proto.label)
    assert "momentum" in way.proto.label
    asked_for = dict(urllib.parse.parse_qsl(way.proto.query_string))
    assert asked_for["optimizer"] == "rmsprop"
    assert asked_for["momentum"] == "0.3"
    config = parse({name: value for name, value in asked_for.items() if name != "level"})
    assert (config.rate, config.optimizer_settings()["momentum"]) == (0.02, 0.3)


def test_place_where_a_formula_is_not_defined_is_grey_and_leaving_is_said():
    app = opened(formula="sqrt(x) + y^2", descent_domain="-1,3,-2,2", optimizers="sgd", rate_sgd="0.5")
    assert table(app)["Stochastic gradient descent"].startswith("left the domain")
    loss = Surface(read_formula("sqrt(x) + y^2"), (-1, 3, -2, 2))
    (path,) = race(loss, [Competitor("sgd", 0.5)], [(2, 1)], 50)
    assert opened_message(scene(loss, [path], [verdict(loss, path)], ["SGD"], 0, is_logarithmic=False))["undefined"]
