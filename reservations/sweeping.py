"""Removes what is over, as the limits say, and writes the books down, in pieces so small that nobody waits for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from .ledger import Ledger, balances, sweep
from .limits.schema import Limits, Retention
from .pool import Pool
from .standing import half_lives
from .usage import Books

PIECE_S = 0.010
"""What a piece should take; whoever asks for a GPU meanwhile waits for no more than one."""
FEWEST, MOST = 10, 1000
"""Rows of a piece."""
Remove = Callable[[sa.Connection, float, int], int]


class Sweeper:
    """Of ``pool``, and used in its thread. ``rows`` of the next piece follow from the time that the last one took."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._pool, self._ledger = pool, ledger
        self.rows = 20
        self.longest_s = 0.0
        """That a piece took since this process began."""

    def piece(self) -> dict[str, int]:
        """Remove some of what is too old: how many rows of what. Empty: nothing is."""
        now, began = self._pool.clock(), time.perf_counter()
        for what, kept_s, remove in self._duties():
            if not kept_s:
                continue
            with self._ledger.transaction() as connection:
                count = remove(connection, now - kept_s, self.rows)
            if count:
                self._learn(time.perf_counter() - began)
                return {what: count}
        return {}

    def keep_books(self) -> None:
        """Write the books down where much has come since."""
        books = self._pool.standing.books
        if books.unkept >= balances.OFTEN:
            with self._ledger.transaction() as connection:
                balances.keep(connection, books)

    def _duties(self) -> tuple[tuple[str, float, Remove], ...]:
        kept = self._pool.limits.retention
        changes = partial(sweep.changes, in_force=self._pool.standing.version)
        return (
            ("decisions", kept.decisions, sweep.decisions),
            ("reservations", kept.reservations, sweep.reservations),
            ("charges", charges_kept_s(self._pool.limits), sweep.charges),
            ("changes", kept.changes, changes),
        )

    def _learn(self, took: float) -> None:
        self.longest_s = max(self.longest_s, took)
        if took > PIECE_S:
            self.rows = max(FEWEST, self.rows // 2)
        elif took < PIECE_S / 2:
            self.rows = min(MOST, self.rows + self.rows // 4)


def charges_kept_s(limits: Limits) -> float:
    """For how long charges are kept: as ``retention`` says, and as long as budgets and fair share need them to make
    their sums anew. 0: for ever."""
    kept: Retention = limits.retention
    return max(kept.charges, Books.horizon(half_lives(limits))) if kept.charges else 0.0
