"""The views of the network page, each with what a newcomer reads beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewEntry:
    """One view: what it shows, why that matters, the mistake that many make, and where it is written."""

    name: str
    title: str
    what: str
    why: str
    mistake: str
    source: str
    url: str


_ENTRIES = (
    ViewEntry(
        "network",
        "Network",
        "Each unit adds up its inputs, each times a weight, and bends the sum by its activation. Its small picture is "
        "what it says of every place of the plane, blue above zero and orange below. The last layer's units are the "
        "classes. A step looks at a batch, sends the gradient of its loss back layer by layer, and moves each weight.",
        "One line parts the plane in two. A hidden layer folds the plane, so that one line is enough behind it: that "
        "is why circles need a hidden layer, and why a spiral needs wider or deeper ones.",
        "Only the loss of the training points is watched. The rings are test points that nothing is learnt from: where "
        "their loss rises while the other falls, the network learns the points by heart. Fewer units, dropout, L2 or "
        "more points help.",
        "Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors",
        "https://doi.org/10.1038/323533a0",
    ),
)

VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _ENTRIES}
