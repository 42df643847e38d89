"""Answers that cost much, kept for a moment: who asks again at once gets the same, and the others get their turn."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_S = 1.0
"""While nothing changes; times that are told move on."""
AT_LEAST_S = 0.25
"""For a person, whatever changes meanwhile."""
MOST = 1000


class Remembered(Generic[T]):
    """By what was asked, and for whom."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: dict[tuple[str, str], tuple[int, float, T]] = {}

    async def get(self, what: str, owner: str, version: int, make: Callable[[], Awaitable[T]], *, counted: bool) -> T:
        """The answer to ``what`` for ``owner`` while the pool is at ``version``; ``counted``: asked by a person."""
        known = self._answers.get((what, owner))
        if known is not None:
            then, at, answer = known
            if self._clock() - at < (KEPT_S if then == version else AT_LEAST_S if counted else 0.0):
                return answer
        made = await make()
        self._answers.pop((what, owner), None)
        self._answers[what, owner] = (version, self._clock(), made)
        if len(self._answers) > MOST:
            self._answers.pop(next(iter(self._answers)))
        return made
