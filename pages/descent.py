"""Descent: optimizers race on a loss of two parameters, and every step can be looked into."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dlkit.catalog.formulas import FUNCTIONS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.descent import asked
from dlkit.descent.maps import basins, condition, curvature, sweep
from dlkit.descent.race import Path, race
from dlkit.descent.verdicts import Verdict, verdict
from dlkit.errors import DlkitError
from dlkit.figures.descent import basins_figure, microscope, scene, sweep_figure
from dlkit.words import number, rate
from pages.parts import link
from pages.parts import scene as plots
from pages.parts.notices import show_error, told

#: what a first visitor sees: on a ravine, one that diverges beside three that do not
FIRST = {"sgd": "0.041", "momentum": "", "nesterov": "", "adam": ""}
VIEWS = {
    "race": "Race",
    "basins": "Basins",
    "rates": "Learning rates",
    "lesson": "Adam, noise and sparsity",
}
MAP_SIDE, MAP_STEPS = 61, 600


def field(name: str, column: Any) -> str:
    """Draw the field of one number, which begins as the URL says; its default stands in it in grey."""
    about = asked.NUMBERS[name]
    shown = "" if about.default is None else f"{about.default:g}"
    text: str = column.text_input(about.title, key=f"descent_{name}", placeholder=shown, bind="query-params")
    return text


def ask_surface() -> dict[str, str]:
    """Let the visitor choose the surface, and say what else is so."""
    with st.container(border=True):
        left, right = st.columns([2, 3])
        with left:
            name = link.choose(
                st.selectbox,
                "Surface",
                list(SURFACES),
                key="surface",
                default="ravine",
                format_func=lambda name: SURFACES[name].title,
            )
        formula = right.text_input(
            "Or your own formula of x and y",
            key="formula",
            placeholder="x^2 + 3*sin(y)",
            bind="query-params",
            help=f"Numbers, x, y, pi, e, + - * / ^, parentheses, and {', '.join(FUNCTIONS)}.",
        )
        columns = st.columns(6)
        values = {
            key: field(key, column)
            for key, column in zip(("steps", "noise", "present", "degrees", "seed"), columns, strict=False)
        }
        start = columns[5].text_input(
            "Start", key="descent_start", placeholder="its own", bind="query-params", help="Two numbers: -3,2.5"
        )
    return {"surface": name, "formula": formula, "start": start, **values}


def ask_optimizers(surface: Any) -> list[dict[str, str]]:
    """Let the visitor choose who races, and at what rates."""
    names = link.choose_many("Optimizers", list(RULES), key="optimizers", default=list(FIRST), titles=title_of)
    wanted = []
    for at in range(0, len(names), 4):
        for name, column in zip(names[at : at + 4], st.columns(4), strict=False):
            key = f"rate_{name.replace('-', '_')}"
            own = asked.default_rate(surface, name)
            first = FIRST.get(name, "") if surface.name == "ravine" else ""
            shown = float(first) if first else own
            text = column.text_input(f"{title_of(name)}: rate", key=key, placeholder=rate(shown), bind="query-params")
            wanted.append({"optimizer": name, "learning_rate": text or str(shown)})
    return wanted


def title_of(name: str) -> str:
    return RULES[name].title


def read_all(shared: Mapping[str, str], competitors: Sequence[Mapping[str, str]]) -> list[asked.Asked]:
    """Read what every competitor is asked; the first problem is told."""
    return [asked.read({**shared, **competitor}) for competitor in competitors]


@st.cache_data(max_entries=64, show_spinner=False)
def raced(
    shared: tuple[tuple[str, str], ...], competitors: tuple[tuple[tuple[str, str], ...], ...]
) -> tuple[list[Path], list[Verdict]]:
    """Return every path and what became of it; equal questions are answered once for all sessions."""
    wanted = read_all(dict(shared), [dict(one) for one in competitors])
    first = wanted[0]
    everyone = [one.competitors[0] for one in wanted]
    paths = race(first.loss, everyone, [first.start], first.steps, first.chance)
    return paths, [verdict(first.loss, path, first.chance) for path in paths]


def show_race(shared: Mapping[str, str], competitors: Sequence[Mapping[str, str]]) -> None:
    """Show the plots, one step with its numbers, and what became of everyone."""
    wanted = read_all(shared, competitors)
    first = wanted[0]
    paths, verdicts = raced(frozen(shared), tuple(frozen(one) for one in competitors))
    names = [title_of(path.competitor.rule) for path in paths]
    looked = st.selectbox(
        "Look into the steps of", range(len(paths)), format_func=lambda place: names[place], key="looked_into"
    )
    drawn = scene(first.loss, paths, verdicts, names, is_logarithmic=first.surface.is_logarithmic)
    drawn["microscope"] = microscope(paths[looked], looked, drawn["stride"])
    plots.show(drawn, key="scene")
    rows = [
        {
            "Optimizer": name,
            "Rate": rate(path.competitor.learning_rate),
            "Ended": f"({number(path.points[-1][0])}, {number(path.points[-1][1])})",
            "Loss": number(float(path.values[-1])),
            "Gradient evaluations": round(path.evaluations * path.steps),
            "What became of it": f"{told_of.status}. {told_of.reason}",
        }
        for name, path, told_of in zip(names, paths, verdicts, strict=True)
    ]
    st.dataframe(rows, hide_index=True, width="stretch")
    with st.container(horizontal=True):
        for path, name in zip(paths, names, strict=True):
            if path.competitor.entry.trained_as:
                st.page_link(
                    "train.py",
                    label=f"Train with {name}",
                    icon=":material/model_training:",
                    query_params={
                        "optimizer": path.competitor.entry.trained_as,
                        "learning_rate": f"{path.competitor.learning_rate:g}",
                    },
                )


def frozen(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def show_basins(shared: Mapping[str, str], competitors: Sequence[Mapping[str, str]]) -> None:
    """Show for up to four optimizers where each start ends."""
    st.caption(f"Every point is a start: its colour says where it is after {MAP_STEPS} steps. Grey: in no minimum.")
    wanted = read_all(shared, competitors)[:4]
    for one, column in zip(wanted, st.columns(min(2, len(wanted))) * 2, strict=False):
        found = basins(one.loss, one.competitors[0], MAP_SIDE, MAP_STEPS, one.chance)
        name = title_of(one.competitors[0].rule)
        title = f"{name} at {rate(one.competitors[0].learning_rate)}"
        column.plotly_chart(basins_figure(found, title), width="stretch", key=f"basins_{one.competitors[0].rule}")


def show_rates(shared: Mapping[str, str], competitors: Sequence[Mapping[str, str]]) -> None:
    """Show how the rate decides, and how the surface curves at the start and at its minimum."""
    st.caption(
        "Steps until the loss is within 0.001 of the lowest, where it comes there. Dotted: the edge of stability."
    )
    wanted = read_all(shared, competitors)
    if not wanted[0].loss.minima:
        st.info("No minimum of this surface is known, so there is no target to count the steps to.")
    else:
        found = [
            (
                title_of(one.competitors[0].rule),
                sweep(one.loss, one.competitors[0], one.start, one.steps, chance=one.chance),
            )
            for one in wanted
        ]
        st.plotly_chart(sweep_figure(found), width="stretch", key="sweep")
    first = wanted[0]
    places = {"the start": first.start, **{f"a minimum ({x:.3g}, {y:.3g})": (x, y) for x, y in first.loss.minima}}
    rows = []
    for name, place in places.items():
        values, vectors = curvature(first.loss, place)
        rows.append(
            {
                "At": name,
                "Smaller curvature": number(float(values[0])),
                "along": f"({vectors[0, 0]:.3f}, {vectors[1, 0]:.3f})",
                "Larger curvature": number(float(values[1])),
                "along ": f"({vectors[0, 1]:.3f}, {vectors[1, 1]:.3f})",
                "Condition number": number(condition(values)),
            }
        )
    st.dataframe(rows, hide_index=True, width="stretch")


LESSONS: dict[str, tuple[str, dict[str, str], tuple[tuple[str, str], ...]]] = {
    "One coordinate is rare": (
        "The gradient of y is there in one step of twenty. Rules that divide by its size still take steps that count.",
        {"formula": "0.5*(x^2 + y^2)", "start": "2,2", "steps": "400", "present": "0.05"},
        (("sgd", "0.05"), ("adagrad", "0.5"), ("adam", "0.05"), ("rmsprop", "0.05")),
    ),
    "The axes are turned": (
        "The ravine turned by 30°, at the rates that were best along the axes. Gradient descent does not notice; rules "
        "that have a rate for each coordinate do.",
        {"surface": "rotated-ravine", "steps": "200"},
        (("sgd", "0.025"), ("momentum", "0.01"), ("adagrad", "1"), ("adam", "0.4")),
    ),
    "Noise at a constant rate": (
        "With noise nobody converges at a constant rate: each hovers in a ball whose size goes by the rate. Adam is no "
        "exception.",
        {"surface": "bowl", "steps": "400", "noise": "2"},
        (("sgd", "0.05"), ("momentum", "0.02"), ("adam", "0.05")),
    ),
    "A plateau": (
        "Far out the gradient is 0.000006. Gradient descent stands still; Adam divides it by its own size and goes.",
        {"surface": "plateau", "steps": "200"},
        (("sgd", "1"), ("momentum", "0.5"), ("adam", "0.1"), ("rmsprop", "0.05")),
    ),
}


def show_lesson() -> None:
    """Show when Adam helps and when it does not: each comparison is computed here and now."""
    for title, (text, shared, rules) in LESSONS.items():
        st.subheader(title)
        st.markdown(text)
        competitors = [{"optimizer": name, "learning_rate": value} for name, value in rules]
        paths, verdicts = raced(frozen(shared), tuple(frozen(one) for one in competitors))
        rows = [
            {
                "Optimizer": title_of(path.competitor.rule),
                "Rate": rate(path.competitor.learning_rate),
                "|x| left": number(abs(float(path.points[-1][0]))),
                "|y| left": number(abs(float(path.points[-1][1]))),
                "Loss": number(float(path.values[-1])),
                "What became of it": str(told_of.status),
            }
            for path, told_of in zip(paths, verdicts, strict=True)
        ]
        st.dataframe(rows, hide_index=True, width="stretch")


def show_page() -> None:
    """Show the chosen view."""
    st.title("Descent")
    shared = ask_surface()
    try:
        surface = asked.surface_of(shared["surface"], shared["formula"])
    except DlkitError as error:
        show_error(error)
        return
    competitors = ask_optimizers(surface)
    if surface.teaches:
        st.markdown(f"**{surface.title}.** {surface.teaches}")
    st.latex(f"f(x, y) = {surface.formula.latex()}")
    if not competitors:
        st.info("Choose at least one optimizer.")
        return
    view = link.choose(
        st.segmented_control,
        "View",
        list(VIEWS),
        key="view",
        default="race",
        format_func=VIEWS.__getitem__,
        label_visibility="collapsed",
    )
    shows: dict[str, Callable[[], None]] = {
        "race": lambda: show_race(shared, competitors),
        "basins": lambda: show_basins(shared, competitors),
        "rates": lambda: show_rates(shared, competitors),
        "lesson": show_lesson,
    }
    with told():
        shows[view]()


show_page()
