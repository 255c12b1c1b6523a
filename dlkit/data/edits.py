"""What may be changed in a data set: classes and splits of pictures, pictures left out, classes renamed and merged.

An edit names pictures by their rows in the version that it is made on; what is left out keeps its row until all edits
are made. Each edit says in a few words what it has changed. Nothing here reads or writes a file.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dlkit.data.manifests import Picture, classes_of
from dlkit.data.plans import MOST_CLASSES, SPLITS
from dlkit.data.sources import FEW, class_name, shown_part
from dlkit.data.split import draw_validation
from dlkit.errors import DatasetError

Draft = list[Picture | None]  # None where a picture is left out
SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
MOST_SHARE = 0.9  # of the pictures that become validation


class Edit(ABC):
    """One change."""

    @abstractmethod
    def make(self, draft: Draft) -> str:
        """Change the draft; return what has changed, "" where nothing has. DatasetError where it cannot be done."""


@dataclass(frozen=True)
class PictureEdit(Edit):
    """A change of the pictures in these rows."""

    rows: Collection[int]


@dataclass(frozen=True)
class Relabel(PictureEdit):
    """Give pictures another class, which may be a new one."""

    label: str

    def make(self, draft: Draft) -> str:
        """Change the class of the pictures."""
        label = class_name(self.label)
        changed = _change(draft, self.rows, lambda picture: replace(picture, label=label))
        return f"{_pictures(changed)} moved to {label}" if changed else ""


@dataclass(frozen=True)
class Move(PictureEdit):
    """Put pictures into a split: "train", "val" or "test"."""

    split: str

    def make(self, draft: Draft) -> str:
        """Change the split of the pictures."""
        if self.split not in SPLITS:
            raise DatasetError(f"A split is one of {', '.join(SPLITS)}; got {self.split[:40]!r}.")
        changed = _change(draft, self.rows, lambda picture: replace(picture, split=self.split))
        return f"{_pictures(changed)} moved to the {SPLIT_TITLES[self.split]} split" if changed else ""


@dataclass(frozen=True)
class Drop(PictureEdit):
    """Leave pictures out."""

    def make(self, draft: Draft) -> str:
        """Leave them out of the draft."""
        dropped = _change(draft, self.rows, lambda picture: None)
        return f"{_pictures(dropped)} left out" if dropped else ""


@dataclass(frozen=True)
class Rename(Edit):
    """Call a class otherwise."""

    old: str
    new: str

    def make(self, draft: Draft) -> str:
        """Change the name of the class."""
        new, classes = class_name(self.new), _classes(draft)
        _known(self.old, classes)
        if new == self.old:
            return ""
        if new in classes:
            raise DatasetError(f"There is a class {new} already. Merge the two, or choose another name.")
        _change(draft, _rows(draft, {self.old}), lambda picture: replace(picture, label=new))
        return f"class {self.old} renamed to {new}"


@dataclass(frozen=True)
class Merge(Edit):
    """Make one class of several; `into` may be one of them, another one, or a new name."""

    classes: Collection[str]
    into: str

    def make(self, draft: Draft) -> str:
        """Give all pictures of the classes the one class."""
        into, known = class_name(self.into), _classes(draft)
        for name in self.classes:
            _known(name, known)
        merged = sorted({*self.classes, into} & known)
        if len(merged) < 2:
            raise DatasetError("Two classes or more are merged into one. Name another one, or rename this one.")
        _change(draft, _rows(draft, set(self.classes)), lambda picture: replace(picture, label=into))
        shown = ", ".join(merged[:FEW]) + (f" and {len(merged) - FEW:,} more" if len(merged) > FEW else "")
        return f"classes {shown} merged into {into}"


@dataclass(frozen=True)
class Resplit(Edit):
    """Divide training and validation anew: of each class about `share` is validation, the same on every machine.

    `groups` gives the digests of pictures that must stay on one side a common name; copies do so anyway. Pictures kept
    for testing stay where they are, and those of their groups join them.
    """

    share: float
    seed: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)

    def make(self, draft: Draft) -> str:
        """Change the splits."""
        check_share(self.share)
        group = {picture.digest: self.groups.get(picture.digest, picture.digest) for picture in draft if picture}
        tested = {group[picture.digest] for picture in draft if picture and picture.split == "test"}
        found = [(row, picture) for row, picture in enumerate(draft) if picture]
        drawn = [(row, picture) for row, picture in found if group[picture.digest] not in tested]
        labels, groups = ([picture.label for _, picture in drawn], [group[picture.digest] for _, picture in drawn])
        is_val = dict(
            zip((row for row, _ in drawn), draw_validation(labels, groups, self.share, self.seed), strict=True)
        )
        for row, picture in found:
            split = "test" if row not in is_val else "val" if is_val[row] else "train"
            draft[row] = replace(picture, split=split)
        if all(draft[row] == picture for row, picture in found):
            return ""
        val = sum(is_val.values())
        return f"split anew, {len(is_val) - val:,} to learn from and {val:,} to be checked with"


def apply_edits(pictures: Sequence[Picture], edits: Sequence[Edit]) -> tuple[tuple[Picture, ...], str]:
    """Return the pictures after the edits, made one after the other, and what has changed in one sentence.

    DatasetError where an edit cannot be made, nothing has changed, or no classifier could learn from what is left.
    """
    draft: Draft = list(pictures)
    told = [words for edit in edits if (words := edit.make(draft))]
    left = tuple(picture for picture in draft if picture)
    if left == tuple(pictures):
        raise DatasetError("This changes nothing: the data set is so already.")
    if not told:
        raise AssertionError("an edit has not said what it has changed")
    check_pictures(left)
    sentence = "; ".join(told)
    return left, f"{sentence[0].upper()}{sentence[1:]}."


def check_pictures(pictures: Sequence[Picture]) -> None:
    """Raise DatasetError unless there are two classes or more, each with a picture to learn from, and one to check."""
    classes = classes_of(pictures)
    learnt = {picture.label for picture in pictures if picture.split == "train"}
    if len(classes) < 2:
        raise DatasetError("A classifier needs two classes or more, and fewer would be left. Keep a second one.")
    if len(classes) > MOST_CLASSES:
        raise DatasetError(f"There would be {len(classes):,} classes; the limit is {MOST_CLASSES:,}. Merge some first.")
    if unlearnt := [name for name in classes if name not in learnt]:
        shown = ", ".join(unlearnt[:FEW]) + (", …" if len(unlearnt) > FEW else "")
        raise DatasetError(
            f"These classes would have no picture in the training split: {shown}. Leave one there, or leave out the "
            "rest of them, too."
        )
    if not any(picture.split == "val" for picture in pictures):
        raise DatasetError("No picture would be left to check the model with. Keep one in the validation split.")


def check_share(share: float) -> None:
    """Raise DatasetError where a set cannot be divided by this share."""
    if not 0 < share <= MOST_SHARE:
        raise DatasetError(f"The share to be checked with must be above 0 and at most {MOST_SHARE:.0%}.")


def check_rows(rows: Collection[int], count: int) -> None:
    """Raise DatasetError unless every row is one of a version that has so many."""
    wrong = next((row for row in rows if not 0 <= row < count), None)
    if wrong is not None:
        raise DatasetError(f"There is no picture in row {wrong:,}: this version has {count:,}. Look at it again.")


def _change(draft: Draft, rows: Collection[int], change: Callable[[Picture], Picture | None]) -> int:
    """Change pictures that are still there; return how many are not what they were."""
    changed = 0
    check_rows(rows, len(draft))
    for row in set(rows):
        before = draft[row]
        if before is not None:
            draft[row] = change(before)
            changed += draft[row] != before
    return changed


def _classes(draft: Draft) -> set[str]:
    return {picture.label for picture in draft if picture}


def _rows(draft: Draft, labels: Collection[str]) -> list[int]:
    return [row for row, picture in enumerate(draft) if picture and picture.label in labels]


def _known(name: str, classes: Collection[str]) -> None:
    if name not in classes:
        raise DatasetError(f"There is no class {shown_part(name)}. Look at the data set again.")


def _pictures(number: int) -> str:
    return f"{number:,} {'picture' if number == 1 else 'pictures'}"
