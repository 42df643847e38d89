"""The two kinds of reservation."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """``SESSION``: somebody works in it. ``BATCH``: it runs by itself."""

    SESSION = "session"
    BATCH = "batch"

    @property
    def plural(self) -> str:
        return "sessions" if self is Kind.SESSION else "batch jobs"
