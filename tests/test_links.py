"""What a link, a form or a script of another page can do to who is logged in: fill in the form, and nothing else."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from browsers import Person, chromium, chromium_path
from hubs import Hub, User, running_hub

from timeshare.spawners.admin import ROUTES
from timeshare.spawners.options import filled_in
from timeshare.spawners.relay import handlers

pytestmark = [pytest.mark.hub, pytest.mark.timeout(600)]
LINKS = (
    "spawn/ada?offer=gpus:1:t4&hours=0.5",
    "spawn?offer=gpus:1:t4&hours=0.5",
    "spawn/ada/second?offer=cpu_only",
    "spawn/ada?opt-gpus=1&opt-model=t4&opt-time_limit_s=1800",
    "spawn/ada?cpu_only=true",
    "spawn/ada?reservation_id=x&client_key=y",
    "timeshare/start/ada?offer=cpu_only&hours=1",
    "timeshare/start?offer=cpu_only",
    "user/ada/",
    "user-redirect/lab?offer=cpu_only",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("links")) as found:
        yield found


@pytest.fixture
def ada(hub: Hub) -> User:
    return hub.login("ada")


def nothing_began(ada: User) -> bool:
    return ada.reservations() == [] and ada.servers() == {}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_starts_nothing(ada: User, link: str) -> None:
    assert ada.page(link).status_code < 500
    assert nothing_began(ada)


def chosen(page: str) -> tuple[str, str]:
    """The offer that is checked on the form, and the option of hours that is selected."""
    offers = re.findall(r'name="offer"[^>]*?value="([^"]*)"[^>]*?\bchecked\b', page)
    (hours,) = re.findall(r'<option value="([0-9.]+)" selected>', page)
    return ",".join(offers), hours


def test_a_link_fills_in_the_form(ada: User) -> None:
    plain = chosen(ada.page("spawn/ada").text)
    assert chosen(ada.page("spawn/ada?offer=gpus:1:t4&hours=0.5").text) == ("gpus:1:t4", "0.5")
    assert chosen(ada.page("spawn/ada?opt-gpus=1&opt-model=t4&opt-time_limit_s=5400").text) == ("gpus:1:t4", "1.5")
    assert plain != ("gpus:1:t4", "0.5")
    other = ada.page("spawn/ada?memory_gib=3&compute_percent=20&model=a100-40gb").text
    assert chosen(other)[0] == "other"
    assert re.search(r'name="memory_gib"[^>]*value="3"', other)


@pytest.mark.parametrize(
    "query", ["offer=nonsense&hours=x", "hours=999999", "hours=-1", "offer=%22%3E%3Cscript%3E", "%ff=%ff"]
)
def test_a_link_that_asks_for_what_is_not_offered_shows_the_form_as_it_is(ada: User, query: str) -> None:
    page = ada.page(f"spawn/ada?{query}")
    assert page.status_code == 200
    assert chosen(page.text) == chosen(ada.page("spawn/ada").text)
    assert "><script>" not in page.text


def test_what_a_link_says_is_not_sent_along_with_the_form(ada: User) -> None:
    page = ada.page(
        "spawn/ada?offer=gpus:1:t4&time_limit_s=60&reservation_id=mine&client_key=theirs&next=/hub/home"
    ).text
    (action,) = re.findall(r'action="([^"]*timeshare/start[^"]*)"', page)
    assert "offer" not in action
    assert "reservation_id" not in action
    ada.session.post(
        f"{ada.hub.url.rstrip('/')}{action.replace('&amp;', '&')}&reservation_id=x&time_limit_s=60",
        data={"offer": "nonsense"},
        timeout=60,
    )
    assert nothing_began(ada)


def test_every_handler_of_ours_that_changes_something_asks_for_the_token_of_the_form(hub: Hub, ada: User) -> None:
    tried = 0
    for route in handlers(None):  # type: ignore[arg-type]
        path = re.sub(r"\(\[\^/\]\+\)", "ada", route[0]).lstrip("/")
        for headers in ({}, {"Origin": "http://evil.example", "Referer": "http://evil.example/"}):
            answer = ada.session.post(f"{hub.url}hub/{path}", data={"offer": "cpu_only"}, headers=headers, timeout=60)
            assert answer.status_code in (403, 405), path
            tried += 1
    assert tried >= 2 * (len(ROUTES) + 10)
    assert nothing_began(ada)


def test_no_page_may_be_framed(hub: Hub, ada: User) -> None:
    for path in ("home", "spawn/ada", "token", "timeshare/limits", "timeshare/start/ada", "timeshare/sessions"):
        policy = ada.page(path).headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy, path


# --- in a browser


@contextlib.contextmanager
def elsewhere(page: str) -> Iterator[str]:
    """A site of somebody else's, with one page."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is logged."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium here: install the package chromium")
def test_a_link_of_another_site_that_is_clicked_only_fills_in_the_form(hub: Hub) -> None:
    link = f"{hub.url}hub/spawn/ada?offer=gpus:1:t4&hours=0.5"
    with elsewhere(f'<a href="{link}">a kitten</a>') as site, chromium() as browser:
        person = Person(browser, hub.url, "ada", hub.deployment.password)
        person.page.goto(site)
        person.page.click("a")
        person.page.wait_for_selector("#offers")
        assert person.page.locator("input[name=offer]:checked").get_attribute("value") == "gpus:1:t4"
        assert person.page.locator("#hours").input_value() == "0.5"
        assert nothing_began(hub.login("ada"))
        person.page.click("#spawn_form button[type=submit]")  # what the person sees is what begins
        person.wait_for_lab()
        (mine,) = [r for r in hub.everybodys() if r["state"] != "ended"]
        assert (mine["share"]["gpus"], mine["time_limit_s"]) == (1, 1800)
        person.close()
    hub.end_all_sessions()


def test_what_a_link_may_say_is_only_text_for_the_form() -> None:
    assert filled_in({"offer": ["a", "b"], "hours": ["1"]}) == {"offer": "b", "hours": "1.0"}
    assert filled_in({"gpus": ["1"], "engine": ["slurm"]}) == {"offer": "gpus:1:@slurm"}
    assert filled_in({"hours": ["nan"], "x": ["y"], "client_key": ["k"], "reservation_id": ["r"], "model": []}) == {}
    assert filled_in({"model": ["a\nb"], "offer": ["x" * 1000]}) == {"offer": "x" * 80}


def test_shares_of_servers_between_people_are_off(hub: Hub, ada: User) -> None:
    """JupyterHub's own sharing gives whole servers away; it takes a scope that no role here has."""
    scopes = set(ada.api("GET", "user").json()["scopes"])
    assert {scope for scope in scopes if scope.partition("!")[0] in ("shares", "groups:shares")} == set()
    body = {"user": {"name": "ben"}}
    assert ada.api("POST", "shares/ada/", json=body).status_code in (403, 404)
    assert ada.api("POST", "share-codes/ada/", json={}).status_code in (403, 404)
    assert urlsplit(hub.url).scheme == "http"
    assert requests.get(f"{hub.url}hub/accept-share?code=x", timeout=30).status_code < 500
