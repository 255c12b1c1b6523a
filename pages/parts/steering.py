"""What can be done with a run: the buttons of its state, and what can be changed while it goes on.

All is done by callbacks. They know the run as it was drawn, which may no longer be the run as it is: where another tab
has done something since, the visitor is told, also where the button is not drawn any more.
"""

import time
from collections.abc import Callable
from functools import partial

import streamlit as st

from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.config import FinetuneConfig, parse
from dlkit.errors import DlkitError
from dlkit.runs import service
from dlkit.runs.records import WAITING, Failure, Kind, Priority, Run, State, Wish
from dlkit.words import escape_markdown
from pages.parts.notices import show_error

REFUSAL_SECONDS = 10  # it outlives what draws the page anew: the end of a run does
ADVICE = {
    Failure.MEMORY: "A smaller image size or batch size, or a smaller backbone, needs less.",
    Failure.DIVERGED: "The best model so far is kept.",
    Failure.DATA: "Nothing is lost: when the data is mended, the run goes on where it was.",
    Failure.DISK: "It goes on by itself as soon as there is room.",
    Failure.NETWORK: "What has been fetched is kept; the next try goes on from there.",
    Failure.SETTINGS: "Launch it again with other settings.",
    Failure.CRASHES: "Its process was ended from outside, perhaps for lack of memory. The log may say more.",
    Failure.BUG: "Please report it with the end of the log, which the tab History shows.",
}


def show_verbs(run: Run) -> None:
    """Draw the buttons that the run's state allows; each acts on the run as it was drawn, or says that it changed."""
    if run.state == State.RUNNING and run.wish == Wish.PAUSE:
        _button("Go on", "play_arrow", "resume", "Takes the wish to pause back.", service.resume, run)
    if run.state == State.PAUSED:
        _button("Resume", "play_arrow", "resume", "Goes on where it was.", service.resume, run)
    if run.is_active and run.wish is None and run.kind == Kind.FINETUNE:
        _button("Pause", "pause", "pause", "Gives its place to others; it goes on where it was.", service.pause, run)
    if (run.is_active and run.wish in (None, Wish.PAUSE)) or run.state == State.PAUSED:
        _button("Stop", "stop", "stop", "Ends the run and keeps the model so far.", service.stop, run)
    if (run.is_active and run.wish != Wish.CANCEL) or run.state == State.PAUSED:
        _button("Cancel", "close", "cancel", "Ends the run and discards its model.", service.cancel, run)
    if run.state in (State.FAILED, State.CANCELLED):
        _button("Try again", "replay", "retry", "From the last checkpoint where there is one.", service.retry, run)
    if run.kind != Kind.FINETUNE:
        return
    if run.state in WAITING and run.priority != Priority.HIGH:
        _button("Run next", "low_priority", "next", "Before all others that wait.", _go_first, run)
    if _can_change(run):
        with st.popover("Change", icon=":material/tune:", help="While it runs, without a new start."):
            show_changes(run)
    if _can_continue(run):
        with st.popover("Continue", icon=":material/fast_forward:", help="For more epochs."):
            show_more(run)


def show_refusal(run: Run) -> None:
    """Show why the last button did nothing, but for what stands below the form it belongs to."""
    for place, is_drawn in (("", False), ("change", _can_change(run)), ("more", _can_continue(run))):
        if not is_drawn:
            _show_refusal(run, place)


def show_changes(run: Run) -> None:
    """Draw what can be changed while the run goes on."""
    config = service.current_config(run)
    if config is None:
        st.caption("The settings of this run are of another version, so they cannot be changed.")
        return
    changes = service.store().changes(run.id)
    frozen = [change.value for change in changes if change.what == "frozen"]
    is_frozen = frozen[-1] if frozen else config.strategy == "head"
    key = f"{run.id}_{len(changes)}"  # fields show the new values after each change
    with st.form(f"change_{key}", border=False):
        st.text_input("Learning rate", f"{config.rate:g}", key=f"rate_{key}", help="From the next step on.")
        names = list(AUGMENTATIONS)
        of_one_view = " With one view the head sees each picture as it is." if config.views == 1 else ""
        st.selectbox(
            "Augmentation",
            names,
            names.index(config.augmentation),
            format_func=lambda name: AUGMENTATIONS[name].title,
            key=f"augmentation_{key}",
            help=f"From the next step on.{of_one_view}",
        )
        if config.strategy != "auto":
            st.text_input("Epochs", str(config.epochs), key=f"epochs_{key}", help="More than were planned.")
        st.checkbox("The backbone learns too", not is_frozen, key=f"learns_{key}", help="From the next epoch on.")
        verb = partial(_change, run, config, is_frozen, key)
        st.form_submit_button("Change", type="primary", on_click=act, args=(run.id, verb, "change"))
    _show_refusal(run, "change")


def _change(run: Run, config: FinetuneConfig, is_frozen: bool, key: str) -> None:
    """Change what the form has other than the config that was drawn, all or nothing."""
    state = st.session_state
    # first the epochs, as not all that are a number will do
    drawn: dict[str, object] = {"epochs": str(config.epochs), "learning_rate": f"{config.rate:g}"}
    drawn |= {"augmentation": config.augmentation, "frozen": is_frozen}
    asked: dict[str, object] = {"epochs": state.get(f"epochs_{key}", str(config.epochs)).strip()}
    asked |= {"learning_rate": state[f"rate_{key}"].strip() or "nothing"}
    asked |= {"augmentation": state[f"augmentation_{key}"], "frozen": not state[f"learns_{key}"]}
    asked = {what: value for what, value in asked.items() if value != drawn[what]}
    parse({**config.model_dump(mode="json"), **{what: value for what, value in asked.items() if what != "frozen"}})
    for what, value in asked.items():
        service.change(run.id, what, value)


def show_more(run: Run) -> None:
    """Ask for how many epochs more an ended run is to learn."""
    key = f"more_{run.id}_{run.version}"
    with st.form(f"continue_{run.id}", border=False):
        default = "0" if run.state == State.STOPPED else "5"
        help_ = "0 takes up those that are left of a stopped run." if run.state == State.STOPPED else None
        st.text_input("More epochs", default, key=key, help=help_)
        st.form_submit_button(
            "Continue", type="primary", on_click=act, args=(run.id, partial(_go_on, run, key), "more")
        )
    _show_refusal(run, "more")


def _go_on(run: Run, key: str) -> None:
    service.go_on(run.id, st.session_state[key], seen=run.version)


def show_failure(run: Run) -> None:
    """Show what went wrong by its name, and what to do about it as a button."""
    if not run.failure:
        return
    says_itself = run.failure_kind in (None, Failure.DIVERGED, Failure.DISK)
    name = "" if says_itself else f"**{str(run.failure_kind).capitalize()}.** "
    advice = f" {ADVICE[run.failure_kind]}" if run.failure_kind else ""
    text = f"{name}{escape_markdown(run.failure)}{advice}"
    if run.state == State.PAUSED:
        st.warning(text, icon=":material/hard_drive:")
    else:
        st.error(text, icon=":material/error:")
    config = service.current_config(run)
    if run.state == State.FAILED and run.failure_kind == Failure.DIVERGED and config is not None:
        rate = config.rate / 10
        good = service.last_good_checkpoint(run)
        where = f"Go on from step {good.step}" if good else "Start again"
        label = f"{where} at a learning rate of {rate:g}"
        verb = partial(service.retry, run.id, seen=run.version, learning_rate=rate)
        st.button(label, key="slower", type="primary", on_click=act, args=(run.id, verb))


def act(run_id: str, verb: Callable[[], object], place: str = "") -> None:
    """Do something with a run before the page is drawn anew; keep why it could not be for whoever draws `place`."""
    st.session_state.pop("refusal", None)
    try:
        verb()
    except DlkitError as error:
        st.session_state["refusal"] = run_id, place, time.monotonic(), error


def _show_refusal(run: Run, place: str) -> None:
    run_id, where, at, error = st.session_state.get("refusal", ("", "", 0.0, None))
    if error and (run_id, where) == (run.id, place) and time.monotonic() - at < REFUSAL_SECONDS:
        show_error(error)


def _can_change(run: Run) -> bool:
    return run.kind == Kind.FINETUNE and not run.has_ended and run.wish in (None, Wish.PAUSE)


def _can_continue(run: Run) -> bool:
    has_settled = run.kind == Kind.FINETUNE and run.state in (State.SUCCEEDED, State.STOPPED)
    return has_settled and bool(service.store().checkpoints(run.id))


def _go_first(run_id: str, seen: int) -> Run:
    return service.prioritise(run_id, Priority.HIGH)


def _button(label: str, icon: str, key: str, help_: str, verb: Callable[..., Run], run: Run) -> None:
    done = partial(verb, run.id, seen=run.version)
    st.button(label, icon=f":material/{icon}:", key=key, help=help_, on_click=act, args=(run.id, done))
