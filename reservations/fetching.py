"""HTTP between timeshare's own processes, over unix sockets and TCP alike. Asynchronous."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import unquote

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.netutil import DefaultLoopResolver, Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from .sockets import SCHEME

_ROOT = "%2f"
"""How the path of a socket begins where the name of a host would be; no name of a host begins so."""
MOST_REQUESTS = 1000
"""At a time, of one process: many long polls run at once."""


class _Places(Resolver):
    """Finds sockets by their path, and everything else as usual."""

    def initialize(self) -> None:
        self._names = DefaultLoopResolver()

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        if host.lower().startswith(_ROOT):
            return [(socket.AF_UNIX, unquote(host))]
        found: list[tuple[int, Any]] = await self._names.resolve(host, port, family)
        return found


class _Client(SimpleAsyncHTTPClient):
    """One for each event loop. Not the hub's pycurl client, if any, nor one of other limits."""


async def fetch(url: str, **options: Any) -> HTTPResponse:
    """Ask for ``url``, ``http+unix`` or ``http``. ``options``: as of tornado's HTTPRequest.

    Raises OSError without an answer, and HTTPClientError for one that is no success.
    """
    if url.startswith(f"{SCHEME}:"):
        url = f"http{url.removeprefix(SCHEME)}"
        # What the other side may think of the path of a socket as a host is not to be left to chance.
        options["headers"] = {**(options.get("headers") or {}), "Host": "localhost"}
    client = _Client(max_clients=MOST_REQUESTS, resolver=_Places())
    return await client.fetch(HTTPRequest(url, **options))
