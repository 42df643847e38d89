"""Why a job waits, from Slurm's reason and what else is known of the cluster. Pure."""

from __future__ import annotations

from datetime import tzinfo

from . import words
from .closures import Closure, first_in
from .cluster import Snapshot
from .queue import SlurmJob

_SET_ASIDE = ("reqnodenotavail", "reservation")


def why_waiting(job: SlurmJob, snapshot: Snapshot, zone: tzinfo, now: float) -> str:
    """In words."""
    ahead = closure_ahead(job, snapshot, now)
    if ahead is not None:
        return f"it would run into {ahead.text(zone)}"
    return words.why_waiting(job.reason).text


def closure_ahead(job: SlurmJob, snapshot: Snapshot, now: float) -> Closure | None:
    """The one that keeps it waiting, if Slurm's reason says that one does."""
    if not job.reason.lower().startswith(_SET_ASIDE) or "UnavailableNodes" in job.reason:
        return None
    wanted = {name.removeprefix("gres/gpu:") for name in job.tres if name.startswith("gres/gpu:")}
    nodes = [node.name for node in snapshot.nodes if wanted <= set(node.configured())]
    concerning = [one for one in snapshot.closures if any(one.concerns(node, job.user) for node in nodes)]
    return first_in(concerning, now, job.time_limit_s or 0)
