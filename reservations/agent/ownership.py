"""Which process belongs to which session: to one at most, by what the kernel says. Pure.

The order is: the control group in which the kernel has a process; the nearest process above it that is a session's (its
launcher, or one that was found to be the session's); and as the last resort the mark in its environment, which anybody
can write, and which therefore counts only for processes of the session's own account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .processes import Process

Key = tuple[str, int]
"""Reservation and generation."""


@dataclass(frozen=True)
class Claim:
    """What the agent knows of one start. ``launcher``: its pid and start in ticks, None if it is not of this boot.
    ``group``: pids that the kernel has in its control group. ``uid``: of its account; None: marks count for nothing."""

    key: Key
    launcher: tuple[int, int] | None
    group: frozenset[int] = frozenset()
    uid: int | None = None


@dataclass(frozen=True)
class Owned:
    """One look at the machine. ``owners``: the session of each pid that belongs to one; launchers belong to none.
    ``sessions``: all that were asked about."""

    table: Mapping[int, Process]
    owners: Mapping[int, Key]
    sessions: tuple[Key, ...] = ()

    def of(self, key: Key) -> set[int]:
        """Return the pids of one session."""
        return {pid for pid, owner in self.owners.items() if owner == key}

    def by_session(self) -> dict[Key, set[int]]:
        """Return the pids of every session."""
        found: dict[Key, set[int]] = {key: set() for key in self.sessions}
        for pid, owner in self.owners.items():
            found[owner].add(pid)
        return found


@dataclass(frozen=True)
class Reader:
    """How to learn about one process what takes longer to read. Neither may raise."""

    account_of: Callable[[int, frozenset[int]], int | None]
    mark_of: Callable[[int], Key | None]


def assign(table: Mapping[int, Process], claims: Iterable[Claim], reader: Reader) -> Owned:
    """Decide for every process of ``table``."""
    return _Assignment(table, list(claims), reader).result()


class _Assignment:
    def __init__(self, table: Mapping[int, Process], claims: list[Claim], reader: Reader) -> None:
        self._table = table
        self._sessions = tuple(claim.key for claim in claims)
        self._reader = reader
        self._uids = {claim.key: claim.uid for claim in claims if claim.uid is not None}
        self._accounts = frozenset(self._uids.values())
        self._launchers = {c.launcher[0]: c.key for c in claims if c.launcher and self._is(*c.launcher)}
        self._known: dict[int, Key | None] = {}
        for claim in claims:
            for pid in claim.group:
                if pid in table and pid not in self._launchers:
                    self._known.setdefault(pid, claim.key)

    def _is(self, pid: int, ticks: int) -> bool:
        return pid in self._table and self._table[pid].ticks == ticks

    def result(self) -> Owned:
        owners = {pid: self._owner(pid) for pid in self._table if pid not in self._launchers}
        return Owned(self._table, {pid: key for pid, key in owners.items() if key is not None}, self._sessions)

    def _owner(self, pid: int) -> Key | None:
        line = []
        above: int | None = pid
        while above is not None and above not in self._known and above not in self._launchers:
            line.append(above)
            self._known[above] = None  # so that a circle of parents, out of reads at different moments, ends
            above = self._parent(above)
        key = None if above is None else self._launchers.get(above) or self._known.get(above)
        for below in reversed(line):
            key = key or self._marked(below)
            self._known[below] = key
        return key if line else self._known[pid]

    def _parent(self, pid: int) -> int | None:
        """The process above; None where that is gone. One that began later only got the pid of the real one."""
        parent = self._table.get(self._table[pid].parent)
        return parent.pid if parent is not None and parent.ticks <= self._table[pid].ticks else None

    def _marked(self, pid: int) -> Key | None:
        account = self._reader.account_of(pid, self._accounts) if self._accounts else None
        if account is None:
            return None
        key = self._reader.mark_of(pid)
        return key if key is not None and self._uids.get(key) == account else None
