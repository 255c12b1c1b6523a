"""Layouts are found by themselves, label files are read whatever wrote them, and what is left out is said."""

import io
import time

import pytest

from dlkit.data.plans import CLASS_FOLDERS, LABEL_FILE, SPLIT_FOLDERS, Plan, make_plan
from dlkit.data.sources import Folder, Loose
from dlkit.data.zips import Zip
from dlkit.errors import DatasetError
from tests.archive_maker import FOLDER, Member, by_hand


@pytest.fixture(autouse=True)
def _fresh_settings(home):
    """The limits are the defaults."""


def source_of(files: dict[str, bytes] | list[str]) -> Loose:
    """Return a source of these files; nothing looks into them but into tables."""
    contents = files if isinstance(files, dict) else dict.fromkeys(files, b"x")
    return Loose("photos", [(name, io.BytesIO(content)) for name, content in contents.items()])


def planned(files: dict[str, bytes] | list[str], **options: bytes) -> Plan:
    return make_plan(source_of(files), **options)


def refusal(files: dict[str, bytes] | list[str], **options: bytes) -> str:
    with pytest.raises(DatasetError) as caught:
        planned(files, **options)
    assert str(caught.value).endswith(".")
    return str(caught.value)


def labelled(plan: Plan) -> dict[str, str]:
    return {one.file.name: one.label for one in plan.pictures}


def reasons(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {one.reason: one.names for one in plan.left_out}


# Folders


@pytest.mark.parametrize("around", ["", "photos/", "a/b/c/"])
def test_class_folders_are_found_whatever_lies_around_them(around):
    plan = planned([f"{around}cat/1.jpg", f"{around}cat/deep/er/2.jpg", f"{around}dog/1.jpg"])
    assert plan.layout == CLASS_FOLDERS
    assert plan.classes == ("cat", "dog")
    assert plan.counts() == {"cat": {"all": 2}, "dog": {"all": 1}}
    assert plan.sentences() == []


@pytest.mark.parametrize("around", ["", "photos/"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders_are_found(around, val):
    names = [f"{around}{split}/{label}/1.jpg" for split in ("Train", val, "test") for label in ("cat", "dog")]
    plan = planned(names)
    assert plan.layout == SPLIT_FOLDERS
    assert plan.counts() == {label: {"train": 1, "val": 1, "test": 1} for label in ("cat", "dog")}


def test_test_stands_for_val_where_that_is_missing():
    plan = planned([f"{split}/{label}/1.jpg" for split in ("train", "test") for label in ("cat", "dog")])
    assert plan.counts()["cat"] == {"train": 1, "val": 1}
    assert "the test images are what the model is checked with" in plan.remarks[0]


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/1.jpg", "train/dog/1.jpg"],
        ["train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"],
        ["test/cat/1.jpg", "test/dog/1.jpg", "val/cat/1.jpg"],
    ],
)
def test_images_are_split_anew_where_a_split_is_missing(names):
    assert {one.split for one in planned(names).pictures} == {None}


def test_class_may_be_called_train():
    assert planned(["train/1.jpg", "bus/1.jpg", "car/1.jpg"]).classes == ("bus", "car", "train")


def test_what_lies_beside_the_class_folders_is_left_out_and_said():
    plan = planned(
        ["cat/1.jpg", "dog/1.jpg", "cover.jpg", "notes.txt", "inner.zip", "labels.csv"],
    )
    assert reasons(plan) == {
        "hold no picture": ("notes.txt",),
        "have to be unpacked first": ("inner.zip",),
        "lie in no folder of a class": ("cover.jpg",),
    }
    assert "labels.csv was not used" in plan.remarks[0]
    assert "1 image lies in no folder of a class and was left out: cover.jpg." in plan.sentences()
    assert "1 file has to be unpacked first and was left out: inner.zip." in plan.sentences()


def test_image_beside_the_one_folder_around_all_does_not_matter():
    plan = planned(["LICENSE", "a/cover.jpg", "a/b/cat/1.jpg", "a/b/dog/1.jpg", "a/b/2.jpg"])
    assert plan.classes == ("cat", "dog")
    assert reasons(plan) == {"lie in no folder of a class": ("LICENSE", "a/cover.jpg", "a/b/2.jpg")}


def test_class_without_training_images_is_left_out_and_one_without_validation_is_said():
    names = ["train/cat/1.jpg", "train/dog/1.jpg", "train/eel/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg", "val/fox/2.jpg"]
    plan = planned(names)
    assert plan.classes == ("cat", "dog", "eel")
    assert reasons(plan) == {"are of a class without training images": ("val/fox/2.jpg",)}
    assert plan.remarks == ("These classes have no image to be checked with: eel.",)


def test_folders_without_images_are_said():
    names = ["photos/cat/1.jpg", "photos/dog/1.jpg", "photos/eel/notes.txt"]
    assert planned(names).remarks == ("These folders have no images, so they are no classes: eel.",)
    names = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg", "val/eel/1.txt"]
    assert planned(names).remarks == ("These folders have no images, so they are no classes: eel.",)


def test_empty_folders_are_said(tmp_path):
    for name in ("cat", "dog", "eel", "fox/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cat/1.jpg", "dog/1.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert make_plan(Folder(tmp_path)).remarks == ("These folders have no images, so they are no classes: eel, fox.",)
    members = [Member(b"cat/1.jpg", b"x"), Member(b"dog/1.jpg", b"x"), Member(b"eel/", mode=FOLDER)]
    archive = Zip(io.BytesIO(by_hand(members)), "photos.zip")
    assert make_plan(archive).remarks == ("These folders have no images, so they are no classes: eel.",)


def test_classes_that_differ_in_case_are_kept_apart_and_said():
    plan = planned(["Cat/1.jpg", "cat/1.jpg", "dog/1.jpg"])
    assert plan.classes == ("Cat", "cat", "dog")
    assert plan.remarks == ("Some classes differ in capital letters only: Cat, cat.",)


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "=1+1", "🐱", "CON", "花", "a'b\"c", "nan"])
def test_hostile_class_names_stay_as_they_are(name):
    assert name in planned([f"{name}/1.jpg", "other/1.jpg"]).classes


def test_thousands_of_classes_are_planned_quickly():
    started = time.perf_counter()
    plan = planned([f"class {number}/{picture}.jpg" for number in range(1200) for picture in range(10)])
    assert len(plan.classes) == 1200
    assert sum(counts["all"] for counts in plan.counts().values()) == 12_000
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "photos has no images to import. Put the images of each class"),
        (["notes.txt"], "1 file holds no picture and was left out: notes.txt."),
        (["1.jpg", "2.jpg"], "No class folders found in photos. Put each class in its own folder"),
        (["train/1.jpg", "val/2.jpg"], "No class folders found"),
        (["cat/1.jpg", "cat/2.jpg"], "All 2 images of photos are of one class, cat. A classifier needs two"),
        (["train/cat/1.jpg", "val/cat/2.jpg"], "are of one class, cat"),
        (["../1.jpg"], "1 file has a name that leads out of its folder and was left out"),
        (["a.csv", "b.csv", "1.jpg"], "photos has several label files: a.csv, b.csv. Name the one to use"),
    ],
)
def test_source_that_tells_no_classes_is_refused_with_advice(names, sentence):
    assert sentence in refusal(names)


def test_too_many_classes_are_refused():
    assert "has 10,001 classes; the limit is 10,000" in refusal([f"{number}/1.jpg" for number in range(10_001)])


# Label files

PICTURES = ["1.jpg", "2.jpg", "3.jpg"]
WANTED = {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": "cat"}


def by_table(table: bytes, names: list[str] | None = None) -> Plan:
    plan = planned({**dict.fromkeys(names or PICTURES, b"x"), "labels.csv": table})
    assert plan.layout == LABEL_FILE
    return plan


@pytest.mark.parametrize(
    "table",
    [
        b"file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n",
        b"1.jpg,cat\n2.jpg,dog\n3.jpg,cat",
        b"label;name\r\ncat;1.jpg\r\ndog;2.jpg\r\ncat;3.jpg\r\n",
        b"file\tlabel\r1.jpg\tcat\r2.jpg\tdog\r3.jpg\tcat\r",
        b"sep=;\nfile;label\n1.jpg;cat\n2.jpg;dog\n3.jpg;cat\n",
        b'"file","label"\n"1.jpg","cat"\n"2.jpg","dog"\n"3.jpg","cat"\n',
        b"\xef\xbb\xbffile,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n",
        "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n".encode("utf-16"),
        "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n".encode("utf-16-le"),
        "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n".encode("utf-16-be"),
        b"id,label\n1,cat\n2,dog\n3,cat\n",
        b"id,width,label,height\n1,640,cat,480\n2,640,dog,480\n3,640,cat,480\n",
        b"file,label\n./1.jpg,cat\nimages\\..\\2.jpg,dog\n /home/me/3.jpg ,cat\n",
        b"\n\nfile,label\n\n1.jpg,cat\n,\n2.jpg,dog\n3.jpg,cat\n\n",
        b"file,label,\n1.jpg,cat,\n2.jpg,dog,\n3.jpg,cat,,,\n",
    ],
)
def test_label_file_is_read_whatever_wrote_it(table):
    if b"images\\..\\" in table:
        table = table.replace(b"images\\..\\", b"..\\")
    plan = by_table(table)
    assert labelled(plan) == WANTED
    assert plan.left_out == ()


def test_latin_letters_of_a_spreadsheet_are_read():
    assert by_table("file;label\n1.jpg;Löwe\n2.jpg;Käfer\n".encode("cp1252")).classes == ("Käfer", "Löwe")


def test_labels_stay_text():
    names = [f"{number}.jpg" for number in range(8)]
    labels = ["NA", "nan", "01", "1", "None", "=1+1", "true", "1e5"]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    assert labelled(by_table(f"file,label\n{rows}".encode(), names)) == dict(zip(names, labels, strict=True))


def test_label_may_have_delimiters_quotes_and_lines_in_quotes():
    table = b'file,label\n1.jpg,"cat, grey"\n2.jpg,"a ""dog"""\n3.jpg,"two\nlines"\n'
    assert labelled(by_table(table)) == {"1.jpg": "cat, grey", "2.jpg": 'a "dog"', "3.jpg": "two lines"}


def test_every_row_that_cannot_be_used_is_said():
    table = (
        b"file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n4.jpg\n5.jpg,\n6.jpg,cat, grey\n7.jpg,c\0t\n"
        b"../../etc/passwd,cat\nhttps://evil.example/1.jpg,cat\nnowhere.jpg,cat\n8.jpg,cat\n8.jpg,dog\n1.jpg,cat\n"
    )
    plan = by_table(table, [f"{number}.jpg" for number in range(1, 10)])
    assert labelled(plan) == WANTED
    assert reasons(plan) == {
        "have too few columns": ("labels.csv line 5",),
        "have no label": ("labels.csv line 6",),
        "have too many columns": ("labels.csv line 7",),
        "have a NUL character": ("labels.csv line 8",),
        "name no image that is there": ("labels.csv line 9 (../../etc/passwd)", "labels.csv line 11 (nowhere.jpg)"),
        "name an address, and nothing is fetched": ("labels.csv line 10 (https://evil.example/1.jpg)",),
        "have two labels": ("8.jpg",),
        "have no label of their own": ("4.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg", "9.jpg"),
    }
    assert "1 row has too few columns and was left out: labels.csv line 5." in plan.sentences()


def test_file_is_found_by_any_end_of_its_path_unless_two_end_so():
    files = {"data/a/1.jpg": b"x", "data/b/1.jpg": b"x", "data/b/2.jpg": b"x"}
    plan = planned(files, labels=b"file,label\na/1.jpg,cat\n2.jpg,dog\n1.jpg,cat\n")
    assert labelled(plan) == {"data/a/1.jpg": "cat", "data/b/2.jpg": "dog"}
    assert "name no image that is there" in reasons(plan)


def test_label_file_that_is_given_counts_more_than_folders():
    plan = planned(["a/1.jpg", "b/2.jpg"], labels=b"1.jpg,cat\n2.jpg,dog\n")
    assert plan.layout == LABEL_FILE
    assert plan.classes == ("cat", "dog")


def test_splits_come_from_a_column_or_from_the_names_of_the_files():
    column = by_table(b"file,split,label\n1.jpg,train,cat\n2.jpg,Train,dog\n3.jpg,val,cat\n")
    assert [one.split for one in column.pictures] == ["train", "train", "val"]
    tables = {"train.csv": b"file,label\n1.jpg,cat\n2.jpg,dog\n", "val.csv": b"file,label\n3.jpg,cat\n"}
    assert planned({**dict.fromkeys(PICTURES, b"x"), **tables}).counts() == {
        "cat": {"train": 1, "val": 1},
        "dog": {"train": 1, "val": 0},
    }


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"", "labels.csv is empty. Give a row for each image"),
        (b"\n\n ,\n", "labels.csv is empty"),
        (b"a,b\nc,d\n", "No column of labels.csv names the images. A row of it is: c, d."),
        (b"file,x,y1\n1.jpg,cat,big\n2.jpg,dog,small\n", "cannot be told which column of labels.csv has the labels"),
        (b"1.jpg\n2.jpg\n", "cannot be told which column of labels.csv has the labels"),
        (b"PK\3\4 workbook", "is a workbook, not a text file. Save it as CSV"),
        (b'file,label\n1.jpg,"' + b"x" * 200_000, "from line 2 on: a quotation mark is not closed"),
        (b"\n" * 600_000, "has more than 500,000 lines"),
        (b"file,label\n1.jpg,cat\n2.jpg,cat\n", "are of one class, cat"),
    ],
)
def test_label_file_that_tells_nothing_is_refused_with_advice(table, sentence):
    files = {**dict.fromkeys(PICTURES, b"x"), "labels.csv": table}
    started = time.perf_counter()
    assert sentence in refusal(files)
    assert time.perf_counter() - started < 2


def test_large_label_file_is_refused():
    assert "larger than 20 MB" in refusal(PICTURES, labels=b"x" * 20_000_001)


def test_long_honest_label_file_is_read_quickly():
    names = [f"images/{number:05}.jpg" for number in range(20_000)]
    rows = "".join(f"{name},class {number % 40}\n" for number, name in enumerate(names))
    started = time.perf_counter()
    assert len(by_table(f"file,label\n{rows}".encode(), names).pictures) == 20_000
    assert time.perf_counter() - started < 2
