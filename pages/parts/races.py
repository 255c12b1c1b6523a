"""Addresses of races on the descent page, from a lesson or from a run."""

from collections.abc import Mapping, Sequence

from dlkit.catalog.updates import RULES
from dlkit.config import FinetuneConfig
from dlkit.descent.asked import HERE

#: where a run is replayed, and how far
TOY = {"surface": "ravine", "steps": "1000"}


def address(shared: Mapping[str, str], wanted: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the parameters that show a race, told in the words of `dlkit.descent.asked`."""
    plain = {"surface": "surface", "formula": "formula", "points": f"{shared.get('surface', '')}_points"}
    parameters = {plain.get(name, f"descent_{name}"): value for name, value in shared.items()}
    parameters["optimizers"] = ",".join(dict.fromkeys(one["optimizer"] for one in wanted))
    for one in wanted:
        prefix = one["optimizer"].replace("-", "_")
        for name, value in one.items():
            if name == "learning_rate":
                parameters[f"rate_{prefix}"] = value
            elif name != "optimizer":
                parameters[f"{prefix}_{name}"] = value
    return parameters


def address_of_run(config: FinetuneConfig) -> dict[str, str] | None:
    """Return the parameters that show a run's optimizer on a toy surface; None where the page does not know it."""
    if config.optimizer not in RULES:
        return None
    known = RULES[config.optimizer].settings
    settings = {name: f"{value:g}" for name, value in config.optimizer_settings().items() if value != known.get(name)}
    schedule = config.schedule if config.schedule in HERE else "constant"
    one = {"optimizer": config.optimizer, "learning_rate": f"{config.rate:g}", "schedule": schedule, **settings}
    return address(TOY, [one])
