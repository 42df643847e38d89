"""Arrivals from the ledger: what was really asked for. Reads only, beside a running service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from ..kind import Kind
from ..ledger import policy, tables
from ..ledger.rows import from_row
from ..limits.schema import Limits
from ..reservation import Reason, Reservation
from ..standing import Standing
from .trace import Arrival, TraceError


@dataclass(frozen=True)
class History:
    """``groups``: of each person, as JupyterHub told them last."""

    reservations: tuple[Reservation, ...]
    groups: Mapping[str, tuple[str, ...]]


def read_history(url: str, since: float = 0.0) -> History:
    """Everything asked for from ``since`` (seconds) on, in its order. Raises TraceError when there is nothing, or no
    ledger."""
    t = tables.reservations
    asked = sa.select(t).where(t.c.submitted_at >= since)
    # What ended before was asked for before; each of the two has an index. What ends in between is found by both.
    queries = (asked.where(tables.live), asked.where(tables.past, t.c.ended_at >= since))
    engine = sa.create_engine(url)
    try:
        # Never through ``Ledger``: that takes the ledger over from the service.
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only=ON")
            rows = {row["seq"]: dict(row) for query in queries for row in connection.execute(query).mappings()}
            found = tuple(from_row(row) for _, row in sorted(rows.items()))
            groups = policy.people(connection)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise TraceError(f"the ledger cannot be read: {cause}") from None
    finally:
        engine.dispose()
    if not found:
        raise TraceError("the ledger has no reservations of that time: nothing can be replayed; use --trace FILE")
    return History(found, groups)


def from_ledger(history: History, limits: Limits, now: float) -> list[Arrival]:
    """What was asked for, as arrivals. ``limits``: those in force, for what the culler ended.

    What held devices would have held them for as long as it did, what still does for its time limit, and what never
    did for the time limit that it asked for. Nobody knows how long more what was stopped would have run.
    """
    standing = Standing(limits, "")
    for person, groups in history.groups.items():
        standing.set_groups(person, groups)

    def idle_limit(person: str) -> float:
        return float(standing.effective(person, now).values["idle.after"])

    return list(_arrivals(history.reservations, history.groups, idle_limit))


def _arrivals(
    reservations: Iterable[Reservation], groups: Mapping[str, tuple[str, ...]], idle_limit: Callable[[str], float]
) -> Iterable[Arrival]:
    for reservation in reservations:
        run_s = float(reservation.time_limit_s)
        if reservation.granted_at is not None and reservation.ended_at is not None:
            run_s = max(0.0, reservation.ended_at - reservation.granted_at)
        culled = reservation.kind is Kind.SESSION and reservation.reason is Reason.IDLE
        known = groups.get(reservation.owner) or ((reservation.account,) if reservation.account else ())
        yield Arrival(
            at=reservation.submitted_at,
            owner=reservation.owner,
            groups=known,
            kind=reservation.kind,
            request=reservation.request,
            time_limit_s=reservation.time_limit_s,
            run_s=run_s,
            idle_tail_s=min(run_s, idle_limit(reservation.owner)) if culled else 0.0,
            extended=reservation.extensions > 0,
        )
