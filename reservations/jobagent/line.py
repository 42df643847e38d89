"""The agent's line to the service: one exchange at a time, in a thread, so that a slow answer holds up nothing."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from .talk import Report, Wanted, understood

CONNECT_S = 10.0
SLACK_S = 10.0
"""What an answer may take beyond the time for which it may be held back."""
MAX_ANSWER = 4 * 1024 * 1024


@dataclass(frozen=True)
class NoAnswer:
    """Nothing is known of what is wanted. ``why`` empty: the exchange was broken off by the agent itself."""

    why: str


Outcome = Wanted | NoAnswer


class Line:
    """``start`` an exchange, and ``wait`` for what comes of it. Used by one thread."""

    def __init__(self, service_url: str, reservation_id: str, key: str) -> None:
        self._url = urlsplit(service_url)
        self._path = f"{self._url.path}/api/v1/reservations/{quote(reservation_id, safe='')}/jobagent"
        self._key = key
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._exchange: _Exchange | None = None

    @property
    def busy(self) -> bool:
        return self._exchange is not None

    def start(self, report: Report, wait_s: float) -> None:
        assert self._exchange is None
        self._exchange = _Exchange()
        threading.Thread(target=self._run, args=(self._exchange, report, wait_s), daemon=True).start()

    def interrupt(self) -> None:
        """Ends the exchange that is under way: there is something newer to say."""
        if self._exchange is not None:
            self._exchange.break_off()

    def wait(self, seconds: float) -> Outcome | None:
        """What came of the exchange; None: nothing yet."""
        try:
            outcome = self._outcomes.get(timeout=seconds)
        except queue.Empty:
            return None
        self._exchange = None
        return outcome

    def _run(self, exchange: _Exchange, report: Report, wait_s: float) -> None:
        outcome: Outcome
        try:
            outcome = self._ask(exchange, report, wait_s)
        except (OSError, HTTPException, ValueError) as error:
            outcome = NoAnswer("" if exchange.broken else f"{error or type(error).__name__}")
        self._outcomes.put(outcome)

    def _ask(self, exchange: _Exchange, report: Report, wait_s: float) -> Wanted:
        # Straight there: a proxy of the site's for web pages would see the key, and cannot reach the service.
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=CONNECT_S)
        try:
            connection.connect()
            exchange.use(connection.sock)
            connection.sock.settimeout(wait_s + SLACK_S)
            if not report.address:
                # The address of this node that faces the service is the one by which it, and the hub beside it, reach
                # the node, whatever names are configured here.
                report = replace(report, address=connection.sock.getsockname()[0])
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            body = json.dumps({**report.as_json(), "wait_s": wait_s}).encode()
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(_refusal(response.status, data))
        return understood(json.loads(data))


class _Exchange:
    """Lets another thread break it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.broken = False

    def use(self, connected: socket.socket) -> None:
        with self._lock:
            if self.broken:
                raise OSError("broken off")
            self._socket = connected

    def break_off(self) -> None:
        with self._lock:
            self.broken = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it is over already
                    self._socket.shutdown(socket.SHUT_RDWR)


def _refusal(status: int, data: bytes) -> str:
    try:
        return f"{status}: {json.loads(data)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}"
