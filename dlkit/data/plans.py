"""What an import would make of a source: classes, splits, what is left out; to be looked at before anything is kept.

Layouts are found by the names alone: a folder for each class; train, val and test with a folder for each class in each;
images with a label file. One folder around all of it does not matter.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlkit.data.labels import LARGEST_TABLE, SPLIT_WORDS, Labelled, Names, read_labels
from dlkit.data.sources import PICTURE_ENDINGS, TABLE_ENDINGS, File, Ledger, LeftOut, Source, shown
from dlkit.errors import DatasetError, ImageError

MOST_CLASSES = 10_000
SPLITS = ("train", "val", "test")
EXPORTED_TABLE = "labels.csv"  # what an export calls its table
CLASS_FOLDERS, SPLIT_FOLDERS, LABEL_FILE = "class folders", "split and class folders", "label file"
ONE_CLASS = "class that was named"
ARCHIVE_ENDINGS = frozenset((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"))
FEW = 5  # names that stand in a sentence


@dataclass(frozen=True)
class Plan:
    """What would be imported, in the order of the names; `remarks` are sentences about what was taken for what.

    A picture whose `split` is None is put into train or val when it is known which pictures are whole. `licence` and
    `credit` are those of a data set that is copied.
    """

    title: str
    layout: str
    pictures: tuple[Labelled, ...]
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...]
    licence: str = ""
    credit: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({picture.label for picture in self.pictures}))

    @property
    def bytes(self) -> int:
        """What the pictures take on the disk."""
        return sum(picture.file.size for picture in self.pictures)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return of each class how many pictures each split has; those still to be split count as "all"."""
        found = Counter((picture.label, picture.split or "all") for picture in self.pictures)
        splits = [split for split in (*SPLITS, "all") if any(found[name, split] for name in self.classes)]
        return {name: {split: found[name, split] for split in splits} for name in self.classes}

    def sentences(self) -> list[str]:
        """Return what was taken for what, and what is left out, one sentence each."""
        return [*self.remarks, *(one.sentence() for one in self.left_out)]


def make_plan(
    source: Source,
    labels: bytes | None = None,
    labels_title: str = "The label file",
    *,
    fewest: int = 2,
    label: str | None = None,
) -> Plan:
    """Find the layout of a source; with `labels`, a table, it alone tells the classes, and with `label` all are of it.

    Raises DatasetError where there are no images, no classes can be told, or fewer than `fewest`: what is added to a
    data set may be of one.
    """
    ledger = Ledger(source.left_out)
    pictures = [file for file in source.files if file.ending in PICTURE_ENDINGS]
    tables = [file for file in source.files if file.ending in TABLE_ENDINGS]
    for file in source.files:
        if file.ending in ARCHIVE_ENDINGS:
            ledger.add("have to be unpacked first", file.name)
        elif file.ending not in PICTURE_ENDINGS | TABLE_ENDINGS:
            ledger.add("hold no picture", file.name)
    if not pictures:
        raise _nothing(source, ledger.close())
    remarks: list[str] = []
    if label is not None:
        layout, found = ONE_CLASS, [Labelled(file, label, None) for file in pictures]
    elif labels is not None:
        layout, found = LABEL_FILE, _by_tables([(labels_title, labels)], pictures, ledger)
    else:
        layout, found = _by_names(source, pictures, tables, ledger, remarks, fewest)
    found = _learnable(found, ledger, remarks)
    _check_classes(source, found, ledger, fewest)
    remarks += _unlike(found)
    return Plan(source.title, layout, tuple(found), ledger.close(), tuple(remarks))


def read_labels_of(source: Source, name: str | None) -> tuple[bytes, str] | tuple[()]:
    """Return the label file of this name in a source with its name, as `make_plan` takes them; nothing without a name.

    Raises DatasetError where there is no such file, or it is damaged.
    """
    if name is None:
        return ()
    file = next((file for file in source.files if file.name == name), None)
    if file is None:
        raise DatasetError(f"There is no file {shown(name)} in {source.title}. Choose one that is there.")
    return _read_tables(source, [file])[0][::-1]


def _by_names(
    source: Source, pictures: list[File], tables: list[File], ledger: Ledger, remarks: list[str], fewest: int
) -> tuple[str, list[Labelled]]:
    depth = _wrapping(pictures)
    tops = {parts[depth] for file in pictures if len(parts := file.name.split("/")) > depth + 1}
    splits = {top: SPLIT_WORDS.get(top.lower()) for top in tops}
    is_split = bool(tops) and (all(splits.values()) or {"train"} < set(splits.values()) - {None})
    if is_split and (found := _by_folders(pictures, depth, splits, None)):
        layout = SPLIT_FOLDERS
    elif len(tops) >= fewest and not is_split:
        layout, found = CLASS_FOLDERS, _by_folders(pictures, depth, None, None)
    elif tables:
        return LABEL_FILE, _by_tables(_read_tables(source, tables), pictures, ledger)
    else:
        raise _no_classes(source, pictures, tops)
    if told := _exported(source, pictures, tables):
        remarks.append(f"{tables[0].name} names every image and its split, so it tells the classes, not the folders.")
        return LABEL_FILE, told
    _by_folders(pictures, depth, splits if layout == SPLIT_FOLDERS else None, ledger)
    if empty := _empty_classes(source, depth, splits if layout == SPLIT_FOLDERS else None, found):
        remarks.append(f"These folders have no images, so they are no classes: {_some(empty)}.")
    if tables:
        remarks.append(
            f"The folders tell the classes, so {tables[0].name} was not used. Name it as the label file to use it."
        )
    return layout, found


def _exported(source: Source, pictures: list[File], tables: list[File]) -> list[Labelled]:
    """Return what the table says where it names every image with its split, as that of an export does; else nothing."""
    if [table.name.rpartition("/")[2] for table in tables] != [EXPORTED_TABLE]:
        return []
    try:
        found = _by_tables(_read_tables(source, tables), pictures, Ledger())
    except DatasetError:
        return []
    return found if len(found) == len(pictures) and all(one.split for one in found) else []


def _wrapping(pictures: Sequence[File]) -> int:
    """Return how many folders lie around the pictures and tell nothing, whatever single pictures lie beside them."""
    depth, inside = 0, [parts for file in pictures if len(parts := file.name.split("/")) > 1]
    while len({parts[depth] for parts in inside}) == 1 and any(len(parts) > depth + 2 for parts in inside):
        depth += 1
        inside = [parts for parts in inside if len(parts) > depth + 1]
    return depth


def _by_folders(
    pictures: list[File], depth: int, splits: dict[str, str | None] | None, ledger: Ledger | None
) -> list[Labelled]:
    """Return the pictures that lie in a class's folder; the others go into the ledger."""
    found, level = [], depth + (splits is not None)
    for file in pictures:
        parts = file.name.split("/")
        if len(parts) > level + 1 and (splits is None or splits[parts[depth]]):
            found.append(Labelled(file, parts[level], splits[parts[depth]] if splits else None))
        elif ledger is not None:
            ledger.add("lie in no folder of a class", file.name, "images")
    return found


def _empty_classes(
    source: Source, depth: int, splits: dict[str, str | None] | None, found: list[Labelled]
) -> list[str]:
    """Return the folders that lie where classes do and have no image in them."""
    level, around = depth + (splits is not None), found[0].file.name.split("/")[:depth]
    names = (*(name.split("/") for name in source.folders), *(file.name.split("/")[:-1] for file in source.files))
    at_level = (parts for parts in names if len(parts) > level and parts[:depth] == around)
    told = {parts[level] for parts in at_level if splits is None or splits.get(parts[depth])}
    return sorted(told - {one.label for one in found})


def _read_tables(source: Source, tables: list[File]) -> list[tuple[str, bytes]]:
    """Return the one table, or those that are called after splits; they lie nearest to the top."""
    top = min(table.name.count("/") for table in tables)
    tables = [table for table in tables if table.name.count("/") == top]
    stems = [table.name.rpartition("/")[2].removesuffix(table.ending).lower() for table in tables]
    if len(tables) > 1 and not all(stem in SPLIT_WORDS for stem in stems):
        names = ", ".join(table.name for table in tables[:FEW])
        raise DatasetError(f"{source.title} has several label files: {names}. Name the one to use, or leave one in it.")
    try:
        return [(table.name, source.read(table, LARGEST_TABLE)) for table in tables]
    except ImageError as error:
        raise DatasetError(f"{tables[0].name} cannot be read. Mend the label file, or name another.") from error


def _by_tables(tables: list[tuple[str, bytes]], pictures: list[File], ledger: Ledger) -> list[Labelled]:
    names = Names(pictures)
    found: dict[str, Labelled] = {}
    for title, data in tables:
        stem = title.rpartition("/")[2].rpartition(".")[0].lower()
        split = SPLIT_WORDS.get(stem) if len(tables) > 1 else None
        for one in read_labels(data, title, names, ledger):
            found.setdefault(one.file.name, Labelled(one.file, one.label, one.split or split))
    for file in pictures:
        if file.name not in found:
            ledger.add("have no label of their own", file.name, "images")
    return [found[file.name] for file in pictures if file.name in found]


def _learnable(found: list[Labelled], ledger: Ledger, remarks: list[str]) -> list[Labelled]:
    """Let test stand for val where that is missing, and leave out classes that have nothing to learn from."""
    splits = {one.split for one in found}
    if "train" in splits and "val" not in splits and "test" in splits:
        remarks.append("There is no validation split, so the test images are what the model is checked with.")
        found = [Labelled(one.file, one.label, "val" if one.split == "test" else one.split) for one in found]
    elif splits == {"train"} or ("train" not in splits and splits - {None}):
        remarks.append("There are not both a training and a validation split, so the images are split anew.")
        found = [Labelled(one.file, one.label, None) for one in found]
    if None in {one.split for one in found}:
        return found
    learnt = {one.label for one in found if one.split == "train"}
    for one in found:
        if one.label not in learnt:
            ledger.add("are of a class without training images", one.file.name, "images")
    kept = [one for one in found if one.label in learnt]
    unchecked = sorted(learnt - {one.label for one in kept if one.split == "val"})
    if unchecked and any(one.split == "val" for one in kept):
        remarks.append(f"These classes have no image to be checked with: {_some(unchecked)}.")
    return kept


def _check_classes(source: Source, found: list[Labelled], ledger: Ledger, fewest: int) -> None:
    classes = {one.label for one in found}
    if not classes:
        raise _nothing(source, ledger.close())
    if len(classes) < fewest:
        raise _of_one_class(source, len(found), classes.pop())
    if len(classes) > MOST_CLASSES:
        raise DatasetError(
            f"{source.title} has {len(classes):,} classes; the limit is {MOST_CLASSES:,}. "
            "Check that the column of labels has classes and not numbers."
        )


def _unlike(found: list[Labelled]) -> list[str]:
    """Return a remark about classes that may be one."""
    names: dict[str, set[str]] = {}
    for one in found:
        names.setdefault(one.label.casefold(), set()).add(one.label)
    alike = sorted(name for group in names.values() if len(group) > 1 for name in group)
    return [f"Some classes differ in capital letters only: {_some(alike)}."] if alike else []


def _no_classes(source: Source, pictures: list[File], tops: set[str]) -> DatasetError:
    if len(tops) == 1 and not (tops & SPLIT_WORDS.keys()):
        return _of_one_class(source, len(pictures), next(iter(tops)))
    return DatasetError(
        f"No class folders found in {source.title}. Put each class in its own folder: cats/1.jpg, dogs/1.jpg; or add a "
        "label file with a row for each image: 1.jpg,cat."
    )


def _of_one_class(source: Source, count: int, name: str) -> DatasetError:
    return DatasetError(
        f"All {count:,} images of {source.title} are of one class, {name}. A classifier needs two or more: "
        "put each class in its own folder, as in cats/1.jpg and dogs/1.jpg."
    )


def _nothing(source: Source, left_out: tuple[LeftOut, ...]) -> DatasetError:
    why = " ".join(one.sentence() for one in left_out[:FEW])
    return DatasetError(
        f"{source.title} has no images to import. {why}{' ' if why else ''}"
        "Put the images of each class in its own folder: cats/1.jpg, dogs/1.jpg."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (" …" if len(names) > FEW else "")
