"""What was promised to those who wait. Every function works inside a transaction of the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import sqlalchemy as sa

from ..queue import Promise
from ..text import escaped
from . import sound, tables

_P = tables.promises
_DELETE = sa.delete(_P).where(_P.c.reservation_id == sa.bindparam("name"))
_INSERT = sa.insert(_P)


def write(connection: sa.Connection, promises: Mapping[str, Promise | None]) -> None:
    """Writes what is promised now to each; None: nothing any more."""
    if not promises:
        return
    connection.execute(_DELETE, [{"name": name} for name in promises])
    rows = [
        {"reservation_id": name, "start": told.start, "holdings": json.dumps([asdict(h) for h in told.holdings])}
        for name, told in promises.items()
        if told is not None
    ]
    if rows:
        connection.execute(_INSERT, rows)


def read(connection: sa.Connection) -> tuple[dict[str, Promise], list[str]]:
    """Everything that is promised, by reservation; and what is not understood, in words."""
    found, odd = {}, []
    for row in connection.execute(sa.select(_P)).mappings():
        try:
            start, held = sound.number("start", row["start"]), sound.holdings(json.loads(row["holdings"]))
            found[row["reservation_id"]] = Promise(start, held)
        except sound.ODD as error:
            odd.append(f"that of {escaped(str(row['reservation_id']))}: {escaped(str(error))[:200]}")
    return found, odd
