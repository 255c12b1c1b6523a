"""The doctor on the page Data and in the terminal: findings with their pictures, fixes at a press, a worker's part."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dlkit.__main__ as command_line
from dlkit.data.cases import open_case
from dlkit.data.opinions import BACKBONE, read_opinions, write_opinions
from dlkit.data.versions import open_version
from dlkit.errors import UnknownChoice
from dlkit.runs import service
from dlkit.runs.records import Kind, Slot, State
from dlkit.settings import settings
from tests.test_doctor import HEALTHY, opinions_of
from tests.test_importing import imported
from tests.test_pages import opened, sound, texts
from tests.test_uploads import worked

COPY = "val/daisy/<b>copy.jpg"


@pytest.fixture(autouse=True)
def _nobody_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


@pytest.fixture
def pets(tmp_path: Path) -> None:
    """A set with one picture on both sides of its split."""
    imported(tmp_path, {**HEALTHY, COPY: HEALTHY["train/daisy/1.jpg"]})


def seen_by_doctor(name: str = "pets") -> AppTest:
    return opened("data", dataset=name, tab="Doctor")


def test_finding_is_shown_mended_at_a_press_and_undone(pets):
    app = seen_by_doctor()
    assert "1 picture is on both sides of the split" in texts(app)
    assert "so its accuracy looks better than it is." in texts(app)
    captions = [image.caption for group in app.get("image") for image in group.proto.imgs]
    assert any("copy" in caption and "validation" in caption for caption in captions)
    assert not any("<b>copy" in caption.replace("\\<b\\>", "") for caption in captions)
    app = sound(app.button(key="doctor_leak_0_0").click().run())
    assert open_version("pets").number == 2
    assert "Nothing was found." in texts(app)
    assert COPY not in open_case("pets").names
    app = sound(app.button(key="curate_undo").click().run())
    assert "1 picture is on both sides of the split" in texts(app)
    assert open_version("pets").number == 3


def test_all_are_mended_at_once(pets):
    app = seen_by_doctor()
    sound(app.button(key="doctor_leak_1").click().run())
    assert len(open_case("pets")) == len(HEALTHY) + 1
    assert "leak" not in texts(seen_by_doctor())


def test_fix_of_a_version_that_is_not_the_newest_any_more_is_refused(pets):
    first, second = seen_by_doctor(), seen_by_doctor()
    sound(first.button(key="doctor_leak_0_0").click().run())
    second = sound(second.button(key="doctor_leak_1").click().run())
    assert "has changed" in "\n".join(box.value for box in second.error)
    assert open_version("pets").number == 2


def test_earlier_version_has_findings_and_no_buttons(pets):
    sound(seen_by_doctor().button(key="doctor_leak_0_0").click().run())
    app = seen_by_doctor("pets@1")
    assert "1 picture is on both sides of the split" in texts(app)
    assert not [button for button in app.button if str(button.key).startswith("doctor_leak")]


def test_what_was_not_looked_at_is_said_and_looked_at_on_demand(pets):
    (open_version("pets").folder / "looks.bin").unlink()
    app = seen_by_doctor()
    assert f"{len(HEALTHY) + 1} pictures of {len(HEALTHY) + 1} were not looked at yet." in texts(app)
    app = sound(app.button(key="doctor_look").click().run())
    run = service.latest_doctor("pets")
    assert run.needs == Slot.NETWORK
    assert app.button(key=f"cancel_{run.id}")
    assert worked(run).state == State.SUCCEEDED
    assert "1 picture is on both sides of the split" in texts(seen_by_doctor())


def test_nothing_is_said_to_be_well_before_it_was_looked_at(tmp_path):
    imported(tmp_path, HEALTHY)
    assert "Nothing was found." in texts(seen_by_doctor())
    (open_version("pets").folder / "looks.bin").unlink()
    app = seen_by_doctor()
    assert "were not looked at yet." in texts(app)
    assert not app.success


def test_labels_are_checked_by_a_worker_and_suspects_shown(pets):
    app = seen_by_doctor()
    assert "No network was asked about labels and outliers yet." in texts(app)
    sound(app.button(key="doctor_features").click().run())
    run = worked(service.latest_doctor("pets"))
    assert (run.state, set(run.summary)) == (State.SUCCEEDED, {"suspects"})
    case = open_case("pets")
    assert read_opinions(case, BACKBONE).is_known.all()
    assert "No network was asked" not in texts(seen_by_doctor())
    write_opinions(case, opinions_of(case, 3, 5))
    app = seen_by_doctor()
    assert "1 picture may have a wrong label" in texts(app)
    assert "looks like roses (98 %)" in texts(app)
    sound(app.button(key="doctor_suspects_0_0").click().run())
    assert open_version("pets").pictures[3].label == "roses"


def test_set_of_the_catalog_is_examined_and_not_changed():
    app = seen_by_doctor("shapes")
    assert "480 pictures of 480 were not looked at yet." in texts(app)
    sound(app.button(key="doctor_look").click().run())
    worked(service.latest_doctor("shapes"))
    app = seen_by_doctor("shapes")
    assert "480 pictures" not in texts(app)
    assert {str(button.key) for button in app.button if str(button.key).startswith("doctor")} == {"doctor_features"}


def test_examination_is_queued_once_and_may_be_cancelled(pets):
    first, second = service.submit_doctor("pets", BACKBONE), service.submit_doctor("pets", BACKBONE)
    assert first.id == second.id
    assert first.needs in (Slot.CPU, Slot.GPU)
    assert worked(first, service.cancel).state == State.CANCELLED
    assert read_opinions(open_case("pets"), BACKBONE) is None


@pytest.mark.parametrize(("name", "backbone"), [("nowhere", None), ("pets", "nothing")])
def test_what_cannot_be_examined_is_refused(pets, name, backbone):
    with pytest.raises(UnknownChoice):
        service.submit_doctor(name, backbone)
    assert not service.store().list_runs(Kind.DOCTOR)


def test_terminal_tells_the_findings(pets, capsys):
    assert command_line.main(["doctor", "pets"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 picture is on both sides of the split.\n")
    assert f"  {COPY}\n" in told
    assert told.endswith("No network was asked about labels and outliers yet.\n")
    assert command_line.main(["doctor", "pets", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (finding,) = document["findings"]
    assert (finding["kind"], finding["severity"]) == ("leak", "serious")
    assert {(one["split"], one["class"]) for one in finding["groups"][0]["pictures"]} == {
        ("train", "daisy"),
        ("val", "daisy"),
    }
    assert document["not_examined"] == ["No network was asked about labels and outliers yet."]


def test_terminal_says_when_nothing_was_found(tmp_path, capsys):
    imported(tmp_path, HEALTHY)
    assert command_line.main(["doctor", "pets"]) == 0
    assert capsys.readouterr().out.startswith("Nothing was found.\n")
    assert command_line.main(["doctor", "nowhere"]) == 2
