"""A site as docs/web_servers.md sets it up: nginx with TLS, a base URL, PostgreSQL, accounts by PAM, and two people in
browsers of their own."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from accounts import Machine, made_accounts
from browsers import Person, chromium, chromium_path
from databases import free_port
from hubs import ROOT, command
from nodes import kept_from_others
from playwright.sync_api import Browser, Page, expect
from web_servers import NAME, Place, Site, folder_of_account, missing, running

pytestmark = [
    *(pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(600)),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes accounts and starts sessions as them"),
    pytest.mark.skipif(shutil.which("useradd") is None, reason="this system has no useradd"),
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium is installed: run `make system`"),
]
GUIDE = ROOT / "docs" / "web_servers.md"
CELL = """async ([server, code]) => {
  const xsrf = document.cookie.split("; ").find((text) => text.startsWith("_xsrf=")).slice(6);
  const headers = { "X-XSRFToken": xsrf };
  const kernel = await (await fetch(`${server}api/kernels`, { method: "POST", headers })).json();
  const socket = new WebSocket(`${server.replace(/^http/, "ws")}api/kernels/${kernel.id}/channels`);
  const header = { msg_id: "m1", msg_type: "execute_request", username: "", session: "s1", version: "5.3" };
  const content = { code, silent: false };
  socket.onopen = () =>
    socket.send(JSON.stringify({ header, parent_header: {}, metadata: {}, content, channel: "shell" }));
  return await new Promise((resolve, reject) => {
    socket.onerror = () => reject(new Error("the websocket was refused"));
    socket.onmessage = ({ data }) => {
      const told = JSON.parse(data);
      if (told.msg_type === "stream") resolve(told.content.text);
      if (told.msg_type === "error") reject(new Error(told.content.evalue));
    };
  });
}"""
"""What a page of a notebook does, without one."""


@dataclass(frozen=True)
class Lab:
    """The site, and its two people by name with their passwords: the first one administers it."""

    hub: Site
    people: dict[str, str]


class WholeSite(Site, Machine):
    """With accounts of the machine, behind a web server."""


def words_of_the_guide(admin: str, place: Place, database: str, password_file: Path) -> list[str]:
    """The options that the guide gives `timeshare up`, but for names, port and database."""
    block = re.search(r"^    sudo \S+/timeshare up (.*?[^\\])$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None, f"{GUIDE.name} has no `timeshare up` any more"
    given = shlex.split(block[1].replace("\\\n", " "))
    own = {
        "--admins": admin,
        "--port": str(place.behind),
        "--public-url": place.url,
        "--ledger": database,
        "--ledger-password-file": str(password_file),
    }
    assert set(own) <= set(given)
    assert NAME + place.base in given[given.index("--public-url") + 1]
    return [own.get(before, word) for before, word in zip(["", *given], given, strict=False)]


OWNER = "whole_site"
"""The database, and who owns it; the tests' server lets it in by its password alone."""


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The file with the password of the database."""
    file = tmp_path / "ledger_password"
    file.touch(0o600)
    file.write_text(f"{secrets.token_urlsafe(12)}\n")
    return file


@pytest.fixture
def database(postgres_url: str, password: Path) -> str:
    """Made as the guide has it; its address, without the password."""
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            f"DROP DATABASE IF EXISTS {OWNER}",
            f"DROP ROLE IF EXISTS {OWNER}",
            f"CREATE ROLE {OWNER} LOGIN PASSWORD '{password.read_text().strip()}'",
            f"CREATE DATABASE {OWNER} OWNER {OWNER}",
        ):
            connection.execute(sa.text(statement))
        rules = Path(connection.execute(sa.text("SHOW hba_file")).scalar_one())
        rules.write_text(f"host all {OWNER} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    engine.dispose()
    return sa.make_url(postgres_url).set(username=OWNER, database=OWNER).render_as_string()


@pytest.fixture
def lab(tmp_path: Path, database: str, password: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    if reason := missing("nginx") or kept_from_others():
        pytest.skip(reason)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # kernels take it as a sign to leave file descriptors alone
    with made_accounts(2) as people, folder_of_account() as folder:
        place = Place(folder, free_port(), "/gpu/")
        words = words_of_the_guide(next(iter(people)), place, database, password)
        hub = WholeSite(tmp_path / "state", command(), "--simulate", "a100-40gb:2", *words)
        hub.place, hub.port = place, place.behind
        try:
            with running("nginx", place):
                hub.start()
                yield Lab(hub, people)
        finally:
            hub.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def log_in(browser: Browser, lab: Lab, name: str) -> Person:
    return Person(browser, lab.hub.url, name, lab.people[name])


def sessions_on(page: Page, url: str) -> list[str]:
    page.goto(f"{url}hub/home")
    return page.locator("[data-session]").all_inner_texts()


def test_two_people_work_behind_nginx_with_tls_a_base_url_postgresql_and_pam(lab: Lab, browser: Browser) -> None:
    url, (first, second) = lab.hub.url, lab.people
    assert url in lab.hub.said(), "it says what people open"
    assert not (lab.hub.state_dir / "ledger.sqlite").exists()
    ada, ben = log_in(browser, lab, first), log_in(browser, lab, second)

    for person in (ada, ben):
        person.open_form()
        person.start("1 whole a100-40gb")
        person.wait_for_lab()
    assert ben.page.url.startswith(f"{url}user/{second}/lab")
    everything = [cookie for person in (ada, ben) for cookie in person.context.cookies()]
    assert {"jupyterhub-hub-login", "jupyterhub-session-id", f"jupyterhub-user-{first}", "_xsrf"} <= {
        str(cookie.get("name")) for cookie in everything
    }
    assert [c for c in everything if not c.get("secure") or not str(c.get("path")).startswith("/gpu/")] == []

    # Each sees their own, and may not open the other's.
    for person, other in ((ada, second), (ben, first)):
        (shown,) = sessions_on(person.page, url)
        assert "1 whole a100-40gb" in shown
        refused = person.page.goto(f"{url}user/{other}/api/contents")
        assert refused is not None
        assert refused.status in (403, 404)

    # A cell over the websocket, in both sessions; in one of them the cell of a notebook, and one in batch.
    ben.page.goto(f"{url}user/{second}/lab")
    printed = ben.page.evaluate(CELL, [f"{url}user/{second}/", "import getpass; print(getpass.getuser(), 6 * 7)"])
    assert printed == f"{second} 42\n"
    ben.stop()
    ada.open_notebook()
    assert ada.run_cell("import getpass; start = 20; print(getpass.getuser())").strip() == first
    handed = ada.run("%%gpu_batch --memory 4 --time 30m\nprint('in batch', start + 1)")
    expect(handed.locator(".jp-OutputArea")).to_contain_text("in batch 21")

    # The administrator's pages, which the other has none of.
    ada.page.goto(f"{url}hub/timeshare/admin")
    expect(ada.page.locator("body")).to_contain_text("Who holds what")
    expect(ada.page.locator("body")).to_contain_text(first)
    refused = ben.page.goto(f"{url}hub/timeshare/admin")
    assert refused is not None
    assert refused.status == 403

    assert {(r["owner"], r["kind"]) for r in lab.hub.everybodys()} == {
        *((first, "session"), (second, "session"), (first, "batch"))
    }
    ada.stop()
    for person in (ada, ben):
        person.page.goto(f"{url}hub/home")
        person.page.click("#logout")
        person.page.goto(f"{url}hub/home")
        person.page.wait_for_url(f"{url}hub/login**")
        person.close()
