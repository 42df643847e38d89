"""One question for all who ask at about the same time, never faster than its answers come, and ever more rarely while
there are none."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import SchedulerSilent
from .pace import Pace

T = TypeVar("T")


@dataclass(frozen=True)
class Told(Generic[T]):
    """``number``: of the answer, from 1. ``asked_at``: when the question was asked, on ``time.monotonic``."""

    number: int
    asked_at: float
    value: T

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.asked_at


class Shared(Generic[T]):
    """``ask`` raises SchedulerSilent. For one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[T]], pace: Pace) -> None:
        self._ask, self._pace = ask, pace
        self._last: Told[T] | None = None
        self._asking: asyncio.Task[Told[T]] | None = None

    async def get(self, after: int, within_s: float) -> Told[T]:
        """An answer that the caller has not had (its last one was number ``after``), asked for no longer ago than
        ``within_s``: one that somebody else got, or a new one. Raises SchedulerSilent."""
        last = self._last
        if last is not None and last.number > after and last.age_s < within_s:
            return last
        if self._asking is None:
            self._asking = asyncio.create_task(self._answer())
        return await asyncio.shield(self._asking)

    async def _answer(self) -> Told[T]:
        try:
            await asyncio.sleep(max(0.0, self._pace.next_at - time.monotonic()))
            asked_at = time.monotonic()
            try:
                value = await self._ask()
            except SchedulerSilent:
                self._pace = self._pace.silent(time.monotonic(), random.random())
                raise
            now = time.monotonic()
            self._pace = self._pace.answered(now, now - asked_at)
            self._last = Told(self._last.number + 1 if self._last else 1, asked_at, value)
            return self._last
        finally:
            self._asking = None
