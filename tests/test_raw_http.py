"""HTTP that is open to two readings, slow, huge or broken: answered with an error or closed, never taken for two
requests, and others are served meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from nodes import eventually
from services import Service, running_service

from timeshare.reservations.service.bounds import CONFIG_FILE

PATH = "/services/timeshare/api/v1"
QUICK = """
c.ServiceBounds.idle_s = 1.0
c.ServiceBounds.body_s = 15.0
c.ServiceBounds.connections = 40
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("raw")
    (folder / CONFIG_FILE).write_text(QUICK)
    with running_service(folder) as found:
        yield found


def connect(service: Service) -> socket.socket:
    address = urlsplit(service.url)
    made = socket.create_connection((address.hostname, address.port), timeout=60)
    made.settimeout(60)
    return made


def sent(service: Service, data: bytes) -> bytes:
    """What is answered to ``data`` until the service closes the connection: a second answer would come too."""
    with connect(service) as there:
        with contextlib.suppress(ConnectionError):  # closed before all of it was read
            there.sendall(data)
        return until_closed(there)


def until_closed(there: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := there.recv(65536):
            got += part
    return got


def post(*headers: bytes, body: bytes = b"", token: bytes = b"admin-token") -> bytes:
    head = [
        b"POST %s/reservations HTTP/1.1" % PATH.encode(),
        b"Host: here",
        b"Authorization: Bearer " + token,
        *headers,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


HIDDEN = b"GET %s/health HTTP/1.1\r\nHost: here\r\n\r\n" % PATH.encode()
AMBIGUOUS = {
    "two lengths": post(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "two lengths in one": post(b"Content-Length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "length and chunks": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunks twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "other coding": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
    "hidden coding": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + HIDDEN),
    "negative length": post(b"Content-Length: -1", body=HIDDEN),
    "length with a sign": post(b"Content-Length: +0", body=HIDDEN),
    "length with an underscore": post(b"Content-Length: 1_0", body=HIDDEN),
    "length in hexadecimal": post(b"Content-Length: 0x10", body=HIDDEN),
    "length without end": post(b"Content-Length: " + b"9" * 400, body=HIDDEN),
    "chunk of no number": post(b"Transfer-Encoding: chunked", body=b"x\r\n\r\n" + HIDDEN),
    "chunk with a sign": post(b"Transfer-Encoding: chunked", body=b"-1\r\n\r\n" + HIDDEN),
    "chunk without end": post(b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\n" + HIDDEN),
    "space before the colon": post(b"Content-Length : 4", body=HIDDEN),
    "header of no name": post(b": 4", body=b""),
    "folded": post(b"Content-Length:", b" 4", body=HIDDEN),
    "NUL in a header": post(b"X-Odd: a\0b"),
    "lone CR": post(b"X-Odd: a\rContent-Length: 4", body=HIDDEN),
    "no host twice": post(b"Host: there"),
    "no version": b"POST %s/reservations\r\n\r\n" % PATH.encode() + HIDDEN,
    "odd version": b"POST %s/reservations HTTP/9.9\r\nHost: here\r\n\r\n" % PATH.encode(),
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "headers without end": post(b"X-Odd: " + b"a" * 20_000),
    "many headers": post(*(b"X-%d: 1" % number for number in range(5000))),
    "odd method": b"SMUGGLE %s/offers HTTP/1.1\r\nHost: here\r\n\r\n" % PATH.encode(),
    "absolute address": b"GET http://elsewhere%s/offers HTTP/1.1\r\nHost: here\r\n\r\n" % PATH.encode(),
    "path up": b"GET %s/../../../../etc/passwd HTTP/1.1\r\nHost: here\r\n\r\n" % PATH.encode(),
    "odd path": b"GET /%ff%00%0d%0aX:1 HTTP/1.1\r\nHost: here\r\n\r\n",
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_that_could_be_read_in_two_ways_is_refused_and_never_two(service: Service, data: bytes) -> None:
    answer = sent(service, data)
    if answer:
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert b'"live"' not in answer, "what was hidden in the body was answered"
    assert service.health() == "ok"


def test_two_whole_requests_on_one_connection_are_two(service: Service) -> None:
    assert sent(service, HIDDEN + HIDDEN).count(b'"live"') == 2


def test_a_body_beyond_what_is_read_takes_no_memory(service: Service) -> None:
    assert service.process is not None
    memory = Path(f"/proc/{service.process.pid}/status")

    def peak_kib() -> int:
        return int(next(line.split()[1] for line in memory.read_text().splitlines() if line.startswith("VmHWM")))

    before = peak_kib()
    size = 12 * 1024 * 1024
    answers: list[bytes] = []

    def send() -> None:
        answers.append(sent(service, post(b"Content-Length: %d" % size, b"Connection: close", body=b" " * size)))

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer.startswith(b"HTTP/1.1 413") for answer in answers), [answer[:100] for answer in answers]
    assert peak_kib() - before < 64 * 1024, "twelve bodies of 12 MiB were kept"


def test_connections_that_send_nothing_or_by_the_byte_are_closed(service: Service) -> None:
    slow = [connect(service) for _ in range(3)]
    slow[1].sendall(b"GET %s/health HTTP/1.1\r\nX-Odd: a" % PATH.encode())
    slow[2].sendall(post(b"Content-Length: 100", body=b"{"))
    for there in slow:
        until_closed(there)
        there.close()


def test_idle_connections_beyond_the_bound_make_room_for_who_asks(service: Service) -> None:
    idle = [connect(service) for _ in range(200)]
    for _ in range(5):
        assert sent(service, HIDDEN).startswith(b"HTTP/1.1 200")
    assert service.process is not None
    files = Path(f"/proc/{service.process.pid}/fd")
    eventually(lambda: sum(1 for _ in files.iterdir()) < 100)
    for there in idle:
        there.close()
