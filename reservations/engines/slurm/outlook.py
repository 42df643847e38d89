"""What somebody who asked a cluster now could expect of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timezone, tzinfo

from ...clock import duration_text
from ...elsewhere import Outlook
from ...shares import Shape, ShareRequest
from ...standing import AHEAD_S
from .closures import MAINTENANCE, Closure, first_in, opening, window_s
from .cluster import Snapshot, away_of, shards_each
from .nodes import SlurmNode
from .queue import SlurmJob
from .request import GpuType, MigType, SlurmSite

SHORTEST_S = 60
"""Of a session: Slurm counts in minutes."""
OLD_S = 300.0
"""Facts that are older say nothing about what is free."""
FEW = 4
"""Nodes that are named one by one."""


@dataclass(frozen=True)
class Ask:
    """``units``: shards or percent that a part is; 0 of whole ones. ``seconds``: the time limit that ``owner`` asks
    for; a job has ``grace_s`` more for its stop. ``zone``: of times in words."""

    request: ShareRequest
    units: int = 0
    owner: str = ""
    seconds: float = SHORTEST_S
    grace_s: float = 0.0
    zone: tzinfo = timezone.utc

    @property
    def job_s(self) -> float:
        """The time limit of its job, in whole minutes as Slurm has it."""
        return 60.0 * math.ceil((self.seconds + self.grace_s) / 60)


@dataclass(frozen=True)
class _Place:
    """A node that could give it. ``count``: how often now, were it not set aside. ``vacant_at``: when something of it
    is vacant at the latest; infinite: nobody can say."""

    node: SlurmNode
    count: int
    vacant_at: float
    closures: tuple[Closure, ...]

    def window_s(self, now: float) -> float:
        return window_s(self.closures, now)

    def start(self, seconds: float) -> float:
        return opening(self.closures, self.vacant_at, seconds)


def outlook_of(snapshot: Snapshot, jobs: Sequence[SlurmJob], ask: Ask, now: float) -> Outlook:
    """``jobs``: all that Slurm knows."""
    age = max(0.0, now - snapshot.seen_at)
    if not snapshot.seen_at:
        return Outlook(0, "the cluster has not been seen yet", closed=True)
    if snapshot.away:
        return Outlook(0, snapshot.away, age_s=age, closed=True)
    fitting = [node for node in snapshot.nodes if _could(snapshot.site, node, ask.request)]
    places = [_place(snapshot, node, jobs, ask, now) for node in fitting if node.open]
    if not places:
        away = sorted(f"{node.name}: {away_of(node)}" for node in fitting)
        return Outlook(0, "; ".join(away) or "no node of the cluster could give it", age_s=age, closed=True)
    if age > OLD_S:
        said = f"what is free was told {duration_text(round(age))} ago, which is too long"
        return Outlook(0, said, age_s=age)
    return _free_now(places, ask, now, age) or _later(places, jobs, ask, now, age)


def _place(snapshot: Snapshot, node: SlurmNode, jobs: Iterable[SlurmJob], ask: Ask, now: float) -> _Place:
    count = _free(snapshot.site, node, ask)
    ends = [job.end_at for job in jobs if job.end_at and job.life == "running" and node.name in job.nodes]
    vacant_at = now if count else max(now, min(ends, default=math.inf) + snapshot.timing.beyond_s)
    return _Place(node, count, vacant_at, snapshot.closures_on(node.name, ask.owner))


def _free_now(places: Sequence[_Place], ask: Ask, now: float, age: float) -> Outlook | None:
    """Where it fits before a closure begins; else where something shorter would."""
    for shortest in (ask.job_s, SHORTEST_S + ask.grace_s):
        found = [place for place in places if place.count and place.window_s(now) >= shortest]
        free = _together(sum(place.count for place in found), ask.request)
        if free:
            window = max(place.window_s(now) for place in found)
            break
    else:
        return None
    if math.isinf(window):
        return Outlook(free, age_s=age)
    closure = first_in((c for place in found for c in place.closures), now, math.inf)
    start = min(place.start(ask.job_s) for place in places)
    return Outlook(
        free,
        closure.text(ask.zone) if closure else "",
        None if math.isinf(start) else start - now,
        age,
        free_for_s=60.0 * (window // 60) - ask.grace_s,
    )


def _together(count: int, request: ShareRequest) -> int:
    """``count``: on all nodes. Of what needs no GPU 1 stands for any number."""
    return min(1, count // request.nodes) if request.shape is Shape.CPU else count // request.nodes


def _later(places: Sequence[_Place], jobs: Iterable[SlurmJob], ask: Ask, now: float, age: float) -> Outlook:
    first = min(places, key=lambda place: (place.start(ask.job_s), place.vacant_at))
    closure, begins = first_in(first.closures, first.vacant_at, ask.job_s), first.start(ask.job_s)
    said = [] if first.count else ["In use"]
    if now < first.vacant_at < math.inf:
        said.append(f"the first ends in {duration_text(first.vacant_at - now)} at the latest")
    if closure is not None:
        said.append(closure.text(ask.zone))
    waiting = sum(len(job.array_tasks or ()) or 1 for job in jobs if job.life == "pending")
    said.append(f"{waiting} jobs wait in all" if waiting else "nobody else waits")
    return Outlook(0, "; ".join(said), None if math.isinf(begins) else begins - now, age)


def announced(snapshot: Snapshot, zone: tzinfo, now: float) -> list[str]:
    """Maintenance of the next two weeks, in words."""
    names, found = {node.name for node in snapshot.nodes}, []
    for closure in snapshot.closures:
        nodes = sorted(names & closure.nodes)
        if nodes and closure.why == MAINTENANCE and closure.ends_at > now > closure.begins_at - AHEAD_S:
            few = ", ".join(nodes) if len(nodes) <= FEW else f"{len(nodes)} of {len(names)} nodes"
            found.append(f"{closure.text(zone)}: {'all nodes' if len(nodes) == len(names) else few}")
    return found


def _could(site: SlurmSite, node: SlurmNode, request: ShareRequest) -> bool:
    have = node.configured()
    if request.shape is Shape.WHOLE:
        return any(have[gres] >= request.count for gres in _types(site, node, request))
    if request.shape is Shape.FRACTION and not shards_each(node):
        return False
    return request.shape is Shape.CPU or bool(_types(site, node, request))


def _types(site: SlurmSite, node: SlurmNode, request: ShareRequest) -> list[str]:
    """Those of the node's GPUs of which it could be, in Slurm's words."""
    kinds: Iterable[GpuType | MigType] = site.gpus
    if request.shape is Shape.MIG:
        kinds = (mig for mig in site.mig if mig.profile == request.profile)
    elif request.shape is Shape.FRACTION:
        kinds = (gpu for gpu in site.gpus if gpu.shards)
    return [kind.gres for kind in kinds if kind.gres in node.configured() and request.model in ("", kind.model)]


def _free(site: SlurmSite, node: SlurmNode, ask: Ask) -> int:
    """How many of it the node has free. GPUs that are shared are whole for nobody, and the other way round."""
    shape, each = ask.request.shape, shards_each(node)
    if shape is Shape.CPU:
        return 1
    shared = -(-node.shards_used // each) if each else 0
    found = 0
    for gres in _types(site, node, ask.request):
        # What is held of GPUs without a type may be of this one.
        free = node.configured()[gres] - node.taken().get(gres, 0) - node.taken().get("", 0)
        whole = max(0, free - shared)
        if shape is Shape.MIG:
            found += max(0, free)
        elif shape is Shape.WHOLE:
            found += whole // ask.request.count
        elif ask.units:
            found += (whole * each + shared * each - node.shards_used) // ask.units
    return found
