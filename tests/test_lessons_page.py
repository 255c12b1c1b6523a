"""The contents list: each topic is there, and its link opens a view with a text and code, without an error."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.topics import PARTS, TOPICS
from dlkit.settings import settings
from tests.live_server import REPOSITORY

#: what the course must have, in its own words
SEEDS = (
    "tensor",
    "perceptron",
    "hidden-layer",
    "activation",
    "conv2d",
    "relu",
    "pooling",
    "flatten",
    "linear",
    "dropout",
    "batch-norm",
    "softmax",
    "cross-entropy",
    "backpropagation",
    "gradient-descent",
    "sgd",
    "adam",
)
FORMS = ("train", "predict")  # which are no lessons
NEEDS_A_RUN = ("one-step",)


@pytest.fixture(autouse=True)
def _cold(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()


def opened(page: str, **parameters: str) -> AppTest:
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=60)
    app.switch_page(f"{page}.py")
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def test_contents_lead_to_every_topic():
    assert set(SEEDS) <= set(TOPICS)
    app = opened("lessons")
    labels = [link.proto.label for link in app.get("page_link")]
    assert labels == [f"**{number}. {topic.title}**" for number, topic in enumerate(TOPICS.values(), 1)]
    assert [box.value for box in app.subheader] == list(PARTS)
    assert [topic.part for topic in TOPICS.values()] == sorted(
        (topic.part for topic in TOPICS.values()), key=PARTS.index
    )


@pytest.mark.parametrize("name", TOPICS)
def test_topic_opens_its_view_with_text_and_code(name):
    topic = TOPICS[name]
    app = opened(topic.page, **topic.parameters)
    if any(one.key == "look" for one in app.button):
        app = app.button(key="look").click().run()
    assert not app.error, app.error[0].value
    for key, value in topic.parameters.items():
        assert app.query_params[key] in (value, [value]), key
    if topic.page in FORMS or name in NEEDS_A_RUN:
        return
    assert any("torch" in box.value for box in app.code)
    if topic.page != "descent":
        assert any("A common mistake" in box.value for box in app.markdown)
