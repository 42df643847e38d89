"""Batch reservations as people think of them: what was handed over together is one job. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ..reservations.client import Json

LISTED = 100
"""Batch reservations that are looked at, the newest."""
# The words of docs/user_guide.md, as the notebooks have them; neither room may import the other's.
_LIVE = {"queued": "waiting", "granted": "starting", "ending": "stopping", "active": "running"}
_REASONS = {"time_limit": "over time", "budget": "over budget", "idle": "cancelled"}


def jobs(newest: Sequence[Json]) -> list[dict[str, Any]]:
    """Those that are not over first, then the newest. ``newest``: up to LISTED reservations; if there may be more, the
    oldest of these jobs may have more points than are known."""
    groups: dict[str, list[Json]] = {}
    for reservation in newest:
        job = reservation["job"]
        groups.setdefault(job["array"] if job else reservation["id"], []).append(reservation)
    cut = list(groups)[-1] if len(newest) >= LISTED else ""
    found = [_job(points, array == cut) for array, points in groups.items()]
    return sorted(found, key=lambda job: not job["live"])


def _job(points: Sequence[Json], cut: bool) -> dict[str, Any]:
    """``id``: as the notebook names it. ``told``: how many of its points are in which state. ``stop``: below which path
    it is stopped; empty where there is nothing to stop."""
    first = points[-1]  # the newest come first
    live = [point for point in points if point["state"] != "ended"]
    unwell = [point for point in points if point["state"] == "ended" and point["reason"] != "completed"]
    left = [point["remaining_s"] for point in live if point["remaining_s"] is not None]
    waits = [point["why_waiting"] for point in live if point["state"] == "queued" and point["why_waiting"]]
    ends = [point["ended_at"] for point in points if point["ended_at"]]
    path = f"jobs/{first['job']['array']}" if first["job"] else f"reservations/{first['id']}"
    count = Counter(_word(point) for point in reversed(points))
    told = ", ".join(f"{number} {word}" if len(points) > 1 or cut else word for word, number in count.most_common())
    return {
        "id": _id(first),
        "name": first["job"]["name"] if first["job"] else "",
        "live": bool(live),
        "told": f"of its last {len(points)} points: {told}" if cut else told,
        "share_text": first["share_text"],
        "where": "" if first["engine"] == "local" else first["engine_title"],
        "simulated": any(point["simulated"] for point in points),
        "remaining_s": max(left, default=None),
        "why": waits[0] if waits else "",
        "detail": unwell[0]["detail"] if unwell else "" if live else first["detail"],
        "ended_at": None if live else max(ends, default=None),
        "stop": path if any(point["state"] != "ending" for point in live) else "",
    }


def _id(reservation: Json) -> str:
    if not reservation["job"]:
        return str(reservation["id"])
    folder = PurePath(reservation["job"]["folder"])
    return folder.parent.name if folder.name.isdigit() else folder.name  # of a sweep each point has its own


def _word(reservation: Json) -> str:
    if reservation["state"] == "ended":
        reason = str(reservation["reason"])
        return _REASONS.get(reason, reason)
    return _LIVE.get(reservation["state"], str(reservation["state"]))
