"""The rows of a ledger as lines of text, and back into an empty one, whatever is in them.

Rows go as they are: what is damaged stays so, and a ledger of SQLite can become one of PostgreSQL. Every function works
inside a transaction of its caller.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from . import tables
from .store import epoch_of, migrations

NAMES = tuple(sorted(tables.metadata.tables, key=lambda name: (name != "reservations", name)))
"""All tables, first the one that others refer to, or did in earlier formats."""
VERSION_TABLE = "alembic_version"
RESTORED = "restored"
"""In ``meta``: the name of the restore that the ledger came from last."""
AT_ONCE = 1000
Row = list[Any]


@dataclass(frozen=True)
class Filled:
    """What a ledger is filled from. ``rows`` yields the lines of a table; ``columns`` by table; ``name``: of this
    restore, noted in the ledger with it."""

    revision: str
    columns: Mapping[str, Sequence[str]]
    rows: Mapping[str, Iterable[str]]
    name: str


def revision(connection: sa.Connection) -> str:
    """Return the migration that the ledger is at; empty: there is none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def known_revisions(connection: sa.Connection) -> frozenset[str]:
    """Return the migrations that this version of timeshare can carry on from."""
    scripts = ScriptDirectory.from_config(migrations(connection))
    return frozenset(script.revision for script in scripts.walk_revisions())


def columns(connection: sa.Connection) -> dict[str, list[str]]:
    """Return the columns of each table that is there, as its migration made them."""
    found = sa.inspect(connection)
    there = set(found.get_table_names())
    return {name: [str(c["name"]) for c in found.get_columns(name)] for name in NAMES if name in there}


def lines(connection: sa.Connection, table: str, names: Sequence[str]) -> Iterator[str]:
    """Yield each row of ``table`` as a line."""
    listed = ", ".join(f'"{name}"' for name in names)
    query = sa.text(f'SELECT {listed} FROM "{table}"').execution_options(stream_results=True, yield_per=AT_ONCE)
    for row in connection.execute(query):
        yield json.dumps([_plain(value) for value in row], separators=(",", ":"))


def _plain(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes | memoryview) else value


def is_empty(connection: sa.Connection) -> bool:
    """Whether nothing was ever reserved or charged in it."""
    there = columns(connection)
    for name in ("reservations", "charges", "audit"):
        if name in there and connection.scalar(sa.text(f'SELECT 1 FROM "{name}" LIMIT 1')):
            return False
    return True


def restored_from(connection: sa.Connection) -> str:
    """Return the name of the restore that the ledger came from last; empty: it came from none."""
    if "meta" not in columns(connection):
        return ""
    return str(connection.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.key == RESTORED)) or "")


def fill(connection: sa.Connection, what: Filled) -> None:
    """Put the rows in place of all that is in the ledger, and bring it to the format of this version."""
    before = _epoch(connection)
    for name in (*reversed(NAMES), VERSION_TABLE):
        connection.execute(sa.text(f'DROP TABLE IF EXISTS "{name}"'))
    config = migrations(connection)
    command.upgrade(config, what.revision)
    for name in reversed(NAMES):
        if name in what.columns:
            connection.execute(sa.text(f'DELETE FROM "{name}"'))
    for name in NAMES:
        if name in what.columns:
            _insert(connection, name, what.columns[name], what.rows[name])
    _count_on(connection, what.columns)
    command.upgrade(migrations(connection), "head")
    _set(connection, "epoch", str(max(before, _epoch(connection), int(time.time())) + 1))
    _set(connection, RESTORED, what.name)


def _epoch(connection: sa.Connection) -> int:
    """Return the number of the last owner; 0 where nobody can say."""
    if "meta" not in columns(connection):
        return 0
    text = connection.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.key == "epoch"))
    return epoch_of(text) or 0


def _set(connection: sa.Connection, key: str, value: str) -> None:
    meta = tables.meta
    if not connection.execute(sa.update(meta).where(meta.c.key == key).values(value=value)).rowcount:
        connection.execute(sa.insert(meta).values(key=key, value=value))


def _insert(connection: sa.Connection, table: str, names: Sequence[str], told: Iterable[str]) -> None:
    flags = _flags(connection, table)
    source = iter(told)
    while batch := [_row(line, len(names), table) for line in islice(source, AT_ONCE)]:
        plain = [row for row in batch if not any(_is_raw(value) for value in row)]
        if plain:
            _execute(connection, table, names, plain, flags)
        for row in batch:
            if any(_is_raw(value) for value in row):
                _execute(connection, table, names, [row], flags)


def check(told: Iterable[str], names: Sequence[str], table: str) -> None:
    """Raise ValueError for rows that ``fill`` could not take."""
    for line in told:
        _row(line, len(names), table)


def _row(line: str, width: int, table: str) -> Row:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError(f"a row of {table} has not {width} values") from None
    if not isinstance(row, list) or len(row) != width:
        raise ValueError(f"a row of {table} has not {width} values")
    for value in row:
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError(f"a row of {table} has {str(value)[:30]}, which no database keeps")
        if isinstance(value, list) or (isinstance(value, dict) and not _are_bytes(value)):
            raise ValueError(f"a row of {table} has {str(value)[:30]}, which is no value of a database")
    return row


def _are_bytes(value: dict[str, Any]) -> bool:
    try:
        base64.b64decode(value["bytes"], validate=True)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _is_raw(value: Any) -> bool:
    """Whether it is text that is no text, which only SQLite keeps: it goes there as the bytes that it is."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _execute(
    connection: sa.Connection, table: str, names: Sequence[str], rows: Sequence[Row], flags: frozenset[str]
) -> None:
    places = (f"CAST(:c{i} AS TEXT)" if _is_raw(rows[0][i]) else f":c{i}" for i in range(len(names)))
    listed = ", ".join(f'"{name}"' for name in names)
    statement = sa.text(f'INSERT INTO "{table}" ({listed}) VALUES ({", ".join(places)})')
    given = [{f"c{i}": _bound(value, names[i] in flags) for i, value in enumerate(row)} for row in rows]
    connection.execute(statement, given)


def _bound(value: Any, flag: bool) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"])
    if _is_raw(value):
        return value.encode("utf-8", "surrogateescape")
    return bool(value) if flag and value in (0, 1) else value


def _flags(connection: sa.Connection, table: str) -> frozenset[str]:
    """Columns that are true or false, where the database tells these from numbers."""
    if connection.dialect.name == "sqlite":
        return frozenset()
    found = sa.inspect(connection).get_columns(table)
    return frozenset(str(c["name"]) for c in found if isinstance(c["type"], sa.Boolean))


def _count_on(connection: sa.Connection, there: Mapping[str, Sequence[str]]) -> None:
    """Have PostgreSQL number new rows after those that came with their numbers; SQLite does."""
    if connection.dialect.name == "sqlite":
        return
    for table in tables.metadata.sorted_tables:
        if table.name in there and "id" in table.c and isinstance(table.c["id"].type, sa.BigInteger):
            last = f'(SELECT max("id") FROM "{table.name}")'
            number = f"pg_get_serial_sequence('{table.name}', 'id')"
            connection.execute(sa.text(f"SELECT setval({number}, {last}) WHERE {last} IS NOT NULL"))
