"""The doctor of data sets: what is planted is found, with its pictures, and the fixes mend it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dlkit.data import importing
from dlkit.data.cases import Case, look, open_case, traces
from dlkit.data.dataset import open_dataset
from dlkit.data.doctor import Finding, Severity, copies_in, examine_looks, leak_free
from dlkit.data.duplicates import Likeness
from dlkit.data.edits import Move, Relabel
from dlkit.data.opinions import BACKBONE, Opinions, read_opinions, write_opinions
from dlkit.data.suspicions import examine, suspect_order, unexamined
from dlkit.data.versions import edit, open_version, restore
from tests.photos import copies, film, flower, jpeg, opened
from tests.test_importing import imported

DAISY, ROSE = opened(flower(0)), opened(flower(0, "roses"))
HEALTHY = {
    f"{split}/{label}/{number}.jpg": flower(number, label)
    for label in ("daisy", "roses")
    for number in range(1, 14)
    for split in ("val" if number > 11 else "train",)
}


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


def findings_in(tmp_path: Path, content: dict[str, bytes]) -> tuple[Case, dict[str, Finding]]:
    imported(tmp_path, {**HEALTHY, **content})
    return again()


def again() -> tuple[Case, dict[str, Finding]]:
    case = open_case("pets")
    return case, {finding.kind: finding for finding in examine(case, None)}


def names(case: Case, finding: Finding) -> set[str]:
    return {case.names[row] for row in finding.rows}


def test_healthy_set_has_no_findings(tmp_path):
    assert findings_in(tmp_path, {})[1] == {}


@pytest.mark.parametrize(
    ("kind", "picture"),
    [
        ("one-colour", Image.new("RGB", (200, 200), (30, 90, 30))),
        ("blurred", ROSE.filter(ImageFilter.GaussianBlur(8))),
        ("dark", DAISY.point(lambda value: value // 7)),
        ("bright", DAISY.point(lambda value: 222 + value // 8)),
        ("tiny", DAISY.resize((30, 24))),
        ("long", DAISY.resize((640, 140))),
    ],
)
def test_picture_that_teaches_little_is_found_and_can_be_dropped(tmp_path, kind, picture):
    case, found = findings_in(tmp_path, {"train/daisy/odd.png": jpeg(picture, 95)})
    assert kind in found
    assert names(case, found[kind]) == {"train/daisy/odd.png"}
    assert found[kind].title.startswith(("1 picture is", "1 picture shows"))
    assert found[kind].why.endswith(".")
    edit("pets", found[kind].groups[0].fixes[0].edits)
    assert again()[1] == {}


def test_trait_of_most_pictures_is_what_the_set_is_like(tmp_path):
    small = {name: jpeg(opened(data).resize((28, 28))) for name, data in HEALTHY.items()}
    imported(tmp_path, small)
    _, found = again()
    assert found["tiny"].severity == Severity.MINOR
    assert "what the set is like" in found["tiny"].why
    assert not found["tiny"].groups


def test_copies_on_both_sides_are_a_leak_and_every_fix_ends_it(tmp_path):
    planted = {f"val/daisy/{what}.jpg": data for what, data in copies(HEALTHY["train/daisy/1.jpg"]).items()}
    case, found = findings_in(tmp_path, {**planted, "train/roses/x.jpg": HEALTHY["val/roses/12.jpg"]})
    leak = found["leak"]
    assert leak.severity == Severity.SERIOUS
    assert leak.title == "2 pictures are on both sides of the split"
    assert names(case, leak) == {*planted, "train/daisy/1.jpg", "train/roses/x.jpg", "val/roses/12.jpg"}
    edit("pets", leak.groups[0].fixes[0].edits)
    assert again()[1]["leak"].title == "1 picture is on both sides of the split"
    for fix in leak.fixes:
        restore("pets", 1) if open_version("pets").number > 1 else None
        edit("pets", fix.edits)
        after, left = again()
        assert "leak" not in left
        assert len(after) == (len(case) if fix.title.startswith("Split") else len(case) - 6)


def test_picture_with_two_labels_may_be_either(tmp_path):
    _, found = findings_in(tmp_path, {"train/roses/same.jpg": HEALTHY["train/daisy/1.jpg"]})
    group = found["two-labels"].groups[0]
    assert {fix.title for fix in group.fixes} == {"All are daisy", "All are roses"}
    assert found["two-labels"].title == "1 picture has two labels"
    assert "leak" not in found
    edit("pets", next(fix.edits for fix in group.fixes if fix.title == "All are roses"))
    assert set(again()[1]) == {"copies"}
    assert {open_version("pets").pictures[row].label for row in group.rows} == {"roses"}


def test_of_copies_on_one_side_the_largest_is_kept(tmp_path):
    planted = {f"train/daisy/{what}.jpg": data for what, data in copies(HEALTHY["train/daisy/1.jpg"]).items()}
    _, found = findings_in(tmp_path, {**planted, "train/daisy/again.jpg": HEALTHY["train/daisy/2.jpg"]})
    assert set(found) == {"copies", "near-copies"}
    edit("pets", [one for kind in found for fix in found[kind].fixes for one in fix.edits])
    after, left = again()
    assert left == {}
    assert len(after) == len(HEALTHY)
    assert "train/daisy/larger.jpg" in after.names


def test_of_a_film_only_what_is_like_a_kept_picture_is_dropped(tmp_path):
    case, found = findings_in(tmp_path, {f"train/daisy/film {n:02}.jpg": data for n, data in enumerate(film(14, 15))})
    likeness = Likeness(case.album.records[case.album_rows])
    groups = [group.rows for group in found["near-copies"].groups]
    assert len(groups) > 1
    assert all(likeness.to_any(np.array(rows), np.array(rows[:1])).all() for rows in groups)
    edit("pets", found["near-copies"].fixes[0].edits)
    assert again()[1] == {}


def test_copies_in_validation_and_test_stay_in_test_and_titles_say_so(tmp_path):
    tested = {f"test/{label}/{n}.jpg": flower(n + 20, label) for label in ("daisy", "roses") for n in range(3)}
    leaked = {"val/daisy/again.jpg": tested["test/daisy/1.jpg"]}
    _, found = findings_in(tmp_path, {**tested, **leaked})
    assert [fix.title for fix in found["leak"].fixes] == [
        "Drop the copies outside of test",
        "Split anew, copies on one side, 1 picture more for testing",
    ]
    edit("pets", found["leak"].fixes[0].edits)
    assert again()[1] == {}
    assert len(open_version("pets").rows("test")) == 6
    assert len(open_version("pets").rows("val")) == 4
    edit("pets", [Move([row], "val") for row in open_version("pets").rows("train")[1:-1]])
    case = open_case("pets")
    assert leak_free(case, copies_in(case)).share == 0.9


def test_class_of_a_single_file_is_not_offered_to_be_split_anew(tmp_path):
    alone = {f"train/tulips/{n}.jpg": flower(0, "tulips") for n in range(10)}
    assert findings_in(tmp_path, alone)[1]["unchecked-classes"].fixes == ()
    edit("pets", [Relabel(open_version("pets").find("roses")[:1], "tulips")])
    assert [fix.title for fix in again()[1]["unchecked-classes"].fixes] == ["Split anew"]


def test_classes_that_are_small_uneven_or_never_checked_are_told(tmp_path):
    many = {f"train/tulips/{number}.jpg": flower(number, "tulips") for number in range(60)}
    few = {f"train/<b>few/{number}.jpg": flower(number, "sunflowers") for number in range(3)}
    _, found = findings_in(tmp_path, {**many, **few})
    assert "<b>few (3)" in found["small-classes"].why
    assert "<b>few" in found["unchecked-classes"].why
    assert "tulips has 60 to learn from, <b>few 3" in found["imbalance"].why
    edit("pets", [*found["small-classes"].fixes[0].edits, *found["unchecked-classes"].fixes[0].edits])
    assert again()[1] == {}


def test_what_an_import_left_out_is_told(tmp_path):
    _, found = findings_in(tmp_path, {"train/daisy/broken.jpg": flower(0)[:900]})
    assert found["left-out"].title == "1 picture was left out at the import"
    assert "train/daisy/broken.jpg" in found["left-out"].why


def test_all_that_was_left_out_is_counted_where_only_some_names_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "KEPT_NAMES", 2)
    _, found = findings_in(tmp_path, {f"train/daisy/broken {n}.jpg": flower(n)[:900] for n in range(5)})
    assert found["left-out"].title == "5 pictures were left out at the import"
    assert found["left-out"].why.startswith("5 images are damaged")
    path = open_version("pets").folder / "manifest-1.json"
    path.write_text(path.read_text().replace('"unnamed"', '"unknown"'))
    assert again()[1]["left-out"].title == "2 pictures were left out at the import"


def test_worst_comes_first(tmp_path):
    blank = jpeg(Image.new("RGB", (200, 200), "red"))
    imported(tmp_path, {**HEALTHY, "train/daisy/a.jpg": blank, "val/roses/b.jpg": HEALTHY["train/roses/1.jpg"]})
    severities = [finding.severity for finding in examine(open_case("pets"), None)]
    assert severities == sorted(severities, reverse=True)
    assert len(set(severities)) > 1


def test_set_imported_before_is_looked_at_on_demand_and_only_once(tmp_path, home):
    imported(tmp_path, HEALTHY)
    folder = open_version("pets").folder
    before = open_case("pets")
    for name in ("looks.bin", "thumbnails.bin"):
        (folder / name).unlink()
    (folder / "images" / open_version("pets").pictures[0].digest).write_bytes(b"damaged since")
    case = open_case("pets")
    assert case.unseen == len(HEALTHY)
    assert examine(case, None) == []
    assert unexamined(case, None)[0] == f"{len(HEALTHY)} pictures of {len(HEALTHY)} were not looked at yet."
    state = traces("pets", "")
    assert list(look("pets"))[-1] == (len(HEALTHY), len(HEALTHY))
    assert traces("pets", "") != state
    assert list(look("pets")) == []
    case, found = again()
    assert (case.unseen, set(found)) == (0, {"unreadable"})
    assert names(case, found["unreadable"]) == {open_version("pets").pictures[0].name}
    icons = [one.album.records["icon"][one.album_rows[1:]] for one in (before, case)]
    assert (icons[0] == icons[1]).all()
    assert case.album.thumbnail(int(case.album_rows[0])).size == (128, 128)


def test_look_goes_on_where_it_was_left(tmp_path):
    imported(tmp_path, {**HEALTHY, **{f"train/tulips/{n}.jpg": flower(n, "tulips") for n in range(80)}})
    folder = open_version("pets").folder
    (folder / "looks.bin").unlink()
    steps = look("pets")
    done, total = next(steps)
    steps.close()
    assert 0 < done < total == len(open_case("pets"))
    assert open_case("pets").unseen == total - done
    assert next(look("pets"))[1] == total - done


def test_who_comes_while_somebody_looks_waits_and_does_nothing_twice():
    first, second = look("shapes"), look("shapes")
    next(first)
    assert next(second) == (0, 480)
    assert next(first)[0] > 0
    assert list(first)[-1] == (480, 480)
    assert list(second) == []
    assert open_case("shapes").unseen == 0


def test_opinions_of_another_format_are_none(tmp_path):
    imported(tmp_path, HEALTHY)
    case = open_case("pets")
    np.savez(case.folder / f"opinions-{BACKBONE}.npz", version=1)
    assert read_opinions(case, BACKBONE) is None


def test_set_of_the_catalog_is_looked_at_too(home):
    case = open_case("shapes")
    assert (case.version, case.unseen, len(case)) == (0, 480, 480)
    steps = look("shapes")
    next(steps)
    steps.close()
    assert open_case("shapes").unseen == 480
    assert not list((home / "doctor").iterdir())
    list(look("shapes"))
    case, dataset = open_case("shapes"), open_dataset("shapes")
    assert case.unseen == 0
    assert case.labels[case.learnt_rows()].tolist() == [*dataset.train.labels, *dataset.val.labels]
    assert (copies_in(case) == np.arange(480)).all()
    assert not [finding for finding in examine_looks(case) if finding.severity > Severity.MINOR]


def opinions_of(case: Case, suspect: int, distant: int) -> Opinions:
    """Return opinions by which one label is wrong and one picture is unlike its class."""
    count = len(case)
    own, distances = np.full(count, 0.9, np.float32), np.zeros(count, np.float32)
    own[suspect], distances[distant] = 0.02, 9.0
    is_suspect = np.arange(count) == suspect
    return Opinions(BACKBONE, case.version, 1 - case.labels, own, 1 - own, distances, is_suspect)


def test_opinions_are_findings_and_hold_in_later_versions_for_what_has_not_changed(tmp_path):
    imported(tmp_path, HEALTHY)
    case = open_case("pets")
    assert read_opinions(case, BACKBONE) is None
    assert unexamined(case, None) == ["No network was asked about labels and outliers yet."]
    write_opinions(case, opinions_of(case, 3, 5))
    opinions = read_opinions(case, BACKBONE)
    found = {finding.kind: finding for finding in examine(case, opinions)}
    assert found["suspects"].rows == (3,)
    assert found["suspects"].groups[0].note == "looks like roses (98 %)"
    assert found["outliers"].rows == (5,)
    assert suspect_order(opinions)[0] == 3
    assert unexamined(case, opinions) == []
    edit("pets", found["suspects"].groups[0].fixes[0].edits)
    assert open_version("pets").pictures[3].label == "roses"
    later = open_case("pets")
    kept = read_opinions(later, BACKBONE)
    assert [finding.kind for finding in examine(later, kept)] == ["outliers"]
    assert np.flatnonzero(~kept.is_known).tolist() == [3]
    assert unexamined(later, kept)[0].startswith("No network was asked about 1 picture:")


def test_damaged_opinions_are_none(tmp_path):
    imported(tmp_path, HEALTHY)
    case = open_case("pets")
    write_opinions(case, opinions_of(case, 3, 5))
    (path,) = case.folder.glob("opinions-*.npz")
    path.write_bytes(path.read_bytes()[:200])
    assert read_opinions(case, BACKBONE) is None
