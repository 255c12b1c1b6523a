"""The views of the pages Network and Tensors, each with what a newcomer reads beside it."""

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
        "rules",
        "Data, not rules",
        "The same points, told apart in two ways: by a rule that you write, and by a network that is given examples. "
        "Both are judged by new points. Write a better rule; then turn the points, or add noise, and see which of the "
        "two has to be written anew.",
        "For a few shapes in the plane a rule is easily written. Nobody can write one for what makes a photograph show "
        "a cat; but examples can be collected, and the same program learns from whatever they show.",
        "A few examples are thought to do. With 4 or 10 the network is often worse than a glance at the points, and "
        "another seed gives another network: look at how far the dots are apart.",
        "Halevy, Norvig & Pereira 2009, The unreasonable effectiveness of data",
        "https://doi.org/10.1109/MIS.2009.36",
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

_OF_TENSORS = (
    ViewEntry(
        "shapes",
        "Shapes",
        "A tensor is numbers in a block, and its shape says how many there are along each dimension. One number has no "
        "dimension, a row has one, a grid two. A colour picture has three: channel, row, column; a batch of pictures "
        "four; a batch of films five.",
        "Every layer says which shape it takes and which it gives back. Most errors that a newcomer meets are two "
        "shapes that do not fit.",
        "Rows and columns are mixed up: t[1, 2] is row 1, column 2, both counted from 0. Pictures are height before "
        "width, while most picture programs say width before height.",
        "PyTorch documentation, torch.Tensor",
        "https://docs.pytorch.org/docs/stable/tensors.html",
    ),
    ViewEntry(
        "indexing",
        "Indexing",
        "Each index stands for one dimension, in order. A number takes one place of it, and the dimension is gone; "
        "from:to takes a stretch, without its end; : takes all; ... stands for all that are not named; None puts a "
        "dimension of one in; a list takes places in any order.",
        "What is taken by numbers and stretches is the same memory, so writing into it changes the tensor it came "
        "from, and nothing is copied. A list makes a copy.",
        "t[1] and t[1:2] are taken for the same. The first has a dimension less.",
        "PyTorch documentation, torch.Tensor: indexing and slicing",
        "https://docs.pytorch.org/docs/stable/tensor_view.html",
    ),
    ViewEntry(
        "broadcasting",
        "Broadcasting",
        "Two shapes are put below each other, the last dimensions above each other. Sizes fit where they are equal, or "
        "one of them is 1 or missing: that one is repeated, without being copied. The pale cells are repeated ones.",
        "A bias is added to every example of a batch, and each channel has its own mean taken off, without a loop.",
        "Shapes fit by accident: (3,) and (3, 1) make (3, 3), so a difference of predictions and labels may become a "
        "square of all differences, and the loss is wrong without any error.",
        "PyTorch documentation, Broadcasting semantics",
        "https://docs.pytorch.org/docs/stable/notes/broadcasting.html",
    ),
    ViewEntry(
        "memory",
        "Views and strides",
        "In memory a tensor is one long row. Its strides say how many places to go on for the next element along each "
        "dimension, its offset where it begins. Transposing changes the strides and moves nothing; a stride of 0 "
        "shows one element many times. Then 99 is written into the first element of the result: where memory is "
        "shared, the first tensor has it, too.",
        "Views cost nothing, however large the tensor is. What cannot be said with strides has to be copied.",
        "A view is kept and changed where a copy was meant: clone() makes one. And view() refuses what reshape() "
        "silently copies.",
        "PyTorch documentation, Tensor views",
        "https://docs.pytorch.org/docs/stable/tensor_view.html",
    ),
    ViewEntry(
        "numbers",
        "Number types",
        "A floating-point number is a sign, an exponent and a fraction of fixed length, so most numbers are rounded to "
        "the next that can be written so. float32 has seven digits, float16 and bfloat16 half of the memory and three "
        "digits or two; bfloat16 reaches as far as float32. Whole types wrap around at their end.",
        "Networks learn well in 16 bits, twice as fast on most GPUs. But a small step added to a large number can be "
        "rounded away: see what a thousand of them come to.",
        "Numbers are compared with ==. And pictures are kept as uint8, where 200 + 100 is 44: convert before you "
        "compute.",
        "Goldberg 1991, What every computer scientist should know about floating-point arithmetic",
        "https://doi.org/10.1145/103162.103163",
    ),
    ViewEntry(
        "devices",
        "Devices",
        "A tensor lives in the memory of one device, and what is computed with it is computed there. .to(…) copies it "
        "to another one.",
        "A GPU multiplies matrices many times faster, but what it multiplies has to get there first. So models and "
        "batches are moved once, and results stay until they are needed.",
        "Model and batch are on different devices: torch refuses to add them. And a GPU works while Python goes on, so "
        "a clock that is not told to wait measures nothing.",
        "PyTorch documentation, CUDA semantics",
        "https://docs.pytorch.org/docs/stable/notes/cuda.html",
    ),
)

TENSOR_VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _OF_TENSORS}
