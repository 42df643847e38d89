"""Old jobs go by themselves, and nobody fills the disk: as the admin's limits say."""

from __future__ import annotations

import json
import time

from ..capture.preflight import size_text
from ..runner.folder import Folder
from .places import Places
from .service import Json, Refused

SEEN = "room.json"
AGAIN_S = 600.0
"""With thousands of jobs on a shared disk a look takes seconds: it is taken anew after so long."""
PLENTY = 0.5
"""A look that found less than this part of the room in use holds for that time."""


def make_room(places: Places, estimate: Json, now: float | None = None) -> None:
    """Removes jobs that ended longer ago than the limits keep them, and what only they used. Raises Refused, naming
    the largest, when what is left is more than the limits allow."""
    now = time.time() if now is None else now
    space = estimate["space"]
    allowed = float("inf") if space["bytes"] is None else space["bytes"]
    seen = _seen_of_late(places, now)
    if seen is not None and seen <= PLENTY * allowed:
        return
    old = [name for name in places.ids() if _ended_before(places, name, now - space["keep_s"])]
    for name in old:
        places.remove(name)
    places.sweep(now)
    total = places.total()
    Folder(places.jobs).write(SEEN, json.dumps({"at": now, "bytes": total}))
    if total > allowed:
        sizes = sorted(((places.size(n) + sum(places.pieces(n).values()), n) for n in places.ids()), reverse=True)
        largest = ", ".join(f"{name} ({size_text(size)})" for size, name in sizes[:3])
        raise Refused(
            f"Nothing was submitted: your jobs take {size_text(total)} and may take {size_text(int(allowed))}. "
            f"%gpu_batch rm ID removes one; the largest: {largest}"
        )


def _seen_of_late(places: Places, now: float) -> float | None:
    """Bytes in use by the last look; None where that was not of late."""
    try:
        seen = json.loads(Folder(places.jobs).read_if_there(SEEN) or "{}")
        return float(seen["bytes"]) if 0 <= now - seen["at"] < AGAIN_S else None
    except (ValueError, KeyError, TypeError):
        return None


def _ended_before(places: Places, job_id: str, moment: float) -> bool:
    """Only what has said itself how it ended: a job that is silent may still run."""
    files = [path / "status.json" for path in places.folders(job_id)]
    return all(file.exists() and file.lstat().st_mtime < moment for file in files)
