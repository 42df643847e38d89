"""The table of what is held, which follows from the reservations: where a row of it is damaged it is made anew, or else
the next grant of that device would fail on it. Inside a transaction of the ledger."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from ..reservation import Reservation
from ..text import escaped
from . import tables
from .rows import holding_rows

log = logging.getLogger("timeshare.service")
_H = tables.holdings
_NAMES = tuple(column.name for column in _H.columns)
Row = tuple[Any, ...]


def not_as_written(connection: sa.Connection, live: Iterable[Reservation], apart: Collection[str]) -> list[str]:
    """Return the ids of which it does not say what they hold. ``live``: the reservations that are understood. Rows of
    those ``apart`` stay as they are."""
    written: dict[str, list[Row]] = defaultdict(list)
    # As text: what is neither true nor false would end the reading of all rows.
    for row in connection.execute(sa.text(f"SELECT {', '.join(_NAMES)} FROM holdings")):
        written[str(row[0])].append(tuple(row))
    wanted = {r.id: holding_rows(r) for r in live if r.holds}
    odd = [name for name, rows in written.items() if name not in apart and not _same(rows, wanted.get(name, []))]
    return odd + [name for name, rows in wanted.items() if rows and name not in written]


def mend(connection: sa.Connection, live: Iterable[Reservation], odd: Collection[str]) -> None:
    """Make the rows of ``odd`` anew."""
    wanted = {r.id: holding_rows(r) for r in live if r.holds and r.id in odd}
    for name in odd:
        log.warning("what %s holds was not written as it is, and is made anew", escaped(name))
        connection.execute(sa.delete(_H).where(_H.c.reservation_id == name))
    for name in odd:
        if wanted.get(name):
            _insert(connection, name, wanted[name])


def _same(rows: list[Row], wanted: list[dict[str, Any]]) -> bool:
    return sorted(map(repr, rows)) == sorted(repr(_as_written(row, rows[0])) for row in wanted)


def _as_written(row: dict[str, Any], like: Row) -> Row:
    """SQLite has 0 and 1 for what is false and true."""
    values = [row[name] for name in _NAMES]
    return tuple(int(v) if type(v) is bool and type(like[-1]) is not bool else v for v in values)


def _insert(connection: sa.Connection, name: str, rows: list[dict[str, Any]]) -> None:
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(_H), rows)
    except sa.exc.IntegrityError:  # what is set apart has the same: neither gives it up
        log.error("what %s holds is held by a row that is not understood, too", escaped(name))
