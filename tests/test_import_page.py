"""Importing on the page Data: what is sent is shown as what it would become, and only then imported, by a worker."""

import zipfile
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dlkit.catalog.datasets import DATASETS
from dlkit.data.dataset import open_dataset
from dlkit.data.drawings import read_drawing
from dlkit.runs import service
from dlkit.runs.records import Kind, Run
from dlkit.settings import settings
from tests.archive_maker import Member, by_hand, picture, zipped
from tests.test_drawings import address, sheet
from tests.test_pages import errors, opened, plain, sound, texts
from tests.test_uploads import FLAT, PETS, TABLE, worked

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _nobody_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


def sent(content: dict[str, bytes] | bytes, name: str = "photos.zip") -> AppTest:
    """Return the page after a zip, or files one by one, were sent."""
    app = opened("data", **{"import": "new"})
    files = [(name, content, "application/zip")] if isinstance(content, bytes) else []
    if isinstance(content, dict):
        files = [(each, data, "image/png") for each, data in content.items()]
    return sound(app.file_uploader(key="import_files").set_value(files).run())


def imported(app: AppTest, name: str = "pets") -> tuple[AppTest, Run]:
    app.text_input(key="import_name").set_value(name).run()
    app = sound(app.button(key="import_now").click().run())
    return app, service.store().list_runs(Kind.IMPORT)[0]


def warnings(app: AppTest) -> str:
    return plain("\n".join(box.value for box in app.warning))


def test_zip_is_understood_shown_imported_and_can_be_trained_on():
    app = sent(zipped({**PETS, "c/notes.txt": b"hello"}))
    assert "2 classes, 12 pictures" in texts(app)
    assert list(app.dataframe[0].value["class"]) == ["c", "d"]
    assert "1 file holds no picture and was left out: c/notes.txt." in warnings(app)
    assert "pets" not in DATASETS
    app, run = imported(app)
    assert run.config["name"] == "pets"
    assert app.query_params["import"] == run.id
    assert app.button(key=f"cancel_{run.id}")
    worked(run)
    app = opened("data", **{"import": run.id})
    assert "pets: 2 classes, 10 images to learn from, 2 to be checked with." in texts(app)
    assert [link.proto.label for link in app.get("page_link")][-2:] == ["Look at it", "Train on it"]
    assert "pets" in texts(opened("data"))
    assert opened("train", dataset="pets").selectbox(key="dataset").value == "pets"


def test_what_is_sent_is_kept_once_however_often_the_page_is_drawn(home):
    app = sent(zipped(PETS))
    for _ in range(3):
        app = sound(app.run())
    assert len(list((home / "uploads").iterdir())) == 1
    app = sound(app.file_uploader(key="import_files").set_value([("b.zip", zipped(PETS), "application/zip")]).run())
    assert len(list((home / "uploads").iterdir())) == 1
    sound(app.file_uploader(key="import_files").set_value([]).run())
    assert not list((home / "uploads").iterdir())


def drawn(shots: list[tuple[str, str]]) -> AppTest:
    """Return the page after so many drawings, each a class and what the pad sends, were kept and said to be all."""
    app = opened("data", **{"import": "new", "way": "pad"})
    for label, drawing in shots:
        app.session_state["sent_drawing"] = drawing
        app.text_input(key="shot_class").set_value(label).run()
    return sound(app.toggle(key="shots_done").set_value(True).run())


def scribbles(number: int) -> list[str]:
    return [address(sheet((20, 20 + 30 * place, 200, 250))) for place in range(number)]


def test_class_of_drawings_may_be_called_anything(home):
    labels = [".net", "..", "a:b", "C:\\x", "desktop.ini", "train", "test", "__MACOSX", "a/b", '=HYPERLINK("x";"y")']
    labels += ["00001", "file", "label", "sep=;", "'=1", "a;b;c", 'x"y', "://", EVIL]
    app = drawn([(label, content) for label in labels for content in scribbles(2)])
    assert not errors(app)
    assert f"{len(labels)} classes, {2 * len(labels)} pictures" in texts(app)
    app, run = imported(app)
    worked(run)
    assert set(open_dataset("pets").classes) == set(labels)


def test_drawing_in_the_place_of_one_that_was_taken_away_is_kept(home):
    first, second, third, other = scribbles(4)
    app = drawn([("a", first), ("a", second), ("b", third), ("b", third)])
    app.toggle(key="shots_done").set_value(False).run()
    app = sound(app.button(key="unshot").click().run())
    app.session_state["sent_drawing"] = other
    app = sound(app.toggle(key="shots_done").set_value(True).run())
    lot = app.session_state["lot"][1]
    (kept,) = (home / "uploads").iterdir()
    assert kept.stem == lot
    with zipfile.ZipFile(kept) as archive:
        assert archive.read("00003.png") == read_drawing(other)


def test_label_file_is_chosen():
    app = sent(zipped({**FLAT, "labels.csv": TABLE, "other.csv": TABLE.replace(b"a\n", b"z\n")}))
    app.selectbox(key="labels").set_value("other.csv").run()
    assert list(app.dataframe[0].value["class"]) == ["b", "z"]
    _, run = imported(app)
    assert run.config["labels"] == "other.csv"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Rar!\x1a\x07\x00" + bytes(100), "rar"),
        (b"no archive at all", "zip"),
        (zipped({}), "no images"),
        (zipped({"notes.txt": b"x"}), "no images"),
        (zipped({"one/a.png": picture(1), "one/b.png": picture(2)}), "class"),
        (by_hand([Member(b"../../etc/a.png", picture(1)), Member(b"../b.png", picture(2))]), "no images"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_a_sentence_and_nothing_is_made(content, said):
    app = sent(content)
    assert len(errors(app)) == 1
    assert said in errors(app)[0].lower()
    assert not service.store().list_runs(Kind.IMPORT)


@pytest.mark.parametrize("name", ["flowers-mini", "a@b", "a/b", "CON,"])
def test_name_that_cannot_be_is_refused_and_the_form_stays(name):
    app = sent(zipped(PETS))
    app.text_input(key="import_name").set_value(name).run()
    app = sound(app.button(key="import_now").click().run())
    assert errors(app)
    assert app.text_input(key="import_name").value == name
    assert not service.store().list_runs(Kind.IMPORT)


def test_hostile_names_are_shown_letter_by_letter():
    app = sent(zipped({f"{EVIL}/{number}.png": picture(number) for number in (1, 2)} | PETS))
    assert EVIL not in "\n".join(str(box.value) for box in [*app.markdown, *app.warning, *app.caption])
    app, run = imported(app, EVIL)
    worked(run)
    app = opened("data", **{"import": run.id})
    assert EVIL in texts(app)
    assert EVIL not in "\n".join(str(box.value) for box in [*app.markdown, *app.success, *app.caption])


def test_class_in_a_table_that_can_be_downloaded_is_no_formula():
    app = sent(zipped({f"=HYPERLINK(1)/{number}.png": picture(number) for number in (1, 2)} | PETS))
    assert list(app.dataframe[0].value["class"]) == ["'=HYPERLINK(1)", "c", "d"]


def test_import_that_fails_or_is_cancelled_says_so():
    _, run = imported(sent(zipped(PETS)))
    worked(run, service.cancel)
    assert "cancelled; nothing of it was kept" in texts(opened("data", **{"import": run.id}))
    assert "Import" in texts(opened("data", **{"import": "../../etc/passwd"}))


def test_imported_set_is_deleted_unless_a_run_uses_it():
    _, run = imported(sent(zipped(PETS)))
    worked(run)
    using = service.submit({"dataset": "pets"})
    app = opened("data", dataset="pets")
    app = sound(app.button(key="delete_dataset").click().run())
    assert any("is used by" in error for error in errors(app))
    service.cancel(using.id)
    app = opened("data", dataset="pets")
    app = sound(app.button(key="delete_dataset").click().run())
    assert "pets" not in DATASETS
    assert "dataset" not in app.query_params
