"""Why a job waits, from Slurm's reason and what else is known of the cluster. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo

from . import allowances, words
from .allowances import Book, Place
from .closures import Closure, first_in
from .cluster import Snapshot
from .limit_names import LimitName
from .queue import SlurmJob

_SET_ASIDE = ("reqnodenotavail", "reservation")


@dataclass(frozen=True)
class Known:
    """What is known of a cluster beside its jobs. ``book``: what it allows whom; None: that is not readable."""

    snapshot: Snapshot
    place: Place
    zone: tzinfo
    book: Book | None = None


def why_waiting(job: SlurmJob, known: Known, now: float) -> str:
    """In words."""
    ahead = closure_ahead(job, known.snapshot, now)
    if ahead is not None:
        return f"it would run into {ahead.text(known.zone)}"
    return words.why_waiting(job.reason, value_for(job.user, known)).text


def value_for(owner: str, known: Known) -> words.ValueOf:
    """What limits are that Slurm names to ``owner``."""

    def value(name: LimitName) -> str:
        return "" if known.book is None else allowances.value(name, known.book, owner, known.place)

    return value


def closure_ahead(job: SlurmJob, snapshot: Snapshot, now: float) -> Closure | None:
    """The one that keeps it waiting, if Slurm's reason says that one does."""
    if not job.reason.lower().startswith(_SET_ASIDE) or "UnavailableNodes" in job.reason:
        return None
    wanted = {name.removeprefix("gres/gpu:") for name in job.tres if name.startswith("gres/gpu:")}
    nodes = [node.name for node in snapshot.nodes if wanted <= set(node.configured())]
    concerning = [one for one in snapshot.closures if any(one.concerns(node, job.user) for node in nodes)]
    return first_in(concerning, now, job.time_limit_s or 0)
