"""JupyterLab in a real browser on a real hub: GPU, time and idle state in view, warnings with actions, batch by a
click."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import Person, chromium, chromium_path
from hubs import Hub, running_hub
from parked_sessions import Driver
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PageTimeout

pytestmark = [
    pytest.mark.hub,
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium is installed (apt-get install chromium)"),
]
OURS = "name for name in os.environ if name.startswith('TIMESHARE_')"
LIMITS = "defaults:\n  idle: {after: 30s, grace: 3s, warn: [20s], keep: 8h}\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    state = tmp_path_factory.mktemp("lab")
    (state / "limits.yaml").write_text(LIMITS)
    (state / "timeshare_culler.py").write_text("c.IdleCuller.period_s = 1.0\n")
    with running_hub(state) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def status(page: Page) -> str:
    return page.locator(".ts-status").inner_text()


def shows(page: Page, text: str | re.Pattern[str], where: str = "#timeshare-panel", seconds: int = 60) -> None:
    try:
        page.locator(where).filter(has_text=text).first.wait_for(timeout=1000 * seconds)
    except PageTimeout:
        pytest.fail(f"{text!r} did not appear; there was {page.locator(where).all_inner_texts()!r}")


def documented_variables() -> set[str]:
    page = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
    here, _, _ = page.partition("## On a batch system")
    return set(re.findall(r"^\| `(TIMESHARE_[A-Z_]+)`", here, re.MULTILINE))


def test_gpu_time_and_idle_state_are_in_view_and_in_hand(hub: Hub, browser: Browser) -> None:
    ada = Person(browser, hub.url, "ada", hub.deployment.password)
    ada.open_form()
    ada.start("1 whole t4")
    ada.wait_for_lab()
    page = ada.open_notebook()
    assert set(ada.run_cell(f"import os; print(*({OURS}))").split()) == documented_variables()
    assert ada.run_cell("kept = 'in memory'; kept") == "'in memory'"
    shows(page, "1 whole t4 (simulated) · GPU 0 % · 0.0 of 16.0 GiB · ", ".ts-status")
    page.locator(".ts-status").focus()
    page.keyboard.press("Enter")
    shows(page, "Time left:")
    shows(page, "After 30 s its GPU goes back.")

    toast = page.locator(".Toastify__toast", has_text="This session is idle for")
    toast.wait_for()
    photograph(page, "lab_notice")
    toast.get_by_role("button", name="Keep alive 1 h, because…").click()
    page.locator(".jp-Dialog input").fill("waits for the beam")
    page.get_by_role("button", name="Keep alive", exact=True).last.click()
    shows(page, re.compile("Protected for (1 h|59 min): waits for the beam."))
    toast.wait_for(state="detached")

    page.get_by_role("button", name="End protection").click()
    shows(page, "GPU given back", ".ts-status")
    shows(page, "GPU given back: idle for")
    assert ada.run_cell("kept") == "'in memory'"
    photograph(page, "lab_parked")
    page.get_by_role("button", name="Ask for the GPU again").click()
    shows(page, "1 whole t4 (simulated) · GPU", ".ts-status")
    page.get_by_role("button", name="Give the GPU back").click()
    shows(page, "No kernel holds GPU memory, so nothing is lost.", ".jp-Dialog")
    page.get_by_role("button", name="Give it back").click()
    shows(page, "GPU given back", ".ts-status")
    ada.run_cell("import os  # for cuda\nprint(os.environ['TIMESHARE_DEVICES'])")
    shows(page, "It has 1 whole t4 again.\nGPU-simulated-0002", ".jp-OutputArea-output")
    shows(page, "1 whole t4 (simulated) · GPU", ".ts-status")
    ada.stop()
    ada.close()


HOLDS = """import mmap, os, pathlib
library = pathlib.Path.home() / "libcuda.so.1"  # as if CUDA had been used
library.write_bytes(bytes(mmap.PAGESIZE))
file = library.open("rb")
loaded = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(os.getpid())"""


def test_what_kernels_hold_is_kept_on_request_and_comes_back_with_the_next_cell(
    tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "limits.yaml").write_text("parking: {host_memory_gib: 8}\n")
    with running_hub(tmp_path) as own:
        cleo = Person(browser, own.url, "cleo", own.deployment.password)
        cleo.open_form()
        cleo.start("1 whole t4")
        cleo.wait_for_lab()
        page = cleo.open_notebook()
        kernel = int(cleo.run_cell(HOLDS))
        driver = Driver(tmp_path / "faults.json")
        driver.hold(kernel, 3000, cleo.run_cell("print(os.environ['TIMESHARE_DEVICES'])").strip())
        page.locator(".ts-status").click()
        shows(page, "2.9 of 16.0 GiB", ".ts-status", 90)
        page.get_by_role("button", name="Give the GPU back").click()
        shows(page, "This is experimental: the state can be lost", ".jp-Dialog")
        photograph(page, "lab_keep_state")
        page.get_by_role("button", name="Give back and keep its state in memory (experimental)").click()
        shows(page, "GPU given back, 2.9 GiB of state kept", ".ts-status")
        shows(page, "Kernels that hold GPU state (2.9 GiB) wait in their CUDA calls")
        assert driver.on_gpus() == {}
        cleo.run_cell("x = 1")
        shows(page, "It has 1 whole t4 again, with 2.9 GiB of GPU state.", ".jp-OutputArea-output")
        assert set(driver.on_gpus()) == {kernel}
        cleo.stop()
        cleo.close()


def test_a_cell_goes_to_batch_by_its_toolbar_and_its_job_is_in_the_panel(hub: Hub, browser: Browser) -> None:
    ben = Person(browser, hub.url, "ben", hub.deployment.password)
    ben.open_form()
    ben.start("1 whole a100-40gb")
    ben.wait_for_lab()
    page = ben.open_notebook()
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.insert_text("print('trained')\nloss = 0.5")
    page.locator(
        ".jp-cell-toolbar [data-command='timeshare:run-in-batch'], [title^='Run this cell as a batch']"
    ).first.click()
    page.locator(".ts-form select").select_option("memory")
    page.locator(".ts-form [name=size]").fill("2")
    page.locator(".ts-form [name=name]").fill("my fit")
    photograph(page, "lab_form")
    page.get_by_role("button", name="Write the line").click()
    first = page.locator(".jp-Notebook .cm-line").first
    assert first.inner_text() == "%%gpu_batch --memory 2 --name 'my fit'"
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".ts-status").click()
    shows(page, "my fit", ".ts-job")
    shows(page, "completed", ".ts-job")
    page.get_by_role("button", name="Log").click()
    shows(page, "trained", ".ts-log")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Attach").click()
    page.locator(".jp-Notebook .jp-CodeCell", has_text="%gpu_batch attach").locator(
        ".jp-OutputArea-output", has_text="trained"
    ).first.wait_for()
    photograph(page, "lab_panel")
    ben.stop()
    ben.close()


def test_while_the_service_is_away_lab_says_so_and_blocks_nothing(hub: Hub, browser: Browser) -> None:
    cleo = Person(browser, hub.url, "cleo", hub.deployment.password, width=500)
    cleo.open_form()
    cleo.start("1 whole a100-40gb")
    cleo.wait_for_lab()
    page = cleo.open_notebook()
    shows(page, "GPU 0 %", ".ts-status")
    service = hub.components()["service"]
    os.kill(service, 19)  # SIGSTOP: it is there, and does not answer
    try:
        shows(page, "timeshare does not answer", ".ts-status", 90)
        assert cleo.run_cell("1 + 1") == "2"
    finally:
        os.kill(service, 18)  # SIGCONT
    page.wait_for_function(
        "!document.querySelector('.ts-status').textContent.includes('does not answer')", timeout=90_000
    )
    cleo.stop()
    cleo.close()
