"""Data, not rules: a rule that the visitor writes beside a network that learns, on the same points."""

import streamlit as st

from dlkit.catalog.formulas import FUNCTIONS, read_formula
from dlkit.catalog.point_sets import POINT_SETS
from dlkit.catalog.views import VIEWS
from dlkit.descent.asked import Number
from dlkit.errors import DlkitError
from dlkit.figures.lessons import examples_figure, sides_figure
from dlkit.lab import rules
from dlkit.lab.code import code_of_rule
from dlkit.lab.rules import COUNTS, Learnt, Question
from dlkit.words import percent
from pages.parts import lesson
from pages.parts.notices import show_error

PREFIX = "rules_"
NUMBERS = {
    "degrees": Number("Turned by, degrees", 0, -360, 360),
    "noise": Number("Noise", 0.05, 0, 1),
    "seed": Number("Seed", 0, 0, 2**31 - 1, is_whole=True),
}
DATA = {name: entry.title for name, entry in POINT_SETS.items()}
EXAMPLES = tuple(map(str, COUNTS))
CONTROLS = ("view", "data", *NUMBERS, "rule", "examples", "text", "code")
GOOD = f"{PREFIX}good"


def show() -> None:
    """Show the rule's picture and the network's, and how both do on points that neither has seen."""
    with st.container(border=True):
        grid = st.grid(columns=4, min_column_width=110)
        with grid:
            data = lesson.ask_choice(
                "data", "Data", list(DATA), key=f"{PREFIX}data", default="moons", titles=DATA.__getitem__
            )
        texts = {}
        for name, about in NUMBERS.items():
            with grid:
                texts[name] = lesson.ask_text(name, about.title, key=PREFIX + name, placeholder=f"{about.default:g}")
        rule = lesson.ask_text(
            "rule",
            "Your rule: class 1 where this is above zero",
            key=f"{PREFIX}rule",
            placeholder=rules.WRITTEN[data],
            help=f"x, y, numbers, + - * / ^, parentheses, and {', '.join(FUNCTIONS)}.",
        )
        try:
            degrees, noise, seed = (about.read(name, texts[name]) or 0.0 for name, about in NUMBERS.items())
            formula = read_formula(rule or rules.WRITTEN[data], ("x", "y"))
            st.session_state[GOOD] = Question(data, degrees, noise, int(seed)), formula
        except DlkitError as error:
            show_error(error)
    question, formula = st.session_state.get(GOOD) or (Question(data), read_formula(rules.WRITTEN[data], ("x", "y")))
    points, test = question.points()
    count = int(
        lesson.ask_choice(
            "examples",
            "Examples that the network learns from",
            EXAMPLES,
            key=f"{PREFIX}examples",
            default="50",
            titles=str,
            draw=st.segmented_control,
        )
    )
    task = rules.task_of(points, count, rules.SEEDS[0])
    training = rules.learnt(task)
    places = rules.places()
    right = float((rules.says(formula, test.points) == test.labels).mean())
    one, other = st.columns(2)
    with one:
        st.markdown(f"**The rule**: {percent(right)} of {rules.TESTED} new points right")
        st.plotly_chart(sides_figure(test, rules.says(formula, places)), key=f"{PREFIX}written", width="stretch")
    with other:
        learnt = rules.worth(training, test)
        st.markdown(f"**The network**, from {count} examples: {percent(learnt)} of the same points right")
        says = training.network.logits(places).argmax(1)
        st.plotly_chart(sides_figure(task.points, says), key=f"{PREFIX}learnt", width="stretch")
    st.plotly_chart(
        examples_figure(more_examples(question), right),
        key=f"{PREFIX}examples_figure",
        width="stretch",
    )
    lesson.show_text(VIEWS["rules"])
    lesson.show_code(code_of_rule(formula, task))


@st.cache_data(show_spinner="Networks learn from more and more examples …", max_entries=200)
def more_examples(question: Question) -> list[Learnt]:
    """Return how good networks become with more examples."""
    return rules.by_examples(question)
