"""Reservations as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..kind import Kind
from ..reservation import Reason, Reservation, State
from ..shares import parse_share
from . import sound

PLAIN = (
    *("id", "seq", "owner", "server_name", "time_limit_s", "submitted_at", "client_key", "detail"),
    *("generation", "enforcement", "granted_at", "starting_at", "started_at", "ends_at", "ending_at", "ended_at"),
    *("account", "extensions", "requeues", "handling", "asked_again_at", "kept_mib"),
)


def to_row(reservation: Reservation) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(reservation, name) for name in PLAIN}
    row["kind"] = reservation.kind.value
    row["state"] = reservation.state.value
    row["reason"] = reservation.reason.value if reservation.reason else None
    row["share"] = json.dumps(reservation.request.as_options())
    row["terms"] = json.dumps(asdict(reservation.terms))
    row["job"] = None if reservation.job is None else json.dumps(reservation.job.as_json())
    row["external"] = None if reservation.external is None else json.dumps(reservation.external.as_json())
    row["placement"] = json.dumps([asdict(holding) for holding in reservation.holdings])
    return row


def from_row(row: Mapping[str, Any]) -> Reservation:
    """Raises one of ``sound.ODD``, or PublicError, for a row that is not understood."""
    plain = {name: row[name] for name in PLAIN}
    sound.row(plain)
    found = Reservation(
        **plain,
        kind=Kind(row["kind"]),
        state=State(row["state"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        terms=sound.terms(json.loads(row["terms"])),
        job=sound.job(json.loads(row["job"])) if row["job"] else None,
        external=sound.external(json.loads(row["external"])) if row["external"] else None,
        request=parse_share(json.loads(row["share"])),
        holdings=sound.holdings(json.loads(row["placement"])),
    )
    return sound.reservation(found)


def holding_rows(reservation: Reservation) -> list[dict[str, Any]]:
    return [{"reservation_id": reservation.id, **asdict(holding)} for holding in reservation.holdings]
