"""The one description of every setting: what it accepts, how it refuses, and how it travels to a worker."""

import json
import math
import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import OFFICIAL
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.config import (
    CATALOGS,
    OPTIMIZER_SETTINGS,
    SCHEDULE_SETTINGS,
    STRATEGIES_OF,
    FinetuneConfig,
    describe,
    parse,
    settings_in_use,
    suggested_image_size,
)
from dlkit.errors import ConfigError

FIELDS = tuple(FinetuneConfig.model_fields)
NUMBERS = tuple(name for name in FIELDS if describe(name).kind in (int, float))
CHOICES = tuple(name for name in FIELDS if describe(name).choices)
HUGE = 10**5000  # more digits than Python writes out
#: value -> how it stands in the sentence
ODD_VALUES = [
    (0, "0"),
    (-1, "-1"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (1e309, "inf"),
    ("1e309", "1e309"),
    ("", "nothing"),
    ("  ", "nothing"),
    (None, "nothing"),
    ("text", "text"),
    ("nan", "nan"),
    (10**30, "1000000000000000000000000000000"),
    (HUGE, "a number of thousands of digits"),
    ("9" * 5000, "9" * 40 + "…"),
    (True, "True"),
    ([], "[]"),
    ({"a": 1}, "{'a': 1}"),
]
PYDANTIC_WORDS = re.compile(
    r"Input should|valid (integer|number|string)|validation error|pydantic|type=", re.IGNORECASE
)


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(values)
    assert str(caught.value) == " ".join(caught.value.problems)
    return caught.value.problems


def outcome(values: dict[str, Any]) -> FinetuneConfig | tuple[str, ...]:
    """Return the config, or the sentences that refuse it; any other error flies."""
    try:
        return parse(values)
    except ConfigError as error:
        return error.problems


def using(name: str) -> dict[str, Any]:
    """Return choices with which the setting `name` means something."""
    optimizer = next((one for one, entry in OPTIMIZERS.items() if name in entry.settings), "adamw")
    schedule = next((one for one, entry in SCHEDULES.items() if name in entry.settings), "one-cycle")
    strategy = STRATEGIES_OF.get(name, ("full",))[-1]
    mixing = "mixup" if name == "mixing_alpha" else "none"
    return {"optimizer": optimizer, "schedule": schedule, "strategy": strategy, "mixing": mixing}


def is_in_bounds(name: str, value: Any) -> bool:
    if value is None:
        return describe(name).default is None
    rules = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
    return all(
        rules[rule](float(value), float(getattr(part, rule)))
        for part in FinetuneConfig.model_fields[name].metadata
        for rule in rules
        if hasattr(part, rule)
    )


def every_combination() -> list[dict[str, str]]:
    names = ("optimizer", "schedule", "strategy")
    return [
        dict(zip(names, chosen, strict=True)) for chosen in product(OPTIMIZERS, SCHEDULES, describe("strategy").choices)
    ]


def another_value(name: str) -> Any:
    """Return a value that is allowed and not the default."""
    about = describe(name)
    if about.choices:
        return next(choice for choice in about.choices if choice != about.default)
    if about.kind is bool:
        return not about.default
    if about.kind is str:
        return "a name"
    if name == "image_size":
        return 128
    candidates = (1, 2, 7) if about.kind is int else (0.05, 0.25, 5.0)
    return next(value for value in candidates if value != about.default and is_in_bounds(name, value))


# Values


def test_defaults_hold_and_every_field_has_one():
    assert parse({}) == FinetuneConfig()
    assert FinetuneConfig().model_fields_set == set()


@pytest.mark.parametrize("name", FIELDS)
def test_description_says_what_a_widget_and_a_flag_need(name):
    about = describe(name)
    assert about.name == name
    assert about.title
    assert about.help.endswith(".")
    assert about.rule
    assert "None" not in about.rule
    assert about.kind in (bool, int, float, str)
    assert about.default is None or type(about.default) is about.kind
    assert about.choices is None or about.default in about.choices


def test_number_rule_states_both_bounds_as_they_are_checked():
    assert describe("epochs").rule == "a whole number from 1 to 1000"
    assert describe("epsilon").rule == "a number above 0 and at most 0.1"
    assert describe("seed").rule == f"a whole number from 0 to {2**31 - 1}"


@pytest.mark.parametrize("name", NUMBERS)
def test_values_at_the_bounds_are_kept_and_values_past_them_refused(name):
    about = describe(name)
    low, high = re.findall(r"(from|to|most|above|below) ([\d.e+-]+)", about.rule)
    step = 1 if about.kind is int else 1e-9
    for (word, text), outwards in ((low, -1), (high, 1)):
        bound = about.kind(text)
        beyond = bound + outwards * step if word in ("from", "to", "most") else bound
        inside = bound if word in ("from", "to", "most") else bound - outwards * step
        assert getattr(parse({**using(name), name: inside}), name) == inside
        assert problems_of({**using(name), name: beyond})[0].startswith(f"{about.title} ({name}) must be {about.rule};")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(("value", "found"), ODD_VALUES, ids=lambda value: str(value)[:12] if value != HUGE else "huge")
def test_odd_number_is_in_bounds_or_gets_a_sentence(name, value, found):
    about = describe(name)
    result = outcome({**using(name), name: value})
    if isinstance(result, FinetuneConfig):
        assert is_in_bounds(name, getattr(result, name))
    else:
        hint = "" if about.default is None else f" Try {about.default}."
        assert result == (f"{about.title} ({name}) must be {about.rule}; got {found}.{hint}",)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", None, "no-such-thing", 0, ["adam"], {"a": 1}, "../../etc/passwd", " "])
def test_unknown_choice_is_answered_with_the_choices(name, value):
    about = describe(name)
    found = "nothing" if value in (None, "", " ") else value
    assert problems_of({name: value})[0] == f"{about.title} ({name}) must be {about.rule}; got {found}."
    assert all(choice in about.rule for choice in about.choices)


@pytest.mark.parametrize("value", ["maybe", "", None, 2, "2", [], math.nan])
def test_switch_that_is_neither_on_nor_off_is_refused(value):
    problem = problems_of({"strategy": "full", "freeze_batchnorm": value})[0]
    assert problem.startswith("Keep BatchNorm statistics (freeze_batchnorm) must be true or false; got ")


def test_name_of_more_than_80_characters_is_refused():
    assert parse({"name": "x" * 80}).name == "x" * 80
    assert problems_of({"name": "x" * 81}) == (
        f"Name (name) must be a text of at most 80 characters; got {'x' * 40}….",
    )


def test_text_reads_as_the_value_it_stands_for():
    for chosen in every_combination():
        typed = parse(chosen).resolved().model_dump()
        text = {name: "" if value is None else f" {value} " for name, value in typed.items()}
        assert parse(text) == parse(typed)


def test_empty_text_leaves_an_optional_setting_to_its_default():
    assert parse({"learning_rate": "", "momentum": " ", "image_size": ""}) == FinetuneConfig()


# Several at once


def test_all_problems_are_told_at_once():
    problems = problems_of({"epochs": 0, "batch_size": "many", "optimizer": "magic", "colour": "red", "dropout": 1})
    named = ("epochs", "batch_size", "optimizer", "'colour'", "dropout")
    assert len(problems) == 5
    assert all(sum(name in problem for problem in problems) == 1 for name in named)


def test_contradictions_are_told_together_with_values_out_of_bounds():
    problems = problems_of(
        {"epochs": 0, "optimizer": "adam", "momentum": 0.5, "backbone": "vit-b-16", "image_size": 64}
    )
    assert [problem.split()[0] for problem in problems] == ["Epochs", "momentum", "ViT-B/16"]


def test_no_contradiction_is_guessed_from_a_choice_that_is_itself_unknown():
    assert len(problems_of({"optimizer": "magic", "momentum": 0.5})) == 1


@pytest.mark.parametrize("name", ["", "Epochs", "__class__", "self", "model_config", "resolved", "x" * 999, 7])
def test_unknown_setting_is_named(name):
    problem = problems_of({name: 1})[0]
    assert re.fullmatch(r"There is no setting called '.{0,40}'\.", problem)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, ["momentum", "adam", "beta1", "Leave it out"]),
        ({"optimizer": "sgd", "beta1": 0.9}, ["beta1", "sgd", "weight_decay"]),
        ({"schedule": "constant", "decay": 0.5}, ["decay", "constant", "no settings of its own"]),
        ({"schedule": "cosine", "rise": 0.5}, ["rise", "cosine"]),
        ({"schedule": "step", "patience": 3}, ["patience", "step", "decay_epochs"]),
        ({"strategy": "head", "mixing": "mixup"}, ["mixing", "full"]),
        ({"strategy": "head", "head_epochs": 2}, ["head_epochs", "full"]),
        ({"strategy": "head", "freeze_batchnorm": False}, ["freeze_batchnorm", "full"]),
        ({"strategy": "head", "backbone_rate_factor": 0.2}, ["backbone_rate_factor", "full"]),
        ({"strategy": "full", "views": 4}, ["views", "head"]),
        ({"strategy": "auto", "mixing": "mixup"}, ["mixing", "auto", "partial or full"]),
        ({"strategy": "partial", "mixing": "cutmix"}, ["cutmix", "pictures", "mixup", "full"]),
        ({"strategy": "full", "unfreeze_from": "last-half"}, ["unfreeze_from", "partial or auto"]),
        ({"strategy": "auto", "epochs": 5}, ["epochs", "auto", "head or partial or full"]),
        ({"strategy": "partial", "budget_minutes": 5}, ["budget_minutes", "auto"]),
        ({"strategy": "full", "mixing_alpha": 1}, ["mixing_alpha", "mixup", "cutmix"]),
        ({"backbone": "vit-b-16", "image_size": 192}, ["224", "192"]),
    ],
)
def test_choices_that_do_not_fit_each_other_are_explained(values, words):
    (problem,) = problems_of(values)
    assert all(word in problem for word in words)
    assert problem.endswith(".")


def test_default_written_out_is_no_contradiction():
    assert parse({"strategy": "head", "mixing": "none", "head_epochs": 3, "mixing_alpha": 0.4, "momentum": None})


@pytest.mark.parametrize("chosen", every_combination(), ids=lambda chosen: "-".join(chosen.values()))
def test_settings_in_use_are_those_that_may_be_changed(chosen):
    in_use = settings_in_use(parse(chosen).model_dump())
    assert in_use == [name for name in FIELDS if name in in_use]
    assert {name for name in OPTIMIZER_SETTINGS if name in in_use} == OPTIMIZERS[chosen["optimizer"]].settings.keys()
    assert {name for name in SCHEDULE_SETTINGS if name in in_use} == SCHEDULES[chosen["schedule"]].settings.keys()
    for name in set(FIELDS) - set(chosen):
        is_accepted = isinstance(outcome({**chosen, name: another_value(name)}), FinetuneConfig)
        assert is_accepted == (name in in_use), name


# The way to a worker


@pytest.mark.parametrize("chosen", every_combination(), ids=lambda chosen: "-".join(chosen.values()))
def test_resolved_run_reaches_a_worker_unchanged(chosen):
    config = parse(chosen).resolved()
    assert parse(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert config.resolved() == config
    values = config.model_dump()
    assert not [name for name in settings_in_use(values) if values[name] in (None, "")]
    assert config.optimizer_settings() == dict(OPTIMIZERS[chosen["optimizer"]].settings)
    assert config.schedule_settings() == dict(SCHEDULES[chosen["schedule"]].settings)
    assert config.learning_rate == OPTIMIZERS[chosen["optimizer"]].learning_rate


@pytest.mark.parametrize(("dataset", "backbone"), list(product(OFFICIAL, BACKBONES)))
def test_resolved_run_of_any_data_set_and_backbone_holds(dataset, backbone):
    config = parse({"dataset": dataset, "backbone": backbone}).resolved()
    assert parse(config.model_dump(mode="json")) == config
    assert config.image_size == suggested_image_size(dataset, backbone) <= BACKBONES[backbone].input_size
    assert config.image_size >= BACKBONES[backbone].min_size
    assert config.name


def test_resolved_keeps_what_was_chosen():
    chosen = {"name": "mine", "learning_rate": 0.5, "image_size": 64, "weight_decay": 0.0, "rise": 0.0}
    config = parse(chosen).resolved()
    assert {name: getattr(config, name) for name in chosen} == chosen
    assert config.optimizer_settings()["weight_decay"] == 0
    assert config.schedule_settings()["rise"] == 0


def test_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse({}).epochs = 3


VALUES = draw.one_of(
    draw.none(),
    draw.booleans(),
    draw.integers(),
    draw.floats(),
    draw.text(max_size=12),
    draw.binary(max_size=4),
    draw.lists(draw.integers(), max_size=2),
    draw.dictionaries(draw.text(max_size=3), draw.integers(), max_size=1),
    draw.sampled_from([name for entries in CATALOGS.values() for name in entries]),
    draw.sampled_from(["head", "full", "balanced", "cpu", "0.5", "3", "1e-3", "-1", "true", "∞", "１２"]),
)


@settings(max_examples=400, deadline=None)
@given(draw.dictionaries(draw.one_of(draw.sampled_from(FIELDS), draw.text(max_size=8)), VALUES, max_size=12))
def test_any_values_give_a_config_or_sentences(values):
    result = outcome(values)
    if isinstance(result, FinetuneConfig):
        assert all(is_in_bounds(name, getattr(result, name)) for name in NUMBERS)
        resolved = result.resolved()
        assert parse(json.loads(json.dumps(resolved.model_dump(mode="json")))) == resolved
    else:
        assert result
        for problem in result:
            assert problem.endswith(".")
            assert not PYDANTIC_WORDS.search(problem.partition("; got")[0])
