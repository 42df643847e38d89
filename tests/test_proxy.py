"""The proxy between people and unix sockets: what is answered arrives, and what is no address is refused."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import resource
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from hubs import Hub, running_hub
from nodes import eventually

from timeshare.reservations.sockets import socket_path, unix_url

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("proxy")) as found:
        yield found


def answer(there: socket.socket, request: bytes) -> bytes:
    """All that is said to ``request`` until the connection is closed."""
    there.settimeout(60)
    there.sendall(request)
    got = b""
    while part := there.recv(65536):
        got += part
    return got


def from_outside(hub: Hub, request: bytes) -> bytes:
    address = urlsplit(hub.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as there:
        return answer(there, request)


class Upstream(http.server.BaseHTTPRequestHandler):
    """Tells what it was asked, and closes at once where it was told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def address_string(self) -> str:
        return "proxy"


class Hostile(socketserver.BaseRequestHandler):
    """A server that answers nothing but to become a websocket, and never closes."""

    def handle(self) -> None:
        if b"upgrade: websocket" in self.request.recv(65536).lower():
            self.request.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
        while not self.server.over.wait(0.1):
            pass


class Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1000

    def __init__(self, path: Path, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.over = threading.Event()
        super().__init__(str(path), handler)


@contextlib.contextmanager
def routed(hub: Hub, route: str, path: Path, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    """The proxy sends everything below ``route`` to ``handler``."""
    with Listening(path, handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        body = json.dumps({"target": unix_url(path)}).encode()
        head = f"POST /api/routes{route} HTTP/1.0\r\nAuthorization: token {hub.deployment.proxy_token}\r\n"
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(socket_path(hub.deployment.proxy_api_url)))
            assert b" 201 " in answer(there, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield
        server.over.set()
        server.shutdown()


@pytest.fixture
def upstream(hub: Hub, tmp_path: Path) -> Iterator[str]:
    """A path below which the proxy sends everything to ``Upstream``."""
    with routed(hub, "/upstream", tmp_path / "up.sock", Upstream):
        yield "/upstream/x"


@pytest.fixture
def hostile(hub: Hub, tmp_path: Path) -> Iterator[str]:
    """A path of a person's own server, which is ``Hostile``."""
    with routed(hub, "/user/mallory", tmp_path / "up.sock", Hostile):
        yield "/user/mallory/x"


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_no_request_asks_a_socket_to_close_which_would_lose_the_answer(
    hub: Hub, upstream: str, connection: str
) -> None:
    """What node writes to a unix socket after its other side closed fails, and people were told 503."""
    request = f"POST {upstream} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\nContent-Length: 2\r\n\r\n{{}}"
    told = from_outside(hub, request.encode())
    assert told.startswith(b"HTTP/1.1 200")
    assert b'"connection": "keep-alive"' in told


def test_a_websocket_stays_one(hub: Hub, upstream: str) -> None:
    request = f"GET {upstream} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    told = from_outside(hub, request.encode())
    assert b'"connection": "Upgrade"' in told
    assert b'"upgrade": "websocket"' in told


def upgrade(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()


def test_a_server_that_never_closes_keeps_no_connection_of_the_proxy_once_its_websockets_are_left(
    hub: Hub, hostile: str
) -> None:
    """Each one stayed for as long as the session, beyond all bounds: until the proxy had no descriptor left."""
    files, address = f"/proc/{hub.components()['proxy']}/fd", urlsplit(hub.url)
    before = len(os.listdir(files))
    for _ in range(50):
        with socket.create_connection((address.hostname, address.port), timeout=60) as there:
            there.sendall(upgrade(hostile))
            assert there.recv(100).startswith(b"HTTP/1.1 101")
    eventually(lambda: len(os.listdir(files)) < before + 10, 30)


@contextlib.contextmanager
def held_open(hub: Hub, count: int, request: bytes) -> Iterator[None]:
    """So many connections that have sent ``request``, to a proxy that may have fewer."""
    assert hub.process is not None
    resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE, (600, 600))  # which the next proxy inherits
    hub.kill("proxy")
    address = urlsplit(hub.url)
    with contextlib.ExitStack() as held:
        for _ in range(count):
            there = held.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
            there.sendall(request)
        yield


@pytest.mark.parametrize("websocket", [False, True])
def test_connections_to_one_persons_server_leave_places_for_others(hub: Hub, hostile: str, websocket: bool) -> None:
    request = upgrade(hostile) if websocket else f"GET {hostile} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with held_open(hub, 300, request):
        told = from_outside(hub, b"GET /hub/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200")


def test_connections_without_a_request_leave_a_place_for_others(hub: Hub) -> None:
    with held_open(hub, 800, b""):
        told = from_outside(hub, b"GET /hub/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/%ff", "/hub/%ff", "/user/%zz", "/services/timeshare/api/v1/%c0%af"])
def test_an_address_that_is_no_text_is_not_there(hub: Hub, path: str) -> None:
    told = from_outside(hub, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert told.startswith(b"HTTP/1.1 404")


def cookies_after_login(hub: Hub, address: str) -> dict[str, str]:
    """What follows each cookie of a login that says it came by TLS, from an address of this machine."""
    headers = "X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n"
    host, port = urlsplit(hub.url).hostname, urlsplit(hub.url).port

    def asked(request: str) -> str:
        with socket.create_connection((host, port), timeout=60, source_address=(address, 0)) as there:
            return answer(there, request.encode()).partition(b"\r\n\r\n")[0].decode()

    def found(head: str) -> dict[str, str]:
        lines = [line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("set-cookie:")]
        return {line.partition("=")[0]: line.partition("=")[2] for line in lines}

    xsrf = found(asked(f"GET /hub/login HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))["_xsrf"].partition(";")[0]
    form = urlencode({"username": "ada", "password": hub.deployment.password, "_xsrf": xsrf})
    more = f"Cookie: _xsrf={xsrf}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n"
    return found(asked(f"POST /hub/login HTTP/1.1\r\nHost: x\r\n{headers}{more}\r\n{form}"))


def test_a_login_by_way_of_a_web_server_with_the_usual_headers_is_kept_to_tls(hub: Hub) -> None:
    """The proxy added its own "http" to the web server's "https", and the hub read the end."""
    cookies = cookies_after_login(hub, "127.0.0.1")
    for name in ("jupyterhub-hub-login", "jupyterhub-session-id"):
        assert "Secure" in cookies[name]
        assert "HttpOnly" in cookies[name]


def test_whoever_is_no_web_server_says_nothing_of_scheme_and_address(hub: Hub) -> None:
    assert "Secure" not in cookies_after_login(hub, "127.0.0.2")["jupyterhub-hub-login"]
    log = hub.state_dir / "logs" / "hub.log"
    eventually(lambda: "302 POST /hub/login -> /hub/spawn (ada@127.0.0.2)" in log.read_text())
    assert cookies_after_login(hub, "127.0.0.1")
    eventually(lambda: "302 POST /hub/login -> /hub/spawn (ada@203.0.113.9)" in log.read_text())
