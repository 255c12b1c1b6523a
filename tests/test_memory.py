"""What a run holds grows with its pictures by names and numbers only: a small version of `benchmarks.memory`."""

from benchmarks.memory import CASES, Case, measured, rows_of


def line(pictures: int, held: float) -> dict[str, float]:
    return {"pictures": pictures, "seconds": 1.0, "before_mib": 600.0, "held_mib": held, "peak_mib": 900.0}


def test_growth_is_what_is_held_of_each_picture_more():
    *_, (what, each, wanted) = rows_of(CASES[1], [line(1000, 700.0), line(2024, 701.0)])
    assert (what, each, wanted) == (f"{CASES[1].title}: each picture more", "1.00 KiB", "< 1 KiB")


def test_pictures_and_features_beyond_their_budget_are_not_held():
    kept, few, beyond = (
        measured(Case("", budget, 0, 2), count) for budget, count in ((2048, 4000), (1, 1000), (1, 4000))
    )
    assert kept["pictures"] == beyond["pictures"] == 4400
    kept_mib = 4400 * (192 + 2 * 5) / 1024  # a decoded picture, and the features of its two views
    assert kept["held_mib"] - beyond["held_mib"] > 0.7 * kept_mib
    assert beyond["held_mib"] - few["held_mib"] < 0.2 * kept_mib
