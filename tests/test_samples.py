"""The shipped samples are learnt as the README says: the small version of `benchmarks.samples`."""

from benchmarks.samples import FLOWERS, follow
from tests.job_home import job_home


def test_flowers_are_learnt_from_submit_to_a_kept_model(tmp_path):
    with job_home(tmp_path / "home"):
        outcome = follow(FLOWERS)
    assert outcome.accuracy >= 0.84
    assert 0 < outcome.first_point < outcome.done
