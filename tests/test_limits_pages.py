"""The pages about limits in a real browser: what may I have, and what administrators see and change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from browsers import Person, chromium, chromium_path
from hubs import Hub, running_hub
from nodes import eventually
from plain_jobs import job_body
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.hub, pytest.mark.timeout(600)]
if chromium_path() is None:
    pytestmark.append(pytest.mark.skip(reason="no Chromium is installed: run `make system`"))

LIMITS = """\
timezone: UTC
weights: {t4: 0.2}
defaults:
  gpus: 1
  sessions:
    at_once: 3
    default_time: 2h
    max_time: 8h
    default_cpus: 1
    max_cpus: 1.5
    default_host_memory_gib: 1
    max_host_memory_gib: 2
  budgets: [{gpu_hours: 20, every: week}]
groups:
  cms: {members: [ada, ben], quota: 2, budgets: [{gpu_hours: 100, every: month, beyond: later}]}
  atlas: {members: [cleo, dora], quota: 1}
fair_share: {}
pools:
  teaching: {models: [t4], max_time: 4h}
  training:
    models: ["a100*"]
    keep_for_sessions: {gpus: 1, when: "Mon-Fri 08:00-18:00"}
    preempt: {after: 30m}
maintenance:
  - {name: new driver, begins: "2099-01-20 06:00", ends: "2099-01-20 10:00", pool: training}
"""


def photograph(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "limits.yaml").write_text(LIMITS)
    options = ("--simulate", "a100-40gb:3,t4:1", "--limits", str(folder / "limits.yaml"), "--admins", "dora")
    with running_hub(folder, *options) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def work(hub: Hub) -> None:
    """Some hold and some wait."""
    for owner, share in (
        ("ada", {"gpus": 1}),
        ("ben", {"memory_gib": 20}),
        ("cleo", {"gpus": 1}),
        ("dora", {"gpus": 1}),
    ):
        wish = {"share": {**share, "model": "a100-40gb"}, "owner": owner, "server_name": "s1", "time_limit_s": 3600}
        hub.service("POST", "reservations", json=wish)
        job = job_body(hub.state_dir, owner, {**share, "model": "a100-40gb"})
        hub.service("POST", "jobs", json={**job, "time_limit_s": 3600})


def person(browser: Browser, hub: Hub, name: str, width: int = 1280) -> Person:
    return Person(browser, hub.url, name, hub.deployment.password, width)


def test_a_person_reads_what_she_may_have_has_used_and_waits_for(hub: Hub, browser: Browser) -> None:
    work(hub)
    ada = person(browser, hub, "ada")
    ada.page.get_by_role("link", name="My limits").click()
    assert ada.page.inner_text("#holds") == "1"
    expect(ada.page.locator("#waiting")).to_contain_text("you hold 1 of the 1 GPU that one person may hold at once")
    assert ada.page.locator("[data-key='sessions.max_time']").inner_text().split("\t") == [
        "Longest time of a session",
        "8 h",
        "defaults",
    ]
    assert ada.page.locator("[role=progressbar]").count() == 2
    assert ada.page.get_by_role("link", name="GPUs and limits").count() == 0
    photograph(ada.page, "my_limits")


def test_the_pages_fit_a_narrow_screen(hub: Hub, browser: Browser) -> None:
    dora = person(browser, hub, "dora", width=400)
    for page in ("limits", "admin"):
        dora.page.goto(f"{hub.url}hub/timeshare/{page}")
        assert dora.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_an_administrator_sees_everything_and_changes_limits_and_exceptions(hub: Hub, browser: Browser) -> None:
    dora = person(browser, hub, "dora")
    page = dora.page
    page.get_by_role("link", name="GPUs and limits").click()
    expect(page.locator("body")).to_contain_text("Who holds what")
    expect(page.locator("#budgets + div")).to_contain_text("group cms")
    photograph(page, "admin")

    page.fill("#text", LIMITS.replace("gpus: 1\n", "gpus: lots\n"))
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#problem")).to_contain_text("line 4: defaults.gpus: must be a number")
    assert "gpus: lots" in page.input_value("#text"), "what was typed is kept"

    page.fill("#text", LIMITS.replace("gpus: 1\n", "gpus: 2\n"))
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#done")).to_contain_text("is valid")
    page.get_by_role("button", name="Try on what really came").click()
    told = page.inner_text("#tried")
    assert told.startswith("8 requests of 4 people on 4 devices")
    assert "group cms" in told
    assert "gpus: 2\n" in page.input_value("#text"), "what was typed is kept"
    assert "gpus: 2\n" not in Path(hub.deployment.limits_path).read_text()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#done")).to_contain_text("in force")
    expect(page.locator("body")).to_contain_text("dora, limits: applied")
    assert "gpus: 2\n" in Path(hub.deployment.limits_path).read_text()

    page.fill("#e-name", "ben")
    page.select_option("#e-key", "sessions.max_time")
    page.fill("#e-value", "24h")
    page.fill("#e-until", (datetime.now() + timedelta(days=7)).strftime("%Y-%m-%dT18:00"))
    page.fill("#e-why", "the thesis is due")
    page.get_by_role("button", name="Make the exception").click()
    page.get_by_text("the thesis is due").first.wait_for()
    expect(page.locator("body")).to_contain_text("the thesis is due")
    mine = hub.service("GET", "limits?owner=ben").json()
    assert next(row for row in mine["limits"] if row["key"] == "sessions.max_time")["value"] == "24 h"
    page.get_by_role("button", name="End now").click()
    eventually(lambda: not hub.service("GET", "limits?owner=ben").json()["exceptions"])


def test_cores_and_memory_are_asked_for_by_keyboard_within_limits(hub: Hub, browser: Browser) -> None:
    cleo = person(browser, hub, "cleo", width=390)
    page = cleo.page
    cleo.open_form("cores")
    summary = page.locator("#host summary")
    assert summary.inner_text() == "Cores and main memory: 1 core, up to 1 GiB"
    assert not page.locator("#cpus").is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("1.5")
    page.keyboard.press("Tab")
    page.keyboard.type("2.5")
    assert page.input_value("#host_memory_gib") == "2.5"
    for what in ("cores", "memory"):
        assert page.locator(f"#host-help [data-bound={what}]").inner_text().startswith(what)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    photograph(page, "form_cores_narrow")
    page.evaluate("document.documentElement.setAttribute('data-bs-theme', 'dark')")
    photograph(page, "form_cores_dark")
    assert not page.evaluate("document.getElementById('spawn_form').checkValidity()"), "2.5 is more than may be had"
    page.evaluate("document.getElementById('spawn_form').noValidate = true")
    cleo.start("No GPU")
    assert "host_memory_gib is 2.5: your limit (max_host_memory_gib of your sessions) is 2; ask for at most 2" in (
        page.inner_text(".spawn-error-msg")
    )
    assert page.locator("#cpus").is_visible(), "the fields that were refused are in view"
    page.fill("#cpus", "1.5")
    page.fill("#host_memory_gib", "2")
    cleo.start("No GPU")
    page.wait_for_url("**/cleo/cores/**", wait_until="commit")
    page.goto(f"{hub.url}hub/home")
    told = page.locator("[data-role=host]").first.inner_text()
    assert "1.5 cores" in told
    assert "2 GiB of main memory" in told
    photograph(page, "home_cores_narrow")
    page.goto(f"{hub.url}hub/timeshare/limits")
    expect(page.locator("#host")).to_contain_text(
        "A session gets 1 core and 1 GiB; you may ask for up to 1.5 cores and 2 GiB"
    )
    assert page.locator("[data-key='sessions.max_cpus']").inner_text().split("\t")[1] == "1.5"
    photograph(page, "my_limits_narrow")
