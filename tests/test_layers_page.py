"""The layers page: what it draws and writes out, what a link may ask of it, and that it stays when a run goes."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.views import LAYER_VIEWS, view_of_layer
from dlkit.figures.layers import (
    MOST_MAPS,
    filters_image,
    framed,
    maps_of,
    network_figure,
    sheet,
    spread_figure,
    written,
)
from dlkit.runs import service
from dlkit.runs.records import Run
from tests.job_home import TINY, job_home, wait_for_end
from tests.live_server import REPOSITORY
from tests.test_descent_page import opened_message

PNG = (REPOSITORY / "dlkit" / "samples" / "photos" / "coffee.jpg").read_bytes()


# What is drawn and written


def test_channels_tokens_and_vectors_become_maps_that_know_where_their_values_stand():
    draw = np.random.default_rng(0)
    for shape, maps in (
        ((5, 3, 4), (5, 3, 4)),
        ((4, 4, 6), (6, 4, 4)),  # channels at the end
        ((10, 7), (7, 3, 3)),  # a first token stands for the whole
        ((9, 7), (7, 3, 3)),
        ((6, 7), (7, 1, 6)),
        ((8,), (8, 1, 1)),
    ):
        outputs = draw.normal(size=shape).astype(np.float32)
        found = maps_of(outputs)
        assert found.values.shape == maps
        strongest = found.strongest()
        assert found.values[strongest] == found.values.max()
        assert outputs[found.index(*strongest)] == found.values[strongest]
        assert found.order[0] == strongest[0]


def test_sheet_has_the_strongest_maps_and_always_the_chosen_one():
    values = np.arange(60, dtype=np.float32)[:, None, None] * np.ones((1, 50, 40), np.float32)
    found = opened_message(sheet(maps_of(values), 3, 7, 9))
    assert found["count"] == 60
    assert [one["number"] for one in found["shown"]] == [3, *range(59, 60 - MOST_MAPS, -1)]
    assert (found["small"]["rows"], found["small"]["columns"]) == (32, 25)
    assert (found["whole"]["rows"], found["whole"]["columns"]) == (50, 40)
    assert found["chosen"] == {"number": 3, "row": 7, "column": 9}


def test_network_is_a_row_of_blocks_that_become_lower():
    shapes = [(8, 16, 16), (8, 16, 16), (4, 8, 8), (5,)]
    figure = network_figure(["a", "b", "c", "d"], ["Conv2d", "ReLU", "Conv2d", "Linear"], shapes, 1)
    heights = {place: height for bars in figure.data for place, height in zip(bars.x, bars.y, strict=True)}
    assert heights[0] == heights[1] > heights[2] > heights[3]
    assert [bars.name for bars in figure.data] == ["Conv2d", "ReLU", "Linear"]
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (0.5, 1.5)


def test_filters_are_in_colours_where_they_look_at_colours():
    draw = np.random.default_rng(0)
    assert filters_image(draw.normal(size=(12, 3, 5, 5)).astype(np.float32), 0).size == (476, 92)
    assert filters_image(draw.normal(size=(4, 8, 3, 3)).astype(np.float32), 2).size == (380, 44)
    assert filters_image(np.zeros((2, 3, 3, 3), np.float32), 0).size == (92, 44)
    assert spread_figure(np.zeros(3), np.zeros(3), np.zeros(3)).data == ()


def test_frame_holds_the_rows_and_columns_that_are_seen():
    from PIL import Image

    drawn = np.asarray(framed(Image.new("RGB", (64, 64)), 10, 19, 20, 29)).any(2)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    assert (rows[0], rows[-1]) == (70, 139)
    assert (columns[0], columns[-1]) == (140, 209)


def test_numbers_stand_in_the_place_of_their_names():
    values = {"x": -1.5, "mean": 0.5, "variance": 4.0, "epsilon": 0.001, "scale": 2.0, "shift": -0.25}
    parts = {name: np.array(value) for name, value in values.items()}
    formula = r"\gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta"
    told = written(formula, parts, -2.25, (4, 2, 2))
    assert told.formulas["the value"] == (
        formula + r" = 2 \, \frac{\left(-1.5\right) - 0.5}{\sqrt{4 + 0.001}} + \left(-0.25\right) = -2.25"
    )
    told = written(r"\operatorname{ReLU6}(x)", {"x": np.array(7.0)}, 6.0, (4,))
    assert told.formulas["the value"] == r"\operatorname{ReLU6}(x) = \operatorname{ReLU6}(7) = 6"


def test_flattened_value_is_told_where_it_stood():
    told = written("x", {"x": np.array(1.0), "place": np.array([2, 1, 3])}, 1.0, (5, 4, 6))
    assert "(2, 1, 3)" in told.note
    assert "2 · 4 · 6 + 1 · 6 + 3" in told.note  # 57


def test_window_beyond_the_picture_is_minus_infinity_and_its_winner_is_named():
    patch = np.array([[-np.inf, 1.0], [-np.inf, 3.0]])
    told = written(r"\max x", {"x": patch, "winner": np.array([1, 1])}, 3.0, (1, 4, 4))
    assert r"-\infty" in told.formulas["the window x"]
    assert told.note.startswith("Row 1, column 1 of the window wins")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Conv2dSame", "convolution"),
        ("BatchNormAct2d", "batch_norm"),
        ("LayerNorm2d", "layer_norm"),
        ("AdaptiveAvgPool2d", "pooling"),
        ("NonDynamicallyQuantizableLinear", "linear"),
        ("Hardsigmoid", "activation"),
        ("MultiheadAttention", "other"),
    ],
)
def test_each_kind_of_layer_has_its_text(kind: str, name: str):
    assert view_of_layer(kind) is LAYER_VIEWS[name]


# The page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of drawn pictures that has ended."""
    with job_home(tmp_path_factory.mktemp("layers") / "home", DLKIT_WARM_UP="0"):
        yield wait_for_end(service.submit(TINY))


@pytest.fixture(autouse=True)
def _at_home(run: Run) -> None:
    """Every page here is of the run's data folder, with PyTorch loaded."""
    import dlkit.engine.prediction  # noqa: F401


def opened(**parameters: str) -> AppTest:
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=120)
    app.switch_page("layers.py")
    for name, value in parameters.items():
        app.query_params[f"layers_{name}"] = value
    return again(app)


def again(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def errors(app: AppTest) -> str:
    return " ".join(box.value.replace("\\", "") for box in app.error)


def metrics(app: AppTest) -> dict[str, str]:
    return {one.label: one.value for one in app.metric}


def test_first_visit_looks_at_the_cat_with_the_imagenet_model_and_choosing_a_layer_is_quick():
    app = opened()
    assert not app.error
    assert metrics(app)["Conv2dSame"] == "32×112×112"
    assert metrics(app)["One value sees"] == "3×3"
    assert app.get("bidi_component")
    assert any(r"\sum w" in one.value for one in app.latex)
    seconds = []
    for layer in ("head", "body.blocks.3.0.bn1", "body.conv_head"):
        app.selectbox(key="layers_layer").select(layer)
        began = time.perf_counter()
        again(app)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5
    assert metrics(app)["Conv2d"] == "1280×7×7"
    assert app.query_params["layers_layer"] == "body.conv_head"


def test_link_opens_a_value_of_a_layer_of_a_run(run: Run):
    app = opened(model=run.id, picture="data", example="5", layer="head", at="2,0,0", checkpoint="1")
    assert not app.error
    assert metrics(app)["Linear"] == "6"
    assert any(r"\frac{e_c}{\sum e}" in one.value for one in app.latex)
    code = app.code[0].value
    assert 'open_model(Path("model"))' in code
    assert "print(outputs[0].softmax(1)[0, 2])" in code


def test_what_another_model_does_not_offer_is_forgotten_without_a_word(run: Run):
    app = opened(model=run.id, picture="data", checkpoint="1", layer="head")
    app.selectbox(key="layers_model").select("imagenet")
    assert not again(app).error
    assert "layers_picture" not in app.query_params
    assert app.session_state["layers_picture"] == "chelsea"


def test_batch_norm_in_training_takes_the_pictures_own_statistics():
    app = opened(layer="body.bn1")
    before = [one.value for one in app.latex]
    app.toggle(key="layers_training").set_value(True)
    assert [one.value for one in again(app).latex] != before


def test_upload_is_looked_at_and_what_is_no_picture_gets_a_sentence():
    app = opened(picture="upload")
    assert "Drop a photo" in errors(app)
    app.file_uploader(key="layers_photo").set_value(("coffee.jpg", PNG, "image/jpeg"))
    assert not again(app).error
    assert metrics(app)["Conv2dSame"] == "32×112×112"
    app.file_uploader(key="layers_photo").set_value(("notes.jpg", b"no picture", "image/jpeg"))
    assert "notes.jpg" in errors(again(app))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layer": "body.nothing"}, "There is no layer called 'body.nothing'"),
        ({"at": "99,0,0"}, "must be map,row,column from 0,0,0 to 31,111,111; got 99,0,0"),
        ({"at": "one"}, "must be map,row,column"),
        ({"model": "0" * 32}, "There is no run"),
        ({"view": "nothing"}, "There is no view called 'nothing'"),
        ({"view": "step"}, ""),
    ],
)
def test_link_to_what_is_not_there_says_so_and_shows_the_rest(asked: dict[str, str], words: str):
    app = opened(**asked)
    assert words in errors(app)
    assert len(app.title) == 1


def test_step_of_a_run_is_written_out_and_equals_its_last_line(run: Run):
    app = opened(view="step", model=run.id, parameter="head.bias", index="3", batch="1")
    assert not app.error
    lines = " ".join(one.value for one in app.latex)
    assert r"w + \Delta" in lines
    assert app.selectbox(key="layers_parameter").value == "head.bias"
    assert metrics(app).keys() >= {"Loss of the batch", "Gradient of this weight", "Norm of all gradients"}
    assert "optimizer.step()" in app.code[0].value


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"index": "9,9"}, "it has no weight at (9, 9)"),
        ({"index": "one"}, "whole numbers with commas between"),
        ({"batch": "999"}, "there is no batch 999"),
        ({"parameter": "body.conv_stem.weight"}, "does not learn in this phase"),
    ],
)
def test_step_that_cannot_be_taken_gets_a_sentence(run: Run, asked: dict[str, str], words: str):
    app = opened(view="step", model=run.id, **asked)
    assert words in errors(app)


def test_run_that_is_deleted_meanwhile_leaves_a_sentence(run: Run, tmp_path: Path):
    app = opened(model=run.id)
    folder, aside = service.run_folder(run.id), tmp_path / "aside"
    shutil.move(folder, aside)
    try:
        assert re.search("no saved model", errors(again(app)))
    finally:
        shutil.move(aside, folder)
