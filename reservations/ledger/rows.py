"""Reservations as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..job import JobSpec
from ..kind import Kind
from ..placement import Holding
from ..reservation import Reason, Reservation, State, Terms
from ..shares import parse_share

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
    row["placement"] = json.dumps([asdict(holding) for holding in reservation.holdings])
    return row


def from_row(row: Mapping[str, Any]) -> Reservation:
    plain = {name: row[name] for name in PLAIN}
    return Reservation(
        **plain,
        kind=Kind(row["kind"]),
        state=State(row["state"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        terms=Terms(**json.loads(row["terms"])),
        job=JobSpec(**json.loads(row["job"])) if row["job"] else None,
        request=parse_share(json.loads(row["share"])),
        holdings=tuple(Holding(**holding) for holding in json.loads(row["placement"])),
    )


def holding_rows(reservation: Reservation) -> list[dict[str, Any]]:
    return [{"reservation_id": reservation.id, **asdict(holding)} for holding in reservation.holdings]
