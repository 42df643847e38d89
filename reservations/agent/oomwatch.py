"""Tells a session's owner that the kernel ended something of theirs because main memory was used up: a notebook only
sees that its kernel died."""

from __future__ import annotations

from .ending import oom_kills
from .events import Events
from .members import Members
from .ownership import Key
from .records import Order


class OomWatch:
    """``look`` is called by one thread; it keeps what the next look needs."""

    def __init__(self, members: Members, events: Events) -> None:
        self._members = members
        self._events = events
        self._seen: dict[Key, int] | None = None

    def look(self) -> None:
        """Look at every session that has a control group. What was before the first look is not told again."""
        now = {record.key: (order, oom_kills(order.group)) for record, order in self._members.known() if order.group}
        if self._seen is not None:
            for key, (order, number) in now.items():
                if number > self._seen.get(key, 0):
                    self._events.add("out_of_memory", _words(order), reservation_id=order.reservation_id)
        self._seen = {key: number for key, (_, number) in now.items()}


def _words(order: Order) -> str:
    if order.memory_mib:
        most = f"{order.memory_mib / 1024:g} GiB of main memory, the most that this session may have, were used up"
    else:
        most = "the main memory of the node was used up"
    return f"{most}: the system ended a process of it. Free memory, or ask for more"
