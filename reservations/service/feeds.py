"""Event streams: what is shown of a reservation is worked out once for all who watch it, and only when it may differ.

A change of the queue moves the place of everyone who waits. Were each stream to look for itself, a thousand of them
would be a thousand questions to the pool's thread at every change; here they are a few, at most once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from ..ledger import LedgerSilent
from ..reservation import State
from . import views
from .json_bodies import to_json
from .runtime import Runtime

log = logging.getLogger("timeshare.service")
BURST_S = 0.2
"""Changes within so long are told as one."""
QUEUE_S = 1.0
"""Between two looks at those that only the change of another one may have moved."""
ANEW_S = 15.0
"""After so long everything is looked at again: notices come with time alone."""
TOGETHER = 16
"""Views that are worked out in one turn of the pool's thread."""


@dataclass
class Feed:
    """What is told about one reservation. ``text``: its view as JSON; ``number`` grows with each other text."""

    text: str
    state: State
    number: int = 1
    watchers: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def update(self, text: str, state: State) -> None:
        if text != self.text:
            self.text, self.state, self.number = text, state, self.number + 1
            self.told.set()
            self.told = asyncio.Event()


class Feeds:
    """``changed`` is to be called with the names of what changed; empty: something that everybody may see."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._open: dict[str, Feed] = {}
        self._dirty: set[str] = set()
        self._queue_moved = self._all_moved = False
        self._wake = asyncio.Event()
        runtime.watch_changes(self.changed)

    def changed(self, names: Collection[str]) -> None:
        if not self._open:
            return
        self._dirty.update(name for name in names if name in self._open)
        self._queue_moved = True
        self._all_moved = self._all_moved or not names
        self._wake.set()

    @contextlib.asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[Feed]:
        """The feed of the reservation ``name``, kept up to date meanwhile. Raises PublicError for an unknown one."""
        feed = self._open.get(name)
        if feed is None:
            ((_, text, state),) = await self._runtime.call(self._look, [name])
            feed = self._open.setdefault(name, Feed(text, state))
            self._dirty.add(name)  # it may have changed before anybody was told that it is watched
            self._wake.set()
        feed.watchers += 1
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                self._open.pop(name, None)

    async def run(self) -> None:
        """Tells changes until it is cancelled."""
        looked_at = renewed_at = time.monotonic()
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), QUEUE_S if self._open else ANEW_S)
            self._wake.clear()
            now = time.monotonic()
            if now - renewed_at >= ANEW_S:
                self._all_moved, renewed_at = True, now
            due, self._dirty = self._dirty, set()
            if now - looked_at >= QUEUE_S:
                due |= self._moved()
                looked_at = now
            try:
                await self._tell(sorted(due))
            except LedgerSilent:
                pass  # it is tried again
            except Exception:
                log.exception("watchers were not told; they are told at the next change")
            await asyncio.sleep(BURST_S)

    def _moved(self) -> set[str]:
        everybody, queue = self._all_moved, self._queue_moved
        self._all_moved = self._queue_moved = False
        waits = (State.QUEUED, State.PARKED)
        return {name for name, feed in self._open.items() if everybody or (queue and feed.state in waits)}

    async def _tell(self, names: list[str]) -> None:
        for first in range(0, len(names), TOGETHER):
            for name, text, state in await self._runtime.call(self._look, names[first : first + TOGETHER]):
                if name in self._open:
                    self._open[name].update(text, state)

    def _look(self, names: list[str]) -> list[tuple[str, str, State]]:
        """In the pool's thread."""
        pool, found = self._runtime.pool, []
        for name in names:
            reservation = pool.get(name)
            view = views.reservation_view(pool, reservation)
            found.append((name, to_json(view), reservation.state))
        return found
