"""Looks up which processes belong to the sessions of this agent, and ends all of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from . import ending
from .isolation import filtered_pids
from .ownership import Claim, Key, Owned, Reader, assign
from .processes import account_of, mark_of, read_processes, start_ticks
from .records import UNREADABLE, Gate, Order, Record

log = logging.getLogger("timeshare.agent")
READER = Reader(account_of, mark_of)


class Members:
    """``live``: the records of starts that are not known to have ended."""

    def __init__(self, live: Callable[[], list[Record]], boot_id: str) -> None:
        self._live = live
        self._boot_id = boot_id
        self._orders: dict[Key, Order] = {}

    def owned(self) -> Owned:
        """Return whose every process is, in one look at the machine."""
        # In this order: a start that begins after the records were listed is in the next look.
        known = list(self.known())
        table = read_processes()
        return assign(table, [self._claim(record, order) for record, order in known], READER)

    def of(self, record: Record) -> set[int]:
        """Return the pids of one start, without its launcher."""
        return self.owned().of(record.key)

    def remain(self, record: Record) -> bool:
        """Return whether anything of one start runs, without its launcher."""
        order = self._order(record)
        folders = order.group[:1] or record.gate().filter.get("cgroups", ())
        return any(map(ending.populated, folders)) or any(self.of(record) for _ in range(ending.LOOKS))

    def kill(self, record: Record) -> None:
        """End every process of it, however fast they fork; call it until nothing is left. The launcher stays: it tells
        how all of it ended."""
        order = self._order(record)
        if order.group:
            ending.kill_group(order.group[0])
        ending.kill_all(lambda: self._one_by_one(record))

    def _one_by_one(self, record: Record) -> Iterator[int]:
        """Those below its launcher first: they are found soonest."""
        launcher = self._launcher(record)
        if launcher is not None and start_ticks(launcher[0]) == launcher[1]:
            yield from ending.below(launcher[0])
        owned = self.owned()
        for pid in owned.of(record.key):
            if start_ticks(pid) == owned.table[pid].ticks:
                yield pid

    def thaw(self, record: Record) -> None:
        """Let its group run on: who had stopped it may have been killed meanwhile."""
        for folder in (*self._order(record).group[:1], *map(str, record.older_cgroups())):
            ending.thaw(folder)

    def thaw_all(self) -> list[str]:
        """Do so for every start. Return the folders of all their control groups."""
        folders: list[str] = []
        for record, order in self.known():
            self.thaw(record)
            folders += [*order.group, *order.filter.get("cgroups", ())]
        return folders

    def forget(self, record: Record) -> None:
        """Drop what is kept of it."""
        self._orders.pop(record.key, None)

    def known(self) -> Iterator[tuple[Record, Order]]:
        """Yield the starts that are not known to have ended; one that cannot be read takes no other along."""
        for record in self._live():
            try:
                yield record, self._order(record)
            except UNREADABLE as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)

    def gates(self) -> dict[Key, Gate]:
        """Return what each start that is not known to have ended holds; one that cannot be read is not among them."""
        found = {}
        for record in self._live():
            try:
                found[record.key] = record.gate()
            except UNREADABLE as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)
        return found

    def _order(self, record: Record) -> Order:
        """It never changes."""
        if record.key not in self._orders:
            self._orders[record.key] = record.order()
        return self._orders[record.key]

    def _claim(self, record: Record, order: Order) -> Claim:
        try:
            inside = ending.group_pids(order.group[0]) if order.group else filtered_pids(record.gate().filter)
            return Claim(record.key, self._launcher(record), frozenset(inside), order.uid)
        except UNREADABLE as error:
            log.warning("the record of %s cannot be read: %s", record.path.name, error)
            return Claim(record.key, None, frozenset(), order.uid)

    def _launcher(self, record: Record) -> tuple[int, int] | None:
        """Its pid and start in ticks; None if it is not of this boot. It may have ended."""
        shim = record.shim()
        return (shim.pid, shim.ticks) if shim is not None and shim.boot_id == self._boot_id else None
