"""A cluster as it was seen last: which GPUs there are, what of them is free, and what to expect. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...devices.model import MIB_PER_GIB, Device
from ...devices.simulated import known_memory_gib
from ...placement import Holding
from ...shares import FULL_COMPUTE, MODEL_PATTERN, Shape, ShareRequest
from .closures import Closure, closures_of, own_names
from .config import SlurmPool
from .nodes import MAINTENANCE, OUT, SlurmNode, SlurmPartition, SlurmReservation
from .request import GpuType, MigType, SlurmSite
from .settings import Timing


@dataclass(frozen=True)
class ClusterFacts:
    """What Slurm says of itself, of all its partitions."""

    nodes: Sequence[SlurmNode] = ()
    partitions: Sequence[SlurmPartition] = ()
    reservations: Sequence[SlurmReservation] = ()
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class Snapshot:
    """``nodes``: of the pool's partition. ``away``: why the partition takes nothing. ``seen_at``: when that was.
    ``closures``: when nodes of it are set aside, by their begin. ``partition``: its name, and ``partition_qos`` that of
    the QOS whose limits it has."""

    site: SlurmSite
    nodes: tuple[SlurmNode, ...] = ()
    away: str = ""
    max_time_s: int | None = None
    seen_at: float = 0.0
    closures: tuple[Closure, ...] = ()
    timing: Timing = field(default_factory=Timing)
    partition: str = ""
    partition_qos: str = ""

    def closures_on(self, node: str, owner: str = "") -> tuple[Closure, ...]:
        return tuple(closure for closure in self.closures if closure.concerns(node, owner))


def snapshot_of(pool: SlurmPool, facts: ClusterFacts, now: float) -> Snapshot:
    """What of the cluster belongs to ``pool``. Raises ValueError for a pool that says what cannot be."""
    mine = next((p for p in facts.partitions if p.name == pool.partition or (not pool.partition and p.default)), None)
    if mine is None:
        known = ", ".join(p.name for p in facts.partitions)
        away = f"Slurm has no partition {pool.partition!r}; it has {known}" if pool.partition else "none is the default"
        return Snapshot(site_of(pool, ()), away=away, seen_at=now)
    own = [one for one in facts.reservations if one.name in own_names(pool.reservation)]
    inside = {node for one in own for node in one.nodes} if own else set(mine.nodes)
    members = [node for node in facts.nodes if node.name in mine.nodes and node.name in inside]
    closures = closures_of(facts.reservations, pool.reservation, {node.name: node.cpus for node in facts.nodes})
    away = "" if mine.up else f"the partition {mine.name} is {mine.state.lower()}"
    if pool.reservation and not own:
        away = f"Slurm has no reservation {pool.reservation!r} now"
    return Snapshot(
        site_of(pool, members),
        tuple(_but_for_maintenance(node, closures, now) for node in members),
        away,
        mine.max_time_s,
        now,
        closures,
        timing_in(pool, facts.timing),
        mine.name,
        mine.own_qos,
    )


def timing_in(pool: SlurmPool, told: Timing) -> Timing:
    """What the administrator says, else what Slurm tells."""
    return Timing(
        told.kill_wait_s if pool.kill_wait is None else pool.kill_wait,
        told.over_time_s if pool.over_time is None else pool.over_time,
    )


def _but_for_maintenance(node: SlurmNode, closures: Iterable[Closure], now: float) -> SlurmNode:
    """A node is in this state while it is set aside, of which more is known than that: when it ends."""
    known = any(closure.concerns(node.name) and closure.covers(now) for closure in closures)
    return replace(node, states=node.states - MAINTENANCE) if known else node


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
            set_aside = (one.why for one in snapshot.closures_on(node.name) if one.covers(snapshot.seen_at))
            away = away_of(node) or snapshot.away or next(set_aside, None)
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


def shards_each(node: SlurmNode) -> int:
    """Into how many shards each GPU of the node is divided; 0: it has none."""
    gpus = sum(node.configured().values())
    return sum(node.configured("shard").values()) // gpus if gpus else 0


def away_of(node: SlurmNode) -> str:
    """Why nothing new starts on the node, in words; empty: it takes work."""
    if node.open:
        return ""
    if node.unread:
        return f"what Slurm says of it is not understood ({', '.join(node.unread)})"
    states = ", ".join(sorted(state.lower().replace("_", " ") for state in node.states & OUT)) or "no state is told"
    return f"{states} ({node.reason})" if node.reason else states
