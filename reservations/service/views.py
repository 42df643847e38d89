"""What the API shows: reservations, offers and devices as JSON. Pure reading of the pool."""

from __future__ import annotations

from typing import Any

from ..clock import duration_text, rfc3339
from ..devices.model import MIB_PER_GIB, Device
from ..limits import longest_extension
from ..notices import time_notice
from ..placement import Room, need, never_fits, place, rooms_of, slots_of
from ..pool import Pool
from ..reservation import Reservation, State
from ..schedule import earliest_for_new
from ..shares import Shape, ShareRequest


def reservation_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """The reservation of the API; see docs/how_it_works.md."""
    now = pool.clock()
    devices = {device.uuid: device for device in pool.devices}
    told = pool.forecast().get(reservation.id) if reservation.state is State.QUEUED else None
    times = ("submitted_at", "granted_at", "started_at", "ends_at", "ending_at", "ended_at")
    running = reservation.holds and reservation.ends_at is not None
    return {
        "id": reservation.id,
        "owner": reservation.owner,
        "server_name": reservation.server_name,
        "kind": reservation.kind.value,
        "state": reservation.state.value,
        "reason": reservation.reason.value if reservation.reason else None,
        "detail": reservation.detail,
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
        "simulated": any(d.simulated for u, d in devices.items() if u in {h.device_uuid for h in reservation.holdings}),
        "time_limit_s": reservation.time_limit_s,
        **{name: rfc3339(getattr(reservation, name)) for name in times},
        "remaining_s": max(0, round(reservation.ends_at - now)) if running and reservation.ends_at else None,
        "position": told.position if told else None,
        "latest_start": rfc3339(told.latest_start) if told else None,
        "latest_start_in_s": round(told.latest_start - now) if told and told.latest_start is not None else None,
        "extension": extension_view(pool, reservation),
        "notices": notice_views(pool, reservation, now),
    }


def notice_views(pool: Pool, reservation: Reservation, now: float) -> list[dict[str, Any]]:
    found = [*pool.notices.get(reservation.id, ())]
    timely = time_notice(reservation, pool.limits, now)
    if timely is not None:
        found.insert(0, timely)
    return [{"level": notice.level, "text": notice.text, "at": rfc3339(notice.at)} for notice in found]


def extension_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """Whether the end may be moved now, by how much at most by the limits, and why not."""
    if reservation.state not in (State.GRANTED, State.STARTING, State.ACTIVE):
        return {"allowed": False, "longest_s": 0, "why": f"it is {reservation.state.value}"}
    longest = longest_extension(pool.limits, reservation)
    if longest == 0:
        total = duration_text(pool.limits.extension.total)
        return {"allowed": False, "longest_s": 0, "why": f"a session lasts at most {total} in all"}
    return {"allowed": True, "longest_s": longest, "why": ""}


def offered_shares(pool: Pool) -> list[ShareRequest]:
    """The shares that a form shows for this pool: per model whole devices, parts of one, MIG slices; and CPU only."""
    shares: list[ShareRequest] = []
    by_model: dict[str, list[Device]] = {}
    for device in pool.devices:
        by_model.setdefault(device.model, []).append(device)
    for model, devices in sorted(by_model.items()):
        plain = [device for device in devices if not device.partitioned]
        if plain:
            smallest = min(device.memory_mib for device in plain)
            for fraction in sorted(pool.limits.fractions):
                shares.append(ShareRequest(Shape.FRACTION, memory_mib=int(smallest * fraction), model=model))
            most = max(_per_node(plain).values())
            counts = sorted({1, *(n for n in (2, 4, 8) if n < most), most})
            shares += [ShareRequest(Shape.WHOLE, count=count, model=model) for count in counts]
        profiles = {i.profile: i.memory_mib for device in devices for i in device.instances}
        for profile in sorted(profiles, key=lambda name: (profiles[name], name)):
            shares.append(ShareRequest(Shape.MIG, profile=profile, model=model))
    shares.append(ShareRequest(Shape.CPU))
    return shares


def _per_node(devices: list[Device]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.node] = counts.get(device.node, 0) + 1
    return counts


def offers_view(pool: Pool, fresh: bool) -> dict[str, Any]:
    """Every offer with how many could start now, else when at the latest. ``fresh``: the devices were seen lately."""
    facts = pool.facts()
    seconds = pool.limits.default_time + pool.limits.stop.longest_s
    shares = offered_shares(pool)
    starts = earliest_for_new(facts, [(share, seconds) for share in shares])
    rooms = rooms_of(slots_of(facts.devices), [h for held in facts.held for h in held.holdings])
    offers = []
    for share, start in zip(shares, starts, strict=True):
        free = _how_many(rooms, share) if start == facts.now and fresh else 0
        error = never_fits(pool.slots, share)
        offers.append(
            {
                "id": "-".join(f"{k}-{v}" for k, v in share.as_options().items()).replace("_", "-"),
                "share": share.as_options(),
                "text": offer_text(pool, share),
                "free_now": free,
                "latest_start": rfc3339(start),
                "latest_start_in_s": None if start is None else max(0, round(start - facts.now)),
                "possible": error is None and start is not None and fresh,
                "why": _why_not(error is not None, start, fresh),
                "enforcement": pool.enforcement_of(share),
                "default_time_s": pool.limits.default_time,
                "max_time_s": pool.limits.max_time,
            }
        )
    inventory = pool.inventory
    return {
        "offers": offers,
        "waiting": len(facts.waiting),
        "simulated": bool(inventory and inventory.simulated),
        "note": inventory.note if inventory else "the GPUs of this node have not been seen yet",
        "fresh": fresh,
        "limits": {"default_time_s": pool.limits.default_time, "max_time_s": pool.limits.max_time},
    }


def offer_text(pool: Pool, share: ShareRequest) -> str:
    if share.shape is Shape.CPU:
        return "No GPU (CPU only)"
    if share.shape is Shape.FRACTION:
        sizes = [d.memory_mib for d in pool.devices if d.model == share.model and not d.partitioned]
        for fraction in pool.limits.fractions:
            if int(min(sizes, default=0) * fraction) == share.memory_mib:
                return f"{_part(fraction)} of one {share.model} ({share.memory_mib / MIB_PER_GIB:.1f} GiB)"
    return share.describe()


def _part(fraction: float) -> str:
    for parts in (2, 3, 4, 5, 6, 8):
        if abs(fraction - 1 / parts) < 0.001:
            return f"1/{parts}"
    return f"{fraction * 100:g} %"


def _why_not(impossible: bool, start: float | None, fresh: bool) -> str:
    if not fresh:
        return "the node that holds these GPUs has not answered for a while"
    if impossible:
        return "this pool has no such share"
    return "" if start is not None else "every device that could give it is out of service"


def _how_many(rooms: tuple[Room, ...], share: ShareRequest) -> int:
    """How many of ``share`` would be granted one after the other now; for CPU sessions 1 stands for 'any number'."""
    if share.shape is Shape.CPU:
        return 1
    rooms_now = {room.slot.key: room for room in rooms if need(room.slot, share) is not None}
    count = 0
    while (holdings := place(tuple(rooms_now.values()), share)) is not None and count < 999:
        count += 1
        for holding in holdings:
            room = rooms_now[holding.key]
            rooms_now[holding.key] = Room(
                room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute
            )
    return count


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
                    {"uuid": i.uuid, "profile": i.profile, "memory_mib": i.memory_mib} for i in device.instances
                ],
                "cordoned": device.cordoned,
                "simulated": device.simulated,
                "holders": holders,
            }
        )
    inventory = pool.inventory
    return {
        "devices": devices,
        "driver": inventory.driver if inventory else "",
        "cuda": inventory.cuda if inventory else "",
        "simulated": bool(inventory and inventory.simulated),
        "note": inventory.note if inventory else "the GPUs of this node have not been seen yet",
    }


def _capacity(device: Device) -> int:
    if device.partitioned:
        return sum(instance.memory_mib for instance in device.instances)
    return device.memory_mib
