"""Figures against the numbers they were given, and against what training does with the same config."""

import base64
import io
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.config import FinetuneConfig, learning_rates, parse
from dlkit.figures.curves import (
    MOST_POINTS,
    accuracy_figure,
    balance_figure,
    change_events,
    loss_figure,
    rate_figure,
    schedule_figure,
)
from dlkit.figures.palette import SUGGESTED
from dlkit.figures.pictures import SHOWN_SIDE, contact_sheet, data_uri, softmax_html
from dlkit.figures.rates import finder_figure
from dlkit.figures.results import confusion_figure
from dlkit.runs.records import Change, Point
from tests.live_server import REPOSITORY
from tests.test_words import NAMES


def curve(key: str, count: int) -> list[Point]:
    return [Point(key, step, step / 10, 1 / step) for step in range(1, count + 1)]


def drawn(figure: go.Figure, name: str) -> list[tuple[float, float, int]]:
    """Return (epoch, value, step) of each drawn point of one series."""
    (trace,) = (trace for trace in figure.data if trace.name == name)
    return list(zip(trace.x, trace.y, trace.customdata, strict=True))


# Curves


@pytest.mark.parametrize("count", [0, 1, 2, 3, MOST_POINTS - 1, MOST_POINTS])
def test_few_points_are_all_drawn(count: int) -> None:
    points = curve("learning_rate", count)
    expected = [(point.epoch, point.value, point.step) for point in points]
    assert drawn(rate_figure(points), "learning rate") == expected


@pytest.mark.parametrize("count", [MOST_POINTS + 1, MOST_POINTS + 2, 2 * MOST_POINTS, 2 * MOST_POINTS + 1, 123_457])
def test_many_points_are_thinned_and_the_first_and_last_are_kept(count: int) -> None:
    points = curve("step/loss", count)
    steps = [step for _, _, step in drawn(loss_figure(points), "each step")]
    assert MOST_POINTS / 2 < len(steps) <= MOST_POINTS
    assert (steps[0], steps[-1]) == (1, count)
    assert steps == sorted(set(steps))


def test_thinned_points_keep_their_values() -> None:
    points = curve("step/loss", 5001)
    for epoch, value, step in drawn(loss_figure(points), "each step"):
        assert points[step - 1] == Point("step/loss", step, epoch, value)


def test_each_series_holds_its_own_values() -> None:
    points = [
        Point(f"{split}/{what}", step, step / 4, step + offset)
        for step in (0, 4, 8)
        for split, what, offset in (
            ("train", "loss", 0.1),
            ("val", "loss", 0.2),
            ("train", "accuracy", 0.3),
            ("val", "accuracy", 0.4),
        )
    ]
    for figure, first, second in ((loss_figure(points), 0.1, 0.2), (accuracy_figure(points), 0.3, 0.4)):
        assert drawn(figure, "training") == [(0, first, 0), (1, 4 + first, 4), (2, 8 + first, 8)]
        assert drawn(figure, "validation") == [(0, second, 0), (1, 4 + second, 4), (2, 8 + second, 8)]


@pytest.mark.parametrize("draw", [loss_figure, accuracy_figure, rate_figure])
def test_a_run_without_points_has_an_empty_figure(draw) -> None:
    assert all(len(trace.x) == 0 for trace in draw([]).data)


# Events on the curves


def changes_of(*steps: int | None) -> list[Change]:
    return [Change(number, "learning_rate", 0.1 / number, step, "you") for number, step in enumerate(steps, start=1)]


def test_changes_stand_at_the_epoch_of_their_step() -> None:
    points = [*curve("step/loss", 40), Point("val/loss", 40, 4.0, 1.0)]  # ten steps an epoch
    assert change_events(changes_of(0, 20, 25, 40), points) == [
        (0.0, "learning rate 0.1"),
        (2.0, "learning rate 0.05"),
        (2.5, "learning rate 0.0333333"),
        (4.0, "learning rate 0.025"),
    ]


def test_changes_that_are_still_to_come_are_no_events() -> None:
    assert change_events(changes_of(None, 20, None), curve("step/loss", 40)) == [(2.0, "learning rate 0.05")]
    assert change_events([], curve("step/loss", 40)) == []


@pytest.mark.parametrize("points", [[], [Point("val/loss", 0, 0.0, 1.0)]])
def test_changes_of_a_run_that_has_no_step_stand_at_the_beginning(points: list[Point]) -> None:
    assert change_events(changes_of(0), points) == [(0.0, "learning rate 0.1")]


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("epochs", 12, "epochs 12"),
        ("augmentation", "strong", "augmentation strong"),
        ("frozen", True, "a frozen backbone"),
        ("frozen", False, "a backbone that learns"),
        ("micro_batch", 8, "at most 8 pictures at a time"),
    ],
)
def test_events_are_in_words(what: str, value: object, text: str) -> None:
    assert change_events([Change(1, what, value, 10, "you")], curve("step/loss", 20)) == [(1.0, text)]


@pytest.mark.parametrize(("draw", "key"), [(loss_figure, "step/loss"), (rate_figure, "learning_rate")])
def test_each_event_is_a_line_with_its_text(draw, key: str) -> None:
    events = [(number / 2, f"event {number}") for number in range(6)]
    layout = draw(curve(key, 40), events).layout
    assert [(shape.type, shape.x0, shape.x1) for shape in layout.shapes] == [("line", x, x) for x, _ in events]
    assert [(note.x, note.text) for note in layout.annotations] == events
    # the curve is drawn to epoch 4
    assert [note.xanchor for note in layout.annotations] == ["left"] * 5 + ["right"]
    heights = [note.y for note in layout.annotations]
    assert all(abs(one - next_) > 0.05 for one, next_ in pairwise(heights)), "neighbours do not hide each other"
    assert all(0.5 < height < 1 for height in heights)
    assert not draw(curve(key, 40)).layout.shapes


def test_texts_of_events_are_no_markup() -> None:
    events = [(1.0, name) for name in NAMES]
    texts = [note.text for note in loss_figure(curve("step/loss", 20), events).layout.annotations]
    assert not any(set(text) & set("<>\n\"'") for text in texts)


def test_learning_rates_are_written_as_powers_of_ten() -> None:
    assert rate_figure(curve("learning_rate", 3)).layout.yaxis.exponentformat == "e"


# The drawn schedule


def rates_of(config: FinetuneConfig, epochs: int, batches: int) -> list[float]:
    return learning_rates(config, epochs, batches, range(epochs * batches))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 16])
def test_drawn_schedule_is_the_one_of_the_config(schedule: str, strategy: str, steps_per_epoch: int) -> None:
    config = parse({"schedule": schedule, "strategy": strategy, "epochs": 5, "learning_rate": 0.3})
    phases = ([] if strategy == "head" else [3]) + [5]
    expected = [rate for epochs in phases for rate in rates_of(config, epochs, steps_per_epoch)]
    points = drawn(schedule_figure(config, steps_per_epoch), "learning rate")
    assert [rate for _, rate, _ in points] == expected
    assert [step for *_, step in points] == list(range(1, sum(phases) * steps_per_epoch + 1))
    assert points[-1][0] == sum(phases)


def test_drawn_schedule_without_head_epochs_begins_with_the_whole_network() -> None:
    config = parse({"strategy": "full", "head_epochs": 0, "epochs": 2})
    assert len(drawn(schedule_figure(config, 4), "learning rate")) == 8


def test_drawn_schedule_of_a_long_run_is_thinned() -> None:
    config = parse({"epochs": 1000})
    started = time.process_time()
    points = drawn(schedule_figure(config, 75_000), "learning rate")
    assert time.process_time() - started < 1, "not one number a step"
    assert len(points) <= MOST_POINTS
    assert points[-1][::2] == (1000, 75_000_000)


@pytest.mark.parametrize("schedule", ["constant", "step", "exponential", "cosine", "one-cycle", "warm-up-linear"])
@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_takes_the_drawn_rates_step_by_step(
    schedule: str, strategy: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"strategy": strategy, "optimizer": optimizer, "schedule": schedule, "epochs": 2, "batch_size": 4}
    config = parse(values | ({"head_epochs": 1} if strategy == "full" else {"views": 1}))
    used: list[float] = []
    algorithm = _torch_algorithm(optimizer)
    step_of = algorithm.step

    def remember(self, *arguments, **named):
        used.append(max(group["lr"] for group in self.param_groups))
        return step_of(self, *arguments, **named)

    monkeypatch.setattr(algorithm, "step", remember)
    reported = _train(config.resolved(), pictures=10)
    expected = drawn(schedule_figure(config, 3), "learning rate")
    assert [rate for _, rate, _ in expected] == pytest.approx(used)
    assert [(point.epoch, point.value, point.step) for point in reported] == expected


def _torch_algorithm(optimizer: str) -> type:
    from torch import optim

    return getattr(optim, OPTIMIZERS[optimizer].algorithm)


def _train(config: FinetuneConfig, pictures: int) -> list[Point]:
    """Train a very small network on noise; return the learning rate of every step as training reports it."""
    import torch
    from torch import nn

    from dlkit.engine import training
    from dlkit.engine.learner import Learner
    from dlkit.engine.model import Classifier

    class Noise:
        labels = torch.arange(pictures) % 2

        def __len__(self) -> int:
            return pictures

        def expect(self, batches: list[np.ndarray]) -> None:
            pass

        def batch(self, indices: np.ndarray, view: int | None, device: torch.device) -> torch.Tensor:
            return torch.randn(len(indices), 3, 8, 8)

    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    model = Classifier(body, nn.Linear(4, 2), config.dropout)
    learner = Learner(config, model, Noise(), Noise(), torch.device("cpu"))
    return [point for report in training.train(learner) for point in report.points if point.key == "learning_rate"]


# Results


def test_each_confusion_cell_holds_its_count_share_and_place() -> None:
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    heat, cells = confusion_figure(counts, ["a", "b", "c"]).data
    assert np.asarray(heat.z).tolist() == [[0.8, 0.2, 0], [0, 0, 0], [0.25, 0, 0.75]]
    assert (heat.zmin, heat.zmax) == (0, 1)
    for x, y, text, (actual, predicted, count) in zip(cells.x, cells.y, cells.text, cells.customdata, strict=True):
        assert (y, x) == (actual, predicted)
        assert count == counts[actual, predicted]
        assert text == (str(count) if count else "")
    assert len(cells.x) == 9


@pytest.mark.parametrize(("classes", "has_text"), [(1, True), (25, True), (26, False), (120, False)])
def test_confusion_of_many_classes_has_no_text_and_stays_on_the_page(classes: int, has_text: bool) -> None:
    figure = confusion_figure(np.eye(classes, dtype=int), [str(label) for label in range(classes)])
    assert ("text" in figure.data[1].mode) is has_text
    assert 320 <= figure.layout.height <= 900


@pytest.mark.parametrize("draw", ["confusion", "balance"])
def test_class_names_in_figures_are_no_markup(draw: str) -> None:
    names = list(NAMES)
    if draw == "confusion":
        shown = confusion_figure(np.eye(len(names), dtype=int), names).layout.xaxis.ticktext
    else:
        shown = balance_figure({"training": dict.fromkeys(names, 1)}).data[0].x
    assert not any(set(name) & set("<>\n\"'") for name in shown)
    assert not any(re.search(r"&(?!amp;|lt;|gt;|quot;|#x27;)", name) for name in shown)


def test_balance_shows_each_count_in_both_splits() -> None:
    figure = balance_figure({"training": {"cat": 3, "dog": 5}, "validation": {"cat": 1, "dog": 2}})
    assert {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in figure.data} == {
        "training": {"cat": 3, "dog": 5},
        "validation": {"cat": 1, "dog": 2},
    }


class Parts(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def bars_of(labels: Sequence[str], probabilities: Sequence[float]) -> Parts:
    return Parts(softmax_html(Image.new("RGB", (40, 30), "red"), labels, probabilities))


def test_hostile_labels_are_text_in_the_answer() -> None:
    labels = [*NAMES, "<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "</figcaption></figure><p>"]
    parts = bars_of(labels, [1 / len(labels)] * len(labels))
    assert set(parts.tags) == {"figure", "img", "figcaption", "div", "b"}
    assert parts.tags.count("img") == parts.tags.count("figure") == 1
    assert {name for found in parts.attributes for name in found} == {"style", "src", "alt"}
    shown = [text.strip() for text in parts.text if not text.endswith(" %")]
    assert shown == [" ".join(label.split()) for label in labels]


@pytest.mark.parametrize("probabilities", [[1.0], [0.7, 0.2, 0.1], [0.5, 0.0004, 0.0], [0.25] * 4])
def test_widths_of_the_bars_are_the_probabilities(probabilities: list[float]) -> None:
    parts = bars_of([f"class {place}" for place in range(len(probabilities))], probabilities)
    widths = [
        float(found[1]) / 100
        for style in (attributes.get("style") for attributes in parts.attributes)
        if style and (found := re.search(r";width:([\d.]+)%$", style)) and "background" in style
    ]
    assert widths == pytest.approx(probabilities, abs=5e-5)
    assert [text for text in parts.text if text.endswith(" %")] == [f"{100 * share:.1f} %" for share in probabilities]


def test_answer_holds_the_picture_itself_at_a_bounded_size() -> None:
    html = softmax_html(Image.new("RGB", (3000, 1000), (0, 128, 255)), ["sky"], [1.0])
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert data
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as shown:
        assert shown.size == (SHOWN_SIDE, SHOWN_SIDE // 3)
        assert shown.getpixel((10, 10)) == pytest.approx((0, 128, 255), abs=3)


@pytest.mark.parametrize(
    ("count", "columns", "size"),
    [
        (0, 3, (296, 96)),
        (1, 3, (296, 96)),
        (3, 3, (296, 96)),
        (4, 3, (296, 196)),
        (9, 3, (296, 296)),
        (2, 1, (96, 196)),
    ],
)
def test_contact_sheet_has_room_for_its_pictures(count: int, columns: int, size: tuple[int, int]) -> None:
    images = [Image.new("RGB", (30 + number, 50), "red") for number in range(count)]
    sheet = contact_sheet(images, columns, side=96, gap=4)
    assert sheet.size == size
    for number in range(count):
        assert sheet.getpixel((number % columns * 100 + 95, number // columns * 100 + 95)) == (255, 0, 0, 255)
    if columns > 1:
        assert sheet.getpixel((97, 0)) == (0, 0, 0, 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_data_uri_takes_any_picture(mode: str) -> None:
    data = data_uri(Image.new(mode, (2, 2))).removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (2, 2)


def test_figures_never_import_torch() -> None:
    code = (
        "import sys, numpy as np; from dlkit.config import FinetuneConfig; "
        "from dlkit.figures import curves, pictures, results; "
        "curves.schedule_figure(FinetuneConfig(), 16); curves.loss_figure([]); "
        "results.confusion_figure(np.eye(2, dtype=int), ['a', 'b']); "
        "sys.exit('torch' in sys.modules or 'streamlit' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


# The learning-rate finder

SWEPT = [10 ** (place / 10 - 7) for place in range(80)]
SUGGESTED_RATES = {"valley": 2e-3, "slide": 1e-5, "minimum": 2.1e-3, "steepest": 0.5}


def found_figure(suggestions: dict[str, float]) -> go.Figure:
    losses = [abs(place - 55) / 20 for place in range(80)]
    return finder_figure(SWEPT, losses, [loss + 0.1 for loss in losses], suggestions)


def test_curve_has_each_loss_over_its_rate() -> None:
    figure = found_figure({})
    raw, smoothed = figure.data
    assert (list(raw.x), list(smoothed.x)) == (SWEPT, SWEPT)
    assert smoothed.y[0] == raw.y[0] + 0.1
    assert figure.layout.xaxis.type == "log"


def test_suggested_rates_are_lines_named_in_rows_of_their_own_above_the_curve() -> None:
    figure = found_figure(SUGGESTED_RATES)
    curve, lines = figure.data[:2], figure.data[2:]
    assert {(line.text[1].strip("\N{NO-BREAK SPACE}"), *line.x) for line in lines} == {
        (SUGGESTIONS[name].title, rate, rate) for name, rate in SUGGESTED_RATES.items()
    }
    assert len({line.line.color for line in lines} | {trace.line.color for trace in curve}) == 6
    rows = [line.y[1] for line in lines]
    bottom, top = figure.layout.yaxis.range
    gaps = [(above - below) / (top - bottom) * figure.layout.height for above, below in pairwise(rows)]
    assert min(gaps) >= 14, "in pixels, at the least the height of a letter"
    assert max(curve[1].y) < rows[-1] < rows[0] < top
    assert [line.x[0] for line in lines] == sorted(SUGGESTED_RATES.values())
    assert figure.layout.xaxis.range[1] > np.log10(SWEPT[-1]) + 1, "room for a name at the end"


def test_single_losses_do_not_run_through_the_names() -> None:
    figure = finder_figure(SWEPT[:3], [1.0, 9.0, 2.0], [1.0, 2.0, 2.0], {})
    assert list(figure.data[0].y) == [1.0, None, 2.0]


def test_curve_without_any_point_is_no_mistake() -> None:
    assert len(finder_figure([], [], [], {}).data) == 2


@pytest.mark.parametrize("ground", ["#ffffff", "#12161c"])
def test_every_suggestion_has_a_colour_that_is_seen_on_both_themes(ground: str) -> None:
    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05

    assert SUGGESTED.keys() == SUGGESTIONS.keys()
    for colour in SUGGESTED.values():
        low, high = sorted((light(colour), light(ground)))
        assert high / low >= 3, "WCAG 2.2, 1.4.11"
