"""The hub behind nginx, Apache and Caddy, by the configurations that come along: cookies, websockets, what arrives bit
by bit, what is large, what is forged, and a hub that is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from databases import free_port
from hubs import User, command
from nodes import eventually
from test_proxy import Upstream, answer, routed
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from web_servers import KINDS, Place, Site, folder_of_account, missing, running

pytestmark = [pytest.mark.hub, pytest.mark.timeout(600)]
MANY = 20 * 1024 * 1024
FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Real-Ip": "203.0.113.9",
    "X-Scheme": "http",
    "Forwarded": "for=203.0.113.9;proto=http",
}


def started(hub: Site, base: str) -> None:
    """The hub with a base URL and the address of the server in front, at the same port as before."""
    hub.place = Place(hub.place.folder, hub.port, base, hub.place.port, hub.place.plain_port)
    hub.options = ("--simulate", "a100-40gb:1", "--public-url", hub.place.url)
    hub.start()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not [name for name in KINDS if not missing(name)]:
        pytest.skip("; ".join(missing(name) for name in KINDS))
    with folder_of_account() as folder:
        made = Site(tmp_path_factory.mktemp("behind"), command())
        made.port = free_port()
        made.place = Place(folder, made.port)
        try:
            started(made, "/gpu/")
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module", params=list(KINDS))
def site(hub: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The hub behind one of the servers: one after the other, as it has one address."""
    if reason := missing(request.param):
        pytest.skip(reason)
    with running(request.param, hub.place):
        yield hub


@pytest.fixture(scope="module")
def ada(site: Site) -> User:
    """With a session of all that there is, in which she is logged in too."""
    user = site.login("ada")
    if not user.is_ready():
        user.start(gpus=1)
        eventually(user.is_ready, 90)
    user.session.get(f"{site.url}user/ada/lab").raise_for_status()  # cookies of her server, by way of the hub
    return user


def set_cookies(response: requests.Response) -> list[str]:
    return [text for one in (*response.history, response) for text in one.raw.headers.getlist("Set-Cookie")]


def words(cookie: str) -> dict[str, str]:
    """Its attributes, in lower case; those without a value have an empty one."""
    parts = [part.strip().partition("=") for part in cookie.split(";")[1:]]
    return {name.lower(): value for name, _, value in parts}


def check_cookies(response: requests.Response, base: str, expected: set[str]) -> None:
    cookies = [text for text in set_cookies(response) if text.split(";")[0].partition("=")[2].strip('"')]  # not removed
    assert expected <= {text.partition("=")[0] for text in cookies}, cookies
    for text in cookies:
        found = words(text)
        assert "secure" in found, text
        assert found["path"].startswith(base), text
        # JupyterLab reads the _xsrf of its server, and sends it as a header.
        assert "httponly" in found or (text.startswith("_xsrf=") and found["path"].startswith(f"{base}user/")), text


def check_redirects(response: requests.Response, url: str) -> None:
    """Each leads to an address of the web server, below the base URL."""
    for one in response.history:
        assert urljoin(one.url, one.headers["Location"]).startswith(url), one.headers["Location"]


def log_in_as_a_browser(site: Site, name: str) -> requests.Session:
    """By the form, to the page that shows one's sessions."""
    session = site.new_session()
    first = session.get(f"{site.url}hub/home")
    check_redirects(first, site.url)
    assert first.url.startswith(f"{site.url}hub/login")
    check_cookies(first, site.place.base, {"_xsrf"})
    xsrf = next(str(cookie.value) for cookie in session.cookies if cookie.name == "_xsrf")
    form = {"username": name, "password": site.deployment.password, "_xsrf": xsrf}
    home = session.post(first.url, data=form)
    home.raise_for_status()
    assert home.url == f"{site.url}hub/home"
    check_redirects(home, site.url)
    check_cookies(home, site.place.base, {"jupyterhub-hub-login", "jupyterhub-session-id"})
    return session


# --- through each of them, with a base URL


def test_a_login_sets_cookies_that_go_by_tls_alone_and_leads_nowhere_else(site: Site, ada: User) -> None:
    session = log_in_as_a_browser(site, "ada")
    opened = session.get(f"{site.url}user/ada/lab")
    assert opened.url.startswith(f"{site.url}user/ada/"), opened.url
    check_redirects(opened, site.url)
    check_cookies(opened, site.place.base, {"jupyterhub-user-ada", "_xsrf"})
    assert session.get(f"{site.url}user/ada/api/status").json()["started"]
    out = session.get(f"{site.url}hub/logout")
    check_redirects(out, site.url)
    assert session.get(f"{site.url}hub/home").url.startswith(f"{site.url}hub/login")


def test_an_address_without_tls_or_last_slash_leads_in_too(site: Site) -> None:
    plain = site.new_session().get(site.place.plain_url, allow_redirects=False)
    led = urlsplit(plain.headers["Location"])
    # Caddy takes for granted that what it listens on as its port of TLS is 443 outside.
    assert (led.scheme, led.hostname, led.path) == ("https", "localhost", site.place.base)
    for address in (site.url, site.url.rstrip("/")):
        found = site.new_session().get(address)
        check_redirects(found, site.url)
        assert found.url.startswith(f"{site.url}hub/login")


def test_what_the_hub_tells_of_itself_is_the_address_in_front(site: Site, ada: User) -> None:
    environment = site.deployment
    assert environment.address == site.url
    assert environment.public_service_url == f"{site.url}services/timeshare"
    server = ada.api("GET", "users/ada").json()["servers"][""]
    assert server["full_url"] == f"{site.url}user/ada/"


async def ran(site: Site, user: User, kernel: str, code: str) -> str:
    """What a cell prints, asked for over a websocket with the cookies and the origin of a page."""
    address = f"wss{site.url.removeprefix('https')}user/ada/api/kernels/{kernel}/channels"
    cookies = "; ".join(f"{c.name}={c.value}" for c in user.session.cookies if c.path.startswith(site.place.base))
    origin = f"https://{urlsplit(site.url).netloc}"
    trusted = ssl.create_default_context(cafile=str(site.place.folder / "cert.pem"))
    request = HTTPRequest(address, headers={"Cookie": cookies, "Origin": origin}, ssl_options=trusted)
    channel = await websocket_connect(request)
    header = {"msg_id": "m1", "msg_type": "execute_request", "username": "ada", "session": "s1", "version": "5.3"}
    content = {"code": code, "silent": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await channel.write_message(json.dumps(message))
    while True:
        told = await asyncio.wait_for(channel.read_message(), 60)
        assert told is not None, "closed before the cell had printed"
        found: dict[str, Any] = json.loads(told)
        if found["msg_type"] == "stream":
            channel.close()
            while await channel.read_message() is not None:
                pass  # until the other side has closed too
            return str(found["content"]["text"])


def at_her_server(site: Site, user: User, method: str, path: str, **more: Any) -> requests.Response:
    xsrf = next(str(c.value) for c in user.session.cookies if c.name == "_xsrf" and c.path.endswith("/user/ada/"))
    done = user.session.request(method, f"{site.url}user/ada/api/{path}", headers={"X-XSRFToken": xsrf}, **more)
    done.raise_for_status()
    return done


async def test_a_cell_runs_over_a_websocket(site: Site, ada: User) -> None:
    kernels = at_her_server(site, ada, "GET", "kernels").json() or [at_her_server(site, ada, "POST", "kernels").json()]
    assert (await ran(site, ada, kernels[0]["id"], "print(6 * 7)")).strip() == "42"


def test_a_notebook_with_large_outputs_is_saved_and_read_whole(site: Site, ada: User) -> None:
    large = {"type": "file", "format": "text", "content": "x" * MANY}
    assert at_her_server(site, ada, "PUT", "contents/large.txt", json=large).status_code in (200, 201)
    assert len(at_her_server(site, ada, "GET", "contents/large.txt").json()["content"]) == MANY


def test_a_path_arrives_as_it_was_sent(site: Site, upstream: str) -> None:
    for name in ("a%2Fb", "100%25", "a%20b%5B1%5D", "b%3Bc", "caf%C3%A9", "x?y=%2F%25&z=a+b", "~a%3F"):
        told = site.new_session().get(f"{site.url}{upstream}/{name}")
        assert told.json()["timeshare-path"] == f"{site.place.base}{upstream}/{name}"


# --- what arrives bit by bit


class Slow(http.server.BaseHTTPRequestHandler):
    """Says a first word, and the last one when it is told to, or never."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        if self.go_on.wait(60):
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    def address_string(self) -> str:
        return "proxy"

    def log_message(self, *_: Any) -> None: ...


def test_the_first_word_is_there_while_the_last_one_is_not_said(site: Site, tmp_path: Path) -> None:
    Slow.go_on.clear()
    with (
        routed(site, f"{site.place.base}slow", tmp_path / "slow.sock", Slow),
        site.new_session() as session,
        session.get(f"{site.url}slow", stream=True, timeout=60) as told,
    ):
        parts = told.iter_content(None)
        assert next(parts) == b"first"
        assert not Slow.go_on.is_set()
        Slow.go_on.set()
        assert b"".join(parts) == b"last"


def test_a_place_in_the_queue_is_told_while_it_is_waited_for(site: Site, ada: User) -> None:
    ben = site.login("ben")
    asked = ben.service("POST", "reservations", json={"share": {"gpus": 1}, "queue": True}).json()
    assert asked["state"] == "queued"
    path = f"hub/timeshare/reservations/{asked['id']}/events"
    with ben.session.get(f"{site.url}{path}", stream=True, timeout=60) as told:
        events = (json.loads(line[6:]) for line in told.iter_lines() if line.startswith(b"data: "))
        assert next(events)["state"] == "queued"
        ben.service("POST", f"reservations/{asked['id']}/end", json={})
        assert list(events)[-1]["state"] == "ended"


# --- what a client writes of itself


class Echo(Upstream):
    def do_GET(self) -> None:
        self.headers["Timeshare-Path"] = self.path
        super().do_POST()


@pytest.fixture
def upstream(site: Site, tmp_path: Path) -> Iterator[str]:
    """A path below the base URL where a server tells what it was asked."""
    with routed(site, f"{site.place.base}upstream", tmp_path / "up.sock", Echo):
        yield "upstream"


def check_forwarded(told: dict[str, str], site: Site, address: str, scheme: str) -> None:
    assert told["x-forwarded-for"] == address
    assert told["x-forwarded-proto"] == scheme
    assert told["x-forwarded-host"] != "evil.example"
    assert not {"x-real-ip", "x-scheme", "forwarded"} & set(told)


def test_what_a_browser_writes_of_its_address_and_scheme_is_not_believed(site: Site, upstream: str) -> None:
    told = site.new_session().get(f"{site.url}{upstream}", headers=FORGED).json()
    check_forwarded(told, site, "127.0.0.1", "https")
    assert told["x-forwarded-host"] == urlsplit(site.url).netloc
    page = site.new_session().get(f"{site.url}hub/login", headers=FORGED)
    check_cookies(page, site.place.base, {"_xsrf"})


def test_who_comes_past_the_web_server_is_not_believed_either(site: Site, upstream: str) -> None:
    lies = "".join(f"{name}: {value}\r\n" for name, value in {**FORGED, "X-Forwarded-Proto": "https"}.items())
    request = f"GET {site.place.base}{upstream} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lies}\r\n"
    with socket.create_connection(("127.0.0.1", site.port), source_address=("127.0.0.2", 0)) as there:
        told = answer(there, request.encode())
    check_forwarded(json.loads(told.partition(b"\r\n\r\n")[2]), site, "127.0.0.2", "http")


# --- a hub that is gone for a while, and no base URL


def test_behind_each_of_them_a_hub_that_comes_back_is_found_again(hub: Site) -> None:
    """Last: it is started again, without a base URL."""
    hub.end()
    with contextlib.ExitStack() as stack:
        places = {}
        for name in KINDS:
            if not missing(name):
                places[name] = Place(hub.place.folder, hub.port)
                stack.enter_context(running(name, places[name]))
        for place in places.values():
            hub.place = place
            assert hub.new_session().get(place.url).status_code in (502, 503)
        first, *_ = places.values()
        hub.place = first
        started(hub, "/")
        for place in places.values():
            hub.place = place
            eventually(lambda: hub.new_session().get(f"{hub.url}hub/health").status_code == 200, 30)
            log_in_as_a_browser(hub, "ada")
