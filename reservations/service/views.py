"""What the API shows: reservations and devices as JSON. Pure reading of the pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..clock import duration_text, rfc3339
from ..devices.model import Device
from ..limits.checks import longest_extension
from ..notices import idle_notice, time_notice
from ..pool import EXTENDABLE, Pool
from ..reservation import Reservation, State
from ..text import escaped
from .host_views import host_view
from .json_bodies import to_json


def reservation_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """The reservation of the API; see docs/how_it_works.md."""
    now = pool.clock()
    devices = {device.uuid: device for device in pool.devices}
    told = pool.forecast().get(reservation.id) if reservation.waits else None
    start = told.latest_start if told else reservation.external.expected_at if reservation.external else None
    times = ("submitted_at", "granted_at", "started_at", "ends_at", "ending_at", "ended_at")
    running = (reservation.holds or reservation.state is State.PARKED) and reservation.ends_at is not None
    return {
        "id": reservation.id,
        "owner": reservation.owner,
        "server_name": reservation.server_name,
        "kind": reservation.kind.value,
        "state": reservation.state.value,
        "reason": reservation.reason.value if reservation.reason else None,
        "detail": escaped(reservation.detail),
        "share": reservation.request.as_options(),
        "share_text": reservation.request.describe(),
        "placement": [
            {
                "device_uuid": holding.device_uuid,
                "instance_uuid": holding.instance_uuid,
                "model": devices[holding.device_uuid].model if holding.device_uuid in devices else "",
                "memory_mib": holding.memory_mib,
                "compute": holding.compute,
                "whole": holding.whole,
            }
            for holding in reservation.holdings
        ],
        "generation": reservation.generation,
        "enforcement": reservation.enforcement,
        **host_view(pool, reservation),
        "simulated": any(devices[h.device_uuid].simulated for h in reservation.holdings if h.device_uuid in devices),
        "time_limit_s": reservation.time_limit_s,
        **{name: rfc3339(getattr(reservation, name)) for name in times},
        "remaining_s": max(0, round(reservation.ends_at - now)) if running and reservation.ends_at else None,
        "account": reservation.account,
        "gpus": reservation.terms.gpus,
        "limits_version": reservation.terms.limits_version,
        "requeues": reservation.requeues,
        "handling": reservation.handling or None,
        "kept_mib": reservation.kept_mib,
        "asked_again": reservation.asked_again_at is not None,
        "idle_warning": reservation.id in pool.idle_warnings and reservation.state is State.ACTIVE,
        "job": job_view(reservation),
        **external_view(pool, reservation),
        "position": told.position if told else None,
        "why_waiting": told.why if told else _held_back(pool, reservation),
        "firm": told.firm if told else reservation.external is None,
        "latest_start": rfc3339(start),
        "latest_start_in_s": None if start is None else max(0, round(start - now)),
        "extension": extension_view(pool, reservation),
        "notices": notice_views(pool, reservation, now),
    }


def reservation_texts(pool: Pool, reservations: Iterable[Reservation]) -> list[str]:
    """What is shown of each, as JSON."""
    return [to_json(reservation_view(pool, one)) for one in reservations]


def job_view(reservation: Reservation) -> dict[str, Any] | None:
    """What a batch reservation runs; its key is told by an address of its own."""
    job = reservation.job
    if job is None:
        return None
    return {
        "name": escaped(job.name),
        "folder": job.folder,
        "array": job.array,
        "index": job.index,
        "parallel": job.parallel,
    }


def external_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """Where it runs, and what it is there."""
    external, engine = reservation.external, pool.engines.get(reservation.request.engine)
    return {
        "engine": reservation.request.engine or "local",
        "engine_title": engine.title if engine else reservation.request.engine,
        "external_job": escaped(external.job_id) if external else "",
        "external_node": escaped(external.node) if external else "",
        "external_said": escaped(external.said) if external else "",
    }


def _held_back(pool: Pool, reservation: Reservation) -> str:
    external = reservation.external
    if external is not None and reservation.state is State.QUEUED:
        return _said_elsewhere(pool, reservation) if external.handed_over else pool.kept_back(reservation)
    if reservation.state is not State.QUEUED or reservation.job is None or not reservation.job.parallel:
        return ""
    return f"{reservation.job.parallel} of its array run at a time"


def _said_elsewhere(pool: Pool, reservation: Reservation) -> str:
    """What its engine says of it; when that is old, since when."""
    assert reservation.external is not None
    engine = pool.engines.get(reservation.request.engine)
    parts = (reservation.external.said, engine.silence() if engine else "")
    return "; ".join(part for part in parts if part)


def notice_views(pool: Pool, reservation: Reservation, now: float) -> list[dict[str, Any]]:
    if reservation.state is State.ENDED:
        return []
    found = [*pool.notices.get(reservation.id, ())]
    timely = time_notice(reservation, pool.limits, now, pool.budget_ends_at(reservation))
    if timely is not None:
        found.insert(0, timely)
    if reservation.id in pool.idle_warnings and reservation.state is State.ACTIVE:
        found.insert(0, idle_notice(pool.idle_warnings[reservation.id], now))
    return [{"level": notice.level, "text": notice.text, "at": rfc3339(notice.at)} for notice in found]


def extension_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """Whether the end may be moved now, by how much at most by the limits, and why not."""
    if reservation.state not in EXTENDABLE:
        return {"allowed": False, "longest_s": 0, "why": f"it is {reservation.state.value}"}
    limits = pool.standing.effective(reservation.owner, pool.clock())
    longest = longest_extension(limits, reservation)
    if longest == 0:
        why = f"a session lasts at most {duration_text(limits.values['extension.total'])} in all"
        if reservation.extensions >= limits.values["extension.times"]:
            why = f"it was extended {reservation.extensions} times, the most without asking an administrator"
        return {"allowed": False, "longest_s": 0, "why": why}
    return {"allowed": True, "longest_s": longest, "why": ""}


def devices_view(pool: Pool, owner: str | None) -> dict[str, Any]:
    """All devices; who holds them is told to administrators (``owner`` None), to others only what is their own."""
    held = [(r, h) for r in pool.live() if r.holds for h in r.holdings]
    taken: dict[str, int] = {}
    for _, holding in held:
        taken[holding.device_uuid] = taken.get(holding.device_uuid, 0) + holding.memory_mib
    devices = []
    for device in sorted(pool.devices, key=lambda d: (d.node, d.order)):
        holders = [r.owner for r, h in held if h.device_uuid == device.uuid and owner in (None, r.owner)]
        devices.append(
            {
                "uuid": device.uuid,
                "model": device.model,
                "node": device.node,
                "memory_mib": device.memory_mib,
                "free_mib": max(0, _capacity(device) - taken.get(device.uuid, 0)),
                "compute_capability": device.compute_capability,
                "instances": [
                    {"uuid": i.uuid, "profile": i.profile, "memory_mib": i.memory_mib, "cordoned": i.cordoned}
                    for i in device.instances
                ],
                "cordoned": device.cordoned or (pool.gpus_unknown if not device.engine else "") or None,
                "detail": device.note,
                "simulated": device.simulated,
                "holders": holders,
            }
        )
    inventory = pool.inventory
    strangers = [
        {"id": s.reservation_id, "owner": s.owner, "start": s.generation, "devices": list(s.devices)}
        for s in pool.unaccounted
        if owner in (None, s.owner)
    ]
    running = {s.reservation_id for s in pool.unaccounted}
    strangers += [
        {"id": row.reservation_id, "owner": row.owner, "start": 0, "devices": list(row.devices)}
        for row in pool.apart.values()
        if owner in (None, row.owner) and row.reservation_id not in running
    ]
    return {
        "devices": devices,
        "unaccounted": strangers,
        "driver": inventory.driver if inventory else "",
        "cuda": inventory.cuda if inventory else "",
        "simulated": bool(inventory and inventory.simulated),
        "note": _devices_note(pool),
    }


def _devices_note(pool: Pool) -> str:
    if pool.gpus_unknown:
        return gpus_unknown_text(pool)
    return pool.inventory.note if pool.inventory else "the GPUs of this node have not been seen yet"


def gpus_unknown_text(pool: Pool) -> str:
    """Why nobody knows how this machine's GPUs are, and what goes on all the same."""
    return f"nothing is known about the GPUs of this node: {pool.gpus_unknown}; sessions without a GPU work"


def health_view(pool: Pool, fresh: bool) -> dict[str, Any]:
    """Whether it is serving. Anybody may read it: so it counts what is out of service, and tells no reasons, which may
    be an administrator's own words. ``fresh``: the node's agent answered lately."""
    warnings = [gpus_unknown_text(pool)] if pool.gpus_unknown else []
    out = sum(1 for d in pool.devices if d.cordoned or d.note or any(i.cordoned for i in d.instances))
    if out:
        warnings.append(f"{out} of {len(pool.devices)} GPUs are out of service, or a part of them: see the devices")
    for engine in pool.engines.values():
        warnings += engine.troubles()
    if pool.ledger_trouble:
        warnings.append("the ledger cannot be written now: what runs goes on, and nothing new is given out")
    if pool.apart:
        what = "live reservations in the ledger are not understood: what they hold stays held until an administrator"
        warnings.append(f"{len(pool.apart)} {what} decides (timeshare unaccounted)")
    warnings += [text.partition(":")[0] for text in pool.odd]
    status = "ok" if fresh and not pool.gpus_unknown and not pool.ledger_trouble else "degraded"
    live = sum(1 for _ in pool.live())
    return {"status": status, "agent": fresh, "ledger": not pool.ledger_trouble, "live": live, "warnings": warnings}


def _capacity(device: Device) -> int:
    if device.partitioned:
        return sum(instance.memory_mib for instance in device.instances)
    return device.memory_mib
