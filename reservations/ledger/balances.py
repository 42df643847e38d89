"""The books on disk: sums of all charges up to one of them, so that a start need not read the past.

The charges are the truth. What is written here is what they came to up to the row ``through``; whoever reads it adds
those after. A kill between two charges and the next writing thus costs nothing but a few rows to read again.
"""

from __future__ import annotations

import json
import logging

import sqlalchemy as sa

from ..text import escaped
from ..usage import Books
from . import policy, sound, tables

log = logging.getLogger("timeshare.service")

KEY = "books"
OFTEN = 500
"""After so many charges the sums are written down again."""


def fill(connection: sa.Connection, books: Books, since: float, now: float) -> None:
    """Take everything into ``books`` that was charged. Charges that ended before ``since`` (seconds) count no more."""
    meta = tables.meta
    text = connection.scalar(sa.select(meta.c.value).where(meta.c.key == KEY))
    through = _restored(books, text, now)
    anew = through is None
    past = policy.charges_since(connection, since) if anew else policy.charges_after(connection, through or 0)
    for charge in past:
        books.close(charge, now)
    if books.unkept >= OFTEN:
        keep(connection, books)


def _restored(books: Books, text: str | None, now: float) -> int | None:
    """The last row that the sums are of, which ``books`` have now; None: there are none that can be right, and they
    are made anew from the charges."""
    try:
        stored = json.loads(text) if text else None
        if stored is None:
            return None
        through = sound.count("through", stored["through"])
        return through if books.restore(stored["books"], now) else None
    except sound.ODD as error:
        log.warning("the sums of the charges are not understood (%s): they are made anew", escaped(str(error))[:200])
        return None


def keep(connection: sa.Connection, books: Books) -> None:
    """Write ``books`` down, which have taken in every charge that is committed."""
    meta = tables.meta
    text = json.dumps({"through": policy.last_charge(connection), "books": books.as_json()})
    if not connection.execute(sa.update(meta).where(meta.c.key == KEY).values(value=text)).rowcount:
        connection.execute(sa.insert(meta).values(key=KEY, value=text))
    books.unkept = 0
