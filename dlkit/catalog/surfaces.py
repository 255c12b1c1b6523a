"""Surfaces to descend on: functions of x and y with what is known of them.

Each is written in the language of `formulas`: its LaTeX and its function come from one text. References: Jamil & Yang
2013 (arXiv 1308.4008), Surjanovic & Bingham's Virtual Library of Simulation Experiments, Moré, Garbow & Hillstrom 1981
(ACM TOMS 7(1)), Picheny, Wagner & Ginsbourger 2013, Dupont 2018. Known points are given to ten digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlkit.catalog.formulas import Formula, read_formula

Point = tuple[float, float]

SIMULATIONS = "Surjanovic & Bingham, Virtual Library of Simulation Experiments, sfu.ca/~ssurjano"
SURVEY = "Jamil & Yang 2013, A literature survey of benchmark functions, arxiv.org/abs/1308.4008"
TESTING = "Moré, Garbow & Hillstrom 1981, Testing unconstrained optimization software, doi.org/10.1145/355934.355936"
TEXTBOOK = "A textbook example"


@dataclass(frozen=True)
class SurfaceEntry:
    """One surface; `domain` is (least x, largest x, least y, largest y) of the plot, which a run may leave.

    `minima` are the global ones, empty where it is unbounded below; `others` are stationary points of less worth.
    `rates` are learning rates that suit the surface, by optimizer; `is_logarithmic`: its values span many magnitudes.
    """

    name: str
    title: str
    teaches: str
    expression: str
    domain: tuple[float, float, float, float]
    start: Point
    minima: tuple[Point, ...]
    source: str
    rates: Mapping[str, float]
    others: tuple[Point, ...] = ()
    is_logarithmic: bool = False
    formula: Formula = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formula", read_formula(self.expression))


def _rates(*rates: float) -> dict[str, float]:
    return dict(zip(("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"), rates, strict=True))


_GOLDSTEIN_PRICE = (
    "(1 + (x + y + 1)^2*(19 - 14*x + 3*x^2 - 14*y + 6*x*y + 3*y^2))"
    "*(30 + (2*x - 3*y)^2*(18 - 32*x + 12*x^2 + 48*y - 36*x*y + 27*y^2))"
)

_ENTRIES = (
    SurfaceEntry(
        "bowl",
        "Quadratic bowl",
        "The baseline: each step of gradient descent multiplies the distance by 1 − 2 × the learning rate.",
        "x^2 + y^2",
        (-4, 4, -4, 4),
        (-3, 2.5),
        ((0, 0),),
        SIMULATIONS,
        _rates(0.1, 0.05, 0.1, 0.5, 0.05, 0.1),
    ),
    SurfaceEntry(
        "ravine",
        "Ravine",
        "Conditioning: y is 50 times as steep as x, and the steepest direction alone limits the rate, to below 2/50.",
        "0.5*(x^2 + 50*y^2)",
        (-4, 4, -2, 2),
        (-3.5, 1),
        ((0, 0),),
        TEXTBOOK,
        _rates(0.025, 0.01, 0.01, 0.5, 0.05, 0.1),
    ),
    SurfaceEntry(
        "rotated-ravine",
        "Rotated ravine",
        "The same ravine, turned by 30°: optimizers with a rate for each coordinate depend on the axes.",
        "0.5*((cos(pi/6)*x + sin(pi/6)*y)^2 + 50*(cos(pi/6)*y - sin(pi/6)*x)^2)",
        (-4, 4, -4, 4),
        (-3, -1),
        ((0, 0),),
        TEXTBOOK,
        _rates(0.025, 0.01, 0.01, 0.5, 0.05, 0.1),
    ),
    SurfaceEntry(
        "rosenbrock",
        "Rosenbrock's valley",
        "A curved, flat valley between steep walls: falling into it is easy, following it is not.",
        "(1 - x)^2 + 100*(y - x^2)^2",
        (-2, 2, -1, 3),
        (-1.2, 1),
        ((1, 1),),
        TESTING,
        _rates(1e-3, 1e-3, 1e-3, 0.5, 5e-3, 0.05),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "beale",
        "Beale",
        "A wide plain between cliffs: one rate must suit both.",
        "(1.5 - x + x*y)^2 + (2.25 - x + x*y^2)^2 + (2.625 - x + x*y^3)^2",
        (-4.5, 4.5, -4.5, 4.5),
        (1, 1),
        ((3, 0.5),),
        TESTING,
        _rates(0.04, 0.016, 0.01, 0.5, 0.02, 0.1),
        others=((0, 1), (0.1005379373, -2.6445135850)),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "himmelblau",
        "Himmelblau",
        "Four equally good minima: which one is found depends on the start and on the optimizer.",
        "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
        (-5, 5, -5, 5),
        (0, 0),
        ((3, 2), (-2.8051180870, 3.1313125183), (-3.7793102534, -3.2831859913), (3.5844283403, -1.8481265270)),
        SURVEY,
        _rates(0.01, 0.0025, 0.01, 0.5, 0.05, 0.25),
        others=(
            (-0.2708445907, -0.9230385565),
            (3.3851541837, 0.0738518758),
            (0.0866775046, 2.8842547012),
            (-3.0730257508, -0.0813530440),
            (-0.1279613467, -1.9537149802),
        ),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "rastrigin",
        "Rastrigin",
        "A trap near every pair of whole numbers: only noise, or long steps, get out.",
        "20 + x^2 - 10*cos(2*pi*x) + y^2 - 10*cos(2*pi*y)",
        (-5.12, 5.12, -5.12, 5.12),
        (-2.2, 3.3),
        ((0, 0),),
        SIMULATIONS,
        _rates(2e-3, 1e-3, 1e-3, 0.5, 0.02, 0.1),
    ),
    SurfaceEntry(
        "ackley",
        "Ackley",
        "Nearly flat outside with small traps, a cone inside: far away the gradient says little.",
        "20 - 20*exp(-0.2*sqrt(0.5*(x^2 + y^2) + 1e-30)) + e - exp(0.5*(cos(2*pi*x) + cos(2*pi*y)))",
        (-5, 5, -5, 5),
        (-3, 2),
        ((0, 0),),
        SIMULATIONS,
        _rates(0.02, 0.01, 0.01, 0.5, 0.02, 0.1),
    ),
    SurfaceEntry(
        "saddle",
        "Saddle",
        "It has no minimum: who leaves the ridge falls for ever, and is right to; Newton's method ends on the saddle.",
        "x^2 - y^2",
        (-2, 2, -2, 2),
        (1.5, 1e-3),
        (),
        TEXTBOOK,
        _rates(0.05, 0.02, 0.02, 0.2, 0.02, 0.05),
        others=((0, 0),),
    ),
    SurfaceEntry(
        "bounded-saddle",
        "Saddle with an end",
        "Slow towards the saddle, then off along the ridge's side: how long the stay is depends on the optimizer.",
        "0.5*x^2 + 0.25*y^4 - 0.5*y^2",
        (-2, 2, -2, 2),
        (1.5, 1e-3),
        ((0, 1), (0, -1)),
        TEXTBOOK,
        _rates(0.2, 0.1, 0.1, 0.3, 0.02, 0.1),
        others=((0, 0),),
    ),
    SurfaceEntry(
        "monkey-saddle",
        "Monkey saddle",
        "Three ways down and three up; at its centre all curvature is 0 and Newton's method has nothing to divide by.",
        "x^3 - 3*x*y^2",
        (-2, 2, -2, 2),
        (1, 0.05),
        (),
        TEXTBOOK,
        _rates(0.02, 0.01, 0.01, 0.2, 0.02, 0.05),
        others=((0, 0),),
    ),
    SurfaceEntry(
        "styblinski-tang",
        "Styblinski–Tang",
        "Four valleys, and the start between them: the nearest is not the deepest.",
        "0.5*(x^4 - 16*x^2 + 5*x + y^4 - 16*y^2 + 5*y)",
        (-5, 5, -5, 5),
        (0, 0),
        ((-2.9035340278, -2.9035340278),),
        SIMULATIONS,
        _rates(0.02, 4e-3, 0.01, 0.5, 0.05, 0.1),
        others=(
            (-2.9035340278, 2.7468027710),
            (2.7468027710, -2.9035340278),
            (2.7468027710, 2.7468027710),
            (0.1567312568, 0.1567312568),
        ),
    ),
    SurfaceEntry(
        "goldstein-price",
        "Goldstein–Price",
        "Values over six orders of magnitude: a rate that suits the valley is far too large for the walls.",
        _GOLDSTEIN_PRICE,
        (-2, 2, -2, 2),
        (-1.5, 1.5),
        ((0, -1),),
        SIMULATIONS,
        _rates(2e-6, 1e-6, 1e-6, 0.2, 0.01, 0.05),
        others=(
            (-0.6, -0.4),
            (1.8, 0.2),
            (1.2, 0.8),
            (-0.4, -0.6),
            (1.2, -0.2),
            (1.4, 0.6),
            (0.6, 0.4),
            (0.8, 0.2),
        ),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "log-goldstein-price",
        "Goldstein–Price, rescaled",
        "The logarithm of the surface before on the unit square: the same minima, and now one rate suits all places.",
        f"(log({_GOLDSTEIN_PRICE.replace('x', '(4*x - 2)').replace('y', '(4*y - 2)')}) - 8.693)/2.427".replace(" ", ""),
        (0, 1, 0, 1),
        (0.1, 0.9),
        ((0.5, 0.25),),
        "Picheny, Wagner & Ginsbourger 2013, doi.org/10.1007/s00158-013-0919-4",
        _rates(2e-3, 1e-3, 1e-3, 0.05, 2e-3, 0.01),
        others=((0.35, 0.4), (0.95, 0.55), (0.8, 0.7)),
    ),
    SurfaceEntry(
        "three-hump-camel",
        "Three-hump camel",
        "A local minimum on either side of the global one: momentum may roll through.",
        "2*x^2 - 1.05*x^4 + x^6/6 + x*y + y^2",
        (-2, 2, -2, 2),
        (-1.9, 1),
        ((0, 0),),
        SIMULATIONS,
        _rates(0.1, 0.05, 0.05, 0.3, 0.05, 0.1),
        others=(
            (1.7475523438, -0.8737761719),
            (-1.7475523438, 0.8737761719),
            (1.0705422918, -0.5352711459),
            (-1.0705422918, 0.5352711459),
        ),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "six-hump-camel",
        "Six-hump camel",
        "Six minima, two of them best: neighbouring starts end far apart.",
        "(4 - 2.1*x^2 + x^4/3)*x^2 + x*y + (4*y^2 - 4)*y^2",
        (-3, 3, -2, 2),
        (-2, 1),
        ((0.0898420131, -0.7126564030), (-0.0898420131, 0.7126564030)),
        SIMULATIONS,
        _rates(0.02, 0.01, 0.01, 0.2, 0.02, 0.05),
        others=(
            (1.7036067151, -0.7960835687),
            (-1.7036067151, 0.7960835687),
            (1.6071047528, 0.5686514549),
            (-1.6071047528, -0.5686514549),
        ),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "booth",
        "Booth",
        "Convex and tilted: nine times as steep across as along.",
        "(x + 2*y - 7)^2 + (2*x + y - 5)^2",
        (-10, 10, -10, 10),
        (-8, -8),
        ((1, 3),),
        SIMULATIONS,
        _rates(0.06, 0.016, 0.04, 2.0, 0.1, 0.5),
        is_logarithmic=True,
    ),
    SurfaceEntry(
        "matyas",
        "Matyas",
        "A valley so flat that the value is small long before the minimum is near.",
        "0.26*(x^2 + y^2) - 0.48*x*y",
        (-10, 10, -10, 10),
        (-8, 7),
        ((0, 0),),
        SIMULATIONS,
        _rates(0.5, 0.2, 0.2, 1.0, 0.05, 0.2),
    ),
    SurfaceEntry(
        "mccormick",
        "McCormick",
        "Its minimum is one inside the domain only: beyond the border it falls without end.",
        "sin(x + y) + (x - y)^2 - 1.5*x + 2.5*y + 1",
        (-1.5, 4, -3, 4),
        (3, 3),
        ((-0.5471975512, -1.5471975512),),
        SIMULATIONS,
        _rates(0.1, 0.05, 0.05, 0.3, 0.02, 0.05),
        others=((2.5943951024, 1.5943951024), (1.5471975512, 0.5471975512)),
    ),
    SurfaceEntry(
        "two-gaussians",
        "Two hollows in a bowl",
        "Two hollows of unequal depth: momentum changes in which of them a path ends.",
        "x^2 + y^2 - 2*exp(-((x - 1)^2 + y^2)/0.2) - 3*exp(-((x + 1)^2 + y^2)/0.2)",
        (-2, 2, -2, 2),
        (0.5, 1.5),
        ((-0.9363006340, 0),),
        "Dupont 2018, Interactive visualization of optimization algorithms, emiliendupont.github.io",
        _rates(0.02, 0.01, 0.01, 0.2, 0.02, 0.1),
        others=((0.9053178992, 0), (0.0686024367, 0)),
    ),
    SurfaceEntry(
        "plateau",
        "Plateau",
        "The gradient vanishes: gradient descent stands still, while Adam and RMSprop divide it by its own size.",
        "1 - exp(-(x^2 + y^2)/10)",
        (-10, 10, -10, 10),
        (8, 8),
        ((0, 0),),
        TEXTBOOK,
        _rates(1.0, 0.5, 0.5, 1.0, 0.05, 0.1),
    ),
    SurfaceEntry(
        "easom",
        "Easom",
        "A needle in a plain: only who starts beside it is told where it is.",
        "-cos(x)*cos(y)*exp(-(x - pi)^2 - (y - pi)^2)",
        (-10, 10, -10, 10),
        (1, 1),
        ((3.1415926536, 3.1415926536),),
        SIMULATIONS,
        _rates(0.2, 0.1, 0.1, 0.5, 0.02, 0.1),
    ),
)

SURFACES: dict[str, SurfaceEntry] = {entry.name: entry for entry in _ENTRIES}
