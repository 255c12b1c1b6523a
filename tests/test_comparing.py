"""What is said to be different between two versions of a data set, and nothing else."""

from pathlib import Path

import pytest

from dlkit.data.comparing import compare
from dlkit.data.edits import Drop, Merge, Move, Relabel, Rename
from dlkit.data.manifests import Picture
from dlkit.data.versions import Version, edit, open_version, restore
from dlkit.errors import DatasetError
from tests.test_importing import PETS, imported
from tests.test_versions import ROOMY, rows_of


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


def test_every_kind_of_change_is_told(tmp_path):
    imported(tmp_path, ROOMY)
    first = open_version("pets")
    spare = [row for row in first.rows("train") if first.pictures[row].label == "a"]
    after = edit("pets", [Rename("b", "bee"), Relabel(spare[:1], "c"), Move(spare[1:2], "test"), Drop(spare[2:3])])
    found = compare(first, after)
    assert found.sentences() == [
        "Class b is called bee.",
        "1 picture left out.",
        "1 picture of another class.",
        "1 picture in another split.",
    ]
    assert found.renamed == {"b": "bee"}
    assert found.dropped == (first.pictures[spare[2]],)
    assert [(pair.before.label, pair.after.label) for pair in found.relabelled] == [("a", "c")]
    assert [(pair.before.split, pair.after.split) for pair in found.moved] == [("train", "test")]
    assert found.counts == {"a": (5, 3), "b": (5, 0), "bee": (0, 5), "c": (5, 6)}
    back = compare(after, first)
    assert back.added == found.dropped
    assert back.renamed == {"bee": "b"}


def test_versions_that_are_alike_have_no_difference(tmp_path):
    imported(tmp_path, PETS)
    edit("pets", [Drop([0])])
    restore("pets", 1)
    assert compare(open_version("pets@1"), open_version("pets@3")).sentences() == []


def test_merged_class_is_not_a_renamed_one(tmp_path):
    imported(tmp_path, ROOMY)
    found = compare(open_version("pets"), edit("pets", [Merge(["a", "b"], "ab")]))
    assert found.renamed == {}
    assert len(found.relabelled) == 10


def test_class_that_was_merged_into_one_that_is_there_is_relabelled(tmp_path):
    imported(tmp_path, ROOMY)
    first = open_version("pets")
    row = rows_of(first, "a/0.png")[0]
    assert len(compare(first, edit("pets", [Merge(["a"], "b")])).relabelled) == 5
    restore("pets", 1)
    assert compare(first, edit("pets", [Relabel([row], "new")])).renamed == {}


def test_versions_of_two_sets_are_not_compared(tmp_path):
    imported(tmp_path, PETS)
    imported(tmp_path, PETS, "others")
    with pytest.raises(DatasetError, match="pets and others are two data sets"):
        compare(open_version("pets"), open_version("others"))


def test_copies_of_one_name_are_told_apart(tmp_path):
    one = Picture("1", "a", "train", "x.png", 1, 8, 8)
    rest = tuple(Picture(str(n), "ab"[n % 2], "train", "x.png", 1, 8, 8) for n in range(2, 6))
    before = Version("pets", 1, tmp_path, (one, one, *rest))
    found = compare(before, Version("pets", 2, tmp_path, (one, *rest)))
    assert found.dropped == (one,)
    assert found.sentences() == ["1 picture left out."]
