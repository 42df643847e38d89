"""What follows for timeshare from what a Slurm says about itself. Pure; ``slurm_doctor`` asks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..reservations.clock import duration_text
from ..reservations.deployment import Deployment
from ..reservations.engines.slurm.cluster import away_of, shards_each, site_of
from ..reservations.engines.slurm.config import SlurmPool
from ..reservations.engines.slurm.nodes import SlurmNode, SlurmPartition
from ..reservations.engines.slurm.settings import timing_of
from .findings import FAIL, NOTE, OK, WARN, Finding

OLDEST = (22, 5)
KILL_WAIT_S = 30
"""Enough for most to save in, after Slurm's own SIGTERM."""
_VERSION = re.compile(r"(\d+)\.(\d+)\S*")
_SEES_ALL = ("operator", "administrator")
_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True)
class Asker:
    """The account that asks, which is the service's later. ``admin_level``: in Slurm's accounting, empty if unknown."""

    name: str
    uid: int
    admin_level: str = ""

    def is_trusted(self, config: Mapping[str, str]) -> bool:
        """Whether Slurm lets it see and change the jobs of others."""
        slurm = config.get("SlurmUser", "").partition("(")[0]
        return self.uid == 0 or self.name == slurm or self.admin_level.lower() in _SEES_ALL


def version(config: Mapping[str, str]) -> Finding:
    said = config["SLURM_VERSION"]
    found = _VERSION.match(said)
    text = f"{said} of cluster {config.get('ClusterName') or '(no name)'} answers"
    if found and (int(found[1]), int(found[2])) >= OLDEST:
        return Finding(OK, "slurmctld", text)
    return Finding(WARN, "slurmctld", text, "timeshare reads what Slurm 22.05 to 25.05 say; others may be misread")


def privacy(config: Mapping[str, str], asker: Asker) -> Finding:
    """Jobs that it does not see it would take for lost."""
    hidden = sorted({"jobs", "nodes", "partitions"} & set(config.get("PrivateData", "").lower().split(",")))
    if not hidden:
        return Finding(OK, "visibility", "Slurm shows everybody's jobs to everybody")
    if asker.is_trusted(config):
        return Finding(OK, "visibility", f"PrivateData hides {', '.join(hidden)}, but not from {asker.name}")
    detail = f"PrivateData hides {', '.join(hidden)} from {asker.name}: jobs of others would be taken for lost"
    return Finding(FAIL, "visibility", detail, f"sacctmgr modify user {asker.name} set AdminLevel=Operator")


def own_machine(pool: SlurmPool, asker: Asker, local: bool) -> Finding:
    """Without root accounts are kept apart in Slurm, and not here. ``local``: whether anything runs here."""
    if not local:
        return Finding(OK, "this machine", "nothing that people start runs here (--no-local)")
    if asker.uid == 0 or not pool.run_as:
        return Finding(
            OK,
            "this machine",
            "what people run here is kept apart as on the nodes"
            if pool.run_as
            else "all run as one account, as on the nodes",
        )
    detail = f"sessions and batch that name no engine run as {asker.name}, which may read this deployment's tokens"
    return Finding(WARN, "this machine", detail, "timeshare up --no-local, or run timeshare as root")


def extension(pool: SlurmPool, config: Mapping[str, str], asker: Asker) -> Finding:
    if not pool.extend:
        return Finding(OK, "extension", "extend is False: ends in Slurm cannot be moved")
    if asker.is_trusted(config):
        return Finding(OK, "extension", f"{asker.name} may move ends in Slurm")
    advice = f"sacctmgr modify user {asker.name} set AdminLevel=Operator, or leave extend out"
    return Finding(FAIL, "extension", f"extend is True, but {asker.name} is no operator of this Slurm", advice)


def own_partition(pool: SlurmPool, partitions: Sequence[SlurmPartition]) -> SlurmPartition | None:
    return next((p for p in partitions if p.name == pool.partition or (not pool.partition and p.default)), None)


def partition(pool: SlurmPool, partitions: Sequence[SlurmPartition]) -> Finding:
    known = ", ".join(one.name for one in partitions)
    mine = own_partition(pool, partitions)
    if mine is None and pool.partition:
        detail = f"Slurm has no partition {pool.partition!r}"
        return Finding(FAIL, "partition", detail, f"set partition to one of {known}")
    if mine is None:
        return Finding(FAIL, "partition", "none is Slurm's default", f"set partition to one of {known}")
    longest = "without limit" if mine.max_time_s is None else duration_text(mine.max_time_s)
    text = f"{mine.name}, {len(mine.nodes)} nodes, longest time {longest}"
    if not mine.up:
        advice = f"scontrol update partition={mine.name} state=up"
        return Finding(WARN, "partition", f"{text}; it is {mine.state.lower()}: nothing starts", advice)
    return Finding(OK, "partition", text)


def open_nodes(nodes: Sequence[SlurmNode]) -> Finding:
    away = [f"{node.name}: {away_of(node)}" for node in nodes if not node.open]
    if len(away) == len(nodes):
        return Finding(WARN, "nodes", f"none takes work: {'; '.join(away)}", "sinfo -R; scontrol update … state=resume")
    return Finding(OK, "nodes", f"{len(nodes) - len(away)} of {len(nodes)} take work{''.join(f'; {a}' for a in away)}")


def gpus(pool: SlurmPool, nodes: Sequence[SlurmNode]) -> Iterator[Finding]:
    """``nodes``: of the pool's partition."""
    types = sorted({type_ for node in nodes for type_ in node.configured()})
    for name in ("gpus", "mig"):
        for unknown in sorted(set(getattr(pool, name)) - set(types)):
            detail = f"{name} names {unknown!r}, which no node of the partition has"
            known = f"their types are {', '.join(map(repr, types))}" if types else "they have no GPUs"
            yield Finding(FAIL, "GPUs", detail, f"{known}; see Gres in slurm.conf and Name=gpu Type= in gres.conf")
    try:
        site = site_of(pool, nodes)
    except ValueError as error:
        yield Finding(FAIL, "GPUs", str(error), "correct it in timeshare_slurm.py")
        return
    if not site.gpus and not site.mig:
        detail = "the nodes of the partition have none of a type: only sessions without a GPU are offered"
        yield Finding(WARN, "GPUs", detail, "give GPUs a type, in slurm.conf and gres.conf alike: Gres=gpu:a100:4")
    for gpu in site.gpus:
        text = f"{gpu.gres} is offered as {gpu.model}, at most {gpu.per_node} on a node"
        if gpu.memory_mib == 1:
            advice = f"gpus = {{{gpu.gres!r}: {{'model': {gpu.model!r}, 'memory_gib': …}}}}"
            yield Finding(NOTE, "GPUs", f"{text}; its memory is not known, so parts of it are not", advice)
        else:
            yield Finding(OK, "GPUs", f"{text}, {gpu.memory_mib / 1024:g} GiB each")


def sharing(pool: SlurmPool, nodes: Sequence[SlurmNode], config: Mapping[str, str]) -> Finding:
    """Parts of GPUs; and the trap that jobs with shards are not told their GPU where mps is known too."""
    what, types = "parts of GPUs", [name.strip() for name in config.get("GresTypes", "").split(",") if name.strip()]
    if "gpu" not in types and any(node.configured() for node in nodes):
        return Finding(FAIL, what, "GresTypes has no gpu", "GresTypes=gpu,shard in slurm.conf")
    if {"shard", "mps"} <= set(types):
        detail = "GresTypes has shard and mps: jobs with shards are then not told their GPU"
        advice = "keep one of them: GresTypes=gpu,shard in slurm.conf, then restart slurmctld and every slurmd"
        return Finding(FAIL if pool.fraction else WARN, what, detail, advice)
    having = [node for node in nodes if node.configured(pool.fraction or "shard")]
    if not pool.fraction:
        text = "not offered (fraction is empty)"
        advice = "fraction = 'shard' offers them" if having else ""
        return Finding(NOTE if having else OK, what, text, advice)
    if not having:
        detail = f"fraction is {pool.fraction!r}, but no node of the partition has any"
        advice = f"add {pool.fraction} to GresTypes, and to Gres of nodes in slurm.conf and gres.conf; or leave it out"
        return Finding(FAIL, what, detail, advice)
    wrong = _miscounted(pool, having) if pool.fraction == "shard" else ""
    if wrong:
        return Finding(FAIL, what, wrong, "say what gres.conf says: a part must fit one GPU, or it waits for ever")
    return Finding(OK, what, f"{pool.fraction} on {len(having)} of {len(nodes)} nodes")


def _miscounted(pool: SlurmPool, nodes: Sequence[SlurmNode]) -> str:
    """Where ``shards`` of a type is not what a node has of each GPU."""
    for node in nodes:
        for type_ in node.configured():
            said, have = int(pool.gpus.get(type_, {}).get("shards", 0)), shards_each(node)
            if said and said != have:
                return f"shards of {type_!r} is {said}, but node {node.name} has {have} for each GPU"
    return ""


def part_limits(config: Mapping[str, str]) -> Finding:
    said = config.get("EnforcePartLimits", "") or "NO"
    if said.upper() in ("ALL", "ANY", "YES"):
        return Finding(OK, "EnforcePartLimits", f"{said}: what no partition allows is refused at once")
    detail = f"{said}: a job that a partition does not allow waits for ever"
    return Finding(WARN, "EnforcePartLimits", detail, "EnforcePartLimits=ALL in slurm.conf")


def confinement(config: Mapping[str, str]) -> Finding:
    what, plugins = "devices of jobs", config.get("TaskPlugin", "")
    if config.get("ConstrainDevices", "").lower() == "yes" and "task/cgroup" in plugins:
        return Finding(OK, what, "a job can open its own GPUs only (ConstrainDevices)")
    if "ConstrainDevices" not in config:
        detail = "Slurm does not tell ConstrainDevices: nobody knows whether jobs can open the GPUs of others"
    else:
        detail = "every job can open every GPU of its node: sessions are held cooperatively"
    return Finding(WARN, what, detail, "TaskPlugin=task/cgroup in slurm.conf, ConstrainDevices=yes in cgroup.conf")


def requeue(config: Mapping[str, str]) -> Finding:
    found = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    seconds = int(found[1]) if found else 120
    text = f"a batch job that is started again waits {seconds} s first"
    if seconds <= 60:
        return Finding(OK, "requeue", text)
    return Finding(NOTE, "requeue", text, "AuthInfo=cred_expire=30 in slurm.conf makes it shorter")


def kill_wait(config: Mapping[str, str]) -> Finding:
    seconds = timing_of(config).kill_wait_s
    text = f"what is ended in Slurm itself has {seconds:g} s from SIGTERM to SIGKILL"
    if seconds >= KILL_WAIT_S:
        return Finding(OK, "KillWait", text)
    advice = f"KillWait={KILL_WAIT_S} in slurm.conf: what is open may not be saved in less"
    return Finding(NOTE, "KillWait", text, advice)


def addresses(pool: SlurmPool, nodes: Sequence[SlurmNode], host: str, here: Deployment | None) -> Iterator[Finding]:
    """``service_url`` and ``hub_api_url`` as nodes would use them. ``host``: this machine's own name. ``here``: whose
    public address stands in for an empty one; None: it was not started yet."""
    public = ("", "") if here is None else (here.public_service_url, here.public_hub_api_url)
    far = sorted(n.name for n in nodes if not n.address.startswith(_LOOPBACK) and n.address.partition(".")[0] != host)
    for name, stand_in in zip(("service_url", "hub_api_url"), public, strict=True):
        own = getattr(pool, name)
        url, origin = (own, "") if own else (stand_in, ", the hub's public address,")
        if far and not url:
            detail = f"{name} is empty, and the hub's public address is not known before its first start"
            yield Finding(NOTE, name, detail, "start the hub, and ask again")
        elif far and (urlsplit(url).hostname or "").startswith(_LOOPBACK):
            detail = f"{name} is {url!r}{origin} and on {far[0]} that is the node itself"
            advice = "name the address by which nodes reach this machine; docs/slurm.md, The network"
            yield Finding(FAIL, name, detail, advice)
        elif url and urlsplit(url).scheme != "https" and far:
            detail = f"{url}: keys and tokens go over the network as they are"
            yield Finding(WARN, name, detail, "put a web server with TLS before the hub, and use https")
        else:
            yield Finding(OK, name, url or "this machine, where the nodes are too")
