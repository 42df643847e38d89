"""Activity and decisions as rows. Every function works inside a transaction of the ledger."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from . import sound, tables

_A, _D = tables.activity, tables.decisions
_DELETE = sa.delete(_A).where(_A.c.reservation_id == sa.bindparam("row_id"))
_INSERT = sa.insert(_A)


def read_all(connection: sa.Connection) -> dict[str, Any]:
    """By reservation."""
    found = {}
    for row in connection.execute(sa.select(_A)):
        with contextlib.suppress(*sound.ODD):  # nothing is known of it then, and that is never idle
            found[row.reservation_id] = json.loads(row.state)
    return found


def write(connection: sa.Connection, states: Mapping[str, Any]) -> None:
    """In place of what is written of these reservations."""
    if states:
        connection.execute(_DELETE, [{"row_id": name} for name in states])
        connection.execute(
            _INSERT, [{"reservation_id": name, "state": json.dumps(state)} for name, state in states.items()]
        )


def drop(connection: sa.Connection, names: Iterable[str]) -> None:
    rows = [{"row_id": name} for name in names]
    if rows:
        connection.execute(_DELETE, rows)


def add_decision(
    connection: sa.Connection, reservation_id: str, at: float, what: str, why: str, signals: Mapping[str, Any]
) -> None:
    row = {"reservation_id": reservation_id, "at": at, "what": what, "why": why, "signals": json.dumps(signals)}
    connection.execute(sa.insert(_D).values(**row))


def drop_decisions(connection: sa.Connection, reservation_id: str, whats: Iterable[str], newest: int) -> None:
    """All of these but the ``newest``."""
    mine = sa.select(_D.c.id).where(_D.c.reservation_id == reservation_id, _D.c.what.in_(list(whats)))
    kept = connection.execute(mine.order_by(_D.c.id.desc()).limit(newest)).scalars().all()
    if len(kept) == newest:
        connection.execute(sa.delete(_D).where(_D.c.id.in_(mine.where(_D.c.id < min(kept)))))


def decisions(connection: sa.Connection, reservation_id: str, limit: int) -> list[dict[str, Any]]:
    """The newest first: ``at``, ``what``, ``why``, ``signals``."""
    query = sa.select(_D).where(_D.c.reservation_id == reservation_id).order_by(_D.c.id.desc()).limit(limit)
    return [
        {"at": row.at, "what": row.what, "why": row.why, "signals": _signals(row.signals)}
        for row in connection.execute(query)
    ]


def _signals(text: str) -> Any:
    try:
        return json.loads(text)
    except sound.ODD:
        return {}
