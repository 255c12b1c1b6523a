"""Two versions of a data set beside each other: which pictures came, went, and are of another class or split."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from dlkit.data.manifests import Picture
from dlkit.data.versions import Version, keys_of
from dlkit.errors import DatasetError


@dataclass(frozen=True)
class Pair:
    """One picture in two versions."""

    before: Picture
    after: Picture


@dataclass(frozen=True)
class Comparison:
    """What is different in the later of two versions.

    `renamed` gives old names of classes their new ones; their pictures are not among the `relabelled`. `counts` gives
    each class, by its name in either version, its pictures before and after.
    """

    added: tuple[Picture, ...]
    dropped: tuple[Picture, ...]
    relabelled: tuple[Pair, ...]
    moved: tuple[Pair, ...]
    renamed: dict[str, str]
    counts: dict[str, tuple[int, int]]

    def sentences(self) -> list[str]:
        """Return what is different, one sentence each; none where nothing is."""
        told = [f"Class {old} is called {new}." for old, new in self.renamed.items()]
        for pictures, words in (
            (self.added, "added"),
            (self.dropped, "left out"),
            (self.relabelled, "of another class"),
            (self.moved, "in another split"),
        ):
            if pictures:
                told.append(f"{len(pictures):,} {'picture' if len(pictures) == 1 else 'pictures'} {words}.")
        return told


def compare(before: Version, after: Version) -> Comparison:
    """Tell what is different in the version `after`; a picture is known by its content and its name.

    DatasetError for versions of two sets.
    """
    if before.folder != after.folder:
        raise DatasetError(f"{before.name} and {after.name} are two data sets. Compare two versions of one.")
    old = dict(zip(keys_of(before.pictures), before.pictures, strict=True))
    new = dict(zip(keys_of(after.pictures), after.pictures, strict=True))
    pairs = [Pair(old[key], picture) for key, picture in new.items() if key in old]
    renamed = _renamed(pairs, before.classes, after.classes)
    counted = [Counter(picture.label for picture in version.pictures) for version in (before, after)]
    return Comparison(
        added=tuple(picture for key, picture in new.items() if key not in old),
        dropped=tuple(picture for key, picture in old.items() if key not in new),
        relabelled=tuple(pair for pair in pairs if _label_after(pair, renamed) != pair.after.label),
        moved=tuple(pair for pair in pairs if pair.before.split != pair.after.split),
        renamed=renamed,
        counts={name: (counted[0][name], counted[1][name]) for name in sorted({*before.classes, *after.classes})},
    )


def _renamed(pairs: list[Pair], before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
    """Return classes that are gone with the new one that has most of their pictures and has most of its own of them."""
    to, of = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    for pair in pairs:
        to[pair.before.label][pair.after.label] += 1
        of[pair.after.label][pair.before.label] += 1
    likeliest = {name: most for name in before if name not in after and (most := _most(to[name]))}
    return {name: new for name, new in likeliest.items() if new not in before and _most(of[new]) == name}


def _most(counts: Counter[str]) -> str:
    """Return what more than half are; "" where there is no such."""
    return next((name for name, number in counts.items() if 2 * number > counts.total()), "")


def _label_after(pair: Pair, renamed: dict[str, str]) -> str:
    return renamed.get(pair.before.label, pair.before.label)
