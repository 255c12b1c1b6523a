"""A small, seeded share of `benchmarks.faults`: the same processes, and the same promises."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def kept(*arguments: str) -> str:
    """Run one part; return its table. The test fails where a promise is broken."""
    command = [sys.executable, "-m", "benchmarks.faults", "--only", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "BROKEN" not in ended.stdout
    return ended.stdout


@pytest.mark.slow
def test_killed_processes_lose_nothing():
    assert "| kill -9 | 3 (" in kept("kills", "--kills", "3", "--seed", "5")


@pytest.mark.slow
def test_failing_write_leaves_what_can_be_read_and_gone_on_from():
    assert "| unreadable states after it | 0 | 0 |" in kept("writes", "--every", "94")


@pytest.mark.slow
def test_full_disk_pauses_a_run_until_there_is_room():
    table = kept("disk")
    if "skipped" in table:
        pytest.skip("this process may not mount a disk")
    assert "| goes on by itself when there is room | succeeded, equal: True |" in table


def test_folder_that_can_only_be_read_is_read():
    if "skipped" in kept("readonly"):
        pytest.skip("this process may not mount a disk")


@pytest.mark.slow
def test_locked_database_is_waited_for():
    assert "succeeded, equal: True" in kept("locked", "--hold", "2")


@pytest.mark.slow
def test_clock_that_is_set_back_changes_no_duration():
    assert "succeeded, equal: True" in kept("clock")


@pytest.mark.slow
def test_memory_that_is_too_small_makes_the_parts_smaller():
    table = kept("memory", "--sizes", "16,0")
    assert "| memory for 16 pictures | succeeded, 12 steps, 2 halvings noted | succeeded |" in table
    assert "| memory for no picture at all | The memory of the CPU is not enough" in table


def test_two_tabs_do_not_undo_each_other():
    assert "6 of 6 | 6 |" in kept("tabs", "--rounds", "5")
