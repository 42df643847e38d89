"""Bounds how many callers something is kept of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST_CALLERS = 4096
"""Callers of whom something is counted; those who have been quiet are forgotten first."""


def make_room(kept: dict[str, T], is_idle: Callable[[T], bool]) -> None:
    """Forget some of ``kept`` once it is full: those for whom nothing would be different (``is_idle``), then those who
    came first, which only gives somebody more. An eighth at least, as each look goes through all of them."""
    if len(kept) < MOST_CALLERS:
        return
    for caller in [caller for caller, one in kept.items() if is_idle(one)]:
        del kept[caller]
    for caller in list(kept)[: max(0, len(kept) - MOST_CALLERS * 7 // 8)]:
        del kept[caller]
