"""What a visitor does with the real server in a real browser: train, look at the results, classify."""

import csv
import http.client
import json
import math
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from dlkit.config import FinetuneConfig
from dlkit.runs.records import Kind, Priority, Run, Slot, State, Wish
from dlkit.runs.store import Store, open_store
from dlkit.runs.tables import changes, points, runs
from dlkit.settings import settings
from tests.live_server import REPOSITORY, LiveServer
from tests.photos import copies
from tests.test_estimate import SIZE, measured
from tests.test_words import NAMES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

pytestmark = pytest.mark.browser

FLOWERS = REPOSITORY / "dlkit" / "samples" / "flowers_mini" / "val"
TRAINING_MS = 90_000
EVIL_NAME = "<img src=x onerror=alert(1)>.jpg"
QUICK = {"level": "expert", "image_size": "64", "batch_size": "64", "views": "1"}


@pytest.fixture(scope="module", autouse=True)
def _patience(browser: "Browser") -> None:
    """Let every expectation wait for long: the machine may be busy with other work."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that has had no visitor yet; it ends with every process that works for it."""
    home = tmp_path_factory.mktemp("browser") / "home"
    try:
        with LiveServer(home) as live:
            yield live
            assert "Traceback" not in live.output(), live.output()
    finally:
        end_processes_of(home)


def end_processes_of(home: Path) -> None:
    """End the supervisor and the workers of a data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("DLKIT_HOME") == str(home):
                process.kill()
                found.append(process)
        except psutil.Error:  # it is another user's, or has just ended
            continue
    psutil.wait_procs(found, timeout=10)


class Visitor:
    """One tab, with all that its console has complained about."""

    def __init__(self, browser: "Browser", server: LiveServer, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1360, "height": 900}, accept_downloads=True)
        if options:
            self.context.close()
            self.context = browser.new_context(accept_downloads=True, **options)
        self.page: Page = self.context.new_page()
        self.server = server
        self.complaints: list[str] = []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _listen(self, message: "ConsoleMessage") -> None:
        # Streamlit 1.67 looks for its own addresses below a deep link's path first, and finds them at the second try
        is_known = re.search(r"/\w+/_stcore/(health|host-config)$", message.location.get("url", ""))
        if message.type == "error" and not (is_known and "404" in message.text):
            self.complaints.append(f"{message.text} {message.location}")

    def open(self, path: str, **parameters: str) -> "Page":
        """Go to a page by its address and wait until it stands still."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        self.page.goto(f"{self.server.url}/{path}" + (f"?{query}" if query else ""))
        settle(self.page)
        return self.page

    def picture(self, name: str) -> None:
        """Save what is to be seen, where somebody wants to see it."""
        if folder := os.environ.get("DLKIT_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            window = self.page.viewport_size
            assert window
            height = self.page.get_by_test_id("stMain").evaluate("element => element.scrollHeight")
            self.page.set_viewport_size({**window, "height": max(window["height"], height)})
            self.page.wait_for_timeout(600)  # pictures and fades
            self.page.screenshot(path=Path(folder) / f"{name}.png")
            self.page.set_viewport_size(window)


def settle(page: "Page") -> None:
    """Wait until the page has a title and its script has ended."""
    page.get_by_role("heading", level=1).first.wait_for(timeout=30_000)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'",
        timeout=30_000,
    )


def choose(page: "Page", label: str, option: str) -> None:
    """Choose an option of a list by typing its beginning, as a user would."""
    from playwright.sync_api import TimeoutError as NothingCame

    box, found = page.get_by_role("combobox", name=label), page.get_by_role("option", name=option).first
    for _ in range(6):  # a part of the page that is drawn anew just now closes the list
        settle(page)
        box.click()
        box.fill(option)
        try:
            found.wait_for(timeout=5_000)
        except NothingCame:
            page.keyboard.press("Escape")
            continue
        box.press("Enter")
        return
    raise AssertionError(f"{label} never offered {option}")


def fill(page: "Page", label: str, text: str) -> None:
    field = page.get_by_role("textbox", name=label, exact=True)
    field.fill(text)
    field.press("Enter")


def badge(page: "Page", state: str) -> "Locator":
    return page.get_by_test_id("stMain").get_by_text(state, exact=True)


def metric(page: "Page", label: str) -> "Locator":
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")


def store_of(server: LiveServer) -> Store:
    return open_store(Path(server.env["DLKIT_HOME"]))


def address_has(page: "Page", **parameters: str) -> None:
    """Wait until the address names these parameters."""
    for name, value in parameters.items():
        page.wait_for_function(
            "([name, value]) => new URLSearchParams(location.search).get(name) === value", arg=[name, value]
        )


def query_of(page: "Page") -> dict[str, str]:
    return page.evaluate("() => Object.fromEntries(new URLSearchParams(location.search))")


def test_from_a_link_to_a_named_flower(browser: "Browser", server: LiveServer, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        # the very first request of this server is a deep link
        page = visitor.open("train", **QUICK, optimizer="sgd", schedule="cosine")
        for name in ("Start", "Data", "Train", "Runs", "Classify"):
            expect(page.get_by_test_id("stSidebarNav").get_by_role("link", name=name)).to_be_visible()
        expect(page.get_by_role("heading", name="Train", level=1)).to_be_visible()
        expect(page.get_by_role("combobox", name="Optimizer")).to_have_value("Stochastic gradient descent")
        for group in ("Training", "Schedule"):
            page.get_by_test_id("stExpander").locator("summary").get_by_text(group, exact=True).click()
        expect(page.get_by_role("combobox", name="Schedule")).to_have_value("Cosine")
        expect(page.get_by_role("textbox", name="Image size")).to_have_value("64")

        choose(page, "Optimizer", "NAdam")
        fill(page, "Epochs", "nonsense")
        expect(page.get_by_text("Epochs (epochs) must be a whole number from 1 to 1000; got nonsense.")).to_be_visible()
        expect(page.get_by_role("button", name="Launch")).to_be_disabled()
        fill(page, "Epochs", "3")
        expect(page.get_by_role("button", name="Launch")).to_be_enabled()
        address_has(page, **QUICK, optimizer="nadam", epochs="3", schedule="cosine")
        visitor.picture("train-expert")

        page.get_by_role("button", name="Launch").click()
        page.wait_for_url(re.compile(r"/runs\?run=[0-9a-f]{32}$"))
        expect(page.get_by_role("tab", name="Live")).to_be_visible()
        expect(page.get_by_test_id("stPlotlyChart").first).to_be_visible(timeout=TRAINING_MS)
        visitor.picture("run-live")
        expect(badge(page, "succeeded")).to_be_visible(timeout=TRAINING_MS)
        run = query_of(page)["run"]
        recorded = store_of(server).run(run)
        assert recorded.config.items() >= {"optimizer": "nadam", "epochs": 3, "schedule": "cosine"}.items()
        assert recorded.config.items() >= {"image_size": 64, "batch_size": 64, "views": 1}.items()
        accuracy = recorded.summary["val_accuracy"]
        assert accuracy > 0.5
        expect(metric(page, "Validation accuracy")).to_have_text(f"{100 * accuracy:.1f} %")
        expect(page.get_by_test_id("stPlotlyChart")).to_have_count(3)
        visitor.picture("run-ended")

        page.get_by_role("tab", name="Results").click()
        expect(metric(page, "Right")).to_have_text(f"{round(accuracy * 125)} of 125")
        matrix = page.get_by_test_id("stPlotlyChart").filter(visible=True)
        expect(matrix).to_have_count(1)
        expect(matrix.get_by_text("tulips").first).to_be_visible()
        visitor.picture("run-results")
        see_a_cell(page, matrix)

        page.get_by_role("tab", name="Mistakes").click()
        expect(page.get_by_text("Wrongly named validation pictures")).to_be_visible()
        expect(page.get_by_role("img", name="A picture of").first).to_be_visible()
        visitor.picture("run-mistakes")
        page.get_by_role("tab", name="Settings").click()
        expect(page.get_by_text("--optimizer nadam")).to_be_visible()
        visitor.picture("run-settings")

        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        download.value.save_as(tmp_path / "model.zip")
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            description = json.loads(archive.read("model.json"))
            assert sorted(archive.namelist()) == sorted(["README.txt", "model.json", description["weights"]])
            assert description["weights"].endswith(".safetensors")
            assert len(description["classes"]) == 5

        page.get_by_role("link", name="Classify with it").click()
        page.wait_for_url(re.compile(rf"/predict\?model={run}$"))
        sunflower = sorted((FLOWERS / "sunflowers").iterdir())
        upload(page, [sunflower[0]])
        answer = page.get_by_test_id("stHtml").locator("figure")
        expect(answer).to_be_visible(timeout=30_000)
        expect(answer.locator("figcaption > div")).to_have_count(5)
        expect(answer.locator("figcaption")).to_contain_text("sunflowers")
        visitor.picture("classify-one")
        upload(page, [*sunflower[1:3], *sorted((FLOWERS / "roses").iterdir())[:2]])
        expect(page.get_by_test_id("stDataFrame")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_test_id("stDownloadButton").get_by_role("button", name="Download as CSV").click()
        download.value.save_as(tmp_path / "table.csv")
        assert (tmp_path / "table.csv").read_text().count("\n") == 6  # with the sunflower of before
        visitor.picture("classify-many")
        assert visitor.complaints == []


def see_a_cell(page: "Page", matrix: "Locator") -> None:
    """Click the cell of the roses that were called roses, and see them."""
    from playwright.sync_api import expect

    area = matrix.locator(".nsewdrag").bounding_box()
    assert area
    page.mouse.click(area["x"] + area["width"] * 0.5, area["y"] + area["height"] * 0.5)
    expect(page.get_by_role("combobox", name="Pictures behind a cell")).to_have_value(
        re.compile(r"^roses called roses: \d+$"), timeout=15_000
    )
    expect(page.get_by_role("img", name="A picture of roses").first).to_be_visible()


def upload(page: "Page", files: list[Path]) -> None:
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(files)


def test_stopped_run_keeps_a_model_that_classifies(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train", **QUICK, epochs="1000")
        page.get_by_role("button", name="Launch").click()
        page.wait_for_url(re.compile(r"/runs\?run="))
        expect(metric(page, "Validation accuracy")).to_be_visible(timeout=TRAINING_MS)
        expect(page.get_by_test_id("stSidebar").get_by_text("1 running")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(badge(page, "stopped")).to_be_visible(timeout=60_000)
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        page.get_by_role("link", name="Classify with it").click()
        page.get_by_role("tab", name="Samples").click()
        page.get_by_role("button", name="tulips").click()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=30_000)
        assert visitor.complaints == []


@pytest.fixture(scope="module")
def trained(server: LiveServer) -> str:
    """The id of a run with a model, of an earlier test or made now."""
    for _ in range(2):
        for run in store_of(server).list_runs(Kind.FINETUNE):
            if run.state == State.SUCCEEDED and run.summary.get("val_accuracy"):
                return run.id
        options = ["--image-size", "64", "--views", "1", "--epochs", "1"]
        subprocess.run([sys.executable, "-m", "dlkit", "train", *options], cwd=REPOSITORY, env=server.env, check=True)
    raise AssertionError("the training left no run")


@pytest.fixture(scope="module")
def steered(server: LiveServer) -> str:
    """The id of a paused run with a curve and changes on it, which no worker has ever had."""
    store, run = store_of(server), "5" * 32
    config = FinetuneConfig().resolved().model_dump(mode="json")
    store.add_run(run, Kind.FINETUNE, "Much that was changed", config, Slot.CPU, "you", Priority.LOW)
    store.wish(run, Wish.PAUSE, "you")
    values = [("step/loss", step, step / 12, 2 / step) for step in range(1, 61)]
    values += [("learning_rate", step, step / 12, 1e-3 / step) for step in range(1, 61)]
    values += [("val/loss", 12 * epoch, epoch, 1 / (1 + epoch)) for epoch in range(6)]
    values += [("val/accuracy", 12 * epoch, epoch, epoch / 6) for epoch in range(6)]
    rows = [{"run_id": run, "key": key, "step": step, "epoch": at, "value": value} for key, step, at, value in values]
    changed = [("learning_rate", 0.00123, 14), ("augmentation", "strong", 20), ("frozen", False, 36)]
    changed += [("epochs", 25, 58), ("micro_batch", 16, 59)]
    with store._write() as connection:
        connection.execute(points.insert(), rows)
        for number, (what, value, step) in enumerate(changed, start=1):
            row = {"number": number, "what": what, "value": value, "step": step, "actor": "you"}
            connection.execute(changes.insert().values(run_id=run, **row))
        connection.execute(runs.update().where(runs.c.id == run).values(step=60))
    assert store.run(run).state == State.PAUSED
    return run


def test_reload_keeps_what_is_shown(browser: "Browser", server: LiveServer, trained: str) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("runs", run=trained)
        page.get_by_role("tab", name="Mistakes").click()
        page.wait_for_url(re.compile("tab=Mistakes"))
        page.reload()
        settle(page)
        expect(page.get_by_role("tab", name="Mistakes")).to_have_attribute("aria-selected", "true")

        page = visitor.open("train")
        choose(page, "Optimizer", "Adagrad")
        address_has(page, optimizer="adagrad")
        fill(page, "Learning rate", "0.0123")
        address_has(page, learning_rate="0.0123")
        page.get_by_role("radio", name="full", exact=True).click()
        address_has(page, optimizer="adagrad", learning_rate="0.0123", strategy="full")
        page.reload()
        settle(page)
        expect(page.get_by_role("combobox", name="Optimizer")).to_have_value("Adagrad")
        expect(page.get_by_role("textbox", name="Learning rate")).to_have_value("0.0123")
        assert query_of(page) == {"optimizer": "adagrad", "learning_rate": "0.0123", "strategy": "full"}
        assert visitor.complaints == []


def test_quick_changes_are_all_kept(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train")
        for _ in range(2):
            choose(page, "Optimizer", "Adagrad")
            fill(page, "Learning rate", "0.0123")
            page.get_by_role("radio", name="full", exact=True).click()
            expect(page.get_by_text("The new last layer first")).to_be_visible()
            settle(page)
            expect(page.get_by_role("combobox", name="Optimizer")).to_have_value("Adagrad")
            expect(page.get_by_role("textbox", name="Learning rate")).to_have_value("0.0123")
            expect(page.get_by_test_id("stSlider")).to_contain_text("0.01")
            page = visitor.open("train")


def test_slider_is_moved_by_the_keyboard(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train", learning_rate="0.01")
        page.get_by_role("slider").focus()
        for rate in ("0.02", "0.05", "0.1"):
            page.keyboard.press("ArrowRight")
            expect(page.get_by_role("textbox", name="Learning rate")).to_have_value(rate)
        page.keyboard.press("ArrowLeft")
        address_has(page, learning_rate="0.05")


def test_found_learning_rate_is_taken_into_the_field(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train", dataset="shapes", **QUICK)
        page.get_by_role("button", name="Find a learning rate").click()
        use = page.get_by_role("button", name=re.compile(r"^Use \S+ \(valley\)$"))
        use.click(timeout=TRAINING_MS)
        expect(page.get_by_label("Learning rate", exact=True)).to_have_value(use.inner_text().split()[1])
        expect(page).to_have_url(re.compile("learning_rate="))
        expect(use).to_be_visible()
        visitor.picture("finder")
        assert visitor.complaints == []


def test_what_a_run_takes_is_shown_as_soon_as_it_is_measured(
    browser: "Browser", server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measuring itself is a job of a worker, which `test_estimate` waits for; here its numbers are put in place."""
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train", image_size=str(SIZE), augmentation="none")
        time_taken = page.get_by_test_id("stMarkdown").filter(has_text=re.compile("^Time"))
        expect(time_taken).to_have_text(re.compile("^Time\\s*–"))
        press(page, "Measure")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        monkeypatch.setenv("DLKIT_HOME", server.env["DLKIT_HOME"])
        settings.cache_clear()
        measured()
        expect(time_taken).to_have_text(re.compile("^Time\\s*≈"))
        head = time_taken.inner_text()
        page.get_by_role("radio", name="full", exact=True).click()
        expect(time_taken).not_to_have_text(head)
        expect(time_taken).to_have_text(re.compile("^Time\\s*≈"))
        cancel = page.get_by_role("button", name="Cancel")
        if cancel.is_visible():
            cancel.click()
    settings.cache_clear()


def test_stale_link_is_a_sentence(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("runs", run="0" * 32)
        expect(page.get_by_test_id("stAlert")).to_contain_text("There is no run")
        expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
        page = visitor.open("predict", model="../../etc/passwd")
        expect(page.get_by_test_id("stAlert").first).to_contain_text("A run's id is 32 letters and digits")
        assert visitor.complaints == []


def test_launch_is_reached_by_the_keyboard(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("train")
        expect(page.get_by_role("button", name="Launch")).to_be_enabled(timeout=30_000)
        page.get_by_role("button", name="Launch").scroll_into_view_if_needed()
        passed: list[str] = []
        while len(passed) < 120:  # a part of the page that is drawn anew begins again, so more than there are
            page.keyboard.press("Tab")
            passed.append(page.evaluate("() => (document.activeElement.innerText || '').trim().slice(-30)"))
            if passed[-1].endswith("Launch"):
                return
        raise AssertionError(f"never at Launch, but at {passed}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dark", {"color_scheme": "dark", "viewport": {"width": 1360, "height": 900}}),
        ("phone", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}),
    ],
)
def test_no_page_is_wider_than_the_screen(
    browser: "Browser", server: LiveServer, trained: str, steered: str, name: str, options: dict[str, Any]
) -> None:
    with Visitor(browser, server, **options) as visitor:
        for label, path, parameters in (
            ("start", "", {}),
            ("data", "data", {}),
            ("data-flowers", "data", {"dataset": "flowers-mini"}),
            ("data-seen", "data", {"dataset": "flowers-mini", "tab": "What+the+model+sees"}),
            ("train", "train", {}),
            ("train-expert", "train", {"level": "expert", "strategy": "full"}),
            ("runs", "runs", {}),
            ("run-live", "runs", {"run": trained}),
            ("run-results", "runs", {"run": trained, "tab": "Results"}),
            ("run-mistakes", "runs", {"run": trained, "tab": "Mistakes"}),
            ("run-settings", "runs", {"run": trained, "tab": "Settings"}),
            ("classify", "predict", {"model": trained}),
            ("descent", "descent", {}),
            ("network", "network", {"network_data": "spiral", "network_classes": "3", "network_steps": "400"}),
            ("network-perceptron", "network", {"network_view": "perceptron", "perceptron_seen": "90"}),
            ("network-softmax", "network", {"network_view": "softmax"}),
            ("network-graph", "network", {"network_view": "graph", "graph_step": "7"}),
            ("layers", "layers", {"layers_model": trained, "layers_layer": "body.blocks.2.0.conv_dw"}),
            ("step", "layers", {"layers_model": trained, "layers_view": "step"}),
            ("run-steered", "runs", {"run": steered}),
        ):
            page = visitor.open(path, **parameters)
            wide = page.evaluate("() => document.scrollingElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{label}: {wide} pixels too wide"
            assert page.get_by_role("heading", level=1).first.is_visible(), label
            inner = page.get_by_test_id("stMain").evaluate("element => element.scrollWidth - element.clientWidth")
            assert inner <= 0, f"{label}: {inner} pixels too wide inside"
            visitor.picture(f"{name}-{label}")
        box = open_form(page, "Change").bounding_box()
        window = page.viewport_size
        assert box
        assert window
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= window["width"]
        visitor.picture(f"{name}-run-change")
        assert visitor.complaints == []


def test_hostile_names_are_shown_letter_by_letter(browser: "Browser", tmp_path: Path) -> None:
    store = open_store(tmp_path / "home")
    config = FinetuneConfig().resolved().model_dump(mode="json")
    for number, name in enumerate(NAMES):
        run = store.add_run(f"{number:032x}", Kind.FINETUNE, name, config, Slot.CPU, "you")
        claimed = store.claim({Slot.CPU: ["cpu0"]})
        assert claimed
        store.finish(run.id, claimed.attempt, State.SUCCEEDED, {"val_accuracy": 0.5, "val_loss": 1.0})
    shown: list[str] = []
    with LiveServer(tmp_path / "home") as live, Visitor(browser, live) as visitor:
        page = visitor.open("runs")
        for number in range(-(-len(NAMES) // 20)):
            if number:
                page.get_by_test_id("stPaginationPage").get_by_text(str(number + 1), exact=True).click()
            page.get_by_text(" ".join(NAMES[-20 * number - 1].split()), exact=True).wait_for()
            settle(page)
            labels = page.get_by_test_id("stMain").locator("[data-testid=stPageLink] [data-testid=stMarkdownContainer]")
            shown += [text.replace("\u200b", "").strip() for text in labels.all_text_contents()]
            made = "a, img, code, pre, script, em, strong, del, ul, ol, table, h1, hr, svg, .katex, span[role=img]"
            assert labels.locator(made).count() == 0
        assert shown == [" ".join(name.split()) for name in reversed(NAMES)]
        for number in (0, 6, 11, 12):
            page = visitor.open("runs", run=f"{number:032x}")
            title = page.get_by_role("heading", level=1).first.text_content() or ""
            assert title.replace("\u200b", "").strip() == NAMES[number]
        assert visitor.complaints == []


def test_picture_that_is_none_is_a_sentence(browser: "Browser", server: LiveServer, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    file = tmp_path / "[a](https:x).jpg"
    file.write_text("no picture")
    with Visitor(browser, server) as visitor:
        page = visitor.open("predict")
        upload(page, [file])
        expect(page.get_by_test_id("stAlert").first).to_contain_text("is not a picture that can be read here")
        expect(page.get_by_test_id("stAlert").first.locator("a")).to_have_count(0)
        assert visitor.complaints == []


WATCH_PROGRESS = """() => {
    window.told = new Set()
    const look = () => document.querySelectorAll('[data-testid=stProgress]').forEach(bar => told.add(bar.innerText))
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true})
}"""


def test_many_pictures_fill_a_table_while_they_are_looked_at(
    browser: "Browser", server: LiveServer, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    files = [path for kind in ("roses", "tulips", "daisy") for path in sorted((FLOWERS / kind).iterdir())[:20]]
    note = tmp_path / "note.jpg"
    note.write_text("no picture")
    with Visitor(browser, server) as visitor:
        page = visitor.open("predict", top_k="3")
        page.evaluate(WATCH_PROGRESS)
        upload(page, [*files[:30], note, *files[30:]])
        button = page.get_by_test_id("stDownloadButton").get_by_role("button", name="Download as CSV")
        expect(button).to_be_visible(timeout=PATIENT_MS)
        expect(page.get_by_test_id("stProgress")).to_have_count(0)
        told = page.evaluate("() => [...window.told]")
        assert {text.split(",")[0] for text in told} - {"0 of 61 pictures", "61 of 61 pictures"}, told
        assert all(re.match(r"\d+ of 61 pictures", text) for text in told)
        expect(page.get_by_test_id("stAlert")).to_have_count(1)
        expect(page.get_by_test_id("stAlert")).to_contain_text("note.jpg is not a picture")
        with page.expect_download() as download:
            button.click()
        download.value.save_as(tmp_path / "table.csv")
        rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
        assert [row["file"] for row in rows] == [file.name for file in files]
        assert sum(row["class 1"] == "daisy" for row in rows[40:]) >= 10
        assert all(0 <= float(row["probability 3"]) <= float(row["probability 1"]) <= 1 for row in rows)
        visitor.picture("classify-hundreds")
        assert visitor.complaints == []


def test_start_page_classifies_its_sample(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("")
        button, answer = page.get_by_role("button", name="Classify it"), page.get_by_test_id("stHtml").locator("figure")
        expect(button.or_(answer).first).to_be_visible()
        if button.is_visible():
            button.click()
        expect(answer.locator("figcaption")).to_contain_text("cat", timeout=30_000)
        visitor.picture("start-answer")
        assert visitor.complaints == []


# Runs that outlive their visitors, and visitors that steer them

LONG = {"dataset": "shapes", "strategy": "full", "head_epochs": "0", "epochs": "900", "augmentation": "none"}
PATIENT_MS = 60_000  # what the worker does may take long on a busy machine


def test_descent_is_scrubbed_without_the_server_and_its_camera_stays(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    def eye() -> list[float]:
        found: list[float] = page.evaluate(
            "() => Object.values(document.querySelector('.scene .space')._fullLayout.scene._scene.getCamera().eye)"
        )
        return found

    with Visitor(browser, server) as visitor:
        sent: list[str] = []
        page = visitor.page
        page.on("websocket", lambda socket: socket.on("framesent", lambda _: sent.append("")))
        page = visitor.open("descent", surface="ravine")
        place = page.locator(".scene .place")
        expect(place).to_have_text("200 of 200", timeout=60_000)
        page.wait_for_function("() => document.querySelector('.scene .space canvas')", timeout=60_000)
        page.locator(".scene .player").scroll_into_view_if_needed()
        before, box = eye(), page.locator(".scene .space").bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 + 80, box["y"] + box["height"] / 2 + 30, steps=5)
        page.mouse.up()
        same, turned = 0, eye()
        for _ in range(100):  # until the camera comes to rest, which it glides to, drawn rarely without a GPU
            page.wait_for_timeout(300)
            last, turned = turned, eye()
            same = same + 1 if last == turned else 0
            if same == 16:
                break
        assert math.dist(turned, before) > 0.3
        settle(page)
        messages = len(sent)
        slider, formula = page.locator(".scene .tick"), page.locator(".scene .microscope .lines")
        ended = formula.inner_text()
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        expect(place).to_have_text("195 of 200")
        page.get_by_role("button", name="One step back").click()
        expect(place).to_have_text("194 of 200")
        assert formula.inner_text() != ended
        page.get_by_role("button", name="Play").click()
        expect(place).to_have_text("200 of 200", timeout=PATIENT_MS)
        assert len(sent) == messages, "moving through the steps asks the server nothing"
        fill(page, "Steps", "100")
        expect(place).to_have_text("100 of 100", timeout=PATIENT_MS)
        address_has(page, descent_steps="100")
        assert math.dist(eye(), turned) < math.dist(turned, before) / 10
        visitor.picture("descent")


def test_points_are_drawn_and_a_lesson_opens_its_race(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("descent", surface="line", line_points="-1,1; 2,-1", optimizers="sgd")
        pad = page.locator(".pad")
        expect(pad.locator("circle")).to_have_count(2, timeout=PATIENT_MS)
        pad.click(position={"x": 40, "y": 40})
        expect(pad.locator("circle")).to_have_count(3, timeout=PATIENT_MS)
        field = page.get_by_role("textbox", name="Points", exact=True)
        expect(field).to_have_value(re.compile(r"^-1,1; 2,-1; -3\.\d+,2\.\d+$"), timeout=PATIENT_MS)
        pad.locator("circle").first.click()
        expect(pad.locator("circle")).to_have_count(2, timeout=PATIENT_MS)
        expect(field).to_have_value(re.compile(r"^2,-1; -3"), timeout=PATIENT_MS)
        page.wait_for_function("() => location.search.includes('line_points=2')")
        page.get_by_role("radio", name="Adam, noise and sparsity").or_(
            page.get_by_role("button", name="Adam, noise and sparsity")
        ).first.click()
        page.get_by_role("button", name="Open this race").nth(2).click()
        expect(page.locator(".scene .place")).to_have_text("400 of 400", timeout=PATIENT_MS)
        address_has(page, descent_degrees="30", rate_momentum="0.01")
        page.reload()
        expect(page.locator(".scene .place")).to_have_text("400 of 400", timeout=PATIENT_MS)
        address_has(page, descent_degrees="30", rate_momentum="0.01")


def test_zip_of_photographs_becomes_a_data_set_that_is_mended_trained_on_and_used(
    browser: "Browser", server: LiveServer, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    archive = tmp_path / "garden.zip"
    zip_a_leaking_garden(archive)
    with Visitor(browser, server) as visitor:
        page = visitor.open("data", **{"import": "new"})
        page.locator("input[type=file]").set_input_files(archive)
        expect(page.get_by_text("2 classes, 52 pictures")).to_be_visible(timeout=PATIENT_MS)
        fill(page, "Name", "garden")
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.get_by_text("garden: 2 classes, 40 images to learn from, 11 to be checked with.")).to_be_visible(
            timeout=PATIENT_MS
        )
        expect(
            page.get_by_text("1 of 52 images is damaged and was left out: garden/train/daisy/broken")
        ).to_be_visible()
        visitor.picture("imported")

        page.get_by_role("link", name="Look at it").click()
        address_has(page, dataset="garden")
        expect(page.get_by_role("heading", name="garden", level=1)).to_be_visible()
        settle(page)
        page.get_by_role("tab", name="Doctor").click()
        expect(page.get_by_text("1 picture is on both sides of the split")).to_be_visible(timeout=PATIENT_MS)
        expect(page.get_by_text(f"daisy · validation · {EVIL_NAME}")).to_be_visible()
        expect(page.get_by_text("1 picture was left out at the import")).to_be_visible()
        visitor.picture("doctor")
        page.get_by_role("button", name="Keep it in training only").click()
        expect(page.get_by_text("1 picture left out.")).to_be_visible(timeout=PATIENT_MS)
        expect(page.get_by_text("1 picture is on both sides of the split")).to_have_count(0)
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_text("1 picture is on both sides of the split")).to_be_visible(timeout=PATIENT_MS)
        page.get_by_role("button", name="Keep it in training only").click()
        expect(page.get_by_text("1 picture left out.")).to_be_visible(timeout=PATIENT_MS)
        page.get_by_role("button", name="Check the labels").click()
        expect(page.get_by_role("button", name="Cancel")).to_be_visible(timeout=PATIENT_MS)
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=TRAINING_MS)
        expect(page.get_by_text("No network was asked")).to_have_count(0)
        visitor.picture("doctor-labels")

        page.get_by_role("link", name="Train on it").click()
        expect(page.get_by_role("combobox", name="Data set")).to_have_value("garden", timeout=PATIENT_MS)
        visitor.open("train", **QUICK, dataset="garden", epochs="2")
        run = launch(page)
        expect(badge(page, "succeeded")).to_be_visible(timeout=TRAINING_MS)
        assert store_of(server).run(run).config["dataset"] == "garden@4"  # mended, undone, mended
        page.get_by_role("link", name="Classify with it").click()
        page.wait_for_url(re.compile(rf"/predict\?model={run}$"))
        upload(page, [sorted((FLOWERS / "tulips").iterdir())[0]])
        expect(page.get_by_test_id("stHtml").locator("figcaption > div")).to_have_count(2, timeout=PATIENT_MS)
        assert visitor.complaints == []


def zip_a_leaking_garden(archive: Path) -> None:
    """Write two classes with a split; validation has a mirrored copy of a picture to learn from, oddly named."""
    with zipfile.ZipFile(archive, "w") as file:
        for label in ("daisy", "tulips"):
            for number, path in enumerate(sorted((FLOWERS / label).iterdir())):
                file.write(path, f"garden/{'train' if number < 20 else 'val'}/{label}/{path.name}")
        leak = sorted((FLOWERS / "daisy").iterdir())[0].read_bytes()
        file.writestr(f"garden/val/daisy/{EVIL_NAME}", copies(leak)["mirrored and smaller"])
        file.writestr("garden/train/daisy/broken.jpg", leak[:2000])


def test_drawings_are_classified_and_become_a_data_set(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("predict", source="Draw")
        stroke(page, (60, 60), (200, 60), (110, 230))
        expect(page.get_by_text("Your drawing:")).to_be_visible(timeout=PATIENT_MS)
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_text("Your drawing:")).to_have_count(0, timeout=PATIENT_MS)
        page = visitor.open("data", **{"import": "new", "way": "pad"})
        for label, points in (("seven", ((60, 60), (200, 60), (110, 230))), ("<img src=x>", ((140, 30), (140, 240)))):
            fill(page, "Class", label)
            for number in (1, 2):
                stroke(page, *points)
                page.get_by_role("button", name="Keep it").click()
                expect(page.get_by_text(label, exact=True)).to_have_count(number, timeout=PATIENT_MS)
        page.get_by_text("That is all").click()
        expect(page.get_by_text("2 classes, 4 pictures")).to_be_visible(timeout=PATIENT_MS)
        visitor.picture("drawn")


def test_links_on_a_page_move_its_address_and_back_returns(
    browser: "Browser", server: LiveServer, trained: str
) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("data")
        for name, text in (("dataset", "flowers-mini"), ("import", "new")):
            page.locator(f"a[href*='{name}={text}']").click()
            address_has(page, **{name: text})
            expect(page.get_by_role("heading", name="Data", exact=True)).to_have_count(0, timeout=PATIENT_MS)
            page.get_by_role("link", name="All data sets").click()
            page.wait_for_function("() => location.search === ''")
            expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible(timeout=PATIENT_MS)
        page.go_back()
        address_has(page, **{"import": "new"})
        expect(page.get_by_role("heading", name="Import", exact=True)).to_be_visible(timeout=PATIENT_MS)
        page = visitor.open("runs")
        page.locator(f"a[href*='{trained}']").first.click()
        address_has(page, run=trained)
        page.get_by_role("link", name="All runs").click()
        page.wait_for_function("() => location.search === ''")


def stroke(page: "Page", *points: tuple[int, int]) -> None:
    """Draw on the pad through these points."""
    from playwright.sync_api import expect

    pad = page.locator(".drawing canvas")
    expect(pad).to_be_visible(timeout=PATIENT_MS)
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    (across, down), *rest = points
    page.mouse.move(box["x"] + across, box["y"] + down)
    page.mouse.down()
    for across, down in rest:
        page.mouse.move(box["x"] + across, box["y"] + down, steps=5)
    page.mouse.up()


def test_network_learns_live_and_cheaply_and_is_edited(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    def steps() -> int:
        return int(page.locator(".net .worth").inner_text().split(",")[0].removeprefix("Step "))

    def cpu_seconds() -> float:
        used = psutil.Process(server.process.pid).cpu_times()
        return float(used.user + used.system)

    with Visitor(browser, server) as visitor:
        page = visitor.open("network", network_data="spiral", network_classes="3")
        expect(page.locator(".net .worth")).to_contain_text("Step 0,", timeout=PATIENT_MS)
        page.get_by_role("button", name="Train", exact=True).click()
        page.wait_for_function("() => /^Step [1-9]/.test(document.querySelector('.net .worth').textContent)")
        before, used, begun = steps(), cpu_seconds(), time.monotonic()
        page.wait_for_timeout(8000)
        taken, used, seconds = steps() - before, cpu_seconds() - used, time.monotonic() - begun
        assert used / seconds <= 0.5, "of a core"
        assert taken / seconds == pytest.approx(60, rel=0.3)
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()
        settle(page)
        shown = steps()
        address_has(page, network_steps=str(shown))
        page.reload()
        expect(page.locator(".net .worth")).to_contain_text(f"Step {shown},", timeout=PATIENT_MS)
        page.get_by_role("button", name="Unit 1 of layer 1").click()
        bias = page.get_by_role("textbox", name="bias", exact=True)
        bias.fill("-9")
        bias.press("Enter")
        page.wait_for_function("() => document.querySelector('.net .unit legend').textContent.includes('dead')")
        bias.fill("much")
        bias.press("Enter")
        expect(page.get_by_text("A weight must be a number")).to_be_visible()
        page.get_by_role("checkbox", name="Edges show the last gradient").check()
        visitor.picture("network")
        assert visitor.complaints == []


def test_layer_map_and_value_are_chosen_by_clicks_and_kept_in_the_address(
    browser: "Browser", server: LiveServer
) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("layers", layers_picture="coffee")
        look_inside(page)
        told = page.locator(".sheet .told")
        expect(told).to_contain_text("Map 1, row", timeout=PATIENT_MS)
        visitor.picture("layers")
        page.locator(".js-plotly-plot .nsewdrag").click()  # a block in the middle of the row
        page.wait_for_function("() => new URLSearchParams(location.search).has('layers_layer')")
        expect(told).not_to_contain_text("Map 1, row", timeout=PATIENT_MS)
        page.locator(".sheet .maps button").nth(2).click()
        page.wait_for_function("() => new URLSearchParams(location.search).has('layers_at')")
        page.locator(".sheet .whole canvas").click(position={"x": 3, "y": 3})
        expect(told).to_contain_text("row 0, column 0")
        page.keyboard.press("ArrowDown")
        expect(told).to_contain_text("row 1, column 0")
        shown = told.inner_text()
        page.wait_for_function("() => new URLSearchParams(location.search).get('layers_at').endsWith(',1,0')")
        page.reload()
        expect(told).to_have_text(shown, timeout=PATIENT_MS)
        assert visitor.complaints == []


def test_step_of_a_run_is_reached_from_the_run(browser: "Browser", server: LiveServer, trained: str) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("runs", run=trained)
        page.get_by_role("link", name="Look inside").click()
        expect(page.get_by_role("heading", name="Layers", level=1)).to_be_visible()
        settle(page)
        look_inside(page)
        expect(page.locator(".sheet .told")).to_contain_text("row", timeout=PATIENT_MS)
        page.get_by_role("radio", name="One step").click()
        expect(page.get_by_text("It begins with")).to_be_visible(timeout=PATIENT_MS)
        fill(page, "Weight at", "2,7")
        address_has(page, layers_index="2,7", layers_view="step", layers_model=trained)
        expect(page.get_by_text("head.weight at 2, 7")).to_be_visible()
        visitor.picture("step")
        assert visitor.complaints == []


def look_inside(page: "Page") -> None:
    """Have PyTorch loaded, which the server was not told to do, unless another visitor has."""
    button = page.get_by_role("button", name="Look inside")
    page.locator(".sheet .told").or_(button).first.wait_for(timeout=PATIENT_MS)
    if button.is_visible():
        button.click()


def test_points_of_a_network_are_drawn(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("network", network_data="own")
        plane = page.locator(".net .plane")
        expect(page.get_by_role("button", name="new class 2")).to_be_visible(timeout=PATIENT_MS)
        page.get_by_role("button", name="new class 2").click()
        plane.click(position={"x": 30, "y": 30})
        plane.click(position={"x": 60, "y": 30})
        expect(page.get_by_role("textbox", name="Your points")).to_have_value(
            re.compile(r"0\.80,1; -1\.\d+,1\.\d+,2; -\d\.\d+,1\.\d+,2$"), timeout=PATIENT_MS
        )
        expect(page.get_by_role("button", name="Class 2", exact=True)).to_be_visible(timeout=PATIENT_MS)
        expect(page.get_by_role("button", name="new class 3")).to_be_visible()
        plane.click(position={"x": 30, "y": 30})
        expect(page.get_by_role("textbox", name="Your points")).not_to_have_value(
            re.compile(r"-1\.\d+,1\.\d+,2"), timeout=PATIENT_MS
        )
        assert visitor.complaints == []


def launch(page: "Page") -> str:
    """Launch what the form shows; return the run's id."""
    from playwright.sync_api import expect

    expect(page.get_by_role("button", name="Launch")).to_be_enabled(timeout=30_000)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"/runs\?run=[0-9a-f]{32}$"), timeout=30_000)
    return query_of(page)["run"]


def drawn_steps(page: "Page") -> list[int]:
    """Return the steps of which the loss is drawn."""
    return page.evaluate(
        "() => { const plot = document.querySelector('.js-plotly-plot');"
        " const trace = plot && plot.data.find(trace => trace.name === 'each step');"
        " return trace ? Array.from(trace.customdata._inputArray || trace.customdata) : [] }"
    )


def wait_for_steps(page: "Page", count: int) -> list[int]:
    """Wait until the drawn loss has so many steps, and return them."""
    deadline = time.monotonic() + PATIENT_MS / 1000
    while len(steps := drawn_steps(page)) < count:
        assert time.monotonic() < deadline, f"{len(steps)} steps are drawn, not {count}"
        page.wait_for_timeout(200)
    return steps


def wait_for_run(server: LiveServer, run: str, look: Callable[[Run], Any]) -> Run:
    """Wait until the store has the run as `look` wants it."""
    deadline = time.monotonic() + PATIENT_MS / 1000
    while not look(found := store_of(server).run(run)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def press(page: "Page", name: str) -> None:
    page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()


def open_form(page: "Page", name: str) -> "Locator":
    """Open a popover of the page, and return what is in it."""
    page.get_by_test_id("stPopover").filter(has_text=name).get_by_role("button").first.click()
    inside = page.get_by_test_id("stPopoverBody")
    inside.wait_for()
    return inside


def is_whole(steps: list[int]) -> bool:
    return steps == list(range(1, len(steps) + 1))


@pytest.fixture(scope="module")
def long_run(server: LiveServer, browser: "Browser") -> str:
    """The id of a run that goes on as long as its tests, launched by a visitor who leaves."""
    with Visitor(browser, server) as visitor:
        run = launch(visitor.open("train", **QUICK, **LONG))
        wait_for_steps(visitor.page, 3)
    return run


def test_run_goes_on_without_its_visitor_and_without_the_server(
    browser: "Browser", server: LiveServer, long_run: str
) -> None:
    from playwright.sync_api import expect

    before = wait_for_run(server, long_run, lambda run: run.step > 5)
    server.kill()
    server.start()
    with Visitor(browser, server) as visitor:
        page = visitor.open("runs", run=long_run)
        expect(badge(page, "running")).to_be_visible(timeout=10_000)
        steps = wait_for_steps(page, before.step + 5)
        assert is_whole(steps)
        assert is_whole([point.step for point in store_of(server).curve(long_run, keys=["step/loss"])])
        now = store_of(server).run(long_run)
        assert (now.attempt, now.pid) == (1, before.pid), "the same worker"
        assert len(wait_for_steps(page, len(steps) + 1)) > len(steps), "and it grows before one's eyes"
        visitor.picture("run-after-restart")
        assert visitor.complaints == []


def test_run_is_paused_resumed_changed_stopped_and_continued(
    browser: "Browser", server: LiveServer, long_run: str
) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as visitor:
        page = visitor.open("runs", run=long_run)
        wait_for_steps(page, 1)
        press(page, "Pause")
        expect(badge(page, "paused")).to_be_visible(timeout=PATIENT_MS)
        paused = store_of(server).run(long_run)
        assert (paused.state, paused.pid) == (State.PAUSED, None)
        visitor.picture("run-paused")
        press(page, "Resume")
        expect(badge(page, "running")).to_be_visible(timeout=PATIENT_MS)
        assert is_whole(wait_for_steps(page, paused.step + 2))

        form = open_form(page, "Change")
        form.get_by_role("textbox", name="Learning rate").fill("fast")
        form.get_by_role("button", name="Change").click()
        expect(form.get_by_test_id("stAlert")).to_contain_text("must be a number from 1e-08 to 10; got fast.")
        visitor.picture("run-change-refused")
        form.get_by_role("textbox", name="Learning rate").fill("0.000123")
        form.get_by_role("button", name="Change").click()
        chart = page.get_by_test_id("stPlotlyChart").first
        expect(chart.get_by_text("learning rate 0.000123")).to_be_attached(timeout=PATIENT_MS)
        expect(page.get_by_test_id("stPlotlyChart").last.get_by_text("learning rate 0.000123")).to_be_attached()
        (change,) = store_of(server).changes(long_run)
        assert (change.what, change.value) == ("learning_rate", 0.000123)
        assert change.step
        page.keyboard.press("Escape")
        wait_for_steps(page, change.step + 3)
        visitor.picture("run-changed")

        press(page, "Stop")
        wait_for_run(server, long_run, lambda run: run.wish or run.has_ended)
        expect(badge(page, "stopped")).to_be_visible(timeout=PATIENT_MS)
        stopped = store_of(server).run(long_run)
        form = open_form(page, "Continue")
        visitor.picture("run-continue")
        form.get_by_role("textbox", name="More epochs").fill("2")
        form.get_by_role("button", name="Continue").click()
        expect(badge(page, "running")).to_be_visible(timeout=PATIENT_MS)
        assert is_whole(wait_for_steps(page, stopped.step + 1))
        page.get_by_role("tab", name="History").click()
        for text in ("you: asked to pause", "you: asked to resume", "you: asked to stop", "you: asked for epochs 902"):
            expect(page.get_by_text(text)).to_be_visible()
        visitor.picture("run-history")
        assert visitor.complaints == []


def test_tab_that_has_not_heard_is_told(browser: "Browser", server: LiveServer, long_run: str) -> None:
    from playwright.sync_api import expect

    with Visitor(browser, server) as first, Visitor(browser, server) as second:
        store = store_of(server)
        if store.run(long_run).state != State.PAUSED:
            store.wish(long_run, Wish.PAUSE, "test")
        wait_for_run(server, long_run, lambda run: run.state == State.PAUSED)
        ours, theirs = (visitor.open("runs", run=long_run) for visitor in (first, second))
        for page in (ours, theirs):
            expect(badge(page, "paused")).to_be_visible(timeout=30_000)
        press(ours, "Stop")
        expect(badge(ours, "stopped")).to_be_visible(timeout=30_000)
        press(theirs, "Resume")
        expect(theirs.get_by_test_id("stAlert")).to_contain_text(
            re.compile("has changed meanwhile: it is stopped|cannot be"), timeout=30_000
        )
        expect(badge(theirs, "stopped")).to_be_visible()
        assert store.run(long_run).state == State.STOPPED
        second.picture("run-stale")
        assert first.complaints == second.complaints == []


def test_double_click_launches_once_and_the_queue_is_shown(browser: "Browser", server: LiveServer) -> None:
    from playwright.sync_api import expect

    store = store_of(server)
    before = store.count_runs(Kind.FINETUNE)
    with Visitor(browser, server) as visitor:
        page = visitor.open("train", **QUICK, **{**LONG, "name": "first"})
        expect(page.get_by_role("button", name="Launch")).to_be_enabled(timeout=30_000)
        page.get_by_role("button", name="Launch").dblclick()
        page.wait_for_url(re.compile(r"/runs\?run=[0-9a-f]{32}$"), timeout=30_000)
        expect(page.get_by_role("heading", name="first", level=1)).to_be_visible()
        settle(page)
        assert store.count_runs(Kind.FINETUNE) == before + 1
        launched = [query_of(page)["run"]]
        wait_for_run(server, launched[0], lambda run: run.state == State.RUNNING)
        for name in ("second", "third"):
            launched.append(launch(visitor.open("train", **QUICK, **{**LONG, "name": name})))
        press(page, "Run next")
        expect(page.get_by_text("place 1, it starts").first).to_be_visible(timeout=30_000)
        page = visitor.open("runs")
        expect(page.get_by_text("In the queue")).to_be_visible()
        links = page.get_by_test_id("stMain").get_by_test_id("stPageLink").filter(has_text=re.compile(r"^\d\. "))
        expect(links).to_have_text([re.compile("third"), re.compile("second")])
        visitor.picture("runs-queue")
        for run in launched:
            store.wish(run, Wish.CANCEL, "test")
        expect(page.get_by_text("In the queue")).to_have_count(0, timeout=PATIENT_MS)
        for run in launched:
            wait_for_run(server, run, lambda found: found.has_ended)
        assert visitor.complaints == []


# Curating


def test_pictures_of_ones_own_are_curated(browser: "Browser", server: LiveServer, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    evil = "<img src=x onerror=alert(1)>"
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for label in ("daisy", "tulips", "roses"):
            for place, path in enumerate(sorted((FLOWERS / label).iterdir())[:12]):
                made.write(path, f"{evil if label == 'roses' else label}/{place}.jpg")
    with Visitor(browser, server) as visitor:
        page = visitor.open("data", **{"import": "new"})
        page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(archive)
        page.get_by_label("Name").fill("flowers of mine")
        page.get_by_label("Name").press("Enter")
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.get_by_text("flowers of mine: 3 classes")).to_be_visible(timeout=TRAINING_MS)

        page = visitor.open("data", dataset="flowers+of+mine", tab="Curate")
        cells = page.locator(".picker .cell")
        expect(cells).to_have_count(36)
        expect(cells.first.locator(".label")).to_have_text(evil)
        visitor.picture("curate")
        cells.nth(0).click()
        for text, number in (("/1.jpg", 3), ("", 36), ("nowhere", 0), ("", 36)):  # none is chosen when they come back
            fill(page, "Name has", text)
            expect(cells).to_have_count(number)
        settle(page)
        expect(page.get_by_text("0 of 36 chosen")).to_be_visible()
        expect(page.get_by_role("button", name="Leave out")).to_be_disabled()
        cells.nth(0).click()
        cells.nth(2).click(modifiers=["Shift"])
        expect(page.get_by_text("3 of 36 chosen")).to_be_visible()
        settle(page)
        choose(page, "Their class", "tulips")
        page.get_by_role("button", name="Set class (3)").click()
        expect(page.get_by_text("3 pictures moved to tulips.")).to_be_visible()
        visitor.picture("curate-changed")
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_text("As in version 1 again.")).to_be_visible()

        page = visitor.open(
            "data", dataset="flowers+of+mine", tab="Curate", curate="versions", compare_from="1", compare_to="2"
        )
        expect(page.get_by_text("3 pictures of another class.")).to_be_visible()
        expect(page.locator(".picker.fixed .cell")).to_have_count(3)
        visitor.picture("curate-versions")
        with page.expect_download() as download:
            page.get_by_role("link", name="Zip").nth(1).click()
        assert download.value.suggested_filename == "flowers of mine-2.zip"
        download.value.save_as(tmp_path / "export.zip")
        with zipfile.ZipFile(tmp_path / "export.zip") as exported:
            assert exported.testzip() is None
            assert len(exported.namelist()) == 37
        for part in ("classes", "splits"):
            visitor.open("data", dataset="flowers+of+mine", tab="Curate", curate=part)
            visitor.picture(f"curate-{part}")
        page.emulate_media(color_scheme="dark")
        for window, width in (("dark", 1360), ("phone", 390)):
            page.set_viewport_size({"width": width, "height": 844})
            visitor.open("data", dataset="flowers+of+mine", tab="Curate")
            cells.nth(4).click()
            expect(page.get_by_text("1 of 36 chosen")).to_be_visible()
            settle(page)
            assert page.evaluate("() => document.scrollingElement.scrollWidth - window.innerWidth") <= 0
            visitor.picture(f"curate-{window}")
            visitor.open(
                "data", dataset="flowers+of+mine", tab="Curate", curate="versions", compare_from="1", compare_to="2"
            )
            expect(page.locator(".picker.fixed .cell")).to_have_count(3)
            visitor.picture(f"curate-versions-{window}")
        assert visitor.complaints == []
    assert page_of_zip(server, "nowhere") == 404


def page_of_zip(server: LiveServer, name: str) -> int:
    """Return the status of the answer to an export."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", f"/export?dataset={name}")
        return connection.getresponse().status
    finally:
        connection.close()
