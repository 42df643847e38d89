"""Accounts that connect to sockets of hub and service themselves, past the proxy."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from timeshare.hub_config.run.hub import MOST_OF_ONE, FairServer
from timeshare.reservations.fetching import fetch
from timeshare.reservations.service.base import Base
from timeshare.reservations.sockets import unix_url

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it connects as another account")
HOLDS = """
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    tried = socket.socket(socket.AF_UNIX)
    tried.connect(sys.argv[1])
    tried.settimeout(0)
    held.append(tried)
print("connected", flush=True)
sys.stdin.readline()
def is_open(one):
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
print(sum(map(is_open, held)), flush=True)
"""
ASKS = """
import socket, sys
asks = socket.socket(socket.AF_UNIX)
asks.connect(sys.argv[1])
asks.sendall(b"GET / HTTP/1.0\\r\\nX-Forwarded-For: 10.1.2.3\\r\\n\\r\\n")
print(b"".join(iter(lambda: asks.recv(4096), b"")).decode().splitlines()[-1])
"""


class Says(RequestHandler):
    address = Base.address

    def get(self) -> None:
        self.write(f"{self.request.remote_ip} {self.address}")


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket that all accounts reach."""
    place = Path("/tmp") / f"ts-{secrets.token_hex(4)}.sock"
    yield place
    place.unlink(missing_ok=True)


async def as_nobody(program: str, *words: str) -> asyncio.subprocess.Process:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return await asyncio.create_subprocess_exec(
        "runuser", "-u", "nobody", "--", "/usr/bin/python3", "-c", program, *words, cwd="/", **pipes
    )


def listening(path: Path) -> FairServer:
    server = FairServer(Application([("/", Says)]), xheaders=True)
    server.add_socket(bind_unix_socket(str(path), mode=0o666))
    return server


def test_one_account_cannot_have_all_connections_of_the_hub(path: Path) -> None:
    async def crowd() -> tuple[int, bytes, bytes]:
        server = listening(path)
        holder = await as_nobody(HOLDS, str(path), str(MOST_OF_ONE + 50))
        assert holder.stdin is not None
        assert holder.stdout is not None
        await holder.stdout.readline()
        ours = (await fetch(unix_url(path, "/"), headers={"X-Forwarded-For": "10.9.9.9"})).body
        holder.stdin.write(b"\n")
        kept = int(await holder.stdout.readline())
        await holder.wait()
        while server._accounts:
            await asyncio.sleep(0.01)
        asking = await as_nobody(ASKS, str(path))
        theirs, _ = await asking.communicate()
        server.stop()
        return kept, ours, theirs

    kept, ours, theirs = asyncio.run(crowd())
    assert kept == MOST_OF_ONE
    assert ours == b"10.9.9.9 10.9.9.9"  # what the proxy says
    assert theirs.startswith(b"0.0.0.0 account ")  # whatever it says
