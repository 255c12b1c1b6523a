"""Network: small networks learn on points in the plane, live, with everything inside them to be seen."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import streamlit as st

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.catalog.formulas import latex_number
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.catalog.point_sets import POINT_SETS
from dlkit.catalog.views import VIEWS
from dlkit.descent.asked import SETTINGS, Number
from dlkit.errors import DatasetError, DlkitError
from dlkit.figures.network import latex_array, picture
from dlkit.lab import asked
from dlkit.lab.backpropagation import sum_written_out, update_written_out, written_out
from dlkit.lab.code import code_of_task
from dlkit.lab.learning import NETWORK_RULES
from dlkit.lab.live import MOST_REPEATED, Live, repeated, rest
from dlkit.lab.points import Points, read_csv, read_points
from dlkit.words import escape_markdown
from pages.parts import autograd, crossentropy, lesson, link, net, perceptron, rules
from pages.parts.notices import show_error, told

PREFIX = "network_"  # of the URL's parameters
OWN, CSV = "own", "csv"
DATA = {name: entry.title for name, entry in POINT_SETS.items()} | {OWN: "Drawn by hand", CSV: "CSV file"}
#: what somebody who draws begins with: XOR
FIRST_POINTS = "-0.7,-0.7,0; -0.5,-0.8,0; 0.7,0.7,0; 0.5,0.8,0; -0.7,0.7,1; -0.5,0.8,1; 0.7,-0.7,1; 0.5,-0.8,1"
STEPS = Number("Steps", 0, 0, MOST_REPEATED, is_whole=True)
HELP = {
    "hidden": f"Units of each hidden layer with commas between: {asked.MOST_LAYERS} of {asked.MOST_UNITS} at most. "
    f"{asked.NO_LAYER}: a line for each class.",
    "noise": "Standard deviation of what is added to each coordinate.",
    "test": "Of each class, kept from the training: the rings.",
    "dropout": "Chance of each hidden unit to be left out of a step.",
    "batch": "Points a step.",
    "l1": "Adds this much of Σ|w| to the loss: small weights become zero.",
    "l2": "Adds half of this much of Σw² to the loss: no weight grows large.",
    "seed": "Points, first weights, batches and dropout follow from it.",
}
CONTROLS = (
    *("view", "data", "classes", "count", "noise", "test", "points", "upload"),
    *("hidden", "activation", "initialisation", "batch_norm", "dropout"),
    *("optimizer", "learning_rate", "settings", "batch", "l1", "l2", "seed"),
    *("play", "one_batch", "one_example", "one_epoch", "restart", "weights", "inside", "text", "code"),
)
LIVE, ASKED, PLAYING, PROBLEM, REDRAWN, SPENT = (
    f"{PREFIX}{name}" for name in ("live", "asked", "plays", "problem", "redrawn", "spent")
)


def ask() -> tuple[dict[str, str], Points | None]:
    """Let the visitor choose points, network and optimizer; DlkitError where points of their own will not do."""
    with st.container(border=True):
        values, problem, points = {}, None, None
        grid = st.grid(columns=5, min_column_width=110)
        with grid:
            data = choice("data", "Data", DATA, "circles")
        if data in POINT_SETS:
            values["data"] = data
            has_classes = len(set(POINT_SETS[data].classes)) > 1
            for name in (*(["classes"] if has_classes else []), "count", "noise"):
                with grid:
                    values[name] = field(name)
        with grid:
            values["test"] = field("test")
        try:
            points = own_points(data)
        except DlkitError as error:
            problem = error
        values |= ask_network() | ask_optimizer()
    if problem:
        raise problem
    return values, points


def own_points(data: str) -> Points | None:
    """Ask for points of one's own; None where they are of the catalog. DatasetError where there are none to learn."""
    if data == OWN:
        text = lesson.ask_text(
            "points", "Your points", key=f"{PREFIX}points", placeholder=FIRST_POINTS, help="x,y,class; x,y,class; …"
        )
        return read_points(text or FIRST_POINTS)
    if data == CSV and not lesson.is_hidden("upload"):
        file = st.file_uploader(
            "CSV with x, y and class in each line",
            key=f"{PREFIX}csv",
            max_upload_size=1,
            disabled=lesson.is_locked("upload"),
            help="Both axes are scaled to -1 to 1. A link does not carry the file.",
        )
        if file is None:
            raise DatasetError("Choose a file with x, y and class in each line, as in 0.5,-1.2,red.")
        return read_csv(file.getvalue())
    return None


def ask_network() -> dict[str, str]:
    """Ask what the network is built by."""
    grid = st.grid(columns=5, min_column_width=110)
    values = {}
    with grid:
        values["hidden"] = lesson.ask_text(
            "hidden", "Hidden layers", key=f"{PREFIX}hidden", placeholder="8,8", help=HELP["hidden"]
        )
    for name, title, entries, default in (
        ("activation", "Activation", ACTIVATIONS, "relu"),
        ("initialisation", "First weights", INITIALISATIONS, "pytorch"),
    ):
        with grid:
            values[name] = choice(name, title, {key: entry.title for key, entry in entries.items()}, default)
    with grid:
        values["batch_norm"] = choice("batch_norm", "Batch norm", {"off": "off", "on": "on"}, "off")
    with grid:
        values["dropout"] = field("dropout")
    return {name: value for name, value in values.items() if value}


def ask_optimizer() -> dict[str, str]:
    """Ask how it learns."""
    grid = st.grid(columns=6, min_column_width=110)
    with grid:
        name = choice("optimizer", "Optimizer", {key: rule.title for key, rule in NETWORK_RULES.items()}, "adam")
    rule, values = NETWORK_RULES[name], {"optimizer": name}
    with grid:
        values["learning_rate"] = lesson.ask_text(
            "learning_rate",
            "Learning rate",
            key=f"{PREFIX}learning_rate",
            placeholder=f"{asked.default_rate(name):g}",
        )
    for number in (*([] if rule.is_exact else ["batch"]), "l1", "l2", "seed"):
        with grid:
            values[number] = field(number)
    if rule.settings and not lesson.is_hidden("settings"):
        with st.popover(f"Settings of {rule.title}", icon=":material/tune:"):
            st.caption(f"{escape_markdown(rule.summary)} {escape_markdown(rule.paper)}: [paper]({rule.url}).")
            for setting, default in rule.settings.items():
                values[setting] = lesson.ask_text(
                    "settings",
                    SETTINGS[setting].title,
                    key=f"{PREFIX}{name.replace('-', '_')}_{setting}",
                    placeholder=f"{default:g}",
                )
    return values


def choice(name: str, title: str, titles: Mapping[str, str], default: str) -> str:
    return lesson.ask_choice(
        name, title, list(titles), key=f"{PREFIX}{name}", default=default, titles=titles.__getitem__
    )


def field(name: str) -> str:
    """Ask for one number; its default stands in the field in grey."""
    number = asked.NUMBERS[name]
    default = asked.BATCH if name == "batch" else number.default
    return lesson.ask_text(name, number.title, key=f"{PREFIX}{name}", placeholder=f"{default:g}", help=HELP.get(name))


def live_of(ask_for: Callable[[], tuple[dict[str, str], Points | None]]) -> Live:
    """Return what learns as the form asks; where that will not do, say why, and what learnt before goes on."""
    live: Live | None = st.session_state.get(LIVE)
    try:
        values, points = ask_for()
        before = st.session_state.get(ASKED)
        if before is None or before[0] != values or (before[1] is not points and not is_same(before[1], points)):
            task = asked.read(values, points)
            if live is None:
                live = repeated(task, int(STEPS.read("network_steps", st.query_params.get(f"{PREFIX}steps")) or 0))
            else:
                live.change(task)
            st.session_state[ASKED] = values, points
    except DlkitError as error:
        show_error(error)
    st.session_state[LIVE] = live = live or Live(asked.read({}))
    return live


def is_same(one: Points | None, other: Points | None) -> bool:
    return one is not None and other is not None and one.is_same(other)


def show_buttons(live: Live) -> None:
    """Show what makes it learn."""
    with st.container(horizontal=True):
        if st.session_state.get(PLAYING):
            lesson.ask_button("play", "Pause", "pause", pause, is_first=True)
        else:
            lesson.ask_button("play", "Train", "play_arrow", lambda: play(live), is_first=True)
        lesson.ask_button("one_batch", "One batch", "skip_next", lambda: act(lambda: live.batches(1)))
        lesson.ask_button("one_example", "One example", "looks_one", lambda: act(live.example))
        each = live.training.task.batches_per_epoch
        lesson.ask_button("one_epoch", "One epoch", "redo", lambda: act(lambda: live.batches(each)))
        lesson.ask_button("restart", "Start again", "restart_alt", lambda: act(live.restart))


def play(live: Live) -> None:
    live.start(time.monotonic())
    st.session_state[PLAYING] = True


def pause() -> None:
    st.session_state[PLAYING] = False


def act(work: Callable[[], object]) -> None:
    """Do something with the network; what will not do is said where the page is drawn."""
    pause()
    try:
        work()
    except DlkitError as error:
        st.session_state[PROBLEM] = error


def show_live(live: Live) -> None:
    """Show the network as it is, and as it learns some times a second while it plays."""
    is_own = link.named(f"{PREFIX}data", DATA, "circles") == OWN
    can_draw = is_own and not lesson.is_held("points")
    is_editable = not lesson.is_held("weights")

    seconds = rest(st.session_state.get(SPENT, 0.0)) if st.session_state.get(PLAYING) else None

    @st.fragment(run_every=seconds)
    def drawn() -> None:
        begun = time.thread_time()
        if st.session_state.pop(REDRAWN, False):
            st.rerun()
        if st.session_state.get(PLAYING):
            try:
                live.go(time.monotonic())
            except DlkitError as error:
                pause()
                st.session_state[PROBLEM] = error
                st.rerun()
        if problem := st.session_state.pop(PROBLEM, None):
            show_error(problem)
        net.show(
            picture(live, can_draw=can_draw, is_editable=is_editable),
            key=f"{PREFIX}net",
            on_edit=lambda edited: edit(live, edited),
            on_draw=take_points,
        )
        st.session_state[SPENT] = time.thread_time() - begun

    drawn()


def edit(live: Live, edited: Mapping[str, Any]) -> None:
    """Set the weight that was changed in the drawing."""
    try:
        live.edit(edited["name"], edited["place"], edited["value"])
    except DlkitError as error:
        st.session_state[PROBLEM] = error


def take_points(text: str) -> None:
    """Fill the field of the points, which stands outside of what is drawn anew."""
    st.session_state[f"{PREFIX}points"] = text
    st.session_state[REDRAWN] = True


def write_steps(live: Live) -> None:
    """Put into the URL how many batches were learnt from, as long as a link can repeat them."""
    key, steps = f"{PREFIX}steps", live.training.steps
    if st.session_state.get(PLAYING):
        return
    if live.is_repeatable and 0 < steps <= MOST_REPEATED:
        st.query_params[key] = str(steps)
    else:
        st.query_params.pop(key, None)


def show_inside(live: Live) -> None:
    """Write out the last step for one of its examples: forward, backward, and what became of one weight."""
    step, training = live.last, live.training
    if step is None or st.session_state.get(PLAYING) or lesson.is_hidden("inside"):
        return
    with st.expander("Look inside this step", icon=":material/search:"):
        left, middle, right = st.columns(3)
        row = left.number_input("Example of the batch", 1, len(step.look.examples), key=f"{PREFIX}row") - 1
        name = middle.selectbox("Weight", list(training.network.named), key=f"{PREFIX}parameter")
        numbers = training.network.named[name]
        places = [",".join(map(str, place)) for place in np.ndindex(numbers.shape)]
        place = tuple(map(int, right.selectbox("At", places, key=f"{PREFIX}place").split(",")))
        for way, title in (("forward", "Forward"), ("backward", "Backward")):
            st.markdown(f"**{title}**")
            if way == "forward":
                st.caption("The first unit's sum, and what each layer makes of the example:")
                st.latex("z_{1,1} = " + sum_written_out(training.network, step.look, 1, 0, row))
            for line in written_out(training, step.look, row):
                if line.way == way:
                    st.latex(f"{line.symbol} = {line.formula} = {latex_array(line.values)}")
        st.markdown(f"**Update** of {escape_markdown(name)} at {place}")
        for update in update_written_out(training, step, name, place):
            formula = f"{update.formula} = " if update.formula else ""
            st.latex(f"{update.symbol} = {formula}{latex_number(update.value)}")


def show_network() -> None:
    """Show a network that learns."""
    live = live_of(ask)
    show_buttons(live)
    show_live(live)
    write_steps(live)
    lesson.show_text(VIEWS["network"])
    with told():
        show_inside(live)
    lesson.show_code(code_of_task(live.training.task))


def show_page() -> None:
    """Show the chosen view."""
    st.title("Network")
    view = lesson.ask_choice(
        "view",
        "View",
        list(VIEWS),
        key=f"{PREFIX}view",
        default="network",
        titles=lambda name: VIEWS[name].title,
        draw=st.segmented_control,
    )
    shows = {
        "network": (show_network, CONTROLS),
        "perceptron": (perceptron.show, perceptron.CONTROLS),
        "rules": (rules.show, rules.CONTROLS),
        "softmax": (crossentropy.show, crossentropy.CONTROLS),
        "graph": (autograd.show, autograd.CONTROLS),
    }
    show, controls = shows[view]
    lesson.check(controls)
    show()


show_page()
