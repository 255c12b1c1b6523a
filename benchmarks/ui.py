"""What the pages cost the server: `python -m benchmarks.ui` (needs Chromium and the packages of requirements-dev.txt).

CPU seconds of the server process, read before and after a real browser's visit: the first run of the home page without
torch, and reruns after torch and the ImageNet model are loaded. And how long a visitor waits from the click on Launch
until the page shows the accuracy of a head that has learnt, with workers that start cold and with a warm one.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Locator, Page, sync_playwright

from benchmarks.machine import headline, print_table
from benchmarks.samples import spread
from tests.browser import ARGUMENTS, require_chromium
from tests.live_server import LiveServer

VISITS = 5
RERUNS = 40
LAUNCHES = 4  # of which the first is not counted: it tries number formats
LAUNCH_MS = 90_000
#: an untrained head is right once in five times
HAS_LEARNT = """() => [...document.querySelectorAll('[data-testid=stMetric]')].some(metric =>
    metric.innerText.includes('Validation accuracy') &&
    parseFloat(metric.querySelector('[data-testid=stMetricValue]').innerText) > 60)"""
IDLE = "() => document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'"


def first_run(page: Page, home: Path) -> tuple[float, float]:
    """Return CPU seconds and MiB of a fresh server after the first visit to the home page; it has not loaded torch."""
    with LiveServer(home) as server:
        process = psutil.Process(server.process.pid)
        before = cpu_seconds(process)
        page.goto(server.url)
        page.get_by_role("heading", name="Recent runs").wait_for()
        page.wait_for_function(IDLE)
        spent = cpu_seconds(process) - before
        if any("libtorch" in mapped.path for mapped in process.memory_maps()):
            raise RuntimeError("The home page has loaded torch.")
        return spent, process.memory_info().rss / 2**20


def reruns(page: Page, home: Path) -> list[float]:
    """Return the CPU ms of each rerun of the home page on a warm server, answers known, less what it uses when idle."""
    with LiveServer(home, {"DLKIT_WARM_UP": "1", "DLKIT_MEASURE_SPEED": "0"}) as server:  # no trial beside the reruns
        process = psutil.Process(server.process.pid)
        page.goto(server.url)
        chips = [page.get_by_role("radio", name=name) for name in ("Coffee", "Cat")]
        chips[0].wait_for(timeout=90_000)
        for chip in chips:  # the first answer for each picture is a forward pass, and not what is measured
            press(page, chip)
            time.sleep(1)
        before, since = cpu_seconds(process), time.monotonic()
        time.sleep(5)
        idle = (cpu_seconds(process) - before) / (time.monotonic() - since)  # Streamlit polls some files
        spent = []
        for turn in range(RERUNS):
            before, since = cpu_seconds(process), time.monotonic()
            press(page, chips[turn % 2])
            time.sleep(0.3)  # the collection of garbage comes after the run
            spent.append(1000 * (cpu_seconds(process) - before - idle * (time.monotonic() - since)))
        return spent


def launches(page: Page, home: Path, *, is_warm: bool) -> list[float]:
    """Return the seconds from each click on Launch to the first accuracy of a head that has learnt."""
    seconds = []
    with LiveServer(home, {"DLKIT_WARM_WORKER": str(int(is_warm))}) as server:
        for seed in range(LAUNCHES):
            page.goto(f"{server.url}/train?dataset=flowers-mini&backbone=efficientnet-lite0&seed={seed}")
            button = page.get_by_role("button", name="Launch")
            button.and_(page.locator(":enabled")).wait_for()
            page.wait_for_function(IDLE)
            started = time.monotonic()
            button.click()
            page.wait_for_function(HAS_LEARNT, timeout=LAUNCH_MS)
            seconds.append(time.monotonic() - started)
            page.get_by_text("succeeded", exact=True).first.wait_for(timeout=LAUNCH_MS)
    return seconds[1:]


def press(page: Page, chip: Locator) -> None:
    """Press a chip and wait for the rerun that it starts."""
    chip.click()
    page.wait_for_timeout(100)
    page.wait_for_function(IDLE)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that the process has used, user and system."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    """Measure and print."""
    print(headline(), f"load {os.getloadavg()[0]:.1f}", f"{VISITS} fresh servers, {RERUNS} reruns", sep="\n")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=ARGUMENTS)
        visits = [first_run(browser.new_page(), Path(folder) / str(visit)) for visit in range(VISITS)]
        spent = reruns(browser.new_page(), Path(folder) / "warm")
        cold, warm = (
            launches(browser.new_page(), Path(folder) / f"launches{is_warm}", is_warm=is_warm)
            for is_warm in (False, True)
        )
        browser.close()
    print_table(
        [
            ("home, first run without torch: CPU s", spread([cpu for cpu, _ in visits], 2), "≤ 0.3"),
            ("home, first run without torch: RSS MiB", spread([rss for _, rss in visits], 0), "≤ 130"),
            ("home, rerun after torch: CPU ms", f"{spread(spent, 0)}, mean {statistics.mean(spent):.1f}", "≤ 15"),
            ("flowers-mini: Launch to the accuracy of a head that has learnt, cold, s", spread(cold, 1), "≤ 10"),
            ("flowers-mini: the same with a warm worker, s", spread(warm, 1), "≤ 4"),
        ]
    )


if __name__ == "__main__":
    main()
