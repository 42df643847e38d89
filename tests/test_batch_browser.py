"""A cell handed over in JupyterLab, whose notebook then loses its tab, its kernel and its hub.

With ``SCREENSHOTS=DIR`` the notebook is photographed for the documentation.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import Person, chromium, chromium_path
from hubs import Hub, running_hub
from nodes import eventually, marked
from playwright.sync_api import Browser, Page
from test_browser import photograph

pytestmark = [pytest.mark.browser, pytest.mark.hub, pytest.mark.timeout(600)]
if chromium_path() is None:
    pytestmark.append(pytest.mark.skip(reason="no Chromium is installed: run `make system`"))

EPOCHS = 50
TRAINING = f"""%%gpu_batch --memory 4 --time 30m
import matplotlib.pyplot as plt, time
losses = []
for epoch in range({EPOCHS}):
    losses.append(start / (1 + epoch))
    if epoch % 10 == 9: print("epoch", epoch + 1, "loss", round(losses[-1], 3), flush=True)
    time.sleep(.5)
figure = plt.figure(figsize=(5, 2)); plt.plot(losses); plt.ylabel("loss"); plt.show()"""
LINES = [f"epoch {n} loss {round(3 / n, 3)}" for n in range(10, EPOCHS + 1, 10)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # kernels take it as a sign to leave file descriptors alone
    with running_hub(tmp_path, "--simulate", "a100-40gb:2,t4:1") as found:
        yield found


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def output(page: Page, number: int) -> str:
    return page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-OutputArea").inner_text()


def until(page: Page, number: int, text: str, seconds: int = 60) -> None:
    for _ in range(seconds * 4):
        if text in output(page, number):
            return
        page.wait_for_timeout(250)
    raise AssertionError(f"{text!r} did not appear; there is {output(page, number)!r}")


def notebook_kernels(hub: Hub) -> list[int]:
    """Of the sessions of ``hub``; those of jobs are none."""
    found = []
    for reservation in hub.everybodys():
        for pid in marked(reservation["id"]):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                found += [pid] if b"ipykernel_launcher" in words else []
    return found


def test_a_job_survives_tab_kernel_and_hub_and_is_attached_to_afterwards(hub: Hub, browser: Browser) -> None:
    ada = Person(browser, hub.url, "ada", hub.deployment.password)
    ada.open_form()
    ada.start("1 whole t4")
    ada.wait_for_lab()
    page = ada.open_notebook()
    ada.run("start = 3")
    ada.run(TRAINING)
    until(page, 1, "starts now, at most")
    until(page, 1, LINES[0])
    job_id = re.findall(r"\d{4}-[0-9a-f]{8}", output(page, 1))[0]
    page.close()
    ada.context.close()
    (kernel,) = notebook_kernels(hub)
    os.kill(kernel, signal.SIGKILL)
    hub.kill("hub")
    eventually(hub.is_healthy, 60)

    back = Person(browser, hub.url, "ada", hub.deployment.password)
    page = back.open_notebook()
    page.keyboard.press("Control+b")  # nothing but the notebook
    back.run("%gpu_batch ls")
    until(page, 0, job_id)
    back.run("%gpu_batch attach")
    until(page, 1, "completed")
    assert [line for line in output(page, 1).splitlines() if line.startswith("epoch")] == LINES
    page.wait_for_selector(".jp-OutputArea-output img")
    back.run("%gpu_batch result")
    until(page, 2, "back: ")
    back.run(f"losses == [3 / (1 + n) for n in range({EPOCHS})], epoch")
    until(page, 3, f"(True, {EPOCHS - 1})")
    page.wait_for_timeout(500)
    photograph(page, "batch")
    back.close()
