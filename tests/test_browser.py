"""Three people and two kinds of GPU in real browsers: from the login to the cell, the queue, and home again.

With ``SCREENSHOTS=DIR`` the pages are photographed for the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import Notebook
from browsers import Person, chromium, chromium_path
from hubs import Hub, running_hub
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.hub, pytest.mark.timeout(600)]
if chromium_path() is None:
    pytestmark.append(pytest.mark.skip(reason="no Chromium is installed: run `make system`"))


def photograph(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("browser"), "--simulate", "a100-40gb:2,t4:1") as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(hub: Hub) -> Iterator[None]:
    yield
    hub.end_all_sessions()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_three_people_share_the_gpus(hub: Hub, browser: Browser) -> None:
    ada, ben, cleo = (Person(browser, hub.url, name, hub.deployment.password) for name in ("ada", "ben", "cleo"))

    ada.open_form()
    assert ada.offer("1/4 of one a100-40gb") == "8 free now"
    photograph(ada.page, "form")
    ada.start("1/4 of one a100-40gb")
    ada.wait_for_lab()
    ada.open_notebook()
    said = ada.run_cell("import os; e = os.environ; print(e['TIMESHARE_SHARE_TEXT'], '/', e['TIMESHARE_ENFORCEMENT'])")
    assert said.strip() == "10 GiB of one a100-40gb / simulated"
    photograph(ada.page, "lab")

    ben.open_form()
    assert ben.offer("1/4 of one a100-40gb") == "7 free now"
    ben.start("1 whole t4")
    ben.wait_for_lab()

    cleo.open_form()
    assert cleo.offer("1 whole t4").startswith("In use. You would start in")
    cleo.start("1 whole t4")
    cleo.page.wait_for_url("**/timeshare/wait/**")
    assert cleo.page.inner_text("#position") == "1"
    assert cleo.page.inner_text("#latest").startswith("in ")
    photograph(cleo.page, "waiting")

    ben.stop()
    cleo.wait_for_lab()
    ben.home()
    expect(ben.page.locator("#last-ended")).to_contain_text("It was stopped")

    cleo.home()
    expect(cleo.page.locator("[data-session]").first).to_contain_text("1 whole t4")
    expect(cleo.page.locator("[data-session]").first).to_contain_text("held by: simulated")
    photograph(cleo.page, "home")
    cleo.page.select_option("[name=minutes]", "60")
    cleo.page.click("button:has-text('Extend')")
    cleo.page.wait_for_url("**/hub/home")
    assert cleo.page.inner_text("[data-role=left]").startswith(("2 h 59", "3 h"))
    for person in (ada, cleo):
        person.stop()
        person.close()
    ben.close()


def test_the_form_follows_what_others_take(hub: Hub, browser: Browser) -> None:
    ada, ben = (Person(browser, hub.url, name, hub.deployment.password) for name in ("ada", "ben"))
    ada.open_form()
    row = ada.page.locator("#offers [data-offer]", has_text="1 whole t4").locator("[data-role=state]")
    assert row.inner_text() == "1 free now"
    ben.open_form()
    ben.start("1 whole t4")
    states = "[...document.querySelectorAll('[data-role=state]')]"
    ada.page.wait_for_function(f"{states}.some(node => node.textContent.startsWith('In use'))")
    ben.wait_for_lab()
    ben.stop()
    ada.close()
    ben.close()


def test_a_waiting_person_leaves_the_queue(hub: Hub, browser: Browser) -> None:
    ada, ben = (Person(browser, hub.url, name, hub.deployment.password) for name in ("ada", "ben"))
    ada.open_form()
    ada.start("2 whole a100-40gb")
    ada.wait_for_lab()
    ben.open_form()
    ben.start("1 whole a100-40gb")
    ben.page.wait_for_url("**/timeshare/wait/**")
    ben.page.click("#leave")
    ben.page.wait_for_url("**/hub/home")
    expect(ben.page.locator("#last-ended")).to_contain_text("left the queue")
    ada.stop()
    ada.close()
    ben.close()


def test_everything_works_by_keyboard_on_a_narrow_screen(hub: Hub, browser: Browser) -> None:
    dora = Person(browser, hub.url, "dora", hub.deployment.password, width=400)
    for path in ("hub/home", "hub/spawn/dora"):
        dora.page.goto(hub.url + path)
        wide = dora.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400, f"{path} is {wide} px wide"
    dora.page.wait_for_selector("#offers")
    photograph(dora.page, "form-narrow")
    dora.page.locator("#offers input[name=offer]:checked").focus()
    for _ in range(20):
        if dora.page.evaluate("document.activeElement.value") == "cpu_only":
            break
        dora.page.keyboard.press("ArrowDown")
    assert dora.page.evaluate("document.activeElement.value") == "cpu_only"
    dora.page.keyboard.press("Enter")
    dora.wait_for_lab()
    dora.home()
    assert dora.page.evaluate("document.documentElement.scrollWidth") <= 400
    photograph(dora.page, "home-narrow")
    dora.page.locator("#stop").focus()
    dora.page.keyboard.press("Enter")
    dora.page.wait_for_selector("#start")
    dora.close()


def test_a_refused_choice_is_explained_on_the_form(hub: Hub, browser: Browser) -> None:
    ada = Person(browser, hub.url, "ada", hub.deployment.password)
    ada.open_form()
    ada.page.fill("[name=memory_gib]", "500")
    ada.page.click("#spawn_form button[type=submit]")
    message = ada.page.wait_for_selector(".spawn-error-msg").inner_text()
    assert "memory_gib is 500" in message
    assert "40 GiB" in message
    ada.close()


def test_the_home_page_follows_a_sweep_and_stays_where_it_is(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    ada = Person(browser, hub.url, "ada", hub.deployment.password)
    cell = f"import os, time\nwhile not os.path.exists(f'{tmp_path}/go{{x}}'): time.sleep(.1)"
    Notebook(hub, tmp_path / "data").hand(cell, "--memory 4 --sweep x=0:4 --max-parallel 2 --name scan")
    told = ada.page.locator("#jobs li", has_text="scan").locator("[data-role=told]")
    told.filter(has_text="2 running, 2 waiting").wait_for()
    ada.page.evaluate("window.here = true")
    (tmp_path / "go0").touch()
    told.filter(has_text="2 running, 1 completed, 1 waiting").wait_for()
    assert ada.page.evaluate("window.here"), "the page was not loaded anew"
    for x in (1, 2, 3):
        (tmp_path / f"go{x}").touch()
    told.filter(has_text="4 completed").wait_for()
    ada.close()
