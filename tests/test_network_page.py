"""The network page: as its script draws it, what it sends, and what a link may ask of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.formulas import latex_number
from dlkit.figures.lessons import graph_figure
from dlkit.figures.network import MOST_POINTS, MOST_UNITS, SIDE, latex_array, picture
from dlkit.lab import asked
from dlkit.lab.graph import graph_of
from dlkit.lab.live import Live
from dlkit.lab.looking import health, maps
from dlkit.settings import settings
from tests.live_server import REPOSITORY
from tests.test_descent_page import opened_message

LIMIT = 150 * 1024  # bytes of a picture


@pytest.fixture(autouse=True)
def _cold(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    yield
    settings.cache_clear()


def opened(**parameters: str) -> AppTest:
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=60)
    app.switch_page("network.py")
    for name, value in parameters.items():
        app.query_params[name] = value
    return again(app)


def again(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def live_of(app: AppTest) -> Live:
    live: Live = app.session_state["network_live"]
    return live


def press(app: AppTest, name: str) -> AppTest:
    app.button(key=f"do_{name}").click()
    return again(app)


def errors(app: AppTest) -> str:
    return " ".join(box.value.replace("\\", "") for box in app.error)


def test_first_visit_shows_a_network_that_can_learn():
    app = opened()
    assert not app.error
    assert live_of(app).training.steps == 0
    assert app.get("bidi_component")
    before = live_of(app).training.curve[-1].train_loss
    press(app, "one_epoch")
    assert live_of(app).training.epochs == 1
    assert live_of(app).training.curve[-1].train_loss < before


def test_link_opens_the_network_and_repeats_its_steps():
    asked_for = {
        "network_data": "spiral",
        "network_classes": "3",
        "network_hidden": "6,5",
        "network_activation": "tanh",
        "network_optimizer": "rmsprop",
        "network_rmsprop_momentum": "0.5",
        "network_batch": "20",
        "network_seed": "4",
    }
    first = opened(**asked_for)
    for _ in range(3):
        press(first, "one_batch")
    assert first.query_params["network_steps"] == "3"
    second = opened(**asked_for, network_steps="3")
    one, other = live_of(first).training, live_of(second).training
    assert one.task.settings == {"momentum": 0.5}
    assert one.task.plan.hidden == (6, 5)
    assert np.array_equal(one.network.parameters, other.network.parameters)
    press(first, "one_example")
    assert "network_steps" not in first.query_params, "no link repeats an example that was picked"


def test_training_plays_by_the_clock_and_pauses(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    app = press(opened(), "play")
    assert app.button(key="do_play").label == "Pause"
    for _ in range(5):
        now[0] += 0.2
        again(app)
    assert live_of(app).training.steps == pytest.approx(60, abs=1)
    press(app, "play")
    steps = live_of(app).training.steps
    now[0] += 10
    assert live_of(again(app)).training.steps == steps
    assert app.query_params["network_steps"] == str(steps)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"network_hidden": "0"}, "Units of a layer (hidden) must be a whole number from 1 to 64"),
        ({"network_hidden": "1000000"}, "from 1 to 64"),
        ({"network_hidden": ",".join("8" * 20)}, "8 hidden layers"),
        ({"network_hidden": "8,,8"}, "with commas between"),
        ({"network_learning_rate": "nan"}, "got nan"),
        ({"network_learning_rate": "-1"}, "above 0"),
        ({"network_dropout": "2"}, "from 0 to 0.9"),
        ({"network_data": "everest"}, "There is no data called"),
        ({"network_optimizer": "newton"}, "There is no optimizer called"),
        ({"network_data": "own", "network_points": "1,1,a; 2,2,a; 3,3,a; 4,4,a"}, "2 to 10 classes"),
        ({"network_data": "own", "network_points": "1,1,a; x,2,b; 3,3,a; 4,4,a"}, "x must be a number"),
        ({"network_data": "own", "network_points": ";"}, "4 to 5,000 points"),
        ({"network_data": "csv"}, "Choose a file"),
        ({"network_batch": "1", "network_batch_norm": "on"}, "Batch norm needs two examples"),
        ({"network_steps": "1e9"}, "Steps"),
        ({"hide": "optimiser"}, "There is no control called"),
    ],
)
def test_what_cannot_be_is_said_and_a_picture_is_there(parameters, said):
    app = opened(**parameters)
    assert said in errors(app), errors(app)
    assert app.get("bidi_component")


def test_last_good_network_stays_beside_a_problem():
    app = press(opened(network_hidden="5"), "one_batch")
    before = live_of(app).training.network
    app.text_input(key="network_hidden").set_value("5,0")
    assert "from 1 to 64" in errors(again(app))
    assert live_of(app).training.network is before
    app.text_input(key="network_hidden").set_value("5")
    assert not errors(again(app))
    assert live_of(app).training.steps == 1


def test_rate_that_explodes_is_said_and_the_network_stays():
    app = opened(network_learning_rate="1000", network_optimizer="sgd", network_activation="linear")
    for _ in range(3):
        press(app, "one_epoch")
        if app.error:
            break
    assert "diverged" in errors(app)
    assert np.isfinite(live_of(app).training.network.parameters).all()


def test_own_file_is_learnt_from_and_a_bad_one_is_said():
    app = opened(network_data="csv")
    app.file_uploader(key="network_csv").set_value(
        ("a.csv", b"x,y,class\n0,0,red\n1,1,red\n0,5,blue\n9,9,blue\n", "text/csv")
    )
    assert not errors(again(app))
    assert live_of(app).training.task.points.classes == ("blue", "red")
    app.file_uploader(key="network_csv").set_value(("b.csv", b"0,0,red\n1,one,red\n0,5,blue\n9,9,blue\n", "text/csv"))
    assert "Line 2: y must be a number" in errors(again(app))
    assert live_of(app).training.task.points.classes == ("blue", "red")


def test_teacher_hides_and_locks_by_the_link():
    link = {"hide": "optimizer,code,restart", "lock": "activation,hidden,one_epoch"}
    app = opened(network_optimizer="momentum", network_activation="tanh", network_hidden="3", **link)
    assert not app.error
    task = live_of(app).training.task
    assert (task.rule, task.plan.activation, task.plan.hidden) == ("momentum", "tanh", (3,))
    assert "network_optimizer" not in {box.key for box in app.selectbox}
    assert app.selectbox(key="network_activation").disabled
    assert app.text_input(key="network_hidden").disabled
    assert app.button(key="do_one_epoch").disabled
    assert not {"do_restart"} & {button.key for button in app.button}
    assert not app.code
    press(app, "one_batch")
    assert app.query_params["hide"] == link["hide"]


def test_step_is_written_out():
    app = press(opened(network_hidden="3", network_batch="4"), "one_batch")
    written = " ".join(one.value for one in app.latex)
    assert r"\operatorname{softmax}" in written
    assert r"\hat m" in written
    step = live_of(app).last
    assert latex_number(step.look.parameters[0]) in written


def test_code_is_that_of_the_network():
    assert "nn.Linear(2, 3)" in opened(network_hidden="3").code[0].value


@pytest.mark.parametrize("hidden", ["none", "8,8", ",".join(["64"] * 8)])
def test_picture_holds_the_network_and_stays_small(hidden):
    live = Live(asked.read({"hidden": hidden, "count": 5000, "data": "spiral", "classes": 10}))
    for _ in range(600):
        live.training.measure()
    live.batches(1)
    raw = picture(live)
    assert len(raw) <= LIMIT
    sent = opened_message(raw)
    network = live.training.network
    assert len(sent["layers"]) == len(network.layers)
    for layer, drawn in zip(network.layers, sent["layers"], strict=True):
        units, inputs = min(MOST_UNITS, len(layer.bias)), min(MOST_UNITS, layer.weight.shape[1])
        np.testing.assert_array_equal(
            drawn["weights"].reshape(units, inputs), layer.weight[:units, :inputs].astype(np.float32)
        )
    probabilities = maps(network, count=SIDE)[-1]
    np.testing.assert_array_equal(sent["winner"].reshape(SIDE, SIDE), probabilities.argmax(0))
    assert len(sent["labels"]) == MOST_POINTS
    found = health(network, live.training.task.points.train()[0], live.last)
    assert [row["dead"] for row in sent["rows"]] == [one.dead for one in found]
    assert sent["curves"][0]["values"][-1] == np.float32(live.training.curve[-1].train_loss)


def test_matrices_are_written_as_far_as_there_is_room():
    assert latex_array(np.float64(0.25)) == "0.25"
    assert latex_array(np.array([1.0, 2.0])) == r"\begin{bmatrix}1 & 2\end{bmatrix}"
    assert latex_array(np.array([-0.0])) == r"\begin{bmatrix}0\end{bmatrix}"
    assert latex_array(np.zeros((9, 9))).count("0 &") == 64


# The other views


@pytest.mark.parametrize(("view", "charts"), [("perceptron", 2), ("rules", 3), ("softmax", 2), ("graph", 1)])
def test_every_view_is_drawn_with_its_text_and_code(view, charts):
    app = opened(network_view=view)
    assert not app.error
    assert len(app.get("plotly_chart")) == charts
    assert any("A common mistake" in one.value for one in app.markdown)
    assert "torch" in app.code[0].value


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"network_view": "perceptron", "perceptron_rate": "0"}, "above 0"),
        ({"network_view": "perceptron", "perceptron_seen": "-1"}, "from 0 to 6000"),
        ({"network_view": "perceptron", "perceptron_data": "mars"}, "There is no data called"),
        ({"network_view": "rules", "rules_rule": "x + z"}, "z"),
        ({"network_view": "rules", "rules_degrees": "400"}, "from -360 to 360"),
        ({"network_view": "rules", "rules_examples": "51"}, "There is no examples that"),
        ({"network_view": "softmax", "softmax_logits": "1"}, "from 2 to 1,000 logits"),
        ({"network_view": "softmax", "softmax_logits": "1,x"}, "got x"),
        ({"network_view": "softmax", "softmax_label": "3"}, "one of 0 to 2"),
        ({"network_view": "softmax", "softmax_temperature": "0"}, "from 0.01"),
        ({"network_view": "softmax", "softmax_weights": "1,1"}, "as many weights as logits"),
        ({"network_view": "graph", "graph_formula": "x.__class__"}, "Column 1"),
        ({"network_view": "graph", "graph_formula": "log(x)", "graph_of_x": "-1"}, "no number"),
        ({"network_view": "graph", "graph_formula": "x*z", "graph_of_z": "two"}, "got two"),
        ({"network_view": "graph", "graph_step": "nine"}, "got nine"),
        ({"network_view": "cnn"}, "There is no view called"),
        ({"network_view": "graph", "hide": "optimizer"}, "There is no control called"),
    ],
)
def test_bad_input_of_a_view_is_said_and_its_picture_stays(parameters, said):
    app = opened(**parameters)
    assert said in errors(app), errors(app)
    assert app.get("plotly_chart") or app.get("bidi_component")


def test_perceptron_ends_on_blobs_and_never_on_xor():
    for data, says in (("blobs", "0 of 60 points are wrong"), ("xor", "points are wrong now")):
        app = opened(network_view="perceptron", perceptron_data=data)
        for _ in range(8):
            press(app, "one_epoch")
        assert app.query_params["perceptron_seen"] == "480"
        (told,) = (one.value for one in app.markdown if "examples seen" in one.value)
        assert says in told
        assert ("Novikoff" in told) == (data == "blobs")


def test_next_mistake_is_shown_with_its_numbers():
    app = press(opened(network_view="perceptron", perceptron_data="xor"), "one_mistake")
    assert any(r"\text{: wrong}" in one.value for one in app.latex)
    assert any("leftarrow" in one.value for one in app.latex)


def test_sliders_and_the_field_of_logits_are_one():
    app = opened(network_view="softmax", softmax_logits="3,0.5")
    assert [slider.value for slider in app.slider] == [3, 0.5]
    app.slider(key="softmax_logit_1").set_value(-2.0)
    again(app)
    assert app.text_input(key="softmax_logits").value == "3,-2"
    assert app.query_params["softmax_logits"] == "3,-2"
    expected = np.log(1 + np.exp(-5))
    assert any(f"{expected:.6g}" in one.value for one in app.latex)


def test_letter_of_softmax_overflows_on_large_logits():
    app = opened(network_view="softmax", softmax_logits="1000,0")
    assert "wrong" in list(app.dataframe[0].value["The letter is"])


def test_graph_is_gone_through_step_by_step():
    app = opened(network_view="graph", graph_formula="x*y + x", graph_of_x="3", graph_of_y="4", graph_step="0")
    assert any("x*y" in one.value or "x" in one.value for one in app.markdown)
    for _ in range(2):
        app.button(key="do_next").click()
        again(app)
    assert "Forward, step 2 of 2" in " ".join(one.value for one in app.markdown)
    app.slider(key="graph_step").set_value(6)
    again(app)
    assert "∂/∂x = 5, ∂/∂y = 3" in " ".join(one.value for one in app.markdown)
    assert "graph_step" not in app.query_params
    app.text_input(key="graph_formula").set_value("x")
    assert not errors(again(app))


def test_boxes_get_their_values_forward_and_their_gradients_backward():
    graph = graph_of("x*y + x", {"x": 3, "y": 4})

    def boxes(step: int) -> list[str]:
        return [box.text for box in graph_figure(graph, step).layout.annotations]

    assert sum("?" in text for text in boxes(0)) == 2
    assert not any("∂" in text for text in boxes(1))
    last = boxes(2 + len(graph.backward))
    for node, text in zip(graph.nodes, last, strict=True):
        assert f"{node.value:g}" in text
        assert f"∂ {node.gradient:g}" in text


def test_hostile_names_stay_names_in_the_picture():
    app = opened(network_data="own", network_points="0,0,<b>; 1,1,<b>; 0,1,<i>; 1,0,<i>")
    assert live_of(app).training.task.points.classes == ("<b>", "<i>")


def test_look_inside_follows_the_step_and_the_network():
    app = press(opened(network_batch="20"), "one_batch")
    app.number_input(key="network_row").set_value(20)
    app.selectbox(key="network_parameter").set_value("2.weight")
    again(app)
    app.selectbox(key="network_place").set_value("7,7")
    again(app)
    assert not errors(press(app, "one_example"))
    app.text_input(key="network_hidden").set_value("3")
    assert not errors(again(app))
    assert not errors(press(app, "one_batch"))


def test_playing_network_waits_while_another_view_is_shown():
    app = press(opened(), "play")
    app.segmented_control(key="network_view").set_value("perceptron")
    again(app)
    app.segmented_control(key="network_view").set_value("network")
    assert not errors(again(app))
    assert app.button(key="do_play").label == "Pause"


def test_wall_of_xor_leads_to_a_network_that_climbs_it():
    app = press(opened(network_view="perceptron", perceptron_data="xor"), "to_network")
    live = live_of(app)
    assert app.selectbox(key="network_data").value == "xor"
    for _ in range(20):
        press(app, "one_epoch")
    assert live.training.curve[-1].train_accuracy > 0.95


def test_gradients_that_vanish_are_told():
    live = Live(asked.read({"hidden": "8,8,8,8,8,8,8,8", "activation": "sigmoid"}))
    live.batches(1)
    sent = opened_message(picture(live))
    assert "vanishes" in sent["flow"]
    signals = [row["signal"] for row in sent["rows"]]
    assert signals[0] < 1e-3 * signals[-1]
