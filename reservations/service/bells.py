"""Wakes who waits for news about one reservation. Used by the event loop alone."""

from __future__ import annotations

import asyncio
import contextlib

ANY = ""


class Bells:
    """``ring`` wakes those who wait for that name, and those who wait for any."""

    def __init__(self) -> None:
        self._bells: dict[str, asyncio.Event] = {}

    def ring(self, name: str) -> None:
        for rung in (name, ANY):
            if rung in self._bells:
                self._bells.pop(rung).set()

    def next(self, name: str) -> asyncio.Event:
        """What the next ring sets."""
        return self._bells.setdefault(name, asyncio.Event())

    async def wait(self, name: str, seconds: float) -> None:
        """Returns at the next ring, or after ``seconds``."""
        await heard(self.next(name), seconds)


async def heard(bell: asyncio.Event, seconds: float) -> None:
    """Returns when it has rung, or after ``seconds``."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(bell.wait(), seconds)
