"""Findings that take a network's opinion: labels that are likely to be wrong, and pictures unlike their class."""

from collections.abc import Iterable

import numpy as np

from dlkit.data.cases import Case
from dlkit.data.doctor import Finding, Fix, Group, Severity, examine_looks, pictures_of
from dlkit.data.edits import Drop, Relabel
from dlkit.data.opinions import Opinions
from dlkit.words import percent

OUTLYING = 4.0  # robust deviations of the class: of 3,670 flowers five lie beyond


def examine(case: Case, opinions: Opinions | None) -> list[Finding]:
    """Return all that is wrong with a data set, the worst first."""
    found = examine_looks(case) + (list(suspicions(case, opinions)) if opinions is not None else [])
    return sorted(found, key=lambda finding: -finding.severity)


def unexamined(case: Case, opinions: Opinions | None) -> list[str]:
    """Return what has not been looked at, a sentence each."""
    told = [f"{pictures_of(case.unseen)} of {len(case):,} were not looked at yet."] if case.unseen else []
    rows = case.learnt_rows()
    if opinions is None:
        told.append("No network was asked about labels and outliers yet.")
    elif unknown := int((~opinions.is_known[rows]).sum()):
        newer = "they, or their classes, are newer than its look at the others"
        told.append(f"No network was asked about {pictures_of(unknown)}: {newer}.")
    if tested := len(case) - len(rows):
        told.append(f"The labels of {pictures_of(tested)} kept for testing are not judged.")
    return told


def suspect_order(opinions: Opinions) -> np.ndarray:
    """Return all rows with an opinion, int64, the label that is likeliest to be wrong first."""
    odds = np.where(opinions.is_known, opinions.own / np.maximum(opinions.best, 1e-9), np.inf)
    order = np.argsort(odds, kind="stable")
    return order[: int(opinions.is_known.sum())]


def suspicions(case: Case, opinions: Opinions) -> Iterable[Finding]:
    """Return what the opinions say about a case."""
    suspects = [int(row) for row in suspect_order(opinions) if opinions.is_suspect[row]]
    if suspects:
        groups = tuple(_suspect(case, opinions, row) for row in suspects)
        relabel = tuple(
            Relabel(tuple(row for row in suspects if opinions.guesses[row] == label), case.classes[label])
            for label in sorted({int(opinions.guesses[row]) for row in suspects})
        )
        yield Finding(
            "suspects",
            f"{pictures_of(len(suspects))} may have a wrong label",
            "A head that never saw them is confident that they are of another class. Wrong labels teach wrong things, "
            "and in validation they make the accuracy look worse than it is. Look before you believe it.",
            Severity.SERIOUS if len(suspects) > 0.01 * len(case) else Severity.WORTH_A_LOOK,
            groups,
            (Fix("Relabel all as suggested", relabel), Fix("Drop all of them", (Drop(tuple(suspects)),))),
        )
    is_far = opinions.is_known & (opinions.distances > OUTLYING) & ~opinions.is_suspect
    far = np.flatnonzero(is_far)
    if len(far):
        rows = far[np.argsort(-opinions.distances[far])].tolist()
        verb, whose = ("is", "its") if len(rows) == 1 else ("are", "their")
        yield Finding(
            "outliers",
            f"{pictures_of(len(rows))} {verb} unlike the rest of {whose} class",
            "To the network they look like nothing else in the class: screenshots, drawings, what does not belong. "
            "Some are merely rare, and then worth more of their kind.",
            Severity.MINOR,
            tuple(Group((row,), fixes=(Fix("Drop", (Drop((row,)),)),)) for row in rows),
            (Fix("Drop all of them", (Drop(tuple(rows)),)),),
        )


def _suspect(case: Case, opinions: Opinions, row: int) -> Group:
    label = case.classes[int(opinions.guesses[row])]
    note = f"looks like {label} ({percent(float(opinions.best[row]), 0)})"
    fixes = (Fix(f"It is {label}", (Relabel((row,), label),)), Fix("Drop", (Drop((row,)),)))
    return Group((row,), note, fixes)
