"""What the C library is told about memory, where it is glibc."""

import os
import platform
import subprocess
import sys

import pytest

from dlkit import machine

FAULTS = """
import resource
from dlkit import machine
if {keeps}:
    assert machine.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        bytearray(2**25)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) // 256
work()
before = faults()
work()
print(faults() - before)
before = resident()
machine.give_back_memory()
print(before - resident())
"""

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(keeps: bool) -> tuple[int, int]:
    """Return the page faults of using 32 MiB 20 times, and how many MiB could be given back afterwards."""
    code = FAULTS.format(keeps=keeps)
    untuned = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=untuned).stdout.split()
    return int(found[0]), int(found[1])


@glibc_only
def test_freed_memory_is_used_again_without_page_faults_and_can_be_given_back():
    (as_it_comes, _), (kept, given_back) = faults(False), faults(True)
    assert kept < 100 < as_it_comes
    assert given_back >= 30


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    machine._glibc.cache_clear()
    assert not machine.keep_freed_memory()
    machine.give_back_memory()
    machine._glibc.cache_clear()
