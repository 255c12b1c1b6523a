"""What is wrong with a data set, found in what was seen of its pictures: findings, each with why it matters and fixes.

Nothing here reads a picture or changes anything: a fix is edits for `dlkit.data.versions`. `dlkit.data.suspicions`
has what takes a network's opinion.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dlkit.data.cases import Case
from dlkit.data.copies import copies_among
from dlkit.data.duplicates import FLAT, Likeness, least_of_groups
from dlkit.data.edits import MOST_SHARE, SPLIT_TITLES, Drop, Edit, Relabel, Resplit, check_share
from dlkit.data.split import groups_to_draw

TINY = 32  # pixels of the short side: backbones shrink a picture 32-fold, so less than one of their last cells
LONG = 4  # times the short side: of such a picture the square in the middle, which a network sees, is a quarter
BLURRED = 0.1  # sharpness: of 3,670 flowers two are below, of the same blurred by 4 pixels at 256 most are
DARK, BRIGHT = 50, 205  # grey values: what lies wholly below or above uses a fifth of the range
COMMON = 0.5  # of all pictures: a trait that more of them have is what the set is like, not what is wrong with it
FEW_IN_CLASS = 10  # pictures to learn from: below, a class's accuracy is mostly chance
UNEVEN = 10  # times the smallest class: beyond, a model gains by forgetting the small ones
SPLIT_ORDER = ("train", "test", "val")  # of the copies of a picture those on the first of these sides are kept


class Severity(IntEnum):
    """How much a finding matters; the worst come first."""

    MINOR = 0
    WORTH_A_LOOK = 1
    SERIOUS = 2


@dataclass(frozen=True)
class Fix:
    """What may be done at a press; `edits` are of the rows of the version that was looked at."""

    title: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Group:
    """Pictures that belong together, by rows; `note` says what is known of them, `fixes` are for them alone."""

    rows: tuple[int, ...]
    note: str = ""
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `title` says how often, `why` why it matters; `fixes` are for all groups at once."""

    kind: str
    title: str
    why: str
    severity: Severity
    groups: tuple[Group, ...] = ()
    fixes: tuple[Fix, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        """The pictures that it is about."""
        return tuple(row for group in self.groups for row in group.rows)


def examine_looks(case: Case) -> list[Finding]:
    """Return what is wrong by what was seen. Pictures that nobody has looked at are judged by their labels alone."""
    seen = np.flatnonzero(case.album_rows >= 0)
    looks = case.album.records[case.album_rows[seen]]
    is_whole = looks["width"] > 0
    rows, looks = seen[is_whole], looks[is_whole]
    first = copies_in(case)
    found = [*_left_out(case), *_unreadable(seen[~is_whole]), *_copies(case, first)]
    return [*found, *_traits(rows, looks), *_class_sizes(case, first)]


def copies_in(case: Case) -> np.ndarray:
    """Return for each row the first that shows the same picture, or is joined to it by others, int64 (N,)."""
    return copies_among(case.album, case.album_rows)


def _groups(first: np.ndarray) -> list[np.ndarray]:
    """Return the rows, int64, of each picture that is there more than once."""
    members = defaultdict[int, list[int]](list)
    for row in np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1).tolist():
        members[int(first[row])].append(row)
    return [np.array(rows) for rows in members.values()]


def pictures_of(number: int) -> str:
    """Write a number of pictures: 1 picture, 12 pictures."""
    return f"{number:,} {'picture' if number == 1 else 'pictures'}"


def _left_out(case: Case) -> Iterable[Finding]:
    left_out = [one for one in case.left_out if one.what == "images"]
    number = sum(one.count for one in left_out)
    if number:
        title = f"{pictures_of(number)} {'was' if number == 1 else 'were'} left out at the import"
        why = " ".join(one.sentence() for one in left_out) + " Mend what should be in the set, and add it."
        yield Finding("left-out", title, why, Severity.MINOR)


def _unreadable(rows: np.ndarray) -> Iterable[Finding]:
    if len(rows):
        why = "A training ends at the first of them. Restore these files, or leave the pictures out."
        title = f"{pictures_of(len(rows))} cannot be read"
        yield _one_by_one("unreadable", title, why, Severity.SERIOUS, rows)


def _traits(rows: np.ndarray, looks: np.ndarray) -> Iterable[Finding]:
    """Find what is wrong with single pictures; `looks` are of the pictures in `rows`."""
    width, height = looks["width"].astype(int), looks["height"].astype(int)
    short, long = np.minimum(width, height), np.maximum(width, height)
    is_flat = looks["high"].astype(int) - looks["low"] < FLAT
    traits = (
        (
            "one-colour",
            "show a single colour",
            "There is nothing in them to learn from: a failed export, a closed lens, an empty page.",
            is_flat,
        ),
        (
            "blurred",
            "are blurred",
            "Details that tell classes apart are gone. A model learns from them to look at colours alone.",
            ~is_flat & (looks["sharpness"] < BLURRED),
        ),
        (
            "dark",
            "are very dark",
            "Hardly anything can be seen in them, by a person or by a model.",
            ~is_flat & (looks["high"] < DARK),
        ),
        (
            "bright",
            "are washed out",
            "All of each is nearly white, so hardly anything can be seen in them.",
            ~is_flat & (looks["low"] > BRIGHT),
        ),
        (
            "tiny",
            f"are smaller than {TINY} pixels",
            "They are enlarged many times for a network that was trained on photographs, and look to it like fog.",
            short < TINY,
        ),
        (
            "long",
            f"are more than {LONG} times as long as wide",
            "A network sees the square in the middle of them, which is less than a quarter. Crop them.",
            long > LONG * short,
        ),
    )
    for kind, what, why, is_so in traits:
        found = rows[is_so]
        if not len(found):
            continue
        verb = {"are": "is", "show": "shows"}[what.split()[0]] if len(found) == 1 else what.split()[0]
        title = f"{pictures_of(len(found))} {verb} {what.partition(' ')[2]}"
        if len(found) > COMMON * len(rows) and kind != "one-colour":
            why = f"Most pictures are so: it is what the set is like. {why}"
            yield Finding(kind, title, why, Severity.MINOR)
        else:
            severity = Severity.WORTH_A_LOOK if kind == "one-colour" else Severity.MINOR
            yield _one_by_one(kind, title, why, severity, found)


def _one_by_one(kind: str, title: str, why: str, severity: Severity, rows: np.ndarray) -> Finding:
    """Return a finding of single pictures, each of which may be dropped, or all of them."""
    groups = tuple(Group((row,), fixes=(Fix("Drop", (Drop((row,)),)),)) for row in rows.tolist())
    return Finding(kind, title, why, severity, groups, (Fix("Drop all of them", (Drop(tuple(rows.tolist())),)),))


def _copies(case: Case, first: np.ndarray) -> Iterable[Finding]:
    """Find pictures that show the same: under two labels, on two sides of the split, or only twice."""
    groups = _groups(first)
    yield from _two_labels(case, [group for group in groups if len(np.unique(case.labels[group])) > 1])
    yield from _leaks(case, first, groups)
    exact, near = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for group in groups:
        if len(np.unique(case.labels[group])) == len(np.unique(case.splits[group])) == 1:
            for rows in _around_the_largest(case, group):
                (exact if len({_digest(case, row) for row in rows}) == 1 else near).append(rows)
    yield from _repeated("copies", exact)
    yield from _repeated("near-copies", near)


def _around_the_largest(case: Case, group: np.ndarray) -> Iterable[tuple[int, ...]]:
    """Divide a group: the largest picture first with those that are like it, then the largest of what is left."""
    looks = case.album.records[case.album_rows[group]]
    likeness = Likeness(looks)
    left = np.argsort(-(looks["width"].astype(np.int64) * looks["height"]), kind="stable")
    while len(left):
        is_like = likeness.to_any(left, left[:1])
        is_like[0] = True
        if is_like.sum() > 1:
            yield tuple(group[left[is_like]].tolist())
        left = left[~is_like]


def _two_labels(case: Case, groups: Sequence[np.ndarray]) -> Iterable[Finding]:
    if not groups:
        return
    shown = tuple(
        Group(
            tuple(group.tolist()),
            fixes=tuple(
                Fix(f"All are {case.classes[label]}", (Relabel(tuple(group.tolist()), case.classes[label]),))
                for label in np.unique(case.labels[group]).tolist()
            ),
        )
        for group in groups
    )
    every = tuple(row for group in groups for row in group.tolist())
    yield Finding(
        "two-labels",
        f"{len(groups):,} {'picture has' if len(groups) == 1 else 'pictures have'} two labels",
        "The same picture, or a copy of it, is in two classes. No model can be right about both, so it learns and is "
        "checked wrongly. Say which it is.",
        Severity.SERIOUS,
        shown,
        (Fix("Drop all of them", (Drop(every),)),),
    )


def _leaks(case: Case, first: np.ndarray, groups: Sequence[np.ndarray]) -> Iterable[Finding]:
    across = [group for group in groups if len(np.unique(case.splits[group])) > 1]
    if not across:
        return
    dropped, shown, sides = list[int](), list[Group](), set[str]()
    for group in across:
        kept = next(split for split in SPLIT_ORDER if split in case.splits[group])
        sides.add(kept)
        others = tuple(_elsewhere(case, group))
        dropped += others
        title = f"Keep it in {SPLIT_TITLES[kept]} only"
        shown.append(Group(tuple(group.tolist()), fixes=(Fix(title, (Drop(others),)),)))
    title = "Keep each in training only, or else in test only"
    if len(sides) == 1:
        title = f"Drop the copies outside of {SPLIT_TITLES[sides.pop()]}"
    fixes = [Fix(title, (Drop(tuple(dropped)),))]
    anew = _divide(case, first, _share(case))
    if case.version and not anew.chained:
        joining = sum(group in anew.tested for group in anew.groups) - int((case.splits == "test").sum())
        told = f", {pictures_of(joining)} more for testing" if joining else ""
        fixes.append(Fix(f"Split anew, copies on one side{told}", (leak_free(case, first),)))
    yield Finding(
        "leak",
        f"{len(across):,} {'picture is' if len(across) == 1 else 'pictures are'} on both sides of the split",
        "The model is checked with what it has learnt by heart, so its accuracy looks better than it is.",
        Severity.SERIOUS,
        tuple(shown),
        tuple(fixes),
    )


def _elsewhere(case: Case, group: np.ndarray) -> list[int]:
    """Return the rows of a group that are like one on a side which comes before theirs and is kept."""
    likeness = Likeness(case.album.records[case.album_rows[group]])
    place = np.array([SPLIT_ORDER.index(split) for split in case.splits[group]])
    is_kept = np.ones(len(group), bool)
    for side in range(len(SPLIT_ORDER) - 1):
        later = np.flatnonzero(is_kept & (place > side))
        is_kept[later] = ~likeness.to_any(later, np.flatnonzero(is_kept & (place == side)))
    return group[~is_kept].tolist()


def leak_free(case: Case, first: np.ndarray, share: float | None = None, seed: int = 0) -> Resplit:
    """Return the edit that divides an imported set anew, copies on one side as far as no class is then unchecked.

    `first` is as of `copies_in`; without a `share`, of which `check_share` must hold, it is divided as it is now.
    """
    share = _share(case) if share is None else share
    check_share(share)
    names, members = _divide(case, first, share).groups, defaultdict[str, set[str]](set)
    for row in np.flatnonzero(case.album_rows >= 0).tolist():
        members[names[row]].add(_digest(case, row))
    together = {digest: name for name, digests in members.items() if len(digests) > 1 for digest in digests}
    return Resplit(share, seed, together)


def _share(case: Case) -> float:
    learnt, checked = ((case.splits == split).sum() for split in ("train", "val"))
    return min(MOST_SHARE, float(checked / (learnt + checked)))


@dataclass(frozen=True)
class _Division:
    """For each row the group that is on one side, the groups kept for testing, the classes too much alike for that."""

    groups: list[str]
    tested: set[str]
    chained: set[str]


def _divide(case: Case, first: np.ndarray, share: float) -> _Division:
    """Return what must be together where a set is divided anew."""
    digests = [_digest(case, row) if case.album_rows[row] >= 0 else f"row {row}" for row in range(len(case))]
    groups = least_of_groups(digests, first)
    drawn = np.flatnonzero(case.splits != "test").tolist()
    tested = {groups[row] for row in np.flatnonzero(case.splits == "test")}
    _, chained = groups_to_draw(
        [case.classes[case.labels[row]] for row in drawn],
        [digests[row] for row in drawn],
        [groups[row] for row in drawn],
        share,
        tested,
    )
    torn = {groups[row] for row in drawn if case.classes[case.labels[row]] in chained}
    groups = [digest if group in torn else group for digest, group in zip(digests, groups, strict=True)]
    return _Division(groups, {groups[row] for row in np.flatnonzero(case.splits == "test")}, chained)


def _digest(case: Case, row: int) -> str:
    return bytes(case.album.records["digest"][case.album_rows[row]]).hex()


def _repeated(kind: str, alike: Sequence[tuple[int, ...]]) -> Iterable[Finding]:
    """Report copies with one label on one side, in each group the one that is kept first."""
    if not alike:
        return
    groups, dropped = [], list[int]()
    for rows in alike:
        dropped += rows[1:]
        groups.append(Group(rows, fixes=(Fix("Keep the largest", (Drop(rows[1:]),)),)))
    what = "are there more than once" if kind == "copies" else "are there again, resized, compressed or mirrored"
    what = what.replace("are", "is", 1) if len(alike) == 1 else what
    yield Finding(
        kind,
        f"{pictures_of(len(alike))} {what}",
        "What is there twice counts twice: the model leans towards it, and classes look larger than they are.",
        Severity.WORTH_A_LOOK,
        tuple(groups),
        (Fix("Keep one of each", (Drop(tuple(dropped)),)),),
    )


def _class_sizes(case: Case, first: np.ndarray) -> Iterable[Finding]:
    is_learnt = case.splits == "train"
    learnt = np.bincount(case.labels[is_learnt], minlength=len(case.classes))
    checked = np.bincount(case.labels[case.splits == "val"], minlength=len(case.classes))
    small = np.flatnonzero(learnt < FEW_IN_CLASS).tolist()
    if small:
        names = _listed(f"{case.classes[label]} ({learnt[label]})" for label in small)
        title = f"{len(small):,} {'class has' if len(small) == 1 else 'classes have'} too few pictures"
        why = f"Fewer than {FEW_IN_CLASS} to learn from: {names}. Add pictures, merge them with others, or drop them."
        rows = tuple(np.flatnonzero(np.isin(case.labels, small)).tolist())
        fixes = (Fix("Drop these classes", (Drop(rows),)),) if len(case.classes) - len(small) >= 2 else ()
        yield Finding("small-classes", title, why, Severity.WORTH_A_LOOK, fixes=fixes)
    unchecked = np.flatnonzero(checked == 0).tolist()
    if unchecked:
        title = f"{len(unchecked):,} {'class is' if len(unchecked) == 1 else 'classes are'} never checked"
        why = f"No picture of them is in the validation split: {_listed(case.classes[label] for label in unchecked)}."
        helps = case.version and _can_be_checked(case, first, unchecked)
        fixes = (Fix("Split anew", (leak_free(case, first),)),) if helps else ()
        yield Finding("unchecked-classes", title, why, Severity.WORTH_A_LOOK, fixes=fixes)
    if learnt.max() > UNEVEN * max(1, learnt.min()):
        most, least = int(learnt.argmax()), int(learnt.argmin())
        sizes = f"{case.classes[most]} has {learnt[most]:,} to learn from, {case.classes[least]} {learnt[least]:,}"
        why = f"{sizes}. A model gains by forgetting the small ones: choose balanced class weights, or add pictures."
        yield Finding("imbalance", "The classes are uneven", why, Severity.WORTH_A_LOOK)


def _can_be_checked(case: Case, first: np.ndarray, labels: Sequence[int]) -> bool:
    """Tell whether one of the classes has two groups that can be divided."""
    anew, groups = _divide(case, first, _share(case)), defaultdict[int, set[str]](set)
    for label, group in zip(case.labels.tolist(), anew.groups, strict=True):
        if group not in anew.tested:
            groups[label].add(group)
    return any(len(groups[label]) > 1 for label in labels)


def _listed(names: Iterable[str]) -> str:
    named = list(names)
    return ", ".join(named[:5]) + (", …" if len(named) > 5 else "")
