"""What a node's network sees of a session: one port, held by the job agent from before its server starts.

A port belongs to whoever binds it first, so a server that binds its own may find somebody else there. Here the agent
holds it as long as the job lives, and the server listens on a socket in a private folder, which nobody else reaches.
Who connects is not known, as with every TCP port: the server lets in only who has a token of the hub's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import socket
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sockets import LONGEST_PATH

TRIES = 200
CHUNK = 256 * 1024
"""Bytes that wait for a side that reads slowly, and no more is read of the other; asyncio reads as many at once."""
BACKLOG = 128
KEPT_DESCRIPTORS = 100
"""For the agent itself, whatever connects."""
PLACES = ("/tmp", "/dev/shm")
RETRY_S = 0.2
LONGEST_NAME = len("/timeshare-00000000/kernel-00000000-0000-0000-0000-000000000000-ipc-5")
"""The longest path below a folder for sockets: those of a server's kernels."""


class Front:
    """The port, the folder for sockets, and what carries bytes between them, in a thread of its own."""

    def __init__(self, ports: tuple[int, int] | None, env: Mapping[str, str], most: int = 0) -> None:
        """Take a port of the range (None: any) and make the folder; ``env`` says where temporary files go. ``most``
        connections are carried at once, 0: as many as there are descriptors for.

        Raises OSError with a text for people.
        """
        self.folder = private_folder(env)
        self._most = most or most_connections()
        try:
            self._listener = held_port(ports)
        except OSError:
            self.close()
            raise
        self.port: int = self._listener.getsockname()[1]
        self._target = ""
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    def lead_to(self, generation: int) -> str:
        """Give the path of the socket for this start of the server; from now on connections go there."""
        self._target = str(self.folder / f"server-{generation}.sock")
        return self._target

    def answers(self) -> bool:
        """Whether the server takes connections."""
        with socket.socket(socket.AF_UNIX) as tried:
            tried.setblocking(False)
            with contextlib.suppress(OSError):
                tried.connect(self._target)
                return True
        return False

    def close(self) -> None:
        """Remove the folder; the port goes with the agent."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        carried: dict[asyncio.Task[None], _Carried] = {}
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError:  # of one who has left again, or no descriptors are left: the next one may be better
                await asyncio.sleep(RETRY_S)
                continue
            while len(carried) >= self._most:
                least = _least(carried)
                least.cancel()
                await asyncio.wait([least])
                carried.pop(least, None)
            one = _Carried(address[0], loop.time())
            task = asyncio.create_task(_carry(connection, self._target, one))
            carried[task] = one
            task.add_done_callback(lambda over: carried.pop(over, None))


@dataclass
class _Carried:
    """A connection from ``host``, over which something was said ``said_at``."""

    host: str
    said_at: float


def _least(carried: Mapping[asyncio.Task[None], _Carried]) -> asyncio.Task[None]:
    """Of the host that has most of them, the one that has been silent for longest: whoever can connect could have all
    of them for as long as it likes."""
    (most, _), *_ = Counter(one.host for one in carried.values()).most_common(1)
    return min((task for task, one in carried.items() if one.host == most), key=lambda task: carried[task].said_at)


class _Side(asyncio.Protocol):
    """One side of a carried connection: what it says goes to the other, as fast as that takes it."""

    transport: asyncio.Transport
    other: _Side

    def __init__(self, carried: _Carried) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._carried = carried
        self._said_all = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()  # until there is another side

    def data_received(self, data: bytes) -> None:
        self._carried.said_at = self._loop.time()
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """Whether it stays open: the other side may have much to say still."""
        self._said_all = True
        if self.other._said_all:
            self.other.transport.close()
            return False
        self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)
        if exc is not None:
            self.other.transport.abort()
        else:
            self.other.transport.close()


async def _carry(connection: socket.socket, target: str, carried: _Carried) -> None:
    """Carries bytes both ways until both sides have said all, one is gone, or it is cancelled."""
    loop = asyncio.get_running_loop()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, inner = await loop.create_unix_connection(lambda: _Side(carried), target)
    except OSError:
        connection.close()  # no server yet or any more: whoever connects is let go
        return
    except asyncio.CancelledError:
        connection.close()
        raise
    outer = _Side(carried)
    inner.other, outer.other = outer, inner
    try:
        await loop.connect_accepted_socket(lambda: outer, connection)
    except (OSError, asyncio.CancelledError):
        inner.other = inner
        inner.transport.abort()
        connection.close()
        return
    for side in (inner, outer):
        side.transport.set_write_buffer_limits(high=CHUNK)
        side.transport.resume_reading()
    try:
        await asyncio.gather(inner.over, outer.over)
    finally:
        inner.transport.abort()
        outer.transport.abort()


def most_connections() -> int:
    """How many are carried at once, two descriptors each; a further one takes the place of another."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (min(soft, 65536) - KEPT_DESCRIPTORS) // 2)


def held_port(within: tuple[int, int] | None) -> socket.socket:
    """A socket that listens on a port of all addresses. Raises OSError when none ``within`` a range is free."""
    if within is None:
        return _listening(0)
    candidates = random.sample(range(within[0], within[1] + 1), min(TRIES, within[1] - within[0] + 1))
    for port in candidates:
        with contextlib.suppress(OSError):
            return _listening(port)
    raise OSError(f"no port from {within[0]} to {within[1]} is free on this node")


def _listening(port: int) -> socket.socket:
    # Both families with one socket: held for one alone, somebody else could take the port of the other.
    both = socket.has_dualstack_ipv6()
    listener = socket.create_server(
        ("", port), family=socket.AF_INET6 if both else socket.AF_INET, backlog=BACKLOG, dualstack_ipv6=both
    )
    listener.setblocking(False)
    return listener


def private_folder(env: Mapping[str, str], places: Sequence[str] = PLACES) -> Path:
    """A new folder for sockets that nobody else can enter, move or replace: where ``env`` says, else in one of
    ``places``. Raises OSError naming what was tried."""
    wrong = []
    for place in dict.fromkeys(filter(None, (env.get("XDG_RUNTIME_DIR"), env.get("TMPDIR"), *places))):
        why = _unfit(place)
        if not why:
            try:
                return Path(tempfile.mkdtemp(prefix="timeshare-", dir=place))
            except OSError as error:
                why = str(error.strerror)
        wrong.append(f"{place}: {why}")
    raise OSError(f"there is no folder for the server's socket ({'; '.join(wrong)}): name one by TMPDIR")


def _unfit(place: str) -> str:
    """Why sockets cannot lie there; empty: they can."""
    if not os.path.isabs(place) or len(os.fsencode(place)) + LONGEST_NAME > LONGEST_PATH:
        return f"a socket below it would have a path of more than {LONGEST_PATH} bytes"
    try:
        folder = Path(place).resolve(strict=True)
        for each in (folder, *folder.parents):
            status = each.stat()
            others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
            if others or status.st_uid not in (0, os.geteuid()):
                return f"others may change {each}"
    except OSError as error:
        return str(error.strerror)
    return ""
