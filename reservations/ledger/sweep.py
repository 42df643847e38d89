"""Removing what is over and too old, in pieces. Every function works inside a transaction of the ledger and removes at
most so many rows, the oldest first; a kill between two pieces leaves a ledger that is whole.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from . import sound, tables

KEY = "swept"
EVENTS_EACH = 4
"""Events of a reservation, about: what is removed with it."""
_OF_RESERVATIONS = (tables.events, tables.decisions)


def reservations(connection: sa.Connection, before: float, most: int) -> int:
    """Remove reservations that ended before ``before`` (seconds), with what happened to them. One whose events are more
    than ``most`` loses them first."""
    r = tables.reservations.c
    oldest = sa.select(r.id).where(tables.past, r.ended_at < before).order_by(r.ended_at)
    ids = connection.scalars(oldest.limit(max(1, most // EVENTS_EACH))).all()
    removed = 0
    for table in _OF_RESERVATIONS:
        rows = sa.select(table.c.id).where(table.c.reservation_id.in_(ids)).limit(most - removed)
        removed += _remove(connection, table, table.c.id.in_(connection.scalars(rows).all()))
        if removed >= most:
            return removed
    _remove(connection, tables.activity, tables.activity.c.reservation_id.in_(ids))
    return removed + _remove(connection, tables.reservations, r.id.in_(ids))


def decisions(connection: sa.Connection, before: float, most: int) -> int:
    """Remove decisions from before ``before``."""
    d = tables.decisions.c
    oldest = sa.select(d.id).where(d.at < before).order_by(d.at).limit(most)
    return _remove(connection, tables.decisions, d.id.in_(connection.scalars(oldest).all()))


def charges(connection: sa.Connection, before: float, most: int) -> int:
    """Remove charges that ended before ``before``, and note until when. The newest row stays, whatever its age: the
    books say up to which row they go, and SQLite gives the number of a removed last row to the next one."""
    c = tables.charges.c
    last = sa.select(sa.func.max(c.id)).scalar_subquery()
    oldest = sa.select(c.id, c.ended).where(c.ended < before, c.id < last).order_by(c.ended).limit(most)
    found = connection.execute(oldest).all()
    if found:
        _note(connection, "charges", found[-1].ended)
    return _remove(connection, tables.charges, c.id.in_([row.id for row in found]))


def changes(connection: sa.Connection, before: float, most: int, in_force: str) -> int:
    """Remove what administrators changed before ``before``: the log of it, exceptions that were over by then, and texts
    of limits but those of the version ``in_force``."""
    a, o, v = tables.audit.c, tables.overrides.c, tables.limits_versions.c
    old = sa.select(a.id).where(a.at < before).order_by(a.id).limit(most)
    over = sa.select(o.id).where(o.until < before).limit(most)
    texts = sa.select(v.version).where(v.seen_at < before, v.version != in_force).limit(most)
    removed = _remove(connection, tables.audit, a.id.in_(connection.scalars(old).all()))
    removed += _remove(connection, tables.overrides, o.id.in_(connection.scalars(over).all()))
    return removed + _remove(connection, tables.limits_versions, v.version.in_(connection.scalars(texts).all()))


def swept(connection: sa.Connection) -> dict[str, float]:
    """By kind of row: everything up to that moment may have been removed."""
    text = connection.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.key == KEY))
    try:
        told = dict(json.loads(text)) if text else {}
        return {sound.text("kind", name): sound.number(name, at) for name, at in told.items()}
    except sound.ODD:
        return {}


def _note(connection: sa.Connection, what: str, until: float) -> None:
    meta, known = tables.meta, swept(connection)
    text = json.dumps({**known, what: max(until, known.get(what, 0.0))})
    if not connection.execute(sa.update(meta).where(meta.c.key == KEY).values(value=text)).rowcount:
        connection.execute(sa.insert(meta).values(key=KEY, value=text))


def _remove(connection: sa.Connection, table: sa.Table, which: sa.ColumnElement[Any]) -> int:
    return connection.execute(sa.delete(table).where(which)).rowcount
