"""Reports over the past, read beside the writer: however long one takes, nobody's grant waits for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..reservation import Reservation
from . import tables
from .store import read_rows

C, R = tables.charges.c, tables.reservations.c
GROUPINGS = ("owner", "group", "model", "kind", "reason", "day")
"""What sums may be told apart by."""
MOST = 1e15
"""GPUs, and seconds: beyond it a charge is none."""
MOST_RECENT = 300
"""Sums that are kept for who asks again."""


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

    def plus(self, more: Used) -> Used:
        """Both together, which have the same key."""
        sums = (self.gpu_s + more.gpu_s, self.weighted_s + more.weighted_s)
        return Used(self.key, self.intervals + more.intervals, *sums)


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
TIDY_TRIES = 5
"""Passes over SQLite's log at most: each is over what was written during the one before."""


class Reader:
    """Opens a connection of its own, which cannot write. For one thread."""

    def __init__(self, url: str) -> None:
        self._recent: dict[Any, tuple[int, dict[tuple[str, ...], Used]]] = {}
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))

    def close(self) -> None:
        self._engine.dispose()

    def knows(self, name: str) -> bool:
        """Whether there ever was a reservation of that id, or one in an array of that name. The latter is looked for in
        all jobs."""
        in_array = R.job.contains(json.dumps(name), autoescape=True)
        parts = sa.select(sa.literal(1)).where(R.id == name), sa.select(sa.literal(1)).where(in_array)
        with self._engine.connect() as connection:
            return any(connection.scalar(part.limit(1)) is not None for part in parts)

    def recent(self, span: Span, by: Sequence[str], owner: str | None) -> list[Used]:
        """The same as ``usage`` for a span that goes on until now. What it came to is kept, so that whoever asks again
        for what began at the same moment waits for no more than what was charged since."""
        key = (span.since, tuple(by), owner)
        through, sums = self._recent.get(key, (0, {}))
        for used in self._usage(span, by, owner, through):
            before = sums.get(used.key)
            sums[used.key] = used if before is None else before.plus(used)
        if len(self._recent) >= MOST_RECENT:
            self._recent.clear()
        self._recent[key] = span.last_charge, sums
        return list(sums.values())

    def usage(self, span: Span, by: Sequence[str], owner: str | None) -> list[Used]:
        """What was held in ``span`` by ``owner`` (None: by all), intervals cut to it. An interval counts for the day on
        which it began."""
        return self._usage(span, by, owner, 0)

    def _usage(self, span: Span, by: Sequence[str], owner: str | None, after: int) -> list[Used]:
        """Of the charges that were written after row ``after``."""
        began, ended = _later(C.began, span.since), _sooner(C.ended, span.until)
        keys = [self._key(name, began) for name in by]
        sums = (sa.func.count(), sa.func.sum(C.gpus * (ended - began)), sa.func.sum(C.rate * (ended - began)))
        places: list[sa.ColumnElement[int]] = [sa.literal_column(str(number + 1)) for number in range(len(by))]
        query = sa.select(*keys, *sums).where(*_within(span, after)).group_by(*places)
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
            found = list(read_rows(rows))
            return found, {row[0]: (row[1], row[2], row[3]) for row in connection.execute(charged)}

    def _key(self, name: str, began: sa.ColumnElement[float]) -> sa.ColumnElement[Any]:
        if name != "day":
            # Not the bare column: SQLite would go through all of an index of it, to have the groups in order.
            return (C.account if name == "group" else C[name]).concat("")
        days = began / 86400.0
        # SQLite has floor() only where it was built with it, and there a cast cuts; in PostgreSQL it rounds.
        return sa.cast(days, sa.Integer) if self._engine.dialect.name == "sqlite" else sa.func.floor(days)

    def tidy(self) -> None:
        """Carry over what stands in SQLite's log, which otherwise some commit does, and whoever waits for that one. The
        writer goes on meanwhile: https://sqlite.org/wal.html, section 3.2. Again while it has written more in that
        time: the log begins anew only once all of it was carried over, and grows until then."""
        if self._engine.dialect.name != "sqlite":
            return
        before = -1
        with self._engine.connect() as connection:
            for _ in range(TIDY_TRIES):
                _, written, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()  # when it began
                if written == before:
                    return
                before = written

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


def _within(span: Span, after: int = 0) -> tuple[sa.ColumnElement[bool], ...]:
    # Few are newer than a known row: then they are looked for by row, and not by an index of the time.
    ended = C.ended + 0.0 if after else C.ended
    # Neither NaN, which PostgreSQL has above all numbers, nor text, as SQLite has it, is a number to sum up.
    sound = C.gpus.between(0, MOST), C.rate.between(0, MOST), C.began >= 0, C.ended < MOST
    return ended > span.since, C.began < span.until, C.ended > C.began, C.id > after, C.id <= span.last_charge, *sound


def _later(column: sa.ColumnElement[float], at: float) -> sa.ColumnElement[float]:
    return sa.case((column > at, column), else_=sa.literal(at, sa.Double))


def _sooner(column: sa.ColumnElement[float], at: float) -> sa.ColumnElement[float]:
    return sa.case((column < at, column), else_=sa.literal(at, sa.Double))
