"""Descent: optimizers race on a loss of two parameters, and every step can be looked into."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from streamlit.errors import StreamlitAPIException

from dlkit.catalog.formulas import FUNCTIONS
from dlkit.catalog.lessons import LESSONS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.sums import POINT_SETS, SUMS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.config import parse
from dlkit.descent import asked
from dlkit.descent.asked import Asked, Ground
from dlkit.descent.losses import FiniteSum, Surface
from dlkit.descent.maps import Basins, Sweep, basins, condition, curvature, kind_of, sweep
from dlkit.descent.race import Path, race
from dlkit.descent.verdicts import TARGET, Verdict, reached, settled, verdict
from dlkit.errors import ConfigError, DlkitError
from dlkit.figures.descent import basins_figure, ended, examples_figure, scene, sweep_figure
from dlkit.lab.code import code_of_descent
from dlkit.words import escape_markdown, number, rate
from pages.parts import lesson, link, pad, races
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
MAPS = 4  # basins are computed for so many optimizers
GROUNDS = {name: one.title for name, one in SURFACES.items()} | {name: one.title for name, one in SUMS.items()}
SEVERAL = "Several values with commas between race against each other."


def field(name: str, column: Any) -> str:
    """Draw the field of one number of the race; its default stands in it in grey."""
    about = asked.SHARED[name]
    text: str = column.text_input(
        about.title, key=f"descent_{name}", placeholder=f"{about.default:g}", help=HELP[name], bind="query-params"
    )
    return text


HELP = {
    "steps": "Gradients of the whole loss that each may look at: a batch of a tenth costs a tenth, a Hessian two more.",
    "starts": "More than one: the others are drawn at random.",
    "noise": "Standard deviation of normal noise on each coordinate of the gradient; the same noise for everyone.",
    "degrees": "Turns the surface about its middle: rules with a rate for each coordinate notice.",
    "seed": "Noise, batches and random starts follow from it.",
}


def ask_ground() -> dict[str, str]:
    """Let the visitor choose the surface, and say what else is so."""
    with st.container(border=True):
        left, right = st.columns([2, 3])
        with left:
            name = link.choose(
                st.selectbox, "Surface", list(GROUNDS), key="surface", default="ravine", format_func=GROUNDS.__getitem__
            )
        values = {"surface": name}
        if name in SUMS:
            with right:
                values["points"] = ask_points(name)
        else:
            values["formula"] = right.text_input(
                "Or your own formula of x and y",
                key="formula",
                placeholder="x^2 + 3*sin(y)",
                bind="query-params",
                help=f"Numbers, x, y, pi, e, + - * / ^, parentheses, and {', '.join(FUNCTIONS)}.",
            )
        grid = st.grid(columns=4, min_column_width=110)
        for key in asked.SHARED:
            if not (key == "degrees" and name in SUMS):
                with grid:
                    values[key] = field(key, st)
        with grid:
            values["present"] = st.text_input(
                asked.PRESENT.title,
                key="descent_present",
                placeholder="1",
                bind="query-params",
                help="Each coordinate of the gradient is there with this chance, else 0, as for rare words. Two "
                "numbers with a comma between: the chance of each.",
            )
            values["start"] = st.text_input(
                "Start",
                key="descent_start",
                placeholder="its own",
                bind="query-params",
                help="Two numbers: -3,2.5. Several with semicolons between: -3,2.5; 1,1",
            )
        if values.get("formula"):
            with grid:
                values["domain"] = st.text_input(
                    "Domain",
                    key="descent_domain",
                    placeholder=",".join(f"{border:g}" for border in asked.OWN_DOMAIN),
                    bind="query-params",
                    help="x from and to, y from and to: -2,2,0,5",
                )
    return values


def ask_points(name: str) -> str:
    """Let the visitor pick a set of points, or write or draw some; return them as text."""
    key = f"{name}_points"
    default = SUMS[name].points
    text: str = st.text_input(
        "Points",
        key=key,
        placeholder=default,
        bind="query-params",
        help=f"X,Y; X,Y; … or one of {', '.join(POINT_SETS)}. Click into the picture to add one, on one to remove it.",
    )
    picks = [one for one in POINT_SETS.values() if name == "line" or all(y in (0, 1) for _, y in one.points)]
    with st.container(horizontal=True):
        for one in picks:
            st.button(one.title, key=f"pick_{one.name}", type="tertiary", on_click=take_points, args=(key, one.name))
    try:
        points = asked.read_points(text or default, SUMS[name], least=0)
    except DlkitError:
        return text  # it is told where the surface is read
    pad.show(points, has_classes=name == "logistic", key=f"{key}_pad", on_draw=lambda drawn: take_points(key, drawn))
    return text


def take_points(key: str, text: str) -> None:
    """Fill the field of the points."""
    st.session_state[key] = text


def ask_optimizers(ground: Ground) -> list[dict[str, str]]:
    """Let the visitor choose who races, at what rates and with what settings."""
    names = link.choose_many("Optimizers", list(RULES), key="optimizers", default=list(FIRST), titles=title_of)
    grid = st.grid(columns=4, min_column_width=200)
    wanted = []
    for name in names:
        with grid, st.container(border=True):
            wanted.append(ask_optimizer(ground, name))
    return wanted


def ask_optimizer(ground: Ground, name: str) -> dict[str, str]:
    """Ask for one optimizer's rate; behind a button for its other settings."""
    rule, prefix = RULES[name], name.replace("-", "_")
    first = FIRST.get(name, "") if ground.name == "ravine" else ""
    shown = first or f"{ground.rate(name):g}"
    values = {"optimizer": name}
    values["learning_rate"] = (
        st.text_input(f"{rule.title}: rate", key=f"rate_{prefix}", placeholder=shown, help=SEVERAL, bind="query-params")
        or shown
    )
    with st.popover("Settings", icon=":material/tune:"):
        st.caption(f"{escape_markdown(rule.summary)} {escape_markdown(rule.paper)}: [paper]({rule.url}). {SEVERAL}")
        schedules = link.choose_many(
            "Schedules",
            list(asked.HERE),
            key=f"{prefix}_schedule",
            default=["constant"],
            titles=lambda name: asked.HERE[name].title,
        )
        values["schedule"] = ",".join(schedules)
        if ground.loss.examples is not None and not rule.is_exact:
            values["batch"] = st.text_input(
                "Batch size", key=f"{prefix}_batch", placeholder=f"all {ground.loss.examples}", bind="query-params"
            )
        for setting, default in rule.settings.items():
            values[setting] = st.text_input(
                asked.SETTINGS[setting].title,
                key=f"{prefix}_{setting}",
                placeholder=f"{default:g}",
                bind="query-params",
            )
    return values


def title_of(name: str) -> str:
    return RULES[name].title


def frozen(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


Shared = tuple[tuple[str, str], ...]
Wanted = tuple[Shared, ...]


@st.cache_data(max_entries=16, show_spinner=False)
def raced(shared: Shared, wanted: Wanted) -> tuple[list[Path], list[Verdict]]:
    """Return every path and what became of it; equal questions are answered once for all sessions."""
    asking = read(shared, wanted)
    paths = race(asking.loss, asking.competitors, asking.starts, asking.budget, asking.chance)
    return paths, [verdict(asking.loss, path, asking.chance) for path in paths]


@st.cache_data(max_entries=64, show_spinner=False)
def drawn(shared: Shared, wanted: Wanted, looked: int) -> bytes:
    """Return what the browser draws of a race."""
    asking, (paths, verdicts) = read(shared, wanted), raced(shared, wanted)
    ground = asking.ground
    axes = ("w", "b") if isinstance(ground.loss, FiniteSum) else ("x", "y")
    return scene(ground.loss, paths, verdicts, asking.names, looked, is_logarithmic=ground.is_logarithmic, axes=axes)


@st.cache_data(max_entries=64, show_spinner="Trying every start")
def mapped(shared: Shared, wanted: Wanted, place: int) -> Basins:
    """Return one competitor's map of basins."""
    asking = read(shared, wanted)
    side = MAP_SIDE if asking.loss.examples is None else MAP_SIDE // 2
    return basins(asking.loss, asking.competitors[place], side, MAP_STEPS, asking.chance)


@st.cache_data(max_entries=64, show_spinner="Trying every rate")
def swept(shared: Shared, wanted: Wanted, place: int) -> Sweep:
    """Return one competitor's sweep of learning rates."""
    asking = read(shared, wanted)
    one = asking.competitors[place]
    return sweep(asking.loss, one, asking.starts[0], one.steps(asking.loss, asking.budget), chance=asking.chance)


def read(shared: Shared, wanted: Wanted) -> Asked:
    return asked.read(dict(shared), [dict(one) for one in wanted])


def show_ground(ground: Ground) -> None:
    """Say what the surface is and teaches; behind a fold, what is known of it."""
    teaches = ground.teaches or "It stands in for the surface above; clear the field to have that back."
    st.markdown(f"**{escape_markdown(ground.title)}.** {escape_markdown(teaches)}")
    st.latex(ground.latex)
    loss = ground.loss
    others = loss.others if isinstance(loss, Surface) else ()
    if not (loss.minima or others or ground.source):
        return
    with st.expander("What is known of it"):
        rows = []
        for x, y in (*loss.minima, *others):
            values, _ = curvature(loss, (x, y))
            rows.append(
                {
                    "x": x,
                    "y": y,
                    "Loss": float(loss.look(np.array([(x, y)])).value[0]),
                    "Kind": "lowest" if (x, y) in loss.minima else kind_of(values),
                    "Curvatures": f"{number(float(values[0]))}, {number(float(values[1]))}",
                }
            )
        if rows:
            st.dataframe(rows, hide_index=True, width="content")
        left, right, low, high = loss.domain
        st.caption(f"Shown for x from {left:g} to {right:g}, y from {low:g} to {high:g}.")
        if ground.source:
            st.caption(f"Source: {escape_markdown(ground.source)}")


def show_race(shared: Shared, wanted: Wanted) -> None:
    """Show the plots, one step with its numbers, and what became of everyone."""
    asking, (paths, verdicts) = read(shared, wanted), raced(shared, wanted)
    loss, starts = asking.loss, len(asking.starts)

    def told_name(place: str) -> str:
        name, (x, y) = asking.names[int(place) // starts], paths[int(place)].start
        return name if starts == 1 else f"{name} from ({number(x)}, {number(y)})"

    places = [str(place) for place in range(len(paths))]
    if st.session_state.get("looked_into", "0") not in places:
        st.session_state["looked_into"] = "0"
    looked = link.choose(
        st.selectbox, "Look into the steps of", places, key="looked_into", default="0", format_func=told_name
    )
    plots.show(drawn(shared, wanted, int(looked)), key="scene")
    of_each = [slice(place * starts, (place + 1) * starts) for place in range(len(asking.names))]
    rows = [row_of(name, paths[each], verdicts[each], asking) for name, each in zip(asking.names, of_each, strict=True)]
    if starts == 1:
        told = zip(asking.names, verdicts, strict=True)
        st.markdown("\n".join(f"- **{escape_markdown(name)}**: {one.status}. {one.reason}" for name, one in told))
    st.dataframe(rows, hide_index=True, width="stretch")
    if isinstance(loss, FiniteSum):
        ends = [(name, paths[each][0].points[-1]) for name, each in zip(asking.names, of_each, strict=True)]
        show_examples(loss, [(name, (float(w), float(b))) for name, (w, b) in ends], asking)
    show_ways_to_train(asking)
    path = paths[int(looked)]
    one = path.competitor
    if one.schedule == "constant" and not (isinstance(loss, Surface) and loss.degrees):
        if asking.chance.reaches(one, loss):
            st.caption("The code draws its own batches, and is without noise and missing coordinates.")
        lesson.show_code(code_of_descent(loss, one, path.start, one.steps(loss, asking.budget)))


def row_of(name: str, paths: Sequence[Path], verdicts: Sequence[Verdict], asking: Asked) -> dict[str, Any]:
    """Return the table's line of one competitor: where it ended, or how its paths did."""
    path, losses = paths[0], [float(path.values[-1]) for path in paths]
    row: dict[str, Any] = {"Optimizer": name, "Rate": rate_of(path)}
    if len(paths) == 1:
        row["Ended"] = f"({number(path.points[-1][0])}, {number(path.points[-1][1])})"
        row["Loss"] = number(losses[0])
    else:
        row["Lowest loss"], row["Median loss"] = number(float(np.nanmin(losses))), number(float(np.nanmedian(losses)))
    if asking.loss.minima:
        row[STEPS_TITLE] = steps_to_target(asking, paths)
    row["Gradient evaluations"] = round(path.cost * path.steps)
    if asking.is_noisy:
        row["Gradients are"] = "noisy" if asking.chance.reaches(path.competitor, asking.loss) else "exact"
    row["What became of it"] = ended(verdicts)
    return row


def show_examples(loss: FiniteSum, ends: Sequence[tuple[str, tuple[float, float]]], asking: Asked) -> None:
    """Show the examples with each competitor's model, and how much a batch's gradient deviates, and why."""
    st.plotly_chart(examples_figure(loss, ends, asking.competitors), width="stretch", key="examples")
    count = loss.examples
    st.markdown(
        "**Where the noise comes from.** Each batch has examples of its own, so its gradient deviates from that of all "
        f"{count}. By how much, at the start:"
    )
    sizes = sorted({1, 2, count, *(one.batch for one in asking.competitors if one.batch and one.batch < count)})
    deviations = {size: loss.deviation(asking.starts[0], size) for size in sizes}
    rows = [
        {"Batch size": size, "Deviation in w": number(float(w)), "Deviation in b": number(float(b))}
        for size, (w, b) in deviations.items()
    ]
    st.dataframe(rows, hide_index=True, width="content")
    st.caption("The standard deviation S of the single gradients, times √((N − B)/(B (N − 1))) for B of N examples.")


def show_ways_to_train(asking: Asked) -> None:
    """Link to the training page with each optimizer that it has, too, as far as it knows the settings."""
    ways = {}
    for one in asking.competitors:
        if not (one.entry.trained_as and one.settings.get("bias_correction", 1)):
            continue
        settings = {key: f"{value:g}" for key, value in one.settings.items() if key != "bias_correction"}
        choices = {"optimizer": one.entry.trained_as, "schedule": one.schedule}
        parameters = {**choices, "learning_rate": f"{one.learning_rate:g}", **settings}
        with contextlib.suppress(ConfigError):  # what is too much for a training is not linked to
            parse(parameters)
            told_settings = (f"{key} {text}" for key, text in settings.items())
            what = ", ".join((one.entry.title, rate(one.learning_rate), *told_settings, one.schedule))
            ways[what] = {"level": "expert", **parameters}
    with st.container(horizontal=True):
        for what, parameters in ways.items():
            st.page_link(
                "train.py",
                label=f"Train with {escape_markdown(what)}",
                icon=":material/model_training:",
                query_params=parameters,
            )


def show_basins(shared: Shared, wanted: Wanted) -> None:
    """Show for the first optimizers where each start ends."""
    st.caption(f"Every point is a start: its colour says where it is after {MAP_STEPS} steps. Grey: in no minimum.")
    asking = read(shared, wanted)
    columns = st.columns(min(2, len(asking.names))) * MAPS
    for place, (one, name, column) in enumerate(zip(asking.competitors[:MAPS], asking.names, columns, strict=False)):
        figure = basins_figure(mapped(shared, wanted, place), f"{name} at {rate(one.learning_rate)}")
        column.plotly_chart(figure, width="stretch", key=f"basins_{place}")
    if len(asking.names) > MAPS:
        st.caption(f"The first {MAPS} of {len(asking.names)} are shown.")


def show_rates(shared: Shared, wanted: Wanted) -> None:
    """Show how the rate decides, and how the surface curves at the start and at its minimum."""
    asking = read(shared, wanted)
    loss, start = asking.loss, asking.starts[0]
    if not loss.minima:
        st.info("No minimum of this surface is known, so there is no target to count the steps to.")
    else:
        st.caption(
            f"Steps until the loss is within {TARGET:g} of the lowest for the first time, where it comes there. "
            "Dotted: the edge of stability, from which on a constant rate drives a rule away from the minimum."
        )
        found = [(name, swept(shared, wanted, place)) for place, name in enumerate(asking.names)]
        st.plotly_chart(sweep_figure(found, asking.competitors), width="stretch", key="sweep")
    places = {"the start": start, **{f"a minimum ({x:.3g}, {y:.3g})": (x, y) for x, y in loss.minima}}
    rows = []
    for name, place in places.items():
        values, vectors = curvature(loss, place)
        rows.append(
            {
                "At": name,
                "Smaller curvature": number(float(values[0])),
                "along": f"({vectors[0, 0]:.3f}, {vectors[1, 0]:.3f})",
                "Larger curvature": number(float(values[1])),
                "along ": f"({vectors[0, 1]:.3f}, {vectors[1, 1]:.3f})",
                "Condition number": number(condition(values)),
                "It is": kind_of(values),
            }
        )
    st.dataframe(rows, hide_index=True, width="stretch")


def rate_of(path: Path) -> str:
    """Write a competitor's rate, and how it changes."""
    one = path.competitor
    return (
        f"{rate(one.learning_rate)}{'' if one.schedule == 'constant' else f', {SCHEDULES[one.schedule].title.lower()}'}"
    )


def steps_to_target(asking: Asked, paths: Sequence[Path]) -> str:
    """Write after how many steps the target was reached, the median of the paths that reached it, and what they saw."""
    found = [steps for path in paths if (steps := reached(asking.loss, path)) is not None]
    if not found:
        return "–"
    median, examples = float(np.median(found)), asking.loss.examples
    share = f" ({len(found)} of {len(paths)})" if len(paths) > 1 else ""
    seen = "" if examples is None else f", {median * paths[0].cost * examples:g} examples"
    return f"{median:g}{seen}{share}"


STEPS_TITLE = f"Steps to within {TARGET:g}"
#: what a lesson's table may show of a path
COLUMNS: dict[str, Callable[[Asked, Path], dict[str, str]]] = {
    "steps": lambda asking, path: {STEPS_TITLE: steps_to_target(asking, [path])},
    "first": lambda asking, path: {"First step": number(float(np.abs(path.points[1] - path.points[0]).max()))},
    "left": lambda asking, path: {
        f"|{name}| left": number(abs(float(path.points[-1][at]))) for at, name in enumerate("xy")
    },
    "loss": lambda asking, path: {"Loss, mean of the last tenth": number(settled(path))},
}


def show_lessons() -> None:
    """Show when Adam helps and when it does not: each comparison is computed here and now."""
    for entry in LESSONS.values():
        st.subheader(entry.title)
        st.markdown(escape_markdown(entry.text))
        rows = []
        for where, shared in entry.grounds.items():
            wanted = tuple(frozen(one) for one in entry.wanted)
            paths, verdicts = raced(frozen(shared), wanted)
            asking = asked.read(shared, entry.wanted)
            for name, path, one in zip(asking.names, paths, verdicts, strict=True):
                rows.append(
                    {
                        **({"Surface": where} if where else {}),
                        "Optimizer": name,
                        "Rate": rate_of(path),
                        **{
                            title: told for shown in entry.shows for title, told in COLUMNS[shown](asking, path).items()
                        },
                        "What became of it": str(one.status),
                    }
                )
        st.dataframe(rows, hide_index=True, width="stretch")
        shared = list(entry.grounds.values())[-1]
        st.button(
            "Open this race",
            icon=":material/flag:",
            key=f"open_{entry.name}",
            on_click=open_race,
            args=(races.address(shared, entry.wanted),),
        )


def open_race(parameters: Mapping[str, str]) -> None:
    """Go to a race: its form, which does not stand beside the lessons, begins as the address says.

    Fields remember what they held when they were last drawn, so each that the race does not name is emptied.
    """
    for name in {*st.query_params, *parameters}:
        with contextlib.suppress(StreamlitAPIException):  # a field that is still drawn writes its own
            if name in parameters:
                st.query_params[name] = parameters[name]
            else:
                del st.query_params[name]
    fields = ["formula", *(f"{name}_points" for name in SUMS)]
    fields += [f"descent_{name}" for name in (*asked.SHARED, "present", "start", "domain")]
    for name, rule in RULES.items():
        prefix = name.replace("-", "_")
        fields += [f"rate_{prefix}", *(f"{prefix}_{setting}" for setting in ("batch", *rule.settings))]
    st.session_state.update({name: parameters.get(name, "") for name in fields})
    st.session_state["view"] = "race"


def show_page() -> None:
    """Show the chosen view."""
    st.title("Descent")
    view = link.choose(
        st.segmented_control,
        "View",
        list(VIEWS),
        key="view",
        default="race",
        format_func=VIEWS.__getitem__,
        label_visibility="collapsed",
    )
    if view == "lesson":
        show_lessons()
        return
    shared = ask_ground()
    try:
        ground, problem = asked.ground_of(shared), None
    except DlkitError as error:
        ground, problem = asked.ground_of({}), error
    wanted = ask_optimizers(ground)  # also beside a problem: fields that are not drawn lose what they hold
    if problem:
        show_error(problem)
        return
    show_ground(ground)
    if not wanted:
        st.info("Choose at least one optimizer.")
        return
    question = frozen(shared), tuple(frozen(one) for one in wanted)
    shows = {"race": show_race, "basins": show_basins, "rates": show_rates}
    with told():
        shows[view](*question)


show_page()
