"""The tensors page: what its views show, and what a link may ask of it."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.views import TENSOR_VIEWS
from dlkit.settings import settings
from tests.live_server import REPOSITORY


@pytest.fixture(autouse=True)
def _cold(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()


def opened(**parameters: str) -> AppTest:
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=60)
    app.switch_page("tensors.py")
    for name, value in parameters.items():
        app.query_params[f"tensors_{name}" if name not in ("hide", "lock") else name] = value
    return pressed(again(app))


def pressed(app: AppTest) -> AppTest:
    """Load PyTorch where it is not there yet."""
    for button in app.button:
        if button.key == "look":
            button.click()
            return again(app)
    return app


def again(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def errors(app: AppTest) -> str:
    return " ".join(box.value.replace("\\", "") for box in app.error)


def shown(app: AppTest) -> str:
    return " ".join(box.value for box in [*app.markdown, *app.caption])


@pytest.mark.parametrize("view", TENSOR_VIEWS)
def test_each_view_shows_code_that_runs_and_a_text(view):
    app = opened(view=view)
    assert not app.error
    assert "A common mistake." in shown(app)
    code = app.code[-1].value
    assert code.startswith("import torch\n")
    exec(compile(code, "shown", "exec"), {})


def test_link_opens_what_its_sender_saw():
    app = opened(view="indexing", shape="2,2,3", index="..., 1")
    assert app.code[0].value == "t = torch.arange(12).reshape(2, 2, 3)"
    assert app.code[1].value == "result = t[..., 1]"
    assert "**view**" in shown(app)
    app.text_input(key="tensors_index").set_value("[0, 1, 1]")
    assert "index 1 is out" not in errors(again(app))
    assert "**copy**" in shown(app)


@pytest.mark.parametrize(
    ("view", "name", "text", "sentence"),
    [
        ("shapes", "shape", "2,x", "whole numbers with commas"),
        ("shapes", "shape", "100,100", "480 can be drawn"),
        ("indexing", "index", "7", "out of bounds"),
        ("indexing", "index", "<img src=x onerror=alert(1)>", "An index is a whole number"),
        ("broadcasting", "left", "3,5", "must match"),
        ("numbers", "number", "many", "Write a number"),
    ],
)
def test_bad_input_is_a_sentence_and_the_last_good_picture_stays(view, name, text, sentence):
    app = opened(view=view)
    before = app.code[-1].value
    app.text_input(key=f"tensors_{name}").set_value(text)
    app = again(app)
    assert sentence in errors(app)
    assert app.code[-1].value == before
    assert sentence in errors(opened(view=view, **{name: text}))


def test_shapes_that_do_not_fit_show_where():
    frame = opened(view="broadcasting", left="2,3", right="2").dataframe[0].value
    assert list(frame["dimension 1"]) == ["3", "2", "do not fit"]


def test_view_that_is_not_there_is_said():
    assert "cubism" in errors(opened(view="cubism"))


def test_teacher_hides_and_locks():
    app = opened(view="shapes", shape="3,3", hide="view,code", lock="shape")
    assert app.code[0].value == "t = torch.arange(9).reshape(3, 3)"
    assert len(app.code) == 1
    assert app.text_input(key="tensors_shape").disabled
    assert "dance" in errors(opened(hide="dance"))
