"""The proxy between people and unix sockets: what is answered arrives, and what is no address is refused."""

from __future__ import annotations

import contextlib
import http.server
import json
import resource
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hubs import Hub, running_hub

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


class Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def upstream(hub: Hub, tmp_path: Path) -> Iterator[str]:
    """A path below which the proxy sends everything to ``Upstream``."""
    path = tmp_path / "up.sock"
    with Listening(str(path), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        body = json.dumps({"target": unix_url(path)}).encode()
        head = f"POST /api/routes/upstream HTTP/1.0\r\nAuthorization: token {hub.deployment.proxy_token}\r\n"
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(socket_path(hub.deployment.proxy_api_url)))
            assert b" 201 " in answer(there, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield "/upstream/x"
        server.shutdown()


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


def test_connections_without_a_request_leave_a_place_for_others(hub: Hub) -> None:
    assert hub.process is not None
    resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE, (600, 600))  # which the next proxy inherits
    hub.kill("proxy")
    address = urlsplit(hub.url)
    with contextlib.ExitStack() as held:
        for _ in range(800):
            held.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
        told = from_outside(hub, b"GET /hub/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/%ff", "/hub/%ff", "/user/%zz", "/services/timeshare/api/v1/%c0%af"])
def test_an_address_that_is_no_text_is_not_there(hub: Hub, path: str) -> None:
    told = from_outside(hub, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert told.startswith(b"HTTP/1.1 404")
