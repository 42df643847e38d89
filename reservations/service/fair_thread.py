"""One thread that works for many callers, each in turn: who asks for much waits behind itself, and nobody behind it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
LANE: ContextVar[str] = ContextVar("lane", default="")
"""For whom the current task asks; empty: for the service itself."""


class FairThread:
    """Calls functions one at a time. Callers take turns, whoever has waiting how many; each caller's are in order."""

    def __init__(self, name: str) -> None:
        self._lanes: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._ready = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns, or raise what it raises, once it was called in the thread."""
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

        with self._ready:
            if self._stopping:
                raise RuntimeError("the thread has ended")
            self._lanes.setdefault(LANE.get(), deque()).append(work)
            self._ready.notify()
        return await answer

    def stop(self) -> None:
        """Finish what was asked for, and end."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        with self._ready:
            while not self._lanes:
                if self._stopping:
                    return None
                self._ready.wait()
            lane, waiting = next(iter(self._lanes.items()))
            work = waiting.popleft()
            if waiting:
                self._lanes.move_to_end(lane)
            else:
                del self._lanes[lane]
            return work
