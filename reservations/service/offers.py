"""What somebody may ask for, and what is free of it now. Pure reading of the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..clock import duration_text, rfc3339
from ..devices.model import MIB_PER_GIB, Device
from ..elsewhere import Elsewhere, Outlook
from ..errors import PublicError
from ..kind import Kind
from ..limits.schema import CalendarEntry, Event, Maintenance
from ..limits.values import UNLIMITED, gpus_text
from ..placement import slots_of
from ..pool import Pool
from ..queue import Forecast
from ..shares import Shape, ShareRequest, parse_share
from ..standing import AHEAD_S
from ..submission import Submission
from .host_views import host_limits
from .views import gpus_unknown_text

STALE_S = 45.0
"""What an engine told so long ago is said to be old."""


def offered_shares(pool: Pool, engine: str = "") -> list[ShareRequest]:
    """The shares that a form shows for ``engine``: per model whole devices, parts of one, MIG slices; and CPU only."""
    named = [replace(share, engine=engine) for share in _shares(pool, engine)]
    shares = [share for share in named if _can_be_asked_for(share)]
    return shares if not engine else [share for share in shares if _starts_ever(pool, share)]


def _can_be_asked_for(share: ShareRequest) -> bool:
    """Whether the parser of requests takes it back: a device may be larger than a part may be, or have an odd name."""
    try:
        return parse_share(share.as_options()) == share
    except PublicError:
        return False


def _starts_ever(pool: Pool, share: ShareRequest) -> bool:
    try:
        pool.engines[share.engine].check(share, 60, Kind.SESSION)
    except PublicError:
        return False
    return True


def _shares(pool: Pool, engine: str) -> list[ShareRequest]:
    shares: list[ShareRequest] = []
    by_model: dict[str, list[Device]] = {}
    for device in (device for device in pool.devices if device.engine == engine):
        by_model.setdefault(device.model, []).append(device)
    for model, devices in sorted(by_model.items()):
        plain = [device for device in devices if not device.partitioned and device.memory_mib]
        if plain:
            smallest = min(device.memory_mib for device in plain)
            for fraction in sorted(pool.limits.fractions):
                shares.append(ShareRequest(Shape.FRACTION, memory_mib=int(smallest * fraction), model=model))
            most = max(_per_node(plain).values())
            counts = sorted({1, *(n for n in (2, 4, 8) if n < most), most})
            shares += [ShareRequest(Shape.WHOLE, count=count, model=model) for count in counts]
        profiles = {slot.profile: slot.memory_mib for slot in slots_of(devices, include_cordoned=True) if slot.profile}
        for profile in sorted(profiles, key=lambda name: (profiles[name], name)):
            shares.append(ShareRequest(Shape.MIG, profile=profile, model=model))
    shares.append(ShareRequest(Shape.CPU))
    return shares


def _per_node(devices: list[Device]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.node] = counts.get(device.node, 0) + 1
    return counts


def offers_view(pool: Pool, owner: str, fresh: bool) -> dict[str, Any]:
    """Every offer to ``owner`` with how many could start now, else when at the latest; what she may not have says why.

    ``fresh``: the devices were seen lately.
    """
    world = pool.world()
    now = world.now
    limits = pool.standing.effective(owner, now)
    default, longest = limits.default_time(Kind.SESSION), limits.max_time(Kind.SESSION)
    shares = offered_shares(pool) if pool.local else []
    offers = []
    for share, prospect in zip(shares, world.prospects([Submission(owner, s, default) for s in shares]), strict=True):
        forecast = prospect.told
        error = pool.intake.refusal(Submission(owner, share, default))
        unseen = _unseen(pool, share, fresh)
        possible = error is None and (forecast.latest_start is not None or bool(forecast.why)) and not unseen
        until = prospect.for_s - pool.limits.stop.longest_s
        free_for = int(until) if prospect.free and until < longest else None
        free = 0 if unseen else prospect.free
        why = unseen or _why_not(error, forecast)
        offers.append(
            {
                "id": _offer_id(share),
                "share": share.as_options(),
                "text": offer_text(pool, share),
                "free_now": free,
                "when": _when(share, free, free_for, forecast, now) if possible else f"Not possible: {why}",
                "latest_start": rfc3339(forecast.latest_start),
                "latest_start_in_s": None
                if forecast.latest_start is None
                else max(0, round(forecast.latest_start - now)),
                "possible": possible,
                "why": why,
                "firm": forecast.firm,
                "enforcement": pool.enforcement_of(share),
                "default_time_s": default,
                "max_time_s": longest,
                "free_for_s": free_for,
                "engine": "",
                "engine_title": "",
            }
        )
    for engine in pool.engines.values():
        offers += [outside_offer(pool, engine, owner, share) for share in offered_shares(pool, engine.name)]
    inventory = pool.inventory
    return {
        "offers": offers,
        "waiting": len(world.facts.waiting),
        "simulated": bool(inventory and inventory.simulated),
        "note": _note(pool),
        "fresh": fresh,
        "limits": {"default_time_s": default, "max_time_s": longest, **host_limits(pool, owner, Kind.SESSION)},
        "announced": announcements(pool, now),
    }


def _unseen(pool: Pool, share: ShareRequest, fresh: bool) -> str:
    """Why nobody can say whether ``share`` could start now; empty: somebody can. What needs no GPU asks for none."""
    if not fresh:
        return "the node that holds these GPUs has not answered for a while"
    return "" if share.shape is Shape.CPU else pool.gpus_unknown


def _note(pool: Pool) -> str:
    """About the devices of this machine."""
    if not pool.local:
        return ""
    if pool.gpus_unknown:
        return gpus_unknown_text(pool)
    return pool.inventory.note if pool.inventory else "the GPUs of this node have not been seen yet"


def outside_offer(pool: Pool, engine: Elsewhere, owner: str, share: ShareRequest) -> dict[str, Any]:
    """An offer of an engine that places work itself: it decides when, and tells what to expect."""
    now = pool.clock()
    limits = pool.standing.effective(owner, now)
    default, longest = limits.default_time(Kind.SESSION), limits.max_time(Kind.SESSION)
    outlook, error = engine.outlook(share, default, owner), pool.intake.refusal(Submission(owner, share, default))
    possible = error is None and not outlook.closed
    why = error.message if error is not None else outlook.said
    wait = outlook.start_in_s(default)
    start = None if wait is None else now + wait
    free_for = None if outlook.free_for_s is None or outlook.free_for_s >= longest else int(outlook.free_for_s)
    return {
        "id": _offer_id(share),
        "share": share.as_options(),
        "text": offer_text(pool, share),
        "free_now": outlook.free if possible else 0,
        "when": _outside_when(share, outlook, default, free_for) if possible else f"Not possible: {why}",
        "latest_start": rfc3339(start),
        "latest_start_in_s": None if start is None else max(0, round(start - now)),
        "possible": possible,
        "why": why,
        "firm": False,
        "enforcement": pool.enforcement_of(share),
        "default_time_s": default,
        "max_time_s": longest,
        "free_for_s": free_for,
        "engine": engine.name,
        "engine_title": engine.title,
    }


def _outside_when(share: ShareRequest, outlook: Outlook, default: int, free_for: int | None) -> str:
    old = f" (as of {duration_text(round(outlook.age_s))} ago)" if outlook.age_s > STALE_S else ""
    shorter = f" for up to {duration_text(free_for)}: {outlook.said}" if free_for is not None else ""
    if free_for is not None and default > free_for and outlook.expected_in_s is not None:
        shorter += f"; for longer, expected in {duration_text(outlook.expected_in_s)}"
    if share.shape is Shape.CPU and outlook.free:
        return f"Starts as soon as a node has room{shorter}{old}"
    if outlook.free:
        return f"{outlook.free} free now{shorter}{old}"
    return f"{outlook.said}; you wait in line, and it starts by itself{old}"


def _offer_id(share: ShareRequest) -> str:
    return "-".join(f"{k}-{v}" for k, v in share.as_options().items()).replace("_", "-")


def _when(share: ShareRequest, free: int, free_for: int | None, told: Forecast, now: float) -> str:
    """When it would start, in words."""
    if share.shape is Shape.CPU:
        return "Starts now"
    line = "you wait in line, and it starts by itself"
    starts_now = told.latest_start is not None and told.latest_start <= now
    if free and free_for is None:
        return f"{free} free now"
    if free and free_for is not None:
        shorter = f"{free} free now for up to {duration_text(free_for)}: then it is kept for others, or announced"
        if starts_now or told.latest_start is None:
            return shorter
        wait = duration_text(max(0, round(told.latest_start - now)))
        return f"{shorter}; for longer, you would start in {wait} at the latest"
    if told.latest_start is None:
        return f"In use. Nobody can say when it starts: {told.why}; {line}"
    wait = duration_text(max(0, round(told.latest_start - now)))
    start = f"You would start in {wait} at the latest" if told.firm else f"Expected in {wait}"
    return f"In use. {start}; {line}"


def announcements(pool: Pool, now: float) -> list[str]:
    """Maintenance and events of the next two weeks, in words."""
    limits, found = pool.limits, []
    for entry in (*limits.maintenance, *limits.events):
        begins, ends = limits.span(entry)
        if ends > now and begins < now + AHEAD_S:
            where = _place(entry)
            what = f"{entry.why} ({entry.name})" if isinstance(entry, Maintenance) else f"kept for {entry.name}"
            found.append(f"{entry.begins} to {entry.ends} ({limits.timezone}): {where}, {what}")
    return found + [text for engine in pool.engines.values() for text in engine.announced()]


def _place(entry: CalendarEntry) -> str:
    """Which devices ``entry`` is about, in words."""
    nodes = "" if "*" in entry.nodes else f"the node{'s' if len(entry.nodes) > 1 else ''} {', '.join(entry.nodes)}"
    if isinstance(entry, Event):
        of = f"the pool {entry.pool}" if entry.pool else "all devices" if not nodes else ""
        where = " of ".join(filter(None, (nodes, of)))
        return where if entry.gpus == UNLIMITED else f"{gpus_text(entry.gpus)} of {where}"
    if entry.pool:
        return f"{nodes} of the pool {entry.pool}" if nodes else f"the pool {entry.pool}"
    return nodes or "all devices"


def offer_text(pool: Pool, share: ShareRequest) -> str:
    if share.shape is Shape.CPU:
        return "No GPU (CPU only)"
    model_of = (share.engine, share.model)
    if share.shape is Shape.FRACTION:
        sizes = [
            d.memory_mib for d in pool.devices if (d.engine, d.model) == model_of and not d.partitioned and d.memory_mib
        ]
        for fraction in pool.limits.fractions:
            if int(min(sizes, default=0) * fraction) == share.memory_mib:
                return f"{_part(fraction)} of one {share.model} ({share.memory_mib / MIB_PER_GIB:.1f} GiB)"
    return replace(share, engine="").describe()  # the offer stands under the name of its engine


def _part(fraction: float) -> str:
    for parts in (2, 3, 4, 5, 6, 8):
        if abs(fraction - 1 / parts) < 0.001:
            return f"1/{parts}"
    return f"{fraction * 100:g} %"


def _why_not(error: PublicError | None, told: Forecast) -> str:
    if error is not None:
        return error.message
    if told.latest_start is None and not told.why:
        return "every device that could give it is out of service, or kept for others"
    return told.why
