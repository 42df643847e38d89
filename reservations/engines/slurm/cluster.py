"""A cluster as it was seen last: which GPUs there are, what of them is free, and what to expect. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...clock import duration_text
from ...devices.model import MIB_PER_GIB, Device
from ...devices.simulated import known_memory_gib
from ...elsewhere import Outlook
from ...placement import Holding
from ...shares import FULL_COMPUTE, MODEL_PATTERN, Shape, ShareRequest
from .config import SlurmPool
from .nodes import OUT, SlurmNode, SlurmPartition
from .queue import SlurmJob
from .request import GpuType, MigType, SlurmSite


@dataclass(frozen=True)
class Snapshot:
    """``nodes``: of the pool's partition. ``away``: why the partition takes nothing. ``seen_at``: when that was."""

    site: SlurmSite
    nodes: tuple[SlurmNode, ...] = ()
    away: str = ""
    max_time_s: int | None = None
    seen_at: float = 0.0


def snapshot_of(
    pool: SlurmPool, nodes: Sequence[SlurmNode], partitions: Sequence[SlurmPartition], now: float
) -> Snapshot:
    """What of the cluster belongs to ``pool``. Raises ValueError for a pool that says what cannot be."""
    mine = next((p for p in partitions if p.name == pool.partition or (not pool.partition and p.default)), None)
    if mine is None:
        known = ", ".join(p.name for p in partitions)
        away = f"Slurm has no partition {pool.partition!r}; it has {known}" if pool.partition else "none is the default"
        return Snapshot(site_of(pool, ()), away=away, seen_at=now)
    members = tuple(node for node in nodes if node.name in mine.nodes)
    return Snapshot(
        site_of(pool, members),
        members,
        "" if mine.up else f"the partition {mine.name} is {mine.state.lower()}",
        mine.max_time_s,
        now,
    )


def site_of(pool: SlurmPool, nodes: Iterable[SlurmNode]) -> SlurmSite:
    """What can be asked for, from what the administrator says and the nodes have. Raises ValueError."""
    nodes = tuple(nodes)
    types = sorted({type_ for node in nodes for type_ in node.configured()} - set(pool.mig))
    return SlurmSite(
        partition=pool.partition,
        account=pool.account,
        qos=pool.qos,
        reservation=pool.reservation,
        constraint=pool.constraint,
        gpus=tuple(gpu for type_ in types if (gpu := _gpu_type(pool, type_, nodes)) is not None),
        mig=tuple(MigType(gres, str(said["profile"]), str(said["model"])) for gres, said in pool.mig.items()),
        fraction=pool.fraction,
        cpus=pool.cpus,
        memory_mib=round(pool.memory_gib * MIB_PER_GIB),
    )


def _gpu_type(pool: SlurmPool, type_: str, nodes: Sequence[SlurmNode]) -> GpuType | None:
    said = pool.gpus.get(type_, {})
    model = str(said.get("model", type_.lower().replace("_", "-")))
    if not MODEL_PATTERN.fullmatch(model):
        return None
    gib = float(said.get("memory_gib", known_memory_gib(model) or 0))
    mine = [node for node in nodes if type_ in node.configured()]
    shared = [each for node in mine if (each := shards_each(node))]
    shards = int(said.get("shards", shared[0] if shared and pool.fraction and gib else 0))
    features = set.intersection(*(set(node.features) for node in mine)) if mine else set()
    others = {feature for node in nodes if type_ not in node.configured() for feature in node.features}
    feature = min(features - others, default="")
    # Memory that nobody knows is 1 MiB: whole ones can be had, parts cannot.
    return GpuType(
        type_, model, max(1, round(gib * MIB_PER_GIB)), max(node.configured()[type_] for node in mine), shards, feature
    )


def devices_of(snapshot: Snapshot, engine: str, simulated: bool) -> tuple[Device, ...]:
    """The cluster's GPUs, as the ledger counts them."""
    found: list[Device] = []
    for node in snapshot.nodes:
        for gpu in snapshot.site.gpus:
            away = away_of(node) or snapshot.away or None
            for at in range(node.configured().get(gpu.gres, 0)):
                found.append(
                    Device(
                        device_uuid(engine, node.name, gpu.gres, at),
                        gpu.model,
                        gpu.memory_mib,
                        node=node.name,
                        order=len(found),
                        cordoned=away,
                        simulated=simulated,
                        engine=engine,
                    )
                )
    return tuple(found)


def device_uuid(engine: str, node: str, gres: str, at: int) -> str:
    return f"{engine}/{node}/{gres}/{at}"[:96]


def holdings_of(
    snapshot: Snapshot, engine: str, request: ShareRequest, places: Mapping[str, Sequence[int]]
) -> tuple[Holding, ...]:
    """What a job holds on its nodes. ``places``: numbers of GPUs by node; where they are not told, the first ones: what
    is charged is right, and Slurm alone knows which they are."""
    if request.shape is Shape.CPU:
        return ()
    found = []
    nodes = {node.name: node for node in snapshot.nodes}
    for name, told in places.items():
        node = nodes.get(name)
        gpus = [gpu for gpu in snapshot.site.gpus if node is not None and gpu.gres in node.configured()]
        gpu = next((gpu for gpu in gpus if request.model in ("", gpu.model)), None)
        if gpu is None:
            continue
        count = request.count if request.shape is Shape.WHOLE else 1
        numbers = list(told)[:count] or list(range(count))
        memory, compute = _part(request, gpu)
        found += [Holding(device_uuid(engine, name, gpu.gres, at), "", memory, compute, False) for at in numbers]
    return tuple(found)


def _part(request: ShareRequest, gpu: GpuType) -> tuple[int, int]:
    if request.shape is not Shape.FRACTION:
        return gpu.memory_mib, FULL_COMPUTE
    compute = request.compute or max(1, FULL_COMPUTE * request.memory_mib // gpu.memory_mib)
    return min(request.memory_mib, gpu.memory_mib), compute


def outlook_of(snapshot: Snapshot, jobs: Iterable[SlurmJob], request: ShareRequest, units: int, now: float) -> Outlook:
    """``units``: shards or percent that a part is; 0 of whole ones. ``jobs``: all that Slurm knows."""
    age = max(0.0, now - snapshot.seen_at)
    if not snapshot.seen_at:
        return Outlook(0, "the cluster has not been seen yet", closed=True)
    if snapshot.away:
        return Outlook(0, snapshot.away, age_s=age, closed=True)
    fitting = [(node, gpu) for node in snapshot.nodes for gpu in _could(snapshot.site, node, request)]
    here = [(node, gpu) for node, gpu in fitting if node.open]
    if request.shape is not Shape.CPU and fitting and not here:
        away = sorted({f"{node.name}: {away_of(node)}" for node, _ in fitting})
        return Outlook(0, "; ".join(away), age_s=age, closed=True)
    free = 1 if request.shape is Shape.CPU else _free(here, request, units)
    if free:
        return Outlook(free, age_s=age)
    names = {node.name for node, _ in here}
    ends = sorted(job.end_at for job in jobs if job.end_at and names & set(job.nodes) and job.life == "running")
    waiting = sum(len(job.array_tasks or ()) or 1 for job in jobs if job.life == "pending")
    line = f"{waiting} jobs wait in all" if waiting else "nobody else waits"
    if not ends:
        return Outlook(0, f"In use; {line}", age_s=age)
    in_s = max(0.0, ends[0] - now)
    return Outlook(0, f"In use; the first ends in {duration_text(in_s)} at the latest, {line}", in_s, age)


def _could(site: SlurmSite, node: SlurmNode, request: ShareRequest) -> list[GpuType]:
    have = node.configured()
    kinds = [gpu for gpu in site.gpus if gpu.gres in have and request.model in ("", gpu.model)]
    if request.shape is Shape.WHOLE:
        return [gpu for gpu in kinds if have[gpu.gres] >= request.count]
    if request.shape is Shape.FRACTION:
        return [gpu for gpu in kinds if gpu.shards and shards_each(node)]
    return kinds


def _free(here: Sequence[tuple[SlurmNode, GpuType]], request: ShareRequest, units: int) -> int:
    """How many would start now. GPUs that are shared are whole for nobody, and the other way round."""
    found = 0
    for node, gpu in here:
        each = shards_each(node)
        shared = -(-node.shards_used // each) if each else 0
        whole = max(0, node.configured()[gpu.gres] - node.taken().get(gpu.gres, 0) - shared)
        if request.shape is Shape.FRACTION and units:
            found += (whole * each + (shared * each - node.shards_used)) // units
        elif request.shape is not Shape.FRACTION:
            found += whole // max(1, request.count)
    return found // request.nodes if request.nodes > 1 else found


def shards_each(node: SlurmNode) -> int:
    """Into how many shards each GPU of the node is divided; 0: it has none."""
    gpus = sum(node.configured().values())
    return sum(node.configured("shard").values()) // gpus if gpus else 0


def away_of(node: SlurmNode) -> str:
    """Why nothing new starts on the node, in words; empty: it takes work."""
    if node.open:
        return ""
    states = ", ".join(sorted(state.lower().replace("_", " ") for state in node.states & OUT)) or "no state is told"
    return f"{states} ({node.reason})" if node.reason else states
