"""HTTP from a person's environment to the reservations service, over a unix socket or TCP. Standard library only."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import BaseHandler, HTTPHandler, ProxyHandler, Request, build_opener

SCHEME = "http+unix"


class _UnixConnection(HTTPConnection):
    """``path``: the socket, in place of a host."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixHandler(HTTPHandler):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: Request) -> HTTPResponse:
        def connection(_: str, /, *, timeout: float | None = None, **__: Any) -> HTTPConnection:
            return _UnixConnection(self._path, timeout)

        return self.do_open(connection, request)


def ask(url: str, method: str, headers: Mapping[str, str], body: Any = None, timeout_s: float = 15.0) -> Any:
    """Send ``body`` as JSON, and return the JSON of the answer.

    ``url``: begins with ``http+unix://``, the path of the socket quoted as the host, or with ``http://`` or
    ``https://``. Raises urllib's HTTPError for an answer that is no success, OSError without one, ValueError for one
    that is not JSON.
    """
    # Straight there: a proxy of the site's for web pages would see the token, and cannot reach the service.
    handlers: list[BaseHandler] = [ProxyHandler({})]
    parts = urlsplit(url)
    if parts.scheme == SCHEME:
        handlers.append(_UnixHandler(unquote(parts.netloc)))
        url = urlunsplit(parts._replace(scheme="http", netloc="localhost"))
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {**headers, "Content-Type": "application/json"}, method=method)
    with build_opener(*handlers).open(request, timeout=timeout_s) as response:
        return json.loads(response.read())
