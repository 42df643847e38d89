"""The ledger: one writer, every change a transaction that is on disk before anybody hears of it.

Who may write is settled by an *epoch*: opening the ledger takes the next number, and every transaction first checks
that the number is still its own. A second service on the same ledger thus ends the first instead of granting twice.

Each transaction writes its number within the epoch, too. Where a disk or a database failed while one was under way,
that number says afterwards whether it was written: if it was not, what is known in memory is the truth still.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from ..clock import ClockAnchor
from ..errors import PublicError
from ..kind import Kind
from ..queue import Promise
from ..reservation import Reason, Reservation, State
from ..text import escaped
from ..usage import Charge
from . import held, policy, promises, sound, tables
from .outage import LedgerSilent, outage
from .rows import from_row, holding_rows, to_row

log = logging.getLogger("timeshare.service")


class LedgerLost(Exception):
    """Another service process owns the ledger now. This one must stop: what it knows may be old."""


@dataclass(frozen=True)
class Apart:
    """A live row that is not understood, for ``why``. Nobody knows what became of it: ``devices`` (UUIDs) stay its.
    ``key``: its id as it is written, which may be damaged too."""

    reservation_id: str
    owner: str
    devices: tuple[str, ...]
    why: str
    key: str = ""


@dataclass(frozen=True)
class Change:
    """One reservation as it shall be. ``new`` inserts it; ``before`` is what it was, None when new. ``charge``: what
    its holding came to, with the change that ends it."""

    after: Reservation
    before: Reservation | None
    charge: Charge | None = None

    @property
    def new(self) -> bool:
        return self.before is None


SQLITE = (
    # A commit is on disk when it returns, and readers never block the writer.
    *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"),
    # 40 MiB of log are carried over by whoever commits then, if `Reader.tidy` did not before; a longer one is cut.
    *("wal_autocheckpoint=10000", "journal_size_limit=67108864"),
    # 64 MiB, so that of a large ledger the inner pages of all indexes stay at hand.
    "cache_size=-65536",
)
MOST_SAID = 300
"""Characters of why a row is not understood."""
_T = tables.reservations
_H = tables.holdings
_M = tables.meta.c
_CHECK_EPOCH = (
    # Both rows by their own columns: PostgreSQL looks at them again where another service has just taken the epoch.
    sa.update(tables.meta)
    .values(value=sa.case((_M.key == "epoch", sa.bindparam("mine")), else_=sa.bindparam("number")))
    .where(sa.or_(sa.and_(_M.key == "epoch", _M.value == sa.bindparam("mine")), _M.key == "transaction"))
)
PATIENCE = 3.0
"""A database that did not answer is left alone for so many times as long as it took to find out: others wait too."""
_INSERT = sa.insert(_T)
_UPDATE = (
    sa.update(_T)
    .where(_T.c.id == sa.bindparam("row_id"))
    .values({c.name: sa.bindparam(c.name) for c in _T.columns if c.name != "id"})
)
_INSERT_HOLDINGS = sa.insert(_H)
_DELETE_HOLDINGS = sa.delete(_H).where(_H.c.reservation_id == sa.bindparam("row_id"))
_INSERT_EVENTS = sa.insert(tables.events)


class Ledger:
    """Open it with ``Ledger.open``; use it from one thread."""

    def __init__(self, engine: sa.Engine, epoch: str) -> None:
        self._engine = engine
        self._epoch = epoch
        self._number = 0
        self._connection = engine.connect()
        self._outage: LedgerSilent | None = None
        self._not_before = 0.0
        self.apart: dict[str, Apart] = {}
        """Live rows that were not understood when all were read, by id."""
        self.odd: dict[str, str] = {}
        """What else was not understood and is left out, by what it is, for administrators."""

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Opens and migrates the ledger at ``url`` and takes its ownership. ``sqlite:///path`` or ``postgresql+…``.
        Raises LedgerSilent."""
        engine = open_engine(url)
        try:
            with engine.begin() as connection:
                command.upgrade(migrations(connection), "head")
            with engine.begin() as connection:
                epoch = _take(connection)
            return cls(engine, epoch)
        except sa.exc.DBAPIError as error:
            engine.dispose()
            if (told := outage(error, engine.url)) is None:
                raise
            raise told from error

    @property
    def trouble(self) -> LedgerSilent | None:
        """Why it could not be written or read when that was tried last; None: it could."""
        return self._outage

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def commit(
        self, changes: Sequence[Change], now: float, promised: Mapping[str, Promise | None] = MappingProxyType({})
    ) -> None:
        """Writes ``changes`` and what is ``promised`` with them (None: nothing any more) as one transaction, durable on
        return. Raises LedgerLost when no longer the owner."""
        with self.transaction() as connection:
            # Ends first: a device may be passed on within one transaction.
            for change in sorted(changes, key=lambda c: c.after.holds):
                self._write(change)
            promises.write(connection, promised)
            policy.add_charges(connection, [change.charge for change in changes if change.charge is not None])
            if changes:
                connection.execute(_INSERT_EVENTS, [_event(change.after, now) for change in changes])

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A connection to read and write with, durable when the block ends. Raises LedgerLost when no longer the
        owner, LedgerSilent when it cannot be written for now: then nothing was."""
        number = self._number + 1
        with self._answering(), self._connection.begin():
            self._check_owner(number)
            yield self._connection
        self._number = number
        if self._outage is not None:
            log.warning("the ledger can be written again")
            self._outage = None

    def try_again(self) -> None:
        """After an outage: see whether it can be written, with nothing. Raises LedgerSilent while it cannot."""
        if self._outage is not None:
            with self.transaction():
                pass

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read with, in one moment of the ledger. Raises LedgerSilent."""
        with self._answering(), self._connection.begin():
            yield self._connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what a disk or a database fails at within the block into LedgerSilent."""
        try:
            if self._outage is not None:
                self._settle(self._outage)
            yield
        except sa.exc.DBAPIError as error:
            if (told := outage(error, self._engine.url)) is None:
                raise
            if self._outage is None:
                log.error("%s", told)
            self._outage = told
            raise told from error

    def _settle(self, earlier: LedgerSilent) -> None:
        """After an outage: find out whether what was under way then was written. Raises LedgerLost when it was, or when
        another service has taken over: then what this process knows is old. Raises LedgerSilent while it goes on."""
        began = time.monotonic()
        if began < self._not_before:
            raise LedgerSilent(earlier.reason, earlier.message, earlier.status, earlier.details)
        try:
            # One to a SQLite file is never broken, and on a full disk another one could not be opened.
            if self._engine.dialect.name != "sqlite":
                self._connection.close()
                self._engine.dispose()
                self._connection = self._engine.connect()
            with self._connection.begin():
                found = {row.key: row.value for row in self._connection.execute(sa.select(_M.key, _M.value))}
        finally:
            self._not_before = time.monotonic() + PATIENCE * (time.monotonic() - began)
        if (found["epoch"], found["transaction"]) != (self._epoch, str(self._number)):
            raise LedgerLost("what was written while it did not answer is to be read anew")
        self._not_before = 0.0

    def _check_owner(self, number: int) -> None:
        done = self._connection.execute(_CHECK_EPOCH, {"mine": self._epoch, "number": str(number)})
        if done.rowcount != 2:
            raise LedgerLost(f"the ledger is owned by another service process (this one has epoch {self._epoch})")

    def _write(self, change: Change) -> None:
        row = to_row(change.after)
        if change.new:
            self._connection.execute(_INSERT, row)
        else:
            self._connection.execute(_UPDATE, {**row, "row_id": row.pop("id")})
        held_before = change.before is not None and change.before.holds
        if change.after.holds and not held_before:
            rows = holding_rows(change.after)
            if rows:
                self._connection.execute(_INSERT_HOLDINGS, rows)
        elif held_before and not change.after.holds:
            self._connection.execute(_DELETE_HOLDINGS, {"row_id": change.after.id})

    def promises(self) -> dict[str, Promise]:
        """What is promised to those who wait, by reservation."""
        with self.reading() as connection:
            found, odd = promises.read(connection)
        self._leave_out("promises", odd)
        return found

    def _leave_out(self, what: str, odd: Sequence[str]) -> None:
        """Say so, and keep it for who asks."""
        self.odd.pop(what, None)
        if odd:
            self.odd[what] = f"{len(odd)} of the {what} in the ledger not understood, and left out: {odd[0]}"
            log.warning("%s", self.odd[what])

    def live(self) -> list[Reservation]:
        """Every reservation that has not ended, in queue order, but for those that go ``apart``."""
        found, self.apart = [], {}
        with self.reading() as connection:
            for row in connection.execute(sa.select(_T).where(tables.live).order_by(_T.c.seq)).mappings().all():
                try:
                    found.append(from_row(dict(row)))
                except (*sound.ODD, PublicError) as error:
                    self._set_apart(connection, row, str(error))
            odd = held.not_as_written(connection, found, {row.key for row in self.apart.values()})
        if odd:
            with self.transaction() as connection:
                held.mend(connection, found, odd)
        return found

    def _set_apart(self, connection: sa.Connection, row: sa.RowMapping, why: str) -> None:
        key = str(row["id"])
        name = escaped(key)
        where = _H.c.reservation_id == as_written(key)
        devices = connection.scalars(sa.select(_H.c.device_uuid).where(where).distinct())
        both = {*map(str, devices), *_placed(row)}
        uuids = tuple(sorted(map(escaped, both)))
        self.apart[name] = Apart(name, escaped(str(row["owner"])), uuids, escaped(why)[:MOST_SAID], key)
        log.error("the live row of reservation %s is not understood, and set apart: %s", name, self.apart[name].why)

    def settle(self, reservation_id: str, now: float, detail: str) -> None:
        """Write the end of one that is ``apart``: nothing of it runs, and what it held is free."""
        apart = self.apart.get(reservation_id)
        key = as_written(reservation_id if apart is None else apart.key)
        with self.transaction() as connection:
            gone = {"state": State.ENDED.value, "reason": Reason.LOST.value, "ended_at": now, "detail": detail}
            connection.execute(sa.update(_T).where(_T.c.id == key).values(**gone))
            for table in (_H, tables.promises, tables.activity):
                connection.execute(sa.delete(table).where(table.c.reservation_id == key))
            event = {"reservation_id": key, "at": now, "state": State.ENDED.value, "detail": detail}
            connection.execute(sa.insert(tables.events).values(**event))
        self.apart.pop(reservation_id, None)

    def get(self, reservation_id: str) -> Reservation | None:
        found = self._select(sa.select(_T).where(_T.c.id == reservation_id))
        return found[0] if found else None

    def by_client_key(self, owner: str, client_key: str) -> Reservation | None:
        """Raises PublicError for a key whose reservation is not understood."""
        where = _T.c.owner == owner, _T.c.client_key == client_key
        found = self._select(sa.select(_T).where(*where))
        if not found and self._count(where):
            message = "client_key was given before, and what the ledger has of it is not understood: use a new one"
            raise PublicError("not-understood", message, 409)
        return found[0] if found else None

    def _count(self, where: Sequence[sa.ColumnElement[bool]]) -> int:
        with self.reading() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(_T).where(*where)) or 0)

    def find(
        self, owner: str | None, states: Iterable[State], limit: int, kind: Kind | None = None, after: int = 0
    ) -> list[Reservation]:
        """The newest ``limit`` reservations, of ``owner`` (None: of all), in one of ``states`` (none given: any), of
        ``kind`` (None: both), with a ``seq`` beyond ``after``."""
        query = sa.select(_T).order_by(_T.c.seq.desc()).limit(limit)
        if after:
            query = query.where(_T.c.seq > after)
        if owner is not None:
            query = query.where(_T.c.owner == owner)
        if kind is not None:
            query = query.where(_T.c.kind == kind.value)
        values = [state.value for state in states]
        if values:
            query = query.where(_T.c.state.in_(values))
        return self._select(query)

    def last_seq(self) -> int:
        with self.reading() as connection:
            sane = _T.c.seq < sound.MOST  # text is above all numbers in SQLite
            return int(connection.scalar(sa.select(sa.func.max(_T.c.seq)).where(sane)) or 0)

    def holdings(self) -> list[dict[str, Any]]:
        """The holdings table as it stands, for audits and tests."""
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(sa.select(_H)).mappings()]

    def events(self, reservation_id: str) -> list[dict[str, Any]]:
        e = tables.events
        query = sa.select(e.c.at, e.c.state, e.c.detail).where(e.c.reservation_id == reservation_id).order_by(e.c.id)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def read_meta(self, key: str) -> Any:
        """The JSON value stored under ``key``; None when there is none, or none that is understood."""
        meta = tables.meta
        with self.reading() as connection:
            text = connection.scalar(sa.select(meta.c.value).where(meta.c.key == key))
        try:
            found, odd = None if text is None else json.loads(text), []
        except (*sound.ODD,) as error:
            found, odd = None, [str(error)]
        self._leave_out(f"notes on {key}", odd)
        return found

    def write_meta(self, key: str, value: Any) -> None:
        meta, text = tables.meta, json.dumps(value)
        with self.transaction() as connection:
            done = connection.execute(sa.update(meta).where(meta.c.key == key).values(value=text))
            if done.rowcount == 0:
                connection.execute(sa.insert(meta).values(key=key, value=text))

    def clock_anchor(self) -> ClockAnchor | None:
        """The anchor that was stored; None: there is none that can be one."""
        stored = self.read_meta("clock")
        try:
            anchor = ClockAnchor(**stored) if stored else None
            if anchor is not None:
                sound.text("boot_id", anchor.boot_id)
                sound.number("boot_seconds", anchor.boot_seconds)
                sound.number("wall", anchor.wall)
        except sound.ODD as error:
            self._leave_out("notes on clock", [str(error)])
            return None
        return anchor

    def store_clock_anchor(self, anchor: ClockAnchor) -> None:
        self.write_meta("clock", asdict(anchor))

    def _select(self, query: sa.Select[Any]) -> list[Reservation]:
        with self.reading() as connection:
            return list(read_rows(connection.execute(query).mappings()))


def _take(connection: sa.Connection) -> str:
    """Take the next epoch, in which no transaction was written yet; return it."""
    meta = tables.meta
    epoch = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "epoch").with_for_update())
    last = 0 if epoch is None else epoch_of(epoch)
    if last is None:
        # Far above every number that was counted up to: no process that still runs can have it.
        log.warning("the ledger's epoch is %r, which is none: it begins anew at the present time", epoch)
        last = int(time.time())
    following = str(last + 1)
    for key, value in (("epoch", following), ("transaction", "0")):
        done = connection.execute(sa.update(meta).where(meta.c.key == key).values(value=value))
        if done.rowcount == 0:
            connection.execute(sa.insert(meta).values(key=key, value=value))
    return following


def read_rows(rows: Iterable[sa.RowMapping]) -> Iterator[Reservation]:
    """Yield the reservation of each row. One that is not understood takes no other along."""
    for row in rows:
        try:
            yield from_row(dict(row))
        except (*sound.ODD, PublicError) as error:
            name, why = escaped(str(row["id"])), escaped(str(error))[:MOST_SAID]
            log.warning("the row of reservation %s is not understood, and left out: %s", name, why)


def _as_text(data: bytes) -> str:
    """What is no text is read all the same, so that its row can be told from the others: see ``sound``."""
    return data.decode("utf-8", "surrogateescape")


def as_written(text: str) -> Any:
    """Return what finds ``text`` in the ledger: SQLite keeps bytes that are no UTF-8, which cannot be bound as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return sa.cast(sa.literal(text.encode("utf-8", "surrogateescape"), sa.LargeBinary), sa.Text)
    return text


def _placed(row: sa.RowMapping) -> list[str]:
    """What a row that is not understood says itself that it holds."""
    try:
        return [holding.device_uuid for holding in sound.holdings(json.loads(row["placement"]))]
    except sound.ODD:
        return []


def epoch_of(text: object) -> int | None:
    """Return the number of an owner that is written as ``text``; None for what is none."""
    plain = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 15
    return int(str(text)) if plain else None


def _event(reservation: Reservation, now: float) -> dict[str, Any]:
    said = {"state": reservation.state.value, "detail": reservation.detail}
    return {"reservation_id": reservation.id, "at": now, **said}


def migrations(connection: sa.Connection) -> Config:
    """What alembic needs to migrate the ledger that ``connection`` is to, within its transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _patience(url: sa.URL) -> dict[str, int]:
    """Return how long PostgreSQL may stay silent, where ``url`` does not say so: libpq waits for minutes by itself, and
    all that is asked of the ledger would wait with it. https://www.postgresql.org/docs/current/libpq-connect.html"""
    if not url.drivername.endswith("psycopg"):
        return {}
    known = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
    return {name: value for name, value in known.items() if name not in url.query}


def open_engine(url: str) -> sa.Engine:
    """Connections to the ledger at ``url`` that write: each transaction is all or nothing, and on disk when it ends."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args=_patience(parsed))
    engine = sa.create_engine(parsed, connect_args={"check_same_thread": False, "timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        # Python's sqlite3 would begin no transaction before a change of tables, and so half of a migration could be
        # written: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, "pysqlite transactional behavior".
        connection.isolation_level = None
        connection.text_factory = _as_text
        for pragma in SQLITE:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
