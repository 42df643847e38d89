"""A ledger with a long past, written at once: of 200 people over three years, as a lab would have it."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import command

from timeshare.reservations.ledger.store import migrations, open_engine

PEOPLE = [f"user{number:03}" for number in range(200)]
YEARS_S = 3 * 365 * 86400.0
REASONS = ("completed", "cancelled", "time_limit", "idle", "failed")
MODELS = {"a100-40gb": 1.0, "v100-32gb": 0.5, "t4": 0.2}
STEPS = {
    "queued": "submitted_at",
    "granted": "granted_at",
    "starting": "starting_at",
    "active": "started_at",
    "ended": "ended_at",
}
AT_ONCE = 10_000


def make(url: str, revision: str) -> None:
    """Make the ledger at ``url`` as it was at ``revision``."""
    engine = open_engine(url)
    with engine.begin() as connection:
        command.upgrade(migrations(connection), revision)
    engine.dispose()


def fill(url: str, count: int, *, now: float | None = None, over_s: float = YEARS_S, seed: int = 1) -> None:
    """Write ``count`` reservations that have ended, evenly over ``over_s`` before ``now`` (seconds; None: the present),
    into the migrated and unused ledger at ``url``; with five events each, a charge, and every second one with
    a decision."""
    now = time.time() if now is None else now
    engine = sa.create_engine(url)
    sqlite = engine.dialect.name == "sqlite"
    rng = random.Random(seed)
    with engine.begin() as connection:
        if sqlite:
            for pragma in ("synchronous=OFF", "cache_size=-1000000"):  # KiB
                connection.exec_driver_sql(f"PRAGMA {pragma}")
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            _insert(connection, [_row(rng, n, now - over_s * (1 - n / count)) for n in numbers])
        for statement in _what_follows():
            connection.execute(sa.text(statement))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As a server left to itself does: https://www.postgresql.org/docs/current/routine-vacuuming.html
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)" if sqlite else "VACUUM ANALYZE")
    engine.dispose()


def _insert(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    names, values = list(rows[0]), [tuple(row.values()) for row in rows]
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(names))
        connection.exec_driver_sql(f"INSERT INTO reservations ({', '.join(names)}) VALUES ({places})", values)
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(f"COPY reservations ({', '.join(names)}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)


def _row(rng: random.Random, number: int, submitted_at: float) -> dict[str, Any]:
    job, model = rng.random() < 0.3, rng.choice(list(MODELS))
    granted_at = submitted_at + rng.expovariate(1 / 300)
    ended_at = granted_at + min(12 * 3600, rng.expovariate(1 / 5400))
    return {
        "id": str(uuid.UUID(int=rng.getrandbits(128))),
        "seq": number + 1,
        "owner": rng.choice(PEOPLE),
        "server_name": "",
        "kind": "batch" if job else "session",
        "share": f'{{"gpus": 1, "model": "{model}"}}',
        "time_limit_s": 7200,
        "submitted_at": submitted_at,
        "client_key": f"{rng.getrandbits(128):032x}" if rng.random() < 0.8 else None,
        "state": "ended",
        "reason": rng.choice(REASONS),
        "detail": "the server was shut down from within",
        "generation": 1,
        "enforcement": "device filter",
        "granted_at": granted_at,
        "starting_at": granted_at + 1,
        "started_at": granted_at + 5,
        "ends_at": granted_at + 7200,
        "ended_at": ended_at,
        "placement": PLACEMENT,
        "account": "",
        "terms": f'{{"gpus": 1.0, "rate": {MODELS[model]}, "model": "{model}", "limits_version": "0123456789ab"}}',
        "extensions": 0,
        "requeues": 0,
        "job": _job(rng) if job else None,
    }


PLACEMENT = json.dumps(
    [{"device_uuid": "GPU-0", "instance_uuid": "", "memory_mib": 40960, "compute": 1000, "whole": True}]
)


def _job(rng: random.Random) -> str:
    name = f"{rng.getrandbits(64):016x}"
    paths = {"folder": f"/home/someone/.timeshare/jobs/{name}", "python": "/usr/bin/python3"}
    return json.dumps({"name": "fit", **paths, "digest": name, "key": name, "array": name})


def _what_follows() -> Iterator[str]:
    for state, at in STEPS.items():
        yield (
            f"INSERT INTO events (reservation_id, at, state, detail) SELECT id, {at}, '{state}', '{state}' "
            "FROM reservations ORDER BY seq"
        )
    model = "CASE " + " ".join(f"WHEN share LIKE '%{name}%' THEN '{name}'" for name in MODELS) + " END"
    rate = "CASE " + " ".join(f"WHEN share LIKE '%{name}%' THEN {rate}" for name, rate in MODELS.items()) + " END"
    yield (
        "INSERT INTO charges (reservation_id, owner, account, kind, model, gpus, rate, began, ended, reason) "
        f"SELECT id, owner, account, kind, {model}, 1, {rate}, granted_at, ended_at, reason "
        "FROM reservations ORDER BY ended_at"
    )
    yield (
        "INSERT INTO decisions (reservation_id, at, what, why, signals) SELECT id, ended_at - 60, 'warn', "
        '\'idle for 1 h: nobody typed or clicked\', \'{"gpu"\\:0.0,"cpu"\\:1.5,"terminal"\\:false}\' '
        "FROM reservations WHERE seq % 2 = 0 ORDER BY ended_at"
    )
