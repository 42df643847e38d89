"""One thread that works for many callers, each in turn: who asks for much waits behind itself, and nobody behind it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from .fair_queue import FairQueue, Pace

T = TypeVar("T")
LANE: ContextVar[str] = ContextVar("lane", default="")
"""For whom the current task asks; empty: for the service itself."""
HUB = "hub"
"""The turn of what our own processes ask for nobody in particular."""
SUBMISSIONS = "submissions"
"""The turn of submissions of all, for which those who ask pay."""
FREE = frozenset(("", HUB, SUBMISSIONS))
"""Lanes whose time is not counted."""


@dataclass(frozen=True)
class _Piece:
    work: Callable[[], None]
    payers: Sequence[str]


class FairThread:
    """Calls functions one at a time, in the order of ``FairQueue``."""

    def __init__(self, name: str, pace: Pace | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: FairQueue[_Piece] = FairQueue(pace or Pace(), clock, FREE)
        self._ready = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T], payers: Sequence[str] = ()) -> T:
        """Return what ``function`` returns, or raise what it raises, once it was called in the thread.

        ``payers``: the lanes that pay for its time, in equal parts; none: the caller's.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(found: Any, error: BaseException | None) -> None:
            if answer.done():  # its caller has gone
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def work() -> None:
            if answer.cancelled():
                return
            found, error = None, None
            try:
                found = function()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, found, error)

        lane = LANE.get()
        with self._ready:
            if self._stopping:
                raise RuntimeError("the thread has ended")
            self._queue.put(lane, _Piece(work, payers or (lane,)))
            self._ready.notify()
        return await answer

    async def turn(self) -> None:
        """Return once the caller's lane has time left, for work that it pays for in another lane."""
        with self._ready:
            due = self._queue.is_due(LANE.get())
        if not due:
            await self.run(int)

    def stop(self) -> None:
        """Finish what was asked for, and end."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while (piece := self._next()) is not None:
            began = self._clock()
            piece.work()
            part = (self._clock() - began) / len(piece.payers)
            with self._ready:
                for lane in piece.payers:
                    self._queue.spend(lane, part)

    def _next(self) -> _Piece | None:
        with self._ready:
            while True:
                if self._stopping:
                    return self._queue.take_any()
                piece = self._queue.take()
                if piece is not None:
                    return piece
                self._ready.wait(self._queue.due_in() if self._queue else None)
