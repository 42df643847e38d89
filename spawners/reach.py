"""Whether a server can be reached from the hub's machine."""

from __future__ import annotations

import asyncio

LOOK_EVERY_S = 0.05
CONNECT_S = 3.0
"""For one try: what is sent to another machine may get lost without a word."""


async def listens(ip: str, port: int) -> bool:
    """Whether it takes connections there."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), CONNECT_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


async def reached(ip: str, port: int, seconds: float) -> bool:
    """True as soon as it takes connections; False when it takes none in so many seconds."""
    until = asyncio.get_running_loop().time() + seconds
    while not await listens(ip, port):
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(LOOK_EVERY_S)
    return True
