"""A JupyterHub that is somebody's own, with its people, service, database and proxy, gets timeshare and goes back.

The hub is started by `jupyterhub` itself; timeshare runs beside it, and what an admin copies is used as it is shipped.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from databases import free_port
from hubs import ROOT, User, command, plain, proxy_is_there
from nodes import eventually, marked

from timeshare.hub_config import proxy
from timeshare.reservations.deployment import FILE_NAME
from timeshare.reservations.sockets import run_dir_of

pytestmark = pytest.mark.hub
SHIPPED = ROOT / "hub_config" / "existing_hub"
ME = getpass.getuser()
SITE = """
from jupyterhub.auth import Authenticator

class Badges(Authenticator):
    "The site's own way to log in."
    async def authenticate(self, handler, data):
        return data["username"] if data["password"] == "badge of " + data["username"] else None

c.JupyterHub.authenticator_class = Badges
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.JupyterHub.db_url = "sqlite:///{folder}/their.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/their_cookie_secret"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.services = [{{
    "name": "announce", "url": "http://127.0.0.1:{service_port}",
    "command": ["{python}", "{folder}/announce.py", "{service_port}"],
}}]
c.JupyterHub.load_roles = [
    {{"name": "announcers", "scopes": ["list:users", "read:users:name"], "services": ["announce"]}}
]
c.JupyterHub.extra_user_scopes = ["access:services!service=announce"]
c.Spawner.notebook_dir = "{folder}"
c.Spawner.args = ["--allow-root"]
"""
ANNOUNCE = """
import http.server, json, os, signal, sys, urllib.request

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would this

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ask = urllib.request.Request(os.environ["JUPYTERHUB_API_URL"] + "/users")
        ask.add_header("Authorization", "token " + os.environ["JUPYTERHUB_API_TOKEN"])
        names = sorted(user["name"] for user in json.load(urllib.request.urlopen(ask)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(("Maintenance on Friday, for " + " and ".join(names)).encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


class Site:
    """The hub of a site, and a timeshare beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder / "site", folder / "timeshare"
        self.folder.mkdir()
        self.port, self.hub_port = free_port(), free_port()
        self.url = self.their_url = f"http://127.0.0.1:{self.port}/"
        self.hub: subprocess.Popen[bytes] | None = None
        self.beside: subprocess.Popen[bytes] | None = None
        ports = {"port": self.port, "hub_port": self.hub_port, "api_port": free_port(), "service_port": free_port()}
        self.config = SITE.format(folder=self.folder, python=sys.executable, **ports)
        (self.folder / "announce.py").write_text(ANNOUNCE)
        self.state.mkdir(mode=0o700)
        proxy_is_there(self.state)
        self._install_their_proxy()

    def _install_their_proxy(self) -> None:
        """As `npm install -g configurable-http-proxy` does."""
        found = self.folder / "bin" / "configurable-http-proxy"
        found.parent.mkdir()
        found.write_text(f'#!/bin/sh\nexec "{proxy.node_path()}" "{proxy.script_path(self.state)}" "$@"\n')
        found.chmod(0o755)

    def start_hub(self, *more: str) -> None:
        """As the site starts it. ``more``: lines at the end of its configuration."""
        path = self.folder / "jupyterhub_config.py"
        path.write_text("\n".join([self.config, *more]))
        own = {
            "PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }
        env = {**os.environ, **own, "TIMESHARE_DEPLOYMENT": str(self.state / FILE_NAME)}
        with open(self.folder / "hub.log", "ab") as log:
            words = [sys.executable, "-m", "jupyterhub", "-f", str(path)]
            self.hub = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=self.folder)
        eventually(self.hub_answers, 60)

    def adopt(self) -> None:
        shutil.copy(SHIPPED / "timeshare_sessions.py", self.folder)
        self.start_hub(f'load_subconfig("{self.folder}/timeshare_sessions.py")')

    def hub_answers(self) -> bool:
        assert self.hub is not None
        assert self.hub.poll() is None, self.said()[-3000:]
        with contextlib.suppress(requests.RequestException):
            pages = ("hub/health", "services/announce/")
            return all(requests.get(f"{self.url}{page}", timeout=5).status_code == 200 for page in pages)
        return False

    def stop_hub(self) -> None:
        if self.hub is not None and self.hub.poll() is None:
            self.hub.send_signal(signal.SIGTERM)
            self.hub.wait(120)

    def start_timeshare(self, *more: str) -> None:
        words = [command(), "up", "--state", self.state, "--for-hub", f"http://127.0.0.1:{self.hub_port}/"]
        words += ["--public-url", self.their_url, "--simulate", "a100-40gb:2", "--admins", ME, *more]
        log = open(self.state / "up.log", "wb")  # noqa: SIM115
        with log:
            self.beside = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "HOME": str(self.folder)})
        eventually(lambda: "Ready after" in (self.state / "up.log").read_text(), 60)

    def stop_timeshare(self, how: signal.Signals) -> None:
        if self.beside is not None and self.beside.poll() is None:
            self.beside.send_signal(how)
            self.beside.wait(60)

    def said(self) -> str:
        return (self.folder / "hub.log").read_text()

    def new_session(self) -> requests.Session:
        return requests.Session()

    def login(self, name: str) -> Person:
        return Person(self, name)  # type: ignore[arg-type]  # what a person needs of a hub is its address

    def announcement(self) -> str:
        return requests.get(f"{self.url}services/announce/", timeout=20).text

    def close(self) -> None:
        self.stop_timeshare(signal.SIGINT)
        self.stop_hub()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run_dir_of(self.state.absolute()), ignore_errors=True)

    def left(self) -> list[int]:
        """What still runs in the site's folder, such as its server of before where the test failed."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(self.folder)):
                    found.append(int(entry.name))
        return found


class Person(User):
    def secret(self) -> str:
        return f"badge of {self.name}"


def answers(person: Person, path: str) -> bool:
    """Whether a server lets its owner in, through the site's proxy."""
    headers = {"Authorization": f"token {person.token}"}
    return requests.get(f"{person.hub.url}{path}", headers=headers, timeout=30).status_code == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("existing"))
    try:
        yield site
    finally:
        site.close()


def test_a_hub_gets_timeshare_and_goes_back_and_all_that_is_theirs_stays(site: Site) -> None:
    # --- as it was: two people have logged in, and one has a server.
    site.start_hub()
    site.login("ada")
    me = site.login(ME)
    assert me.api("POST", f"users/{ME}/server").status_code in (201, 202)
    eventually(me.is_ready, 60)
    assert site.announcement() == f"Maintenance on Friday, for {' and '.join(sorted(['ada', ME]))}"
    scopes_before = me.api("GET", "user").json()["scopes"]
    site.stop_hub()

    # --- timeshare beside it, and a line at the end of its configuration.
    site.start_timeshare()
    site.adopt()
    ada, me = site.login("ada"), site.login(ME)
    assert site.announcement() == f"Maintenance on Friday, for {' and '.join(sorted(['ada', ME]))}"
    assert requests.get(f"{site.url}services/timeshare/api/v1/health", timeout=20).json()["status"] == "ok"
    gained = set(me.api("GET", "user").json()["scopes"]) - set(scopes_before)
    assert {scope.partition("!")[0] for scope in gained} == {"custom:timeshare:use", "custom:timeshare:admin"}

    # The server from before is left alone, and said to be.
    assert "this server was started before this hub had timeshare" in site.said()
    assert me.is_ready()
    assert answers(me, f"user/{ME}/api/status")

    # Pages, form and session are timeshare's.
    assert "A100" in plain(ada.page("spawn").text).upper()
    assert "My limits" in plain(ada.page("timeshare/limits").text)
    assert ada.form("timeshare/start", gpus="1").status_code == 302
    session = ada.active()
    assert answers(ada, "user/ada/api/status")
    assert session["share_text"].split()[0] in plain(ada.page("home").text)
    assert me.page("timeshare/admin").status_code == 200

    # `doctor` looks at the hub too.
    told = subprocess.run(
        [command(), "doctor", "--state", site.state], capture_output=True, text=True, check=False
    ).stdout
    assert "ok    hub: http://127.0.0.1:" in told, told

    # --- hub and timeshare start again, now with timeshare's proxy behind another one: the session goes on.
    pids = marked(session["id"])
    site.stop_hub()
    site.stop_timeshare(signal.SIGTERM)
    port = free_port()
    site.start_timeshare("--port", str(port))
    site.url = f"http://127.0.0.1:{port}/"
    site.adopt()
    ada = site.login("ada")
    assert ada.active()["id"] == session["id"]
    assert set(pids) <= set(marked(session["id"]))
    assert answers(ada, "user/ada/api/status")
    assert answers(site.login(ME), f"user/{ME}/api/status")
    ada.stop()

    # --- and back.
    site.stop_hub()
    site.stop_timeshare(signal.SIGINT)
    site.url = site.their_url
    site.start_hub()
    me = site.login(ME)
    assert me.api("GET", "user").json()["scopes"] == scopes_before
    assert site.announcement() == f"Maintenance on Friday, for {' and '.join(sorted(['ada', ME]))}"
    assert me.is_ready(), "their own server has lived through all of it"
    assert "offers" not in me.page("home").text
    me.stop()
    assert me.has_no_servers()
