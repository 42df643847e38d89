"""Whether a server can be reached from the hub's machine."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from ..reservations.sockets import socket_path, way_to

LOOK_EVERY_S = 0.05
CONNECT_S = 3.0
"""For one try: what is sent to another machine may get lost without a word."""


async def listens(url: str) -> bool:
    """Whether something takes connections at ``url``, a unix socket or an address with a port."""
    try:
        writer = await asyncio.wait_for(_connect(url), CONNECT_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


async def _connect(url: str) -> asyncio.StreamWriter:
    path, parts = socket_path(url), urlsplit(url)
    if path is None:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        return writer
    with way_to(path) as way:
        _, writer = await asyncio.open_unix_connection(way)
    return writer


async def reached(url: str, seconds: float) -> bool:
    """True as soon as it takes connections; False when it takes none in so many seconds."""
    until = asyncio.get_running_loop().time() + seconds
    while not await listens(url):
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(LOOK_EVERY_S)
    return True
