"""The part of the ledger that limits need: charges, versions of the limits, exceptions, the audit log, and groups.

Functions on an open connection; ``Ledger.transaction`` gives one and checks the owner first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from ..kind import Kind
from ..limits.effective import Override
from ..limits.schema import PersonLimits
from ..text import escaped
from ..usage import Charge
from . import sound, tables

log = logging.getLogger("timeshare.service")
C = tables.charges
_INSERT_CHARGES = sa.insert(C)
_CHARGES = sa.select(*(column for column in C.columns if column.name != "id"))


def add_charges(connection: sa.Connection, charges: Iterable[Charge]) -> None:
    rows = [{**asdict(charge), "kind": charge.kind.value} for charge in charges]
    if rows:
        connection.execute(_INSERT_CHARGES, rows)


def charges_since(connection: sa.Connection, since: float) -> Iterator[Charge]:
    """Every interval that ended after ``since``, in the order of their ends."""
    return _read_charges(connection, _CHARGES.where(C.c.ended > since).order_by(C.c.ended))


def charges_after(connection: sa.Connection, row: int) -> Iterator[Charge]:
    """Every interval that was written after ``row``, in that order."""
    return _read_charges(connection, _CHARGES.where(C.c.id > row).order_by(C.c.id))


def last_charge(connection: sa.Connection) -> int:
    """The row of the newest interval; 0 when there is none."""
    return int(connection.scalar(sa.select(sa.func.max(C.c.id))) or 0)


def _read_charges(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Charge]:
    kinds = {kind.value: kind for kind in Kind}
    for r in connection.execute(query.execution_options(yield_per=1000)):
        if r[3] in kinds and sound.finite(r[5:9]):
            yield Charge(r[0], r[1], r[2], kinds[r[3]], *r[4:])
        else:
            log.warning("a charge of reservation %s is not understood, and left out", escaped(str(r[0])))


def remember_limits(connection: sa.Connection, version: str, text: str, now: float) -> None:
    """Keeps the text of a version: grants name the one that was in force."""
    known = connection.scalar(
        sa.select(tables.limits_versions.c.version).where(tables.limits_versions.c.version == version)
    )
    if known is None:
        connection.execute(sa.insert(tables.limits_versions).values(version=version, text=text, seen_at=now))


def overrides(connection: sa.Connection) -> list[Override]:
    """All there ever were, the newest first."""
    o = tables.overrides
    found = []
    for row in connection.execute(sa.select(o).order_by(o.c.made_at.desc())).mappings():
        plain = {name: row[name] for name in ("id", "scope", "name", "extra_gpu_hours", "until", "why", "made_at")}
        try:
            limits = PersonLimits.model_validate(json.loads(row["limits"]))
            for name in ("until", "made_at"):
                sound.number(name, row[name])
            sound.number("extra_gpu_hours", row["extra_gpu_hours"], 1e12)
        except sound.ODD as error:
            name, why = escaped(str(row["id"])), escaped(str(error))[:200]
            log.warning("the exception %s is not understood, and does not hold: %s", name, why)
            continue
        found.append(Override(**plain, limits=limits, by=row["made_by"], revoked_at=row["revoked_at"]))
    return found


def add_override(connection: sa.Connection, override: Override) -> None:
    values: dict[str, Any] = asdict(override)
    values["limits"] = json.dumps(override.limits.model_dump(mode="json", exclude_none=True))
    values["made_by"] = values.pop("by")
    connection.execute(sa.insert(tables.overrides).values(**values))


def revoke_override(connection: sa.Connection, override_id: str, now: float) -> None:
    o = tables.overrides
    connection.execute(sa.update(o).where(o.c.id == override_id).values(revoked_at=now))


def add_audit(connection: sa.Connection, who: str, what: str, detail: str, now: float) -> None:
    connection.execute(sa.insert(tables.audit).values(at=now, who=who, what=what, detail=detail))


def audit(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest ``limit`` entries."""
    a = tables.audit
    rows = connection.execute(sa.select(a.c.at, a.c.who, a.c.what, a.c.detail).order_by(a.c.id.desc()).limit(limit))
    return [dict(row) for row in rows.mappings()]


def people(connection: sa.Connection) -> dict[str, tuple[str, ...]]:
    """The groups of each person, as JupyterHub told them last."""
    p = tables.people
    found = {}
    for name, told in connection.execute(sa.select(p.c.name, p.c.groups)):
        try:
            groups = json.loads(told)
            found[sound.text("name", name)] = tuple(sound.text("group", group) for group in groups)
        except sound.ODD:  # as of somebody of whom JupyterHub never told: it is asked
            log.warning("the groups of %s are not understood, and left out", escaped(str(name)))
    return found


def set_person(connection: sa.Connection, name: str, groups: Iterable[str], now: float) -> None:
    p, text = tables.people, json.dumps(list(groups))
    done = connection.execute(sa.update(p).where(p.c.name == name).values(groups=text, seen_at=now))
    if done.rowcount == 0:
        connection.execute(sa.insert(p).values(name=name, groups=text, seen_at=now))
