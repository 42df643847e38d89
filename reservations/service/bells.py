"""Wakes who waits for news about one reservation, and nobody else. Used by the event loop alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

ANY = ""


class Bells:
    """``ring`` wakes those who wait for that name, and those who wait for any."""

    def __init__(self) -> None:
        self._bells: dict[str, asyncio.Event] = {}
        self._listeners: Counter[str] = Counter()

    def ring(self, *names: str) -> None:
        for rung in (*names, ANY):
            if rung in self._bells:
                self._bells.pop(rung).set()

    def next(self, name: str) -> asyncio.Event:
        """What the next ring sets."""
        return self._bells.setdefault(name, asyncio.Event())

    @contextlib.contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Meanwhile somebody listens; after the last of them nothing is kept of that name."""
        self._listeners[name] += 1
        try:
            yield
        finally:
            self._listeners[name] -= 1
            if not self._listeners[name]:
                del self._listeners[name]
                self._bells.pop(name, None)

    async def wait(self, name: str, seconds: float) -> None:
        """Returns at the next ring, or after ``seconds``."""
        with self.listening(name):
            await heard(self.next(name), seconds)


async def heard(bell: asyncio.Event, seconds: float) -> None:
    """Returns when it has rung, or after ``seconds``."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(bell.wait(), seconds)
