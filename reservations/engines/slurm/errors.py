"""How asking Slurm ends when it does not end with an answer.

EngineUnknown
  SchedulerSilent     it may or may not have been done: nothing may be concluded from it
    Unreadable        it answered, in words that were not understood
SchedulerRefused      it said no, and why
"""

from __future__ import annotations

from ..base import EngineUnknown


class SchedulerSilent(EngineUnknown):
    """Slurm did not answer, or its controller did not. What was asked for may have happened all the same."""


class Unreadable(SchedulerSilent):
    """``what`` printed something else than it does. An empty answer is one too, where there is always something."""

    def __init__(self, what: str, text: str = "", why: str = "") -> None:
        shown = repr(text if len(text) <= 200 else text[:200] + "…")
        super().__init__(f"the answer of {what} is not understood{f' ({why})' if why else ''}: {shown}")


class SchedulerRefused(Exception):
    """``text``: what Slurm said, as it said it. ``words`` has sentences for it."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text, self.code = text, code
