"""The command line: `python -m dlkit …`, the twin of the pages.

Flags of `train` are made from the fields of the config. With `--json` stdout is exactly one JSON document. An error
that the user can mend is one or two sentences on stderr and exit code 2.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dlkit.catalog import choose
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.suggestions import SUGGESTIONS
from dlkit.catalog.sums import POINT_SETS, SUMS
from dlkit.catalog.surfaces import SURFACES
from dlkit.catalog.updates import RULES
from dlkit.config import FinetuneConfig, Setting, describe, parse
from dlkit.data.adding import add_pictures
from dlkit.data.cases import Case, open_case
from dlkit.data.comparing import compare
from dlkit.data.copying import open_copy
from dlkit.data.dataset import is_here
from dlkit.data.doctor import Finding, Group, copies_in, leak_free
from dlkit.data.edits import Drop, Edit, Merge, Move, Relabel, Rename, Resplit
from dlkit.data.exporting import export_zip
from dlkit.data.images import read_image
from dlkit.data.importing import KEPT_NAMES, ImportProgress, Report, import_pictures, open_source
from dlkit.data.labels import LARGEST_TABLE
from dlkit.data.opinions import BACKBONE, read_opinions
from dlkit.data.plans import Plan, make_plan
from dlkit.data.shelf import free_name, pinned, set_name
from dlkit.data.sources import LeftOut, class_name
from dlkit.data.suspicions import examine, unexamined
from dlkit.data.versions import Version, edit, history, open_version, restore
from dlkit.data.weights import has_weights
from dlkit.descent import asked
from dlkit.descent.race import race
from dlkit.descent.verdicts import verdict
from dlkit.errors import ConfigError, DatasetError, DlkitError, RunError
from dlkit.estimate import estimate
from dlkit.runs import artifacts, service
from dlkit.runs.records import Kind, Priority, Run, State
from dlkit.words import about, about_size, rate

FOLLOW_SECONDS = 0.3
METRICS_TAIL = 20  # steps
SIGNED = ("--start", "--formula", "--domain", "--points")  # flags whose values may begin with a minus
SHOWN_PICTURES = 8  # of a finding
SHOWN_STEPS = 10  # of a descent
USER_ERROR = 2
INTERRUPTED = 130  # what a shell makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(_with_signs(sys.argv[1:] if arguments is None else arguments))
    try:
        code: int = options.command(options) or 0
        sys.stdout.flush()
    except DlkitError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # `… | head` has seen enough; what is still in the buffer must have somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def list_datasets(options: argparse.Namespace) -> None:
    """List the data sets."""
    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "classes": entry.classes,
            "train_images": entry.train_images,
            "val_images": entry.val_images,
            "download_mb": entry.download_mb,
            "here": is_here(entry.name),
            "licence": entry.licence,
        }
        for entry in DATASETS.values()
    ]
    _print_rows(rows, options.json)


def delete_dataset(options: argparse.Namespace) -> None:
    """Delete an imported data set, with all its versions, unless a run uses it."""
    service.delete_dataset(options.name)
    _print_json({"name": options.name, "deleted": True}) if options.json else print(f"{options.name} deleted")


def list_versions(options: argparse.Namespace) -> None:
    """List the versions of an imported data set, the newest first."""
    _print_rows([asdict(past) for past in history(options.name)], options.json)


def compare_versions(options: argparse.Namespace) -> None:
    """Tell what is different between two versions of a data set."""
    found = compare(open_version(options.before), open_version(options.after))
    if options.json:
        _print_json(asdict(found))
        return
    counts = [
        {"class": name, "before": before, "after": after}
        for name, (before, after) in found.counts.items()
        if before != after
    ]
    print(*(found.sentences() or ["Nothing is different."]), sep="\n")
    if counts:
        _print_rows(counts, as_json=False)


def edit_dataset(options: argparse.Namespace) -> None:
    """Make the next version of an imported data set: pictures and classes are changed in the order of these flags."""
    seen = None if options.seen is None else _whole(options.seen, "--seen", 1, 10**6)
    base = open_version(options.name if seen is None else pinned(options.name, seen))
    edit(options.name, _edits(options, base), base.number, options.on_top)
    _print_newest(base.name, options.json)


def _edits(options: argparse.Namespace, base: Version) -> list[Edit]:
    """Return what the flags ask for; a picture is named as it was called when it was imported."""
    rows: dict[str, list[int]] = {}
    for row, picture in enumerate(base.pictures):
        rows.setdefault(picture.name, []).append(row)

    def together(pairs: list[tuple[str, str]]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name, to in pairs:
            if name not in rows:
                raise DlkitError(f"There is no picture {name} in {base.name}@{base.number}. Look into its export.")
            found.setdefault(to, []).extend(rows[name])
        return found

    return [
        *(Relabel(found, label) for label, found in together(options.relabel).items()),
        *(Move(found, split) for split, found in together(options.move).items()),
        *(Drop(found) for found in together([(name, "") for name in options.drop]).values()),
        *(Rename(old, new) for old, new in options.rename),
        *(Merge(names[:-1], names[-1]) for names in options.merge),
        *([] if options.resplit is None else [_resplit(options, base)]),
    ]


def _resplit(options: argparse.Namespace, base: Version) -> Resplit:
    case = open_case(pinned(base.name, base.number))
    return leak_free(case, copies_in(case), _share(options.resplit), _seed(options))


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DlkitError(f"--resplit must be a share such as 0.2; got {text[:40]}.") from None


def restore_version(options: argparse.Namespace) -> None:
    """Make an earlier version of an imported data set the newest again."""
    made = restore(options.name, _whole(options.version, "VERSION", 1, 10**6))
    _print_newest(made.name, options.json)


def _print_newest(name: str, as_json: bool) -> None:
    past = history(name)[0]
    _print_json({"name": name, **asdict(past)}) if as_json else print(f"{name}@{past.number}: {past.change}")


def export_dataset(options: argparse.Namespace) -> None:
    """Write a version of an imported data set as a zip that can be imported again."""
    version, target = open_version(options.name), Path(options.path)
    if target.exists():
        raise DatasetError(f"{target} is there already. Choose another name, or remove it.")
    export_zip(version, target)
    done = {"name": version.name, "version": version.number, "file": str(target)}
    _print_json(done) if options.json else print(target)


def copy_dataset(options: argparse.Namespace) -> None:
    """Copy a data set that is here into one of your own, under its licence; then it can be edited."""
    new = free_name(options.new)
    _print_report(_follow_import(import_pictures(*open_copy(options.name), new)), options.json)


def import_dataset(options: argparse.Namespace) -> None:
    """Make a data set of a folder or a zip of pictures, or add them to one; Ctrl-C ends it and nothing is kept."""
    name, put = (set_name(options.into), add_pictures) if options.into else (free_name(options.name), import_pictures)
    with open_source(Path(options.path)) as source:
        table, title = _table(options.labels), Path(options.labels or "").name
        label = None if options.label is None else class_name(options.label)
        plan = make_plan(source, table, title, fewest=1 if options.into else 2, label=label)
        if options.plan:
            _print_plan(plan, options.json)
            return
        report = _follow_import(put(source, plan, name, seed=_seed(options)))
    _print_report(report, options.json)


def _seed(options: argparse.Namespace) -> int:
    return _whole(options.seed, "--seed", 0, 2**31 - 1)


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        _print_json({"name": report.name, "classes": report.classes, **report.counts, **_told(report)})
    else:
        print(*report.sentences(), sep="\n")


def _table(path: str | None) -> bytes | None:
    """Return what is in a label file, and a byte more than it may have where it is too large."""
    if path is None:
        return None
    with _existing(path, "a label file").open("rb") as file:
        return file.read(LARGEST_TABLE + 1)


def _follow_import(steps: Generator[ImportProgress, None, Report]) -> Report:
    """Show the progress where stderr is a terminal; return what came of it."""
    is_shown, shown_at = sys.stderr.isatty(), 0.0
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                report: Report = end.value
                break
            if is_shown and (step.done == step.total or time.monotonic() - shown_at > FOLLOW_SECONDS):
                shown_at = time.monotonic()
                _show_bar(f"{step.phase} {step.done} of {step.total}", step.done / step.total)
    if is_shown:
        print(file=sys.stderr)
    return report


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        _print_json({"layout": plan.layout, "classes": plan.counts(), "mb": round(plan.bytes / 1e6, 1), **_told(plan)})
        return
    _print_rows([{"class": name, **counts} for name, counts in plan.counts().items()], as_json=False)
    what = f"Layout: {plan.layout}; {len(plan.pictures):,} images, {about_size(plan.bytes / 1e6)}."
    print(what, *plan.sentences(), sep="\n")


def _told(what: Plan | Report) -> dict[str, Any]:
    def plain(one: LeftOut) -> dict[str, Any]:
        return {"what": one.what, "reason": one.reason, "count": one.count, "names": one.names[:KEPT_NAMES]}

    return {"left_out": [plain(one) for one in what.left_out], "remarks": what.remarks}


def examine_dataset(options: argparse.Namespace) -> None:
    """Tell what is wrong with a data set that is here, the worst first; --features asks a network about its labels."""
    case = open_case(options.name)
    opinions = read_opinions(case, BACKBONE)
    if case.unseen or (options.features and (opinions is None or not opinions.is_known[case.learnt_rows()].all())):
        _follow_errand(service.submit_doctor(options.name, BACKBONE if options.features else None), "The examination")
        case = open_case(options.name)
        opinions = read_opinions(case, BACKBONE)
    findings = examine(case, opinions)
    if options.json:
        told = [_finding(case, finding) for finding in findings]
        _print_json({"dataset": options.name, "findings": told, "not_examined": unexamined(case, opinions)})
        return
    for finding in findings:
        shown = [case.names[row] for row in finding.rows[:SHOWN_PICTURES]]
        more = [f"… and {len(finding.rows) - len(shown)} more"] if len(finding.rows) > len(shown) else []
        print(f"{finding.title}.", finding.why, *(f"  {name}" for name in shown + more), sep="\n")
    if not findings:
        print("Nothing was found.")
    print(*unexamined(case, opinions), sep="\n")


def _finding(case: Case, finding: Finding) -> dict[str, Any]:
    def pictures(group: Group) -> list[dict[str, Any]]:
        return [
            {"name": case.names[row], "class": case.classes[case.labels[row]], "split": str(case.splits[row])}
            for row in group.rows
        ]

    told = {"kind": finding.kind, "severity": finding.severity.name.lower(), "title": finding.title, "why": finding.why}
    return {**told, "groups": [{"note": group.note, "pictures": pictures(group)} for group in finding.groups]}


def list_backbones(options: argparse.Namespace) -> None:
    """List the pretrained backbones."""
    rows = [
        {
            "name": entry.name,
            "parameters": entry.parameters,
            "gflops": entry.gflops,
            "input_size": entry.input_size,
            "imagenet_top1": entry.top1,
            "download_mb": entry.weights.size_mb,
            "here": has_weights(entry),
            "licence": entry.licence,
        }
        for entry in BACKBONES.values()
    ]
    _print_rows(rows, options.json)


def list_optimizers(options: argparse.Namespace) -> None:
    """List the optimizers with their own default rates and settings."""
    rows = [
        {
            "name": entry.name,
            "learning_rate": entry.learning_rate,
            "settings": dict(entry.settings),
            "summary": entry.summary,
            "paper": entry.paper,
        }
        for entry in OPTIMIZERS.values()
    ]
    _print_rows(rows, options.json)


def fetch(options: argparse.Namespace) -> int:
    """Download a data set or a backbone's weights, and follow it."""
    choose({**DATASETS, **BACKBONES}, options.name, "data set or backbone")
    what = "dataset" if options.name in DATASETS else "backbone"
    return _follow(service.submit_fetch(what, options.name), options)


def train(options: argparse.Namespace) -> int:
    """Submit a run and follow it."""
    given = _given(options)
    if options.duplicate is not None:
        config = service.current_config(service.find(options.duplicate))
        if config is None:
            raise DlkitError("The settings of this run are of another version and cannot be read. Give all anew.")
        given = {**config.changes(), **given}
    run = service.submit(given, priority=_priority(options.priority))
    if options.detach:
        _print_run(run, options.json)
        return 0
    return _follow(run, options)


def show_estimate(options: argparse.Namespace) -> None:
    """Tell what a run of these settings will take here; what is not known yet is measured first, in seconds."""
    config = parse(_given(options)).resolved()
    told = estimate(config)
    if not told.is_measured:
        _follow_errand(service.submit_measure(config), "The measuring")
        told = estimate(config)
    if options.json:
        _print_json({**vars(told), "seconds": told.seconds, "phases": [list(phase) for phase in told.phases]})
        return
    rows = [{"what": what, "takes": about(seconds)} for what, seconds in told.phases]
    rows += [
        {"what": "in all", "takes": about(told.seconds)},
        {"what": "memory", "takes": about_size(told.memory_mb)},
        {"what": "disk", "takes": about_size(told.disk_mb)},
    ]
    _print_rows(rows, as_json=False)
    print(told.basis, *told.notes, sep="\n")


def find_rate(options: argparse.Namespace) -> None:
    """Find a learning rate for a run of these settings: try growing ones, a step at each."""
    run = _follow_errand(service.submit_find(_given(options)), "The search for a learning rate")
    found = dict(run.summary)
    if options.json:
        _print_json(found)
        return
    rows = [
        {"suggestion": SUGGESTIONS[name].title, "learning_rate": rate(value), "what it is": SUGGESTIONS[name].summary}
        for name, value in found["suggestions"].items()
    ]
    if rows:
        _print_rows(rows, as_json=False)
    if found["note"]:
        print(found["note"])


def list_runs(options: argparse.Namespace) -> None:
    """List the runs, newest first."""
    rows = [_summary(run) for run in service.store().list_runs(Kind.FINETUNE)]
    shown = ("run", "name", "state", "created_at", "val_accuracy", "seconds")
    _print_rows(rows if options.json else [{name: row.get(name) for name in shown} for row in rows], options.json)


def show_run(options: argparse.Namespace) -> None:
    """Show one run with its settings and history."""
    run = service.find(options.run)
    history = [
        {"at": line.at.isoformat(), "actor": line.actor, "text": line.text} for line in service.store().history(run.id)
    ]
    points = service.store().curve(run.id, max(0, run.step - METRICS_TAIL))
    if options.json:
        changes = [vars(change) for change in service.store().changes(run.id)]
        document = {**_summary(run), "config": dict(run.config), "progress": vars(run.progress), "changes": changes}
        document |= {"priority": run.priority.name.lower(), "attempts": run.attempt, "wish": run.wish, "step": run.step}
        document |= {"epoch": points[-1].epoch if points else 0, "seconds_at_work": run.seconds}
        _print_json({**document, "metrics": [vars(point) for point in points], "events": history})
        return
    _print_run(run, as_json=False)
    if run.failure:
        print(run.failure)
    print(*(f"  {name} = {value}" for name, value in run.config.items() if value is not None), sep="\n")
    print(*(f"{line['at']}  {line['actor']}: {line['text']}" for line in history), sep="\n")
    log = service.log_tail(run.id)
    if log:
        print("The end of the log:", log, sep="\n")


def pause_run(options: argparse.Namespace) -> None:
    """Ask a run to give its place back; it goes on where it was when it is resumed."""
    _print_run(service.pause(service.find(options.run).id), options.json)


def resume_run(options: argparse.Namespace) -> None:
    """Let a paused run go on where it was."""
    _print_run(service.resume(service.find(options.run).id), options.json)


def stop_run(options: argparse.Namespace) -> None:
    """Ask a run to stop and keep its model."""
    _print_run(service.stop(service.find(options.run).id), options.json)


def cancel_run(options: argparse.Namespace) -> None:
    """Ask a run to end and to keep nothing."""
    _print_run(service.cancel(service.find(options.run).id), options.json)


def retry_run(options: argparse.Namespace) -> None:
    """Let a failed or cancelled run try again, from its last checkpoint where it has one."""
    run = service.find(options.run)
    _print_run(service.retry(run.id, learning_rate=options.learning_rate), options.json)


def continue_run(options: argparse.Namespace) -> None:
    """Let a run learn for more epochs than were planned."""
    _print_run(service.go_on(service.find(options.run).id, options.epochs), options.json)


def change_run(options: argparse.Namespace) -> None:
    """Change a run while it goes on."""
    run = service.find(options.run)
    asked = {name: getattr(options, name) for name in service.CHANGEABLE if getattr(options, name) is not None}
    if not asked:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in service.CHANGEABLE)
        raise DlkitError(f"Say what to change: {flags}.")
    config = service.current_config(run)
    if config is not None:  # all problems at once, before anything is changed
        parse({**config.model_dump(mode="json"), **{name: asked[name] for name in asked if name != "frozen"}})
    for name in sorted(asked, key=("epochs", "frozen", *service.CHANGEABLE).index):  # first what may still be refused
        run = service.change(run.id, name, asked[name])
    _print_run(run, options.json)


def prioritise_run(options: argparse.Namespace) -> None:
    """Let a run go before or after the others that wait."""
    run = service.find(options.run)
    _print_run(service.prioritise(run.id, _priority(options.priority)), options.json)


def show_queue(options: argparse.Namespace) -> None:
    """List the runs that wait, in the order in which they go."""
    rows = [
        {
            "run": waiting.run.id if options.json else waiting.run.id[:8],
            "place": waiting.place,
            "name": waiting.run.name,
            "priority": waiting.run.priority.name.lower(),
            "starts_in_seconds": waiting.starts_in,
        }
        for waiting in service.queue()
    ]
    _print_rows(rows, options.json)


def supervise(options: argparse.Namespace) -> int:
    """Give waiting runs to workers, in the foreground, until it is told to end: for a service manager."""
    from dlkit.jobs import supervisor

    print("supervising; SIGTERM or Ctrl-C ends it, and leaves the runs running", file=sys.stderr, flush=True)
    try:
        return supervisor.main(stays=True)
    except KeyboardInterrupt:
        return 0


def delete_run(options: argparse.Namespace) -> None:
    """Forget an ended run and its files."""
    run = service.find(options.run)
    service.delete(run.id)
    _print_run(run, options.json)


def export_run(options: argparse.Namespace) -> None:
    """Write a run's model as a zip."""
    run = service.find(options.run)
    target = Path(options.output or f"dlkit-{run.id[:8]}.zip")
    data = artifacts.zip_bundle(service.run_folder(run.id) / "model")
    try:
        target.write_bytes(data)
    except OSError as error:
        raise DlkitError(f"{target} cannot be written: {error.strerror}. Name another file by --output.") from None
    _print_json({"run": run.id, "file": str(target)}) if options.json else print(target)


def predict(options: argparse.Namespace) -> int:
    """Classify pictures; what cannot be read is named, and the others are answered."""
    top_k = _whole(options.top_k, "--top-k", 1, 1000)
    paths = [_existing(path) for path in options.images]
    source = _source(options.model)
    from dlkit.engine import prediction

    answers = prediction.predict_many(source, (partial(read_image, path) for path in paths), top_k, options.device)
    rows = []
    for path, answer in zip(options.images, answers, strict=True):
        if isinstance(answer, DlkitError):
            print(answer, file=sys.stderr)
            continue
        rows.append({"file": path, "top": [vars(guess) for guess in answer]})
        if not options.json:
            print(path, *(f"  {guess.probability:6.1%}  {guess.label}" for guess in answer), sep="\n", flush=True)
    if options.json and rows:
        _print_json(rows)
    return 0 if len(rows) == len(paths) else USER_ERROR


def show_layers(options: argparse.Namespace) -> None:
    """Show a network layer by layer: what each is, costs and sees, and what it makes of a picture."""
    picture, source = read_image(_existing(options.image)), _source(options.model)
    from dlkit.engine import layers

    bundle = layers.open_model(source)
    found = layers.layers_of(bundle.model, bundle.preprocessing.size)
    told = layers.statistics_of(bundle.model, layers.pictures_for(bundle, [picture]))
    if options.json:
        rows = [{**vars(layer), "field": layer.field and vars(layer.field)} for layer in found]
        _print_json([{**row, **vars(statistics)} for row, statistics in zip(rows, told, strict=True)])
        return
    table = [
        {
            "layer": layer.name + (f" ({layer.call})" if layer.call > 1 else ""),
            "kind": layer.kind,
            "output": "×".join(map(str, layer.shape)),
            "parameters": layer.parameters,
            "multiply-adds": layer.multiply_adds,
            "sees": f"{layer.field.height}×{layer.field.width}" if layer.field else "",
            "mean": statistics.mean,
            "deviation": statistics.deviation,
            "zeros": f"{statistics.zeros:.0%}",
        }
        for layer, statistics in zip(found, told, strict=True)
    ]
    _print_rows(table, as_json=False)
    parameters, work = (sum(getattr(layer, name) for layer in found) for name in ("parameters", "multiply_adds"))
    print(f"{len(found)} layers, {parameters:,} parameters, {work:,} multiply-adds for one picture.")


def show_step(options: argparse.Namespace) -> None:
    """Show what one more step of a run would do to a single weight, line by line."""
    index = [_whole(part.strip(), "--index", 0, 10**6) for part in options.index.split(",")]
    batch, run = _whole(options.batch, "--batch", 0, 10**6), service.find(options.run)
    known = service.store().checkpoints(run.id)
    if run.kind != Kind.FINETUNE or not known:
        raise RunError(
            "There is no checkpoint of this run to take a step from. Choose a run that has trained for a while."
        )
    from dlkit.engine import checkpoint, one_step

    state = checkpoint.load_checkpoint(service.run_folder(run.id) / known[0].file, known[0].sha256)
    step = one_step.one_step_of_run(state, options.parameter, batch)
    document = {"run": run.id, **step.of_weight(index)}
    if options.json:
        _print_json(document)
        return
    print(f"Step {step.number} of {run.id[:8]} ({step.phase}), from {len(step.pictures)} pictures")
    begun = {"loss": step.loss, **document["given"]}
    rows = [{"name": name, "formula": "", "value": value} for name, value in begun.items()]
    _print_rows([*rows, *document["lines"]], as_json=False)
    print(f"{step.parameter} {index}: {document['given']['w']:.6g} becomes {document['after']:.6g}.")


def descend(options: argparse.Namespace) -> None:
    """Let an optimizer descend on a surface, and tell what became of it."""
    names = ("surface", "formula", "domain", "points", "optimizer", "schedule", "start", *asked.NUMBERS)
    values = {name: getattr(options, name) for name in names}
    if values["formula"] and values["surface"]:
        raise ConfigError(["A formula stands in for a surface. Give --formula or --surface."])
    wanted = asked.read(values, [values], in_steps=True)
    paths = race(wanted.loss, wanted.competitors, wanted.starts, wanted.budget, wanted.chance)
    names_of_paths = [name for name in wanted.names for _ in wanted.starts]
    documents = []
    for name, path in zip(names_of_paths, paths, strict=True):
        told = verdict(wanted.loss, path, wanted.chance)
        rows = [[*point, value] for point, value in zip(path.points.tolist(), path.values.tolist(), strict=True)]
        if not options.json:
            print(*([name] if len(paths) > 1 else []), f"{told.status}. {told.reason}", sep="\n")
            shown = sorted({round(share * path.steps / SHOWN_STEPS) for share in range(SHOWN_STEPS + 1)})
            table = [dict(zip(("step", "x", "y", "loss"), (step, *rows[step]), strict=True)) for step in shown]
            _print_rows(table, as_json=False)
        documents.append(
            {
                "surface": wanted.ground.name,
                "optimizer": path.competitor.rule,
                "name": name,
                "learning_rate": path.competitor.learning_rate,
                "steps": path.steps,
                "gap": told.gap,
                "status": told.status,
                "reason": told.reason,
                "path": [[value if math.isfinite(value) else None for value in row] for row in rows],
            }
        )
    if options.json:
        _print_json(documents[0] if len(documents) == 1 else documents)


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "show": show_run,
    "pause": pause_run,
    "resume": resume_run,
    "stop": stop_run,
    "cancel": cancel_run,
    "retry": retry_run,
    "continue": continue_run,
    "change": change_run,
    "priority": prioritise_run,
    "delete": delete_run,
    "export": export_run,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlkit", description="Fine-tune image classifiers, and predict.")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    datasets = _command(commands, "datasets", list_datasets).add_subparsers(metavar="VERB")
    _command(datasets, "list", list_datasets)
    _add_curating(datasets)
    examining = _command(commands, "doctor", examine_dataset)
    examining.add_argument("name", help="a data set that is here")
    examining.add_argument("--features", action="store_true", help="ask a network about labels and outliers, too")
    for name, command in (("backbones", list_backbones), ("optimizers", list_optimizers)):
        _command(commands, name, command)
    importing = _command(commands, "import", import_dataset)
    importing.add_argument("path", help="a folder or a zip: a folder for each class, or pictures with a label file")
    target = importing.add_mutually_exclusive_group(required=True)
    target.add_argument("--name", help="what the data set is called")
    target.add_argument("--into", help="the imported data set to which they are added")
    importing.add_argument("--labels", metavar="CSV", help="a label file: file name and label in each row")
    importing.add_argument("--class", dest="label", metavar="CLASS", help="the class of all pictures, with --into")
    importing.add_argument("--seed", default="0", help="start of the draw of validation pictures (default 0)")
    importing.add_argument("--plan", action="store_true", help="show what would be imported, and import nothing")
    _command(commands, "fetch", fetch).add_argument("name", help="a data set or a backbone")
    training = _command(commands, "train", train)
    for asking in (
        training,
        _command(commands, "lr-find", find_rate),
        _command(commands, "estimate", show_estimate),
    ):
        for name in FinetuneConfig.model_fields:
            _add_flag(asking, describe(name))
    training.add_argument("--detach", action="store_true", help="submit and leave it running")
    training.add_argument("--duplicate", metavar="RUN", help="take the settings of this run; other flags change them")
    training.add_argument("--priority", default="normal", help="low, normal or high (default normal)")
    runs = _command(commands, "runs", list_runs).add_subparsers(metavar="VERB")
    _command(runs, "list", list_runs)
    _command(runs, "queue", show_queue)
    made = {name: _command(runs, name, command) for name, command in VERBS.items()}
    for parser_of_verb in made.values():
        parser_of_verb.add_argument("run", help="a run's id, or its beginning")
    made["export"].add_argument("--output", help="the zip file to write (default dlkit-RUN.zip)")
    made["continue"].add_argument("--epochs", default="0", help="how many more; 0, the default, takes what is left")
    made["retry"].add_argument("--learning-rate", help="go on at this rate, as after a divergence")
    made["priority"].add_argument("priority", help="low, normal or high")
    for name in service.CHANGEABLE:
        made["change"].add_argument(f"--{name.replace('_', '-')}", dest=name, help="the new value")
    _command(commands, "supervisor", supervise)
    descending = _command(commands, "descend", descend)
    descending.add_argument("--surface", help=f"one of {', '.join((*SURFACES, *SUMS))} (default ravine)")
    descending.add_argument("--formula", help="a surface of your own, of x and y, as in 'x^2 + 3*y^2'")
    descending.add_argument("--optimizer", help=f"one of {', '.join(RULES)} (default sgd)")
    descending.add_argument("--schedule", help=f"one of {', '.join(SCHEDULES)} (default constant)")
    descending.add_argument("--domain", help="of a formula: x from and to, y from and to (default -5,5,-5,5)")
    descending.add_argument("--points", help=f"of a sum: 'X,Y; X,Y; ...' or one of {', '.join(POINT_SETS)}")
    descending.add_argument("--start", metavar="X,Y", help="where it begins, or 'X,Y; X,Y'; default: the surface's own")
    for name, number in asked.NUMBERS.items():
        default = "its own" if number.default is None else f"{number.default:g}"
        descending.add_argument(f"--{name.replace('_', '-')}", help=f"{number.title} (default {default})")
    predicting = _command(commands, "predict", predict)
    predicting.add_argument("model", help="a run's id, or imagenet")
    predicting.add_argument("images", nargs="+", help="picture files")
    predicting.add_argument("--top-k", default="5", help="how many classes to name")
    predicting.add_argument("--device", default="auto", choices=describe("device").choices)
    looking = _command(commands, "layers", show_layers)
    looking.add_argument("model", help="a run's id, or imagenet")
    looking.add_argument("image", help="a picture file")
    stepping = _command(commands, "step", show_step)
    stepping.add_argument("run", help="a run's id, or its beginning")
    stepping.add_argument("--parameter", required=True, help="its name, as in head.weight")
    stepping.add_argument("--index", required=True, metavar="I,J,…", help="which of its weights, counted from 0")
    stepping.add_argument("--batch", default="0", help="which batch of the run's first epoch (default 0)")
    return parser


def _with_signs(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, those that may begin with a minus joined to their flags: argparse takes -3,1 for a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in SIGNED and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _command(commands: Any, name: str, command: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=(command.__doc__ or "").rstrip("."))
    made.set_defaults(command=command)
    # no default: that of a verb would undo the flag of its command, as in `runs --json list`
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    return made


def _add_curating(datasets: Any) -> None:
    """Add the verbs of imported data sets."""
    verbs = {
        "delete": delete_dataset,
        "versions": list_versions,
        "edit": edit_dataset,
        "restore": restore_version,
        "export": export_dataset,
    }
    made = {name: _command(datasets, name, command) for name, command in verbs.items()}
    for parser_of_verb in made.values():
        more = "" if parser_of_verb is made["delete"] else "; NAME@2 is its second version"
        parser_of_verb.add_argument("name", help=f"an imported data set{more}")
    editing = made["edit"]
    for flag, values in (("--relabel", ("PICTURE", "CLASS")), ("--move", ("PICTURE", "SPLIT"))):
        editing.add_argument(flag, nargs=2, metavar=values, action="append", default=[], help="of a picture")
    editing.add_argument("--drop", nargs="+", metavar="PICTURE", action="extend", default=[], help="leave them out")
    editing.add_argument("--rename", nargs=2, metavar=("CLASS", "NEW"), action="append", default=[], help="a class")
    editing.add_argument("--merge", nargs="+", metavar="CLASS", action="append", default=[], help="into the last one")
    editing.add_argument("--resplit", metavar="SHARE", help="divide anew; this share is what a model is checked with")
    editing.add_argument("--seed", default="0", help="start of that draw (default 0)")
    editing.add_argument("--seen", metavar="VERSION", help="refuse where this is not the newest any more")
    editing.add_argument("--on-top", action="store_true", help="then make the edit on the newest instead")
    made["restore"].add_argument("version", help="its number")
    made["export"].add_argument("path", help="the zip file to write")
    comparing = _command(datasets, "compare", compare_versions)
    comparing.add_argument("before", help="a version, as in pets@1")
    comparing.add_argument("after", help="another one")
    copying = _command(datasets, "copy", copy_dataset)
    copying.add_argument("name", help="any data set that is here")
    copying.add_argument("new", help="what the copy is called")


def _add_flag(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """Add the flag of one setting; its text goes to the config unread, so that the config words every problem."""
    default = "" if setting.default in (None, "") else f" (default {setting.default})"
    text = f"{setting.help} Must be {setting.rule}.{default}".replace("%", "%%")
    parser.add_argument(
        f"--{setting.name.replace('_', '-')}", dest=setting.name, help=text, metavar=setting.kind.__name__
    )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings whose flags were given."""
    values = {name: getattr(options, name) for name in FinetuneConfig.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def _follow(run: Run, options: argparse.Namespace) -> int:
    """Show the progress until the run ends; on Ctrl-C ask whether to stop it or to leave it running."""
    while run.is_active:
        try:
            run = _look(run)
        except KeyboardInterrupt:
            if not _wants_stop():
                print(f"\nThe run goes on: python -m dlkit runs show {run.id[:8]}", file=sys.stderr)
                break
            with contextlib.suppress(RunError):  # it has just ended by itself
                service.stop(run.id)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    _print_run(run, options.json)
    if run.failure:
        print(run.failure, file=sys.stderr)
    return USER_ERROR if run.failure or run.state == State.CANCELLED else 0


def _follow_errand(run: Run, title: str) -> Run:
    """Show the progress of a job that keeps no file until it has succeeded; Ctrl-C cancels it."""
    while run.is_active:
        try:
            run = _look(run)
        except KeyboardInterrupt:
            with contextlib.suppress(RunError):  # it has just ended by itself
                service.cancel(run.id)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if run.state != State.SUCCEEDED:
        raise RunError(run.failure or f"{title} was {run.state}. Ask again to begin anew.")
    return run


def _look(run: Run) -> Run:
    """Show the progress, wait a moment, and return the run as it is then; there is a supervisor for it."""
    _show_progress(run)
    time.sleep(FOLLOW_SECONDS)
    service.ensure_supervisor()
    return service.run(run.id)


def _wants_stop() -> bool:
    if not sys.stdin.isatty():
        return True
    print("\nStop the run and keep its model? [y] stop, [n] leave it running: ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower().startswith("y")
    except KeyboardInterrupt:
        return False


def _show_progress(run: Run) -> None:
    """Redraw one line on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        return
    progress = run.progress
    left = "" if progress.seconds_left is None else f" {progress.seconds_left:.0f} s left"
    _show_bar(f"{progress.phase or run.state}{left}", progress.share or 0)


def _show_bar(text: str, share: float) -> None:
    done = round(30 * share)
    print(f"\r{'█' * done}{'·' * (30 - done)} {text}".ljust(78)[:78], end="", file=sys.stderr, flush=True)


def _summary(run: Run) -> dict[str, Any]:
    values = {"run": run.id, "name": run.name, "state": run.state, "created_at": run.created_at.isoformat()}
    return {**values, **run.summary, "failure": run.failure, "failure_kind": run.failure_kind}


def _print_run(run: Run, as_json: bool) -> None:
    if as_json:
        _print_json(_summary(run))
        return
    accuracy = run.summary.get("val_accuracy")
    results = "" if accuracy is None else f" · validation accuracy {accuracy:.1%} after {run.summary['seconds']:.1f} s"
    print(f"{run.id[:8]} {run.state} · {run.name}{results}")


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    shown = [[_cell(row.get(name)) for name in rows[0]] for row in rows] if rows else []
    widths = [max(map(len, column)) for column in zip(rows[0], *shown, strict=True)] if rows else []
    for line in [list(rows[0]), *shown] if rows else [["nothing yet"]]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths or [0], strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={item:g}" for name, item in value.items())
    return "" if value is None else str(value)


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=1))


def _whole(text: str, flag: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high):
        raise DlkitError(f"{flag} must be a whole number from {low} to {high}; got {text[:40]}.")
    return int(text)


def _priority(name: str) -> Priority:
    if name.upper() not in Priority.__members__:
        raise DlkitError(f"The priority must be low, normal or high; got {name[:40]}.")
    return Priority[name.upper()]


def _source(model: str) -> Path | None:
    """Return the folder of a run's saved model, None for the ImageNet model; BundleError before torch is loaded."""
    if model == artifacts.IMAGENET:
        return None
    folder = service.run_folder(service.find(model).id) / "model"
    artifacts.read_description(folder)
    return folder


def _existing(path: str, what: str = "a picture") -> Path:
    if not os.path.isfile(path):  # unlike Path.is_file it also says no to a path that is too long or not ours
        raise DlkitError(f"There is no file {path}. Name {what} that exists.")
    return Path(path)


if __name__ == "__main__":
    sys.exit(main())
