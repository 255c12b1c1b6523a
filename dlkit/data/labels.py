"""A label file: which picture is of which class, read from whatever a spreadsheet or a script has written.

Cells are text and stay text: NA, nan and 01 are labels like any other. A cell that names a picture is looked up among
the files of the source and nowhere else, so neither a path nor an address in it is ever followed.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dlkit.data.sources import File, Ledger, shown, shown_part
from dlkit.errors import DatasetError
from dlkit.settings import settings
from dlkit.words import unescape_csv

LARGEST_TABLE = 20_000_000  # bytes
LOOKED_AT = 200  # rows, to tell what each column is
DELIMITERS = ",;\t|"
LABEL_WORDS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Row:
    """One row of a table; `line` counts the file's lines from 1."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """A picture with its class; `split` is "train", "val", "test", or None where the table does not say."""

    file: File
    label: str
    split: str | None


@dataclass(frozen=True)
class Columns:
    """Which column is what; `split` is None where there is no such column."""

    file: int
    label: int
    split: int | None
    has_header: bool


class Names:
    """Finds a source's pictures by what a table calls them: any end of the path, with the ending or without."""

    def __init__(self, pictures: Iterable[File]) -> None:
        self._whole: dict[str, File | None] = {}  # None where two pictures end so
        self._bare: dict[str, File | None] = {}
        for file in pictures:
            parts = file.name.split("/")
            for start in range(len(parts)):
                tail = "/".join(parts[start:])
                _put(self._whole, tail, file)
                if file.ending:
                    _put(self._bare, tail[: -len(file.ending)], file)

    def find(self, cell: str) -> File | None:
        """Return the picture that a cell means; None where there is none, or more than one."""
        if len(cell) > 4096 or "://" in cell:
            return None
        name = shown(cell.strip())
        found = self._whole.get(name) or self._bare.get(name)
        parts = [part for part in name.split("/") if part not in ("..", "?")]
        if found or not (cell.strip().startswith(("/", "\\", "..")) or cell.strip()[1:2] == ":"):
            return found
        tails = ("/".join(parts[start:]) for start in range(len(parts)))  # a path of the machine that wrote the table
        return next((file for tail in tails if (file := self._whole.get(tail))), None)


def read_labels(data: bytes, title: str, names: Names, ledger: Ledger) -> list[Labelled]:
    """Return the pictures that a table labels; what is left out, and why, goes into the ledger.

    Raises DatasetError for a table that cannot be read, or whose columns cannot be told.
    """
    rows = _rows(_decoded(data, title), title)
    columns = _columns(rows, title, names)
    width = max(columns.file, columns.label, columns.split or 0) + 1
    most = len(rows[0].cells) if columns.has_header else Counter(len(row.cells) for row in rows).most_common(1)[0][0]
    found: dict[str, Labelled] = {}
    torn: dict[str, str] = {}
    for row in rows[columns.has_header :]:
        where = f"{title} line {row.line}"
        if reason := _why_unusable(row, columns, width, most):
            ledger.add(reason, where, "rows")
            continue
        file, label = names.find(row.cells[columns.file]), shown_part(unescape_csv(row.cells[columns.label]))
        if file is None:
            is_address = "://" in row.cells[columns.file]
            reason = "name an address, and nothing is fetched" if is_address else "name no image that is there"
            ledger.add(reason, f"{where} ({shown_part(row.cells[columns.file])})", "rows")
            continue
        split = None if columns.split is None else SPLIT_WORDS.get(row.cells[columns.split].strip().lower())
        known = found.setdefault(file.name, Labelled(file, label, split))
        if known.label != label:
            torn[file.name] = label
    for name in torn:
        ledger.add("have two labels", name, "images")
    return [one for one in found.values() if one.file.name not in torn]


def _put(table: dict[str, File | None], name: str, file: File) -> None:
    table[name] = None if name in table else file


def _decoded(data: bytes, title: str) -> str:
    if len(data) > LARGEST_TABLE:
        raise DatasetError(f"{title} is larger than {LARGEST_TABLE / 1e6:g} MB. A label file has a row for each image.")
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise DatasetError(f"{title} is a workbook, not a text file. Save it as CSV in your spreadsheet program.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    head = data[:1000]
    if len(head) >= 4 and head[1::2].count(0) > 0.4 * len(head):
        return data.decode("utf-16-le", errors="replace")
    if len(head) >= 4 and head[::2].count(0) > 0.4 * len(head):
        return data.decode("utf-16-be", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")  # what Excel writes in Western Europe; Latin-1 lies in it


def _rows(text: str, title: str) -> list[Row]:
    most = 10 * settings().import_files
    if text.count("\n") > most:
        raise DatasetError(f"{title} has more than {most:,} lines. A label file has a row for each image.")
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # a hint of Excel's
        rows = list(_parsed(rest, first.strip()[4], title, 2))
    else:
        rows = list(_parsed(text, _delimiter(text), title, 1))
    if not rows:
        raise DatasetError(f"{title} is empty. Give a row for each image: its file name, and its label.")
    return rows


def _parsed(text: str, delimiter: str, title: str, first_line: int) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = first_line
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield Row(line, tuple(cells))
            line = first_line + reader.line_num
    except csv.Error as error:
        raise DatasetError(
            f"{title} cannot be read as a table from line {line} on: a quotation mark is not closed, or a cell has "
            "more than 131,072 letters. Save it anew as CSV."
        ) from error


def _delimiter(text: str) -> str:
    """Return the delimiter that makes the most of the first rows equally many columns, of equals the one with more."""
    head = text[:20_000].splitlines()[:50]

    def score(delimiter: str) -> tuple[int, int]:
        try:
            widths = Counter(len(cells) for cells in csv.reader(head, delimiter=delimiter) if cells)
        except csv.Error:
            return 0, 0
        width, times = max(((width, times) for width, times in widths.items() if width > 1), default=(0, 0))
        return (times, width) if width else (0, 0)

    return max(DELIMITERS, key=score)


def _columns(rows: Sequence[Row], title: str, names: Names) -> Columns:
    header, body = rows[0].cells, rows[1 : 1 + LOOKED_AT] or rows[:1]
    hits = [sum(len(row.cells) > place and names.find(row.cells[place]) is not None for row in body)
            for place in range(len(header))]  # fmt: skip
    if not max(hits):
        cells = ", ".join(shown_part(cell) for cell in rows[min(1, len(rows) - 1)].cells[:4])
        raise DatasetError(
            f"No column of {title} names the images. A row of it is: {cells}. "
            "One column must have their file names, as in cat/0001.jpg or 0001."
        )
    file = hits.index(max(hits))
    has_header = len(rows) > 1 and names.find(header[file]) is None
    words = [cell.strip().lower() for cell in header] if has_header else [""] * len(header)
    split = next((place for place, word in enumerate(words) if word in SPLIT_COLUMNS), None)
    others = [place for place in range(len(header)) if place not in (file, split)]
    called = [place for word in LABEL_WORDS for place in others if words[place] == word]
    if not called and len(others) != 1:
        told = ", ".join(shown_part(cell) for cell in header[:8])
        raise DatasetError(
            f"It cannot be told which column of {title} has the labels: its first row is {told}. "
            "Call that column label, and have one label for each image."
        )
    return Columns(file, (called or others)[0], split, has_header)


def _why_unusable(row: Row, columns: Columns, width: int, most: int) -> str:
    if any("\0" in cell for cell in row.cells):
        return "have a NUL character"
    if len(row.cells) < width:
        return "have too few columns"
    if any(cell.strip() for cell in row.cells[most:]):
        return "have too many columns"
    return "" if row.cells[columns.label].strip() else "have no label"
