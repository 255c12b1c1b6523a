"""Curating on the page Data: what is chosen and changed, what is told and undone, and names that stay names."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dlkit.catalog.datasets import DATASETS
from dlkit.data.edits import Drop, Rename
from dlkit.data.versions import edit, history, open_version
from dlkit.runs import service
from dlkit.runs.records import Kind, State
from dlkit.settings import settings
from pages.parts import picker
from tests.archive_maker import picture, zipped
from tests.photos import copies, flower
from tests.test_importing import imported
from tests.test_pages import errors, opened, plain, sound, texts
from tests.test_uploads import worked
from tests.test_versions import ROOMY
from tests.test_words import NAMES

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _nobody_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """Fifteen pictures of a, b and c, of each four to learn from."""
    imported(tmp_path, ROOMY)
    return "pets"


def curating(name: str = "pets", **parameters: str) -> AppTest:
    return opened("data", dataset=name, tab="Curate", **parameters)


def all_found(app: AppTest) -> AppTest:
    return sound(app.segmented_control(key="curate_which").set_value("all").run())


def pressed(app: AppTest, key: str) -> AppTest:
    return sound(app.button(key=key).click().run())


def success(app: AppTest) -> str:
    return plain("\n".join(box.value for box in app.success))


def test_found_pictures_are_relabelled_moved_and_left_out(pets):
    app = all_found(curating(curate_class="a"))
    assert "5 of 15 pictures" in texts(app)
    app.text_input(key="curate_name").set_value("A/2").run()
    assert "1 of 15 pictures" in texts(app)
    app.selectbox(key="curate_to_class").set_value("b").run()
    app = pressed(app, "curate_relabel")
    assert success(app) == "1 picture moved to b."
    assert open_version("pets").counts()["a"]["train"] + open_version("pets").counts()["a"]["val"] == 4
    app = all_found(curating(curate_class="b", curate_split="train", curate_name="b/"))
    app.selectbox(key="curate_to_split").set_value("test").run()
    app = pressed(app, "curate_move")
    assert success(app) == "4 pictures moved to the test split."
    app = pressed(all_found(curating(curate_split="test")), "curate_drop")
    assert success(app) == "4 pictures left out."
    assert [past.number for past in history("pets")] == [4, 3, 2, 1]


def test_change_is_undone(pets):
    app = pressed(all_found(curating(curate_class="a", curate_name="a/1")), "curate_drop")
    app = pressed(app, "curate_undo")
    assert success(app) == "As in version 1 again."
    assert open_version("pets").pictures == open_version("pets@1").pictures


def test_nothing_is_changed_where_nothing_is_chosen(pets):
    app = curating()
    assert all(app.button(key=f"curate_{what}").disabled for what in ("relabel", "move", "drop"))


def test_filter_is_in_the_address(pets):
    app = curating()
    app.selectbox(key="curate_class").set_value("c").run()
    sound(app.selectbox(key="curate_split").set_value("val").run())
    assert (app.query_params["curate_class"], app.query_params["curate_split"]) == ("c", "val")
    assert "No picture is so" in texts(curating(curate_name="nowhere"))


def test_link_to_a_class_that_is_not_there_says_so_in_a_sentence(tmp_path):
    imported(tmp_path, {f"class {n:03}/{m}.png": picture(2 * n + m) for n in range(120) for m in (0, 1)})
    (error,) = errors(curating(curate_class=EVIL))
    assert error.startswith(f"There is no class called '{EVIL}'. Choose one of: class 000,")
    assert error.endswith("class 039 and 80 more.")


def test_classes_are_renamed_and_merged(pets):
    app = curating(curate="classes")
    app.selectbox(key="rename_from").set_value("a").run()
    app.text_input(key="rename_to").set_value(EVIL).run()
    app = pressed(app, "curate_rename")
    assert success(app) == f"Class a renamed to {EVIL}."
    app.multiselect(key="merge_2").set_value([EVIL, "b"]).run()
    app.text_input(key="merge_to").set_value("both").run()
    app = pressed(app, "curate_merge")
    assert success(app) == f"Classes {EVIL}, b merged into both."
    assert open_version("pets").classes == ("both", "c")


def test_class_in_a_table_that_can_be_downloaded_is_no_formula(pets):
    edit("pets", [Rename("a", "=1+1")])
    assert list(curating(curate="classes").dataframe[0].value["class"]) == ["'=1+1", "b", "c"]
    assert list(curating(curate="versions").dataframe[0].value["class"]) == ["'=1+1", "a"]


def test_class_that_is_gone_is_no_filter_any_more(pets):
    app = all_found(curating(curate_class="a"))
    app.selectbox(key="curate_to_class").set_value("b").run()
    app = pressed(app, "curate_relabel")
    assert not errors(app)
    assert app.selectbox(key="curate_class").value == ""
    assert "curate_class" not in app.query_params


def test_refused_change_is_said_and_changes_nothing(pets):
    app = pressed(all_found(curating(curate_class="a", curate_split="train")), "curate_drop")
    assert "no picture in the training split: a" in errors(app)[0]
    app = curating(curate="classes")
    app = pressed(app, "curate_rename")
    assert "1 to 100 letters" in errors(app)[0]
    assert open_version("pets").number == 1


def test_change_of_a_version_that_somebody_has_changed_is_refused_and_put_on_top_if_asked(pets):
    app = all_found(curating(curate_class="a", curate_name="a/1"))
    edit("pets", [Rename("c", "see")])
    app = pressed(app, "curate_drop")
    assert "pets has changed: version 2 is the newest, and this was version 1" in errors(app)[0]
    assert open_version("pets").number == 2
    app = pressed(app, "curate_on_top")
    assert success(app) == "1 picture left out."
    assert open_version("pets").classes == ("a", "b", "see")
    app = pressed(app, "curate_undo")
    assert success(app) == "As in version 2 again."
    assert open_version("pets").pictures == open_version("pets@2").pictures


def test_change_of_all_is_asked_for_each_time_and_says_of_how_many(pets):
    app = curating(curate_which="all")
    assert app.button(key="curate_drop").disabled
    app = all_found(curating(curate_class="a", curate_name="a/1"))
    assert "curate_which" not in app.query_params
    assert app.button(key="curate_drop").label == "Leave out (1)"
    app.selectbox(key="curate_to_split").set_value("test").run()
    app = pressed(app, "curate_move")
    assert app.segmented_control(key="curate_which").value == "chosen"
    assert (app.button(key="curate_drop").label, app.button(key="curate_drop").disabled) == ("Leave out", True)


def test_change_of_another_set_of_the_name_is_not_undone(pets, tmp_path):
    app = curating(curate="classes")
    app.text_input(key="rename_to").set_value("x").run()
    app = pressed(app, "curate_rename")
    assert app.button(key="curate_undo")
    service.delete_dataset("pets")
    imported(tmp_path, ROOMY)
    edit("pets", [Drop([0])])
    app = sound(app.run())
    assert "curate_undo" not in [button.key for button in app.button]


def test_choice_is_forgotten_when_other_pictures_are_drawn_in_between(monkeypatch):
    drawn: list[str] = []
    state: dict[str, object] = {}
    monkeypatch.setattr(picker, "_component", lambda data, **_: drawn.append(data["mark"]))
    monkeypatch.setattr(st, "session_state", state)
    picker.show([], "a", key="grid")
    state["grid"] = SimpleNamespace(chosen={"mark": drawn[-1], "places": [1, 2]})
    picker.show([], "a", key="grid")
    assert picker.chosen(key="grid") == [1, 2]
    for mark in ("b", "a"):
        picker.show([], mark, key="grid")
        assert picker.chosen(key="grid") == []
    assert len(set(drawn)) == 3


def test_set_is_split_anew(pets):
    app = curating(curate="splits")
    app.slider(key="resplit_share").set_value(0.4).run()
    app = pressed(app, "curate_resplit")
    assert success(app) == "Split anew, 9 to learn from and 6 to be checked with."


def test_copies_are_on_one_side_when_a_set_is_split_anew(tmp_path):
    flowers = {f"{label}/{n}": flower(n, label) for label in ("daisy", "roses") for n in range(5)}
    content = {f"{name} {what}.jpg": data for name, photo in flowers.items() for what, data in copies(photo).items()}
    imported(tmp_path, content)
    app = curating(curate="splits")
    for key in ("0", "3"):
        app.number_input(key="resplit_seed").set_value(int(key)).run()
        app.slider(key="resplit_share").set_value(0.4).run()
        app = pressed(app, "curate_resplit")
        sides = {(one.name.split()[0], one.split) for one in open_version("pets").pictures}
        assert len(sides) == len(flowers)


def test_versions_are_listed_compared_and_one_comes_back(pets):
    edit("pets", [Drop([0]), Rename("b", "bee")])
    app = curating(curate="versions")
    assert "1 picture left out; class b renamed to bee." in texts(app)
    assert "Imported from photos.zip." in texts(app)
    assert "Class b is called bee." in texts(app)
    assert [link.proto.url for link in app.get("link_button")] == [
        "/export?dataset=pets%402",
        "/export?dataset=pets%401",
    ]
    app = pressed(app, "restore_1")
    assert success(app) == "As in version 1 again."
    app.selectbox(key="compare_from").set_value("1").run()
    app = sound(app.selectbox(key="compare_to").set_value("3").run())
    assert "Nothing is different." in texts(app)


def test_older_version_is_looked_at_and_not_changed(pets):
    edit("pets", [Drop([0])])
    app = curating("pets@1")
    assert "This is version 1. Changes are made on the newest, version 2." in texts(app)
    assert not [button for button in app.button if button.key and button.key.startswith("curate_")]


@pytest.mark.parametrize("part", ["pictures", "classes", "splits", "versions"])
def test_names_are_names_on_every_part(tmp_path, part):
    imported(tmp_path, ROOMY, EVIL)
    edit(EVIL, [Rename("a", EVIL), Rename("b", "[a](https://evil.example) **b** :red[c] $x$")])
    app = curating(EVIL, curate=part)
    shown = [*app.title, *app.markdown, *app.caption, *app.success, *app.info, *app.error]
    assert not [element.value for element in shown if EVIL in str(element.value) or "**b**" in str(element.value)]
    app = all_found(curating(EVIL, curate_class=EVIL))
    assert app.selectbox(key="curate_class").value == EVIL
    assert not errors(app)


def test_every_hostile_name_can_be_given_and_is_shown_as_it_is(pets):
    for name in sorted({" ".join(name.split())[:100] for name in NAMES})[::6]:
        app = curating(curate="classes")
        app.text_input(key="rename_to").set_value(name).run()
        app = pressed(app, "curate_rename")
        assert not errors(app)
        assert success(app).endswith(f"renamed to {name}.")


def test_many_pictures_are_shown_sixty_at_a_time(tmp_path):
    imported(tmp_path, {f"class {n % 20:02}/{n}.png": picture(n) for n in range(200)})
    app = curating()
    assert app.pagination(key="curate_page")
    app.pagination(key="curate_page").set_value(4).run()
    app = sound(app.text_input(key="curate_name").set_value("class 07").run())
    assert "10 of 200 pictures" in texts(app)


def test_pictures_are_added_to_the_set(pets):
    app = opened("data", **{"import": "new", "into": "pets"})
    assert "Add pictures to pets" in texts(app)
    more = zipped({f"d/{number}.png": picture(60 + number) for number in range(4)})
    app = sound(app.file_uploader(key="import_files").set_value([("more.zip", more, "application/zip")]).run())
    assert "1 class, 4 pictures" in texts(app)
    app = sound(app.button(key="import_now").click().run())
    run = service.store().list_runs(Kind.IMPORT)[0]
    worked(run)
    app = opened("data", **{"import": run.id})
    assert "4 pictures were added from more.zip." in plain("\n".join(box.value for box in app.warning))
    assert open_version("pets").classes == ("a", "b", "c", "d")
    assert errors(opened("data", **{"import": "new", "into": "shapes"}))


def test_pictures_of_one_class_are_added_without_a_folder(pets):
    app = opened("data", **{"import": "new", "into": "pets"})
    files = [(f"{number}.png", picture(60 + number), "image/png") for number in range(3)]
    app = sound(app.file_uploader(key="import_files").set_value(files).run())
    assert "No class folders found" in errors(app)[0]
    app = sound(app.selectbox(key="import_class").set_value("b").run())
    assert "1 class, 3 pictures" in texts(app)
    app = sound(app.button(key="import_now").click().run())
    assert worked(service.store().list_runs(Kind.IMPORT)[0]).state == State.SUCCEEDED
    assert sum(open_version("pets").counts()["b"].values()) == 8


def test_any_set_is_made_ones_own():
    app = opened("data", dataset="shapes")
    assert "The licence stays what it is" in texts(app)
    app.text_input(key="copy_name").set_value("mine").run()
    app = sound(app.button(key="copy_now").click().run())
    run = service.store().list_runs(Kind.IMPORT)[0]
    assert app.query_params["import"] == run.id
    worked(run)
    assert DATASETS["mine"].licence == DATASETS["shapes"].licence
    assert "Curate" in [tab.label for tab in opened("data", dataset="mine").tabs]
    assert "Curate" not in [tab.label for tab in opened("data", dataset="shapes").tabs]
