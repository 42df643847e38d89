"""The HTTP servers of service and hub, within bounds: bodies, headers, slow callers and connections.

The rest of reading HTTP is Tornado's, which refuses what is open to two readings: two lengths, a length beside chunks,
chunks of no number, spaces in names of headers.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

from tornado import httputil, iostream
from tornado.httpserver import HTTPServer
from tornado.web import Application

from .bounds import ServiceBounds
from .json_bodies import MAX_BODY

READ_AND_DROP = 16 * 1024 * 1024
"""A body that is too large is read up to this size before it is refused in words; beyond, the connection is closed."""
MAX_HEADERS = 16 * 1024
"""Bytes of the first line and all headers."""


def make_server(app: Application, bounds: ServiceBounds, connections: int) -> HTTPServer:
    """Return a server for ``app`` that keeps at most so many ``connections``."""
    server = BoundedServer(
        Measured(app),
        max_body_size=READ_AND_DROP,
        max_header_size=MAX_HEADERS,
        idle_connection_timeout=bounds.idle_s,
        body_timeout=bounds.body_s,
    )
    server.most = connections
    return server


class Measured(httputil.HTTPServerConnectionDelegate):
    """Hands requests to ``app`` with at most ``kept`` bytes of their bodies: nobody fills this process's memory."""

    def __init__(self, app: Application, kept: int = MAX_BODY + 1) -> None:
        """One byte more than is read, by which a body is known to be too large."""
        self._app, self._kept = app, kept
        self.waiting: dict[iostream.IOStream, None] = {}
        """Connections on which no whole request has come since the last one; the one that waits longest comes first."""

    def start_request(self, server_conn: Any, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        self.waits(server_conn.stream)
        inner = self._app.start_request(server_conn, request_conn)
        return _Message(inner, self.waiting, server_conn.stream, self._kept)

    def waits(self, stream: iostream.IOStream) -> None:
        self.waiting.pop(stream, None)
        if not stream.closed():  # one that had to go before it began would stay for good, and take the turn of others
            self.waiting[stream] = None

    def on_close(self, server_conn: Any) -> None:
        self.waiting.pop(server_conn.stream, None)


class _Message(httputil.HTTPMessageDelegate):
    def __init__(
        self,
        inner: httputil.HTTPMessageDelegate,
        waiting: dict[iostream.IOStream, None],
        stream: iostream.IOStream,
        left: int,
    ) -> None:
        self._inner, self._waiting, self._stream, self._left = inner, waiting, stream, left

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        kept, self._left = chunk[: self._left], max(0, self._left - len(chunk))
        return self._inner.data_received(kept) if kept else None

    def finish(self) -> None:
        self._waiting.pop(self._stream, None)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


class BoundedServer(HTTPServer):
    """Keeps at most ``most`` connections. A further one takes the place of the one that has waited longest without a
    whole request; where all are at work it is closed at once."""

    most = 4096

    def handle_stream(self, stream: iostream.IOStream, address: Any) -> None:
        measured = cast(Measured, self.request_callback)
        if len(self._connections) >= self.most:
            oldest = next(iter(measured.waiting), stream)
            measured.waiting.pop(oldest, None)
            oldest.close()
            if oldest is stream:
                return
        measured.waits(stream)  # before the next one is accepted, which may be in this very moment
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Tornado (6.6) tells the application nothing of it."""
        super().on_close(server_conn)
        cast(Measured, self.request_callback).on_close(server_conn)
