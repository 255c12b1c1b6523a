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
    ViewEntry(
        "perceptron",
        "Perceptron",
        "A perceptron draws one line: on one side its sum w·x + b is above zero, on the other below. It looks at one "
        "example after the other. Where the side is right nothing happens; where it is wrong, the example itself, "
        "times the rate, is added to the weights, so the line turns towards being right about it.",
        "Where a line parts the classes, this ends after finitely many mistakes. Where none does, as for XOR, it never "
        "ends: each correction undoes another. That wall is why networks have hidden layers.",
        "The rate is tuned. Beginning at zero it only scales weights and bias alike, and the line is the same.",
        "Rosenblatt 1958, The perceptron",
        "https://doi.org/10.1037/h0042519",
    ),
    ViewEntry(
        "softmax",
        "Softmax and cross-entropy",
        "Softmax makes probabilities of the last sums, the logits: each e^z, divided by their total. Cross-entropy is "
        "minus the logarithm of what the right class got. Its gradient by the logits is what was said less what was "
        "right, p − y. A temperature above 1 makes the probabilities alike; label smoothing asks for a little less "
        "than certainty; class weights count rare classes more.",
        "A squared error has p as a factor in its gradient: a network that is sure and wrong gets almost nothing to "
        "learn from. Cross-entropy gets the most there: compare the slopes on the left of the curves.",
        "Softmax is applied twice: nn.CrossEntropyLoss takes logits. And e^z is computed as it stands, which overflows "
        "in 32 bits from 89 on; the largest logit is taken off first.",
        "Bridle 1990, Probabilistic interpretation of feedforward classification network outputs",
        "https://doi.org/10.1007/978-3-642-76153-9_28",
    ),
    ViewEntry(
        "graph",
        "Autograd",
        "Each operation of the formula is a box. Forward, from left to right, each box gets its value. Backward, from "
        "right to left, each sends its gradient, times its own derivative, to what it was computed of. A box that is "
        "used twice adds up what comes back.",
        "One pass back gives the derivatives by all weights at once, however many there are, for about the cost of "
        "the way forward. That is what makes deep networks trainable, and it is what loss.backward() does.",
        "Gradients are not set to zero between two steps: torch adds them up, as it does within one.",
        "Griewank & Walther 2008, Evaluating derivatives, chapter 3",
        "https://doi.org/10.1137/1.9780898717761",
    ),
)

VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _ENTRIES}
