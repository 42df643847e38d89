"""A real Chromium on a real hub, as people use it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
LAB_SCRIPTS = re.compile(r"/(static/lab|lab/extensions)/.+\.js")
"""JupyterLab's own: eight seconds of a core each time they are read, which only ``open_notebook`` needs."""
expect.set_options(timeout=PATIENCE_MS)


def chromium_path() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    path = chromium_path()
    assert path is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """One person with a browser of her own."""

    def __init__(self, browser: Browser, url: str, name: str, password: str, width: int = 1280) -> None:
        self.name = name
        self.url = url
        # A test's certificate is of no authority that browsers know.
        self.context = browser.new_context(viewport={"width": width, "height": 900}, ignore_https_errors=True)
        self.context.route(LAB_SCRIPTS, lambda route: route.abort())
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        no_news = self.page.get_by_role("button", name="No", exact=True)  # Lab asks whether it may bring some
        self.page.add_locator_handler(no_news, lambda button: button.dispatch_event("click"))  # the focus stays
        self.page.goto(f"{url}hub/login?next={quote(urlsplit(url).path, safe='')}hub%2Fhome")
        self.page.fill("#username_input", name)
        self.page.fill("#password_input", password)
        self.page.click("#login_submit")
        self.page.wait_for_url("**/hub/home")

    def open_form(self, server_name: str = "") -> None:
        self.page.goto(f"{self.url}hub/spawn/{self.name}{'/' + server_name if server_name else ''}")
        self.page.wait_for_selector("#offers")

    def offer(self, text: str) -> str:
        """What the form says about the offer whose name holds ``text``."""
        row = self.page.locator("#offers [data-offer]", has_text=text).first
        return row.locator("[data-role=state]").inner_text()

    def start(self, text: str) -> None:
        self.page.locator("#offers [data-offer]", has_text=text).first.locator("input").check()
        self.page.click("#spawn_form button[type=submit]")

    def wait_for_lab(self) -> None:
        self.page.wait_for_url(f"**/user/{self.name}/lab**")

    def open_notebook(self) -> Page:
        """A new one in Lab, once it can be typed into and its kernel is there."""
        page = self.page
        self.context.unroute(LAB_SCRIPTS)
        page.goto(f"{self.url}user/{self.name}/lab?reset")
        page.click(".jp-LauncherCard[data-category=Notebook]")
        # Lab draws the first cell twice, and moves the focus to the second one.
        page.wait_for_selector(".jp-Notebook .cm-content:focus")
        page.locator("#jp-main-statusbar", has_text=re.compile(r"Python .*\| Idle")).wait_for()
        return page

    def run(self, code: str) -> Locator:
        """Runs ``code`` in the last cell of the notebook; that cell."""
        cells = self.page.locator(".jp-Notebook .jp-CodeCell")
        number = cells.count() - 1
        cell = cells.nth(number)
        editor = cell.locator(".cm-content")
        editor.click()
        self.page.keyboard.insert_text(code)
        editor.filter(has_text=code.splitlines()[0]).wait_for()
        self.page.keyboard.press("Shift+Enter")
        cells.nth(number + 1).wait_for(state="attached")  # the next one, which is drawn a moment later
        return cell

    def run_cell(self, code: str) -> str:
        """Runs ``code`` in the last cell, and gives what it shows first."""
        return self.run(code).locator(".jp-OutputArea-output pre").first.inner_text()

    def home(self) -> None:
        self.page.goto(f"{self.url}hub/home")

    def stop(self) -> None:
        self.home()
        self.page.click("#stop")
        self.page.wait_for_url("**/hub/home")

    def close(self) -> None:
        self.context.close()
