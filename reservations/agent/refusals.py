"""How the agent says no."""

from __future__ import annotations


class Refused(Exception):
    """A request that cannot be carried out. ``reason`` is its code, the text is for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
