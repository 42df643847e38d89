"""The books on disk: sums of all charges up to one of them, so that a start need not read the past.

The charges are the truth. What is written here is what they came to up to the row ``through``; whoever reads it adds
those after. A kill between two charges and the next writing thus costs nothing but a few rows to read again.
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from ..usage import Books
from . import policy, tables

KEY = "books"
OFTEN = 500
"""After so many charges the sums are written down again."""


def fill(connection: sa.Connection, books: Books, since: float, now: float) -> None:
    """Take everything into ``books`` that was charged. Charges that ended before ``since`` (seconds) count no more."""
    meta = tables.meta
    text = connection.scalar(sa.select(meta.c.value).where(meta.c.key == KEY))
    stored = json.loads(text) if text else None
    if stored is not None and books.restore(stored["books"], now):
        past = policy.charges_after(connection, stored["through"])
    else:
        past = policy.charges_since(connection, since)
    for charge in past:
        books.close(charge, now)
    if books.unkept >= OFTEN:
        keep(connection, books)


def keep(connection: sa.Connection, books: Books) -> None:
    """Write ``books`` down, which have taken in every charge that is committed."""
    meta = tables.meta
    text = json.dumps({"through": policy.last_charge(connection), "books": books.as_json()})
    if not connection.execute(sa.update(meta).where(meta.c.key == KEY).values(value=text)).rowcount:
        connection.execute(sa.insert(meta).values(key=KEY, value=text))
    books.unkept = 0
