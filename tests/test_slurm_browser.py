"""Two people of a lab, one hub, its own GPUs and a real Slurm side by side: in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import Person, chromium, chromium_path
from nodes import eventually
from playwright.sync_api import Browser, Page
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub

pytestmark = [
    pytest.mark.hub,
    pytest.mark.browser,
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium is installed (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def hub(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    with slurm_hub(tmp_path_factory.mktemp("slurm"), slurm, {"slurm": {}}, title="The cluster") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def person(hub: SlurmHub, browser: Browser, user: str, width: int = 1280) -> Person:
    return Person(browser, hub.url, user, hub.passwords[user], width)


def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_two_people_share_the_cluster_from_one_form(hub: SlurmHub, browser: Browser) -> None:
    alice, bob = person(hub, browser, "tsalice"), person(hub, browser, "tsbob")
    alice.open_form()
    headings = alice.page.locator("#offers [role=presentation]").all_inner_texts()
    assert headings == ["This machine", "The cluster"]
    assert alice.offer("1 whole a100") == "4 free now"
    assert alice.offer("1/4 of one v100") == "16 free now"
    photograph(alice.page, "slurm_form")
    alice.start("1 whole a100")
    alice.wait_for_lab()
    alice.open_notebook()
    shown = alice.run_cell("import os; print(os.environ['SLURM_JOB_GPUS'], os.environ['TIMESHARE_SHARE_TEXT'])")
    assert shown.strip() == "0 1 whole a100 on slurm"

    bob.open_form()
    eventually(lambda: bob.page.reload() and bob.offer("1 whole a100") == "3 free now", 60)
    bob.start("1/4 of one v100")
    bob.wait_for_lab()
    bob.open_notebook()
    assert "4 GiB of one v100 on slurm" in bob.run_cell("import os; print(os.environ['TIMESHARE_SHARE_TEXT'])")
    bob.stop()
    bob.close()
    alice.home()
    photograph(alice.page, "slurm_home")
    assert "1 whole a100 on slurm" in alice.page.locator("main, body").first.inner_text()
    alice.stop()
    alice.close()


def test_who_has_to_wait_sees_what_the_cluster_says_and_is_started(hub: SlurmHub, browser: Browser) -> None:
    taken = hub.cluster.submit("sleep 600", "--gres=gpu:a100:4", "--time=15", user="tsbob")
    hub.cluster.wait(taken, "RUNNING")
    alice = person(hub, browser, "tsalice")
    alice.open_form()
    eventually(lambda: alice.page.reload() and "In use" in alice.offer("4 whole a100"), 90)
    alice.start("4 whole a100")
    alice.page.wait_for_url("**/timeshare/wait/**")
    alice.page.locator("#why", has_text="not free yet").wait_for()
    alice.page.locator("#external", has_text="job").wait_for()
    photograph(alice.page, "slurm_waiting")
    hub.cluster.run("scancel", taken)
    alice.wait_for_lab()
    alice.stop()
    alice.close()


def test_limits_of_the_cluster_stand_on_the_page_of_each_person_and_of_administrators(
    hub: SlurmHub, browser: Browser
) -> None:
    carol = person(hub, browser, "tscarol", width=400)
    mine, table = f"{hub.url}hub/timeshare/limits", "[data-engine=slurm]"
    eventually(lambda: carol.page.goto(mine) and carol.page.locator(table).count() == 1, 60)
    assert carol.page.locator(f"{table} caption").inner_text().startswith("The cluster, as of ")
    assert carol.page.locator(f"{table} tbody tr").all_inner_texts() == [
        "account other\tat once, all users together\t2 GPUs\tGrpTRES"
    ]
    photograph(carol.page, "slurm_my_limits_narrow")
    everybody = f"{hub.url}hub/timeshare/admin"
    for page in (mine, everybody):
        carol.page.goto(page)
        assert carol.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert "QOS interactive" in carol.page.locator(table).inner_text()
    photograph(carol.page, "slurm_admin_narrow")
    carol.page.locator(f".table-responsive:has({table})").focus()  # what is wider scrolls by the keys
    assert carol.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Limits of The cluster"
    carol.close()


def test_maintenance_stands_on_the_form(hub: SlurmHub, browser: Browser) -> None:
    about = ["starttime=now+60minutes", "duration=60", f"nodes={hub.cluster.node('a100').name}", "users=root"]
    hub.cluster.run("scontrol", "create", "reservation", "reservationname=fix", "flags=maint", *about)
    alice = person(hub, browser, "tsalice", width=400)
    try:
        alice.open_form()
        eventually(lambda: alice.page.reload() and "maintenance from" in alice.offer("1 whole a100"), 60)
        said = alice.offer("1 whole a100")
        assert said.startswith("4 free now for up to 5")
        assert "; for longer, expected in 1 h 5" in said or "; for longer, expected in 2 h" in said
        announced = alice.page.locator(".alert", has_text="Announced: The cluster, maintenance from")
        assert hub.cluster.node("a100").name in announced.inner_text()
        assert alice.page.evaluate("document.documentElement.scrollWidth") <= 400
        photograph(alice.page, "slurm_maintenance_narrow")
    finally:
        hub.cluster.run("scontrol", "delete", "reservationname=fix")
        alice.close()


def test_the_panel_of_a_session_says_where_its_jobs_run(hub: SlurmHub, browser: Browser) -> None:
    alice = person(hub, browser, "tsalice")
    alice.open_form()
    alice.start("1 whole p100")
    alice.wait_for_lab()
    alice.open_notebook()
    alice.run_cell("%%gpu_batch --engine slurm --gpus 1 --model a100 --name fit\nprint('done')")
    alice.page.locator(".ts-status").click()
    job = alice.page.locator(".ts-job", has_text="fit")
    job.locator("p", has_text=re.compile(r"At The cluster, .*job \d+")).wait_for()
    photograph(alice.page, "slurm_panel")
    alice.stop()
    alice.close()
