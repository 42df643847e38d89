"""Reports over the past, read beside the writer: however long one takes, nobody's grant waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..reservation import Reservation
from . import tables
from .rows import from_row

C, R = tables.charges.c, tables.reservations.c
GROUPINGS = ("owner", "group", "model", "kind", "reason", "day")
"""What sums may be told apart by."""


@dataclass(frozen=True)
class Span:
    """A time that is asked about, in seconds since the epoch, and the last row of charges that counts: what is written
    while the report is read still stood among what runs."""

    since: float
    until: float
    last_charge: int


@dataclass(frozen=True)
class Used:
    """``key``: in the order of the groupings asked for. GPU-seconds; ``weighted`` by the weights of their models."""

    key: tuple[str, ...]
    intervals: int
    gpu_s: float
    weighted_s: float


@dataclass(frozen=True)
class Rows:
    """``oldest``: when the oldest of them ended or happened, in seconds; None when there are none."""

    of: str
    count: int
    oldest: float | None


@dataclass(frozen=True)
class Kept:
    """What the ledger holds. Bytes; ``free`` of them hold nothing any more and are used again."""

    rows: tuple[Rows, ...]
    size: int
    free: int


COUNTED = (
    ("reservations", R.ended_at, (tables.past,)),
    ("events", tables.events.c.at, ()),
    ("decisions", tables.decisions.c.at, ()),
    ("charges", C.ended, ()),
    ("changes", tables.audit.c.at, ()),
)


class Reader:
    """Opens a connection of its own, which cannot write. For one thread."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))

    def close(self) -> None:
        self._engine.dispose()

    def usage(self, span: Span, by: Sequence[str], owner: str | None) -> list[Used]:
        """What was held in ``span`` by ``owner`` (None: by all), intervals cut to it. An interval counts for the day on
        which it began."""
        began, ended = _later(C.began, span.since), _sooner(C.ended, span.until)
        keys = [self._key(name, began) for name in by]
        sums = (sa.func.count(), sa.func.sum(C.gpus * (ended - began)), sa.func.sum(C.rate * (ended - began)))
        places: list[sa.ColumnElement[int]] = [sa.literal_column(str(number + 1)) for number in range(len(by))]
        query = sa.select(*keys, *sums).where(*_within(span)).group_by(*places)
        if owner is not None:
            query = query.where(C.owner == owner)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [Used(tuple(map(str, row[: len(by)])), *row[len(by) :]) for row in rows]

    def handed_over(self, span: Span) -> tuple[list[Reservation], Mapping[str, tuple[float, float, float]]]:
        """Those that have ended, at engines that place work themselves, and were there in ``span``; and by reservation,
        also of those that go on, what was charged there: most GPUs at once, seconds, GPU-seconds."""
        there = sa.and_(tables.past, R.external.is_not(None), R.ended_at > span.since, R.submitted_at < span.until)
        began, ended = _later(C.began, span.since), _sooner(C.ended, span.until)
        sums = (sa.func.max(C.gpus), sa.func.sum(ended - began), sa.func.sum(C.gpus * (ended - began)))
        charged = sa.select(C.reservation_id, *sums).where(*_within(span)).group_by(C.reservation_id)
        charged = charged.join(tables.reservations, R.id == C.reservation_id).where(R.external.is_not(None))
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(tables.reservations).where(there).order_by(R.seq)).mappings()
            found = [from_row(dict(row)) for row in rows]
            return found, {row[0]: (row[1], row[2], row[3]) for row in connection.execute(charged)}

    def _key(self, name: str, began: sa.ColumnElement[float]) -> sa.ColumnElement[Any]:
        if name != "day":
            # Not the bare column: SQLite would go through all of an index of it, to have the groups in order.
            return (C.account if name == "group" else C[name]).concat("")
        days = began / 86400.0
        # SQLite has floor() only where it was built with it, and there a cast cuts; in PostgreSQL it rounds.
        return sa.cast(days, sa.Integer) if self._engine.dialect.name == "sqlite" else sa.func.floor(days)

    def kept(self) -> Kept:
        """How much there is. Counts every row, so ask seldom."""
        with self._engine.connect() as connection:
            rows = tuple(
                Rows(name, *connection.execute(sa.select(sa.func.count(), sa.func.min(at)).where(*only)).one())
                for name, at, only in COUNTED
            )
            if self._engine.dialect.name == "sqlite":
                pages, free, size = (
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                    for name in ("page_count", "freelist_count", "page_size")
                )
                return Kept(rows, pages * size, free * size)
            sizes = (sa.func.pg_total_relation_size(name) for name in tables.metadata.tables)
            return Kept(rows, sum(int(connection.scalar(sa.select(size)) or 0) for size in sizes), 0)


def _within(span: Span) -> tuple[sa.ColumnElement[bool], ...]:
    return C.ended > span.since, C.began < span.until, C.ended > C.began, C.id <= span.last_charge


def _later(column: sa.ColumnElement[float], at: float) -> sa.ColumnElement[float]:
    return sa.case((column > at, column), else_=sa.literal(at, sa.Double))


def _sooner(column: sa.ColumnElement[float], at: float) -> sa.ColumnElement[float]:
    return sa.case((column < at, column), else_=sa.literal(at, sa.Double))
