"""What the session does, as its own server sees it: kernels, programs, and what a person does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .programs import Look, read_programs, works

BUSY = "busy"
PROGRAMS_S = 30.0
"""Between two looks at the programs; what they did is judged over the last two minutes at most."""


@dataclass(frozen=True)
class Activity:
    """As it is reported; None: unknown. Seconds."""

    kernel_busy_s: float | None
    terminal: bool | None
    input_ago_s: float | None

    @property
    def works(self) -> bool:
        return bool(self.kernel_busy_s) or bool(self.terminal)


@dataclass
class Kernels:
    """For how long each kernel has been running cells. A pause that is shorter than the time between two looks is
    none."""

    since: dict[str, float] = field(default_factory=dict)

    def look(self, states: Mapping[str, str], now: float) -> bool:
        """Takes in the states of all kernels; True when one has begun to run something."""
        begun = [name for name, state in states.items() if state == BUSY and name not in self.since]
        self.since = {name: self.since.get(name, now) for name, state in states.items() if state == BUSY}
        return bool(begun)

    def busy_s(self, now: float) -> float:
        """Of the one that has been for the longest; at least a little when one is."""
        return max((now - since + 0.001 for since in self.since.values()), default=0.0)


class Watcher:
    """``server``: the Jupyter server application. Everything is called by its loop, but for ``look_at_programs``."""

    def __init__(self, server: Any, reservation_id: str) -> None:
        self._server = server
        self._reservation_id = reservation_id
        self._kernels = Kernels()
        self._known = False
        self._input_at = time.monotonic()
        self._looks: list[Look] = []
        self._working: bool | None = None

    def look(self) -> bool:
        """At the kernels, every few seconds; True when one has begun to run something: somebody ran a cell."""
        now = time.monotonic()
        try:
            states = {name: str(state) for name, state in _states(self._server.kernel_manager)}
        except Exception:
            # Kernel managers of other makes may have other ways.
            self._known = False
            return False
        self._known = True
        begun = self._kernels.look(states, now)
        if begun:
            self._input_at = now
        return begun

    def input(self) -> None:
        """A person typed or clicked."""
        self._input_at = time.monotonic()

    def look_at_programs(self) -> None:
        """Reads /proc; may take some milliseconds."""
        programs = read_programs(self._reservation_id)
        if programs is None:
            self._looks, self._working = [], None
            return
        self._looks = [*self._looks[-3:], Look(time.monotonic(), programs)]
        if len(self._looks) > 1:
            self._working = works(self._looks[0], self._looks[-1], os.getpid())

    def activity(self) -> Activity:
        now = time.monotonic()
        busy = self._kernels.busy_s(now) if self._known else None
        return Activity(busy, self._working, max(0.0, now - self._input_at))


def _states(manager: Any) -> Iterable[tuple[str, str]]:
    return [(name, manager.get_kernel(name).execution_state) for name in manager.list_kernel_ids()]
