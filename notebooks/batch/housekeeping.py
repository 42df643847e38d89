"""Old jobs go by themselves, and nobody fills the disk: as the admin's limits say."""

from __future__ import annotations

import time

from ..capture.preflight import size_text
from .places import Places
from .service import Json, Refused

DAY = 86400.0


def make_room(places: Places, estimate: Json, now: float | None = None) -> None:
    """Removes jobs that ended longer ago than the limits keep them, and what only they used. Raises Refused, naming
    the largest, when what is left is more than the limits allow."""
    now = time.time() if now is None else now
    space = estimate["space"]
    old = [name for name in places.ids() if _ended_before(places, name, now - space["keep_s"])]
    for name in old:
        places.remove(name)
    places.sweep(now)
    allowed = space["bytes"]
    if allowed is not None and (total := places.total()) > allowed:
        sizes = sorted(((places.size(n) + sum(places.pieces(n).values()), n) for n in places.ids()), reverse=True)
        largest = ", ".join(f"{name} ({size_text(size)})" for size, name in sizes[:3])
        raise Refused(
            f"Nothing was submitted: your jobs take {size_text(total)} and may take {size_text(allowed)}. "
            f"%gpu_batch rm ID removes one; the largest: {largest}"
        )


def _ended_before(places: Places, job_id: str, moment: float) -> bool:
    """Only what has said itself how it ended: a job that is silent may still run."""
    files = [path / "status.json" for path in places.folders(job_id)]
    return all(file.exists() and file.lstat().st_mtime < moment for file in files)
