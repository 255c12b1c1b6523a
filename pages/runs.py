"""Runs: all of them as a list, and one of them opened: live, then its results."""

from typing import Any

import streamlit as st

from dlkit.config import FinetuneConfig, describe, settings_in_use
from dlkit.errors import DlkitError
from dlkit.estimate import against
from dlkit.figures.curves import accuracy_figure, change_events, loss_figure, rate_figure
from dlkit.figures.results import confusion_figure
from dlkit.runs import artifacts, service
from dlkit.runs.records import WAITING, Kind, Run, State
from dlkit.words import duration, escape_markdown, number, percent
from pages.parts import finder, link, pictures, races
from pages.parts.notices import show_empty, show_error, show_state, told
from pages.parts.progress import follow, points_of, show_bar
from pages.parts.steering import act, show_failure, show_refusal, show_verbs

PAGE_OF_RUNS = 20
QUEUE_SHOWN = 5
WORST = 12
BEHIND_A_CELL = 12
PLAIN = {"displayModeBar": False}


def show_list() -> None:
    """Show all runs, newest first."""
    st.title("Runs")
    waits = any(run.state in WAITING for run in service.store().active())
    st.fragment(show_queue, run_every=2 if waits else None, key="queue")()
    total = service.store().count_runs(Kind.FINETUNE)
    if not total:
        show_empty(
            "Nothing has run yet. A run learns from a data set and stays here with its curves.", "train.py", "Train"
        )
        return
    pages = -(-total // PAGE_OF_RUNS)
    page = st.pagination(pages, key="runs_page") if pages > 1 else 1
    for run in service.store().list_runs(Kind.FINETUNE, PAGE_OF_RUNS, (page - 1) * PAGE_OF_RUNS):
        with st.container(border=True):
            show_row(run)


@told()
def show_queue() -> None:
    """Show what waits, in its order, and when it may start."""
    waiting = service.queue()
    if not waiting:
        return
    with st.container(border=True):
        st.markdown("**In the queue**")
        for entry in waiting[:QUEUE_SHOWN]:
            name, when = st.columns([3, 2], vertical_alignment="center")
            label = f"{entry.place}. {escape_markdown(entry.run.name)}"
            name.page_link("runs.py", label=label, query_params={"run": entry.run.id})
            high = " · goes first" if entry.run.priority > 0 else ""
            soon = "its start is not known yet" if entry.starts_in is None else f"starts in {duration(entry.starts_in)}"
            when.caption(f"{soon}{high}")
        if len(waiting) > QUEUE_SHOWN:
            st.caption(f"and {len(waiting) - QUEUE_SHOWN} more")


def show_row(run: Run) -> None:
    """Show one run of the list."""
    name, state, accuracy, time = st.columns([5, 2, 2, 2], vertical_alignment="center")
    name.page_link("runs.py", label=escape_markdown(run.name), query_params={"run": run.id})
    config = service.config_of(run)
    rate = "" if config is None else f"{config.optimizer}, learning rate {config.rate:g} · "
    name.caption(f"{rate}{run.created_at:%Y-%m-%d %H:%M} UTC")
    with state:
        show_state(run.state)
    if run.summary.get("val_accuracy") is not None:
        accuracy.markdown(f"**{percent(run.summary['val_accuracy'])}** accuracy")
    if run.seconds is not None:
        time.markdown(duration(run.seconds))


def show_run(run_id: str) -> None:
    """Show one run; a link to one that is gone says so and shows the list."""
    try:
        run = service.run(run_id)
    except DlkitError as error:
        show_error(error)
        show_list()
        return
    st.page_link("runs.py", label="All runs", icon=":material/arrow_back:", query_params={})
    st.title(escape_markdown(run.name))
    if run.kind == Kind.FINETUNE:
        show_actions(run)
    show_refusal(run)
    show_failure(run)
    if run.kind != Kind.FINETUNE:
        show_errand(run)
        return
    live, results, mistakes, settings, history = st.tabs(
        ["Live", "Results", "Mistakes", "Settings", "History"], key="tab", on_change="rerun", bind="query-params"
    )
    with live:
        st.fragment(show_live, run_every=1 if run.is_active else None, key="live")(run.id, run.version)
    with results, told():
        if results.open:
            show_results(run)
    with mistakes, told():
        if mistakes.open:
            show_mistakes(run)
    with settings:
        if settings.open:
            show_settings(run)
    with history:
        if history.open:
            show_history(run)


def show_errand(run: Run) -> None:
    """Show a download or the search for a learning rate: how far it is, what it found, and what happened to it."""
    if run.is_active:
        follow(run.id)
    else:
        show_state(run.state)
    if run.kind == Kind.FIND:
        finder.show_curve(run)
    show_history(run)


def show_actions(run: Run) -> None:
    """Show the run's state and what can be done with it now; below it what can be made of it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        show_state(run.state)
        show_verbs(run)
        if run.has_ended or run.state == State.PAUSED:
            st.button(
                "Delete",
                icon=":material/delete:",
                key="delete",
                type="tertiary",
                on_click=act,
                args=(run.id, lambda: delete(run)),
            )
    with st.container(horizontal=True, vertical_alignment="center"):
        if has_model(run):
            st.page_link(
                "predict.py", label="Classify with it", icon=":material/image_search:", query_params={"model": run.id}
            )
            st.page_link(
                "layers.py",
                label="Look inside",
                icon=":material/layers:",
                query_params={"layers_model": run.id, "layers_picture": "data"},
            )
            st.download_button(
                "Export",
                lambda: artifacts.zip_bundle(service.run_folder(run.id) / "model"),
                f"dlkit-{run.id[:8]}.zip",
                "application/zip",
                icon=":material/download:",
                on_click="ignore",
                help="The weights as safetensors, and a JSON with classes and preprocessing.",
            )
        config = service.current_config(run)
        if config is not None:
            changes = {name: str(value) for name, value in config.changes().items()}
            st.page_link(
                "train.py",
                label="Launch again with changes",
                icon=":material/content_copy:",
                query_params={"level": "expert", **changes},
            )
            toy = races.address_of_run(config)
            if toy and run.kind == Kind.FINETUNE:
                st.page_link(
                    "descent.py",
                    label="Replay on a toy surface",
                    icon=":material/landscape:",
                    query_params=toy,
                )


def delete(run: Run) -> None:
    """Forget the run, and look at the list again."""
    service.delete(run.id)
    st.query_params.clear()


def show_live(run_id: str, known_version: int) -> None:
    """Show progress and curves; while the run goes on this part draws itself anew every second."""
    with told():
        run = service.run(run_id)
        if run.version != known_version:
            st.rerun()
        if run.is_active:
            service.ensure_supervisor()
            show_bar(run)
        changes = [change for change in service.store().changes(run.id) if change.step is not None]
        points = points_of(run, len(changes))
        events = change_events(changes, points)
        if not points:
            st.caption("The curves appear here with the first step." if run.is_active else "No step was taken.")
            return
        show_numbers(run, {point.key: point.value for point in points})
        left, right = st.columns(2)
        left.plotly_chart(loss_figure(points, events), key="loss", config=PLAIN, alt="Loss over the epochs")
        right.plotly_chart(accuracy_figure(points), key="accuracy", config=PLAIN, alt="Accuracy over the epochs")
        st.plotly_chart(rate_figure(points, events), key="rate", config=PLAIN, alt="Learning rate over the epochs")


def show_numbers(run: Run, latest: dict[str, float]) -> None:
    """Show the headline: the kept model's where the run has ended, else the latest."""
    summary = {} if run.is_active else run.summary  # what a pause has left is no longer so
    ended = summary.get("val_accuracy") is not None
    accuracy = summary["val_accuracy"] if ended else latest.get("val/accuracy")
    loss = summary["val_loss"] if ended else latest.get("val/loss")
    columns = st.columns(4)
    columns[0].metric(
        "Validation accuracy", percent(accuracy), help="Of the best epoch, whose model is kept." if ended else None
    )
    columns[1].metric("Validation loss", "–" if loss is None else number(loss))
    columns[2].metric("Time", duration(run.seconds))
    speed = summary.get("images_per_second") or run.progress.images_per_second
    columns[3].metric("Pictures per second", "–" if speed is None else number(speed))


def show_results(run: Run) -> None:
    """Show the accuracy, the confusion matrix, and the pictures behind one of its cells."""
    validation = artifacts.read_validation(service.run_folder(run.id))
    if validation is None:
        st.caption("The first results appear when the first epoch ends.")
        return
    classes = classes_of(run)
    if len(classes) != validation.probabilities.shape[1]:
        st.error("The results belong to a model with other classes, so they are not shown.", icon=":material/error:")
        return
    right = int((validation.predicted == validation.labels).sum())
    st.metric(
        "Right", f"{right} of {len(validation.labels)}", help="Validation pictures that the kept model names rightly."
    )
    counts = validation.confusion()
    event = st.plotly_chart(
        confusion_figure(counts, classes),
        key="confusion",
        on_select="rerun",
        selection_mode="points",
        config=PLAIN,
        alt="Confusion matrix: rows are what the pictures show, columns what the model said",
    )
    cells = sorted(
        ((int(actual), int(called)) for actual, called in zip(*counts.nonzero(), strict=True)),
        key=lambda cell: (cell[0] == cell[1], -counts[cell]),
    )
    clicked = [(int(point["y"]), int(point["x"])) for point in event["selection"]["points"]]
    place = cells.index(clicked[0]) if clicked and clicked[0] in cells else 0
    cell = st.selectbox(
        "Pictures behind a cell",
        cells,
        index=place,
        format_func=lambda cell: f"{classes[cell[0]]} called {classes[cell[1]]}: {counts[cell]}",
        help="Click a cell of the matrix, or choose one here.",
    )
    show_pictures(run, validation, validation.in_cell(*cell)[:BEHIND_A_CELL], classes)


def show_mistakes(run: Run) -> None:
    """Show the pictures that the model is most wrong about."""
    validation = artifacts.read_validation(service.run_folder(run.id))
    if validation is None:
        st.caption("The first mistakes appear when the first epoch ends.")
        return
    worst = validation.most_wrong(WORST)
    if not len(worst):
        st.success("Every validation picture is named rightly.")
        return
    st.caption("Wrongly named validation pictures, highest loss first.")
    show_pictures(run, validation, worst, classes_of(run))


def show_pictures(run: Run, validation: artifacts.Validation, indices: Any, classes: list[str]) -> None:
    """Show validation pictures with what they are and what the model said."""
    dataset = pictures.dataset_of_model(service.run_folder(run.id) / "model")
    if dataset is None:
        st.caption("The data set is no longer on this machine, so its pictures cannot be shown.")
        return
    images = pictures.validation_pictures(dataset, indices)
    grid = st.grid(columns=6, min_column_width=130)
    for index, image in zip(indices, images, strict=True):
        called, actual = validation.predicted[index], validation.labels[index]
        with grid, st.container():
            st.image(image, width="stretch", alt=f"A picture of {classes[actual]}")
            share = percent(float(validation.probabilities[index, called]), 0)
            name = escape_markdown(classes[called])
            st.caption(
                f"{name} {share}" if called == actual else f"**{name}** {share}, is {escape_markdown(classes[actual])}"
            )


def show_settings(run: Run) -> None:
    """Show what the run was told, and what came of it."""
    config = service.config_of(run)
    values = run.config if config is None else config.model_dump(include=set(settings_in_use(config.model_dump())))
    told_values = {_title(name): _shown(value) for name, value in values.items()}
    came = {name.replace("_", " "): _shown(value) for name, value in run.summary.items() if name != "estimate"}
    came |= against(run)
    left, right = st.columns(2)
    with left:
        show_table("setting", told_values)
    with right:
        if came:
            show_table("result", came)
    if config is not None:
        right.caption("The same run from a terminal")
        right.code(command_of(config), language="bash", wrap_lines=True)


def show_table(title: str, values: dict[str, str]) -> None:
    """Show names and values; of the width the values get more, as they may be long."""
    widths = {title: st.column_config.TextColumn(width=140), "value": st.column_config.TextColumn(width=210)}
    rows = {title: list(values), "value": list(values.values())}
    st.dataframe(rows, hide_index=True, height="content", column_config=widths)


def show_history(run: Run) -> None:
    """Show what happened to the run, and the end of its log."""
    for line in service.store().history(run.id):
        st.markdown(f"`{line.at:%Y-%m-%d %H:%M:%S}` {escape_markdown(line.actor)}: {escape_markdown(line.text)}")
    st.caption("All times are UTC.")
    log = service.log_tail(run.id)
    if log:
        st.caption("The end of the run's log")
        st.code(log, language=None)


def has_model(run: Run) -> bool:
    """Tell whether a model of this run can be used."""
    return run.state != State.CANCELLED and artifacts.has_bundle(service.run_folder(run.id) / "model")


def classes_of(run: Run) -> list[str]:
    """Return the class names of the run's model."""
    return list(artifacts.read_description(service.run_folder(run.id) / "model")["classes"])


def command_of(config: FinetuneConfig) -> str:
    """Return the command that launches the same run."""
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in config.changes().items()]
    return " ".join(["python -m dlkit train", *flags])


def _title(name: str) -> str:
    return describe(name).title if name in FinetuneConfig.model_fields else name


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {part}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


link.follow("run")
chosen = st.query_params.get("run")
if chosen is None:
    show_list()
else:
    show_run(chosen)
