"""What Slurm says about nodes, partitions and reservations. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import Unreadable
from .fields import (
    NOTHING,
    Gres,
    document,
    duration,
    entry_of,
    gres,
    hosts,
    moment,
    number,
    pairs,
    quantity,
    text,
    tres,
    words,
)
from .odd import Odd, each

T = TypeVar("T")

OUT = frozenset(
    {
        "BLOCKED",
        "DOWN",
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "ERROR",
        "FAIL",
        "FAILING",
        "FUTURE",
        "INVALID_REG",
        "MAINT",
        "MAINTENANCE",
        "NOT_RESPONDING",
        "NO_RESPOND",
        "REBOOT_ISSUED",
        "REBOOT_REQUESTED",
        "UNKNOWN",
    }
)
"""States in which nothing new is started on a node."""
MAINTENANCE = frozenset({"MAINT", "MAINTENANCE"})
"""Of these, the one that a reservation of Slurm puts it into, for as long as that lasts."""
_SIGNS = {
    "*": "NOT_RESPONDING",
    "~": "POWERED_DOWN",
    "#": "POWERING_UP",
    "!": "POWER_DOWN",
    "%": "POWERING_DOWN",
    "$": "MAINT",
    "@": "REBOOT_REQUESTED",
    "^": "REBOOT_ISSUED",
    "-": "PLANNED",
}
_REASON = re.compile(r"(.*?)\s*\[[^\[\]@]*@[^\[\]]*\]", re.DOTALL)


@dataclass(frozen=True)
class SlurmNode:
    """``gres``: what is configured; ``used``: of that, what jobs hold, with indices of GPUs where they are told.

    ``shards_used`` is right where ``used`` is not: Slurm counts each job's shards as one there.
    """

    name: str
    address: str
    states: frozenset[str]
    cpus: int
    memory_mib: int
    reason: str = ""
    gres: tuple[Gres, ...] = ()
    used: tuple[Gres, ...] = ()
    shards_used: int = 0
    cpus_used: int = 0
    memory_used_mib: int = 0
    partitions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """What Slurm says of it and is not understood, by Slurm's names: nobody can say what of it is free."""

    @property
    def open(self) -> bool:
        """Whether Slurm starts new jobs there, as far as its states tell."""
        return bool(self.states) and not self.states & OUT and not self.unread

    def configured(self, name: str = "gpu") -> dict[str, int]:
        """How many of each type it has; ``name``: ``gpu``, ``shard`` or ``mps``."""
        return _counted(self.gres, name)

    def taken(self, name: str = "gpu") -> dict[str, int]:
        """How many of each type are held."""
        return _counted(self.used, name)

    def taken_indices(self) -> frozenset[int] | None:
        """Which GPUs are held, wholly or in part; None: not told."""
        found: set[int] = set()
        for one in self.used:
            if one.name not in ("gpu", "shard", "mps"):
                continue
            if one.indices is None and one.count:
                return None
            found.update(one.indices or ())
        return frozenset(found)


def _counted(all_of_it: Iterable[Gres], name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in all_of_it:
        if one.name == name:
            found[one.kind] = found.get(one.kind, 0) + one.count
    return found


NODES_ARGV = ("scontrol", "show", "node", "-d", "-o", "--all")
"""For ``parse_nodes``; every release answers it in the same way. All: those in hidden partitions too."""
PARTITIONS_ARGV = ("scontrol", "show", "partition", "-o", "--all")
RESERVATIONS_ARGV = ("scontrol", "show", "reservation", "-o")


def parse_nodes(out: str, odd: Odd | None = None) -> list[SlurmNode]:
    """From the text of ``NODES_ARGV``. A cluster has nodes: none is not understood. A node of which something is not
    understood takes no work: see ``unread``."""
    what = "scontrol show node"
    found = each(what, _lines(out), lambda line: _node(pairs(line, what, "NodeName")), odd)
    if not found:
        raise Unreadable(what, out, "no nodes")
    if odd is not None:
        for node in found:
            if node.unread:
                odd.notes.append(f"of the node {node.name} is not understood: {', '.join(node.unread)}")
    return found


def untyped(nodes: Iterable[SlurmNode]) -> list[str]:
    """Which nodes have GPUs without a type, in words: nobody can ask for these by their model."""
    names = [node.name for node in nodes if node.configured().get("")]
    if not names:
        return []
    few = ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
    return [
        f"GPUs of {few} have no type in Slurm, so they are not offered: set Type= in gres.conf, and the Gres of nodes"
    ]


FEW = 4
"""Nodes that are named one by one."""


def _lines(out: str) -> list[str]:
    return [line for line in out.split("\n") if line.strip()]


def _node(told: dict[str, str]) -> SlurmNode:
    if not told["NodeName"] or not {"State", "CPUTot", "RealMemory", "Gres"} <= told.keys():
        raise Unreadable("scontrol show node", repr(told), "a node without state, CPUs, memory or resources")
    one = _Fields(told)
    nothing: dict[str, int] = {}
    held = one.read("AllocTRES", tres, nothing)
    remark = text(told.get("Reason"))
    by_whom = _REASON.fullmatch(remark)
    return SlurmNode(
        name=told["NodeName"],
        address=text(told.get("NodeAddr")) or told["NodeName"],
        states=one.read("State", _states, frozenset({"UNKNOWN"})),
        cpus=one.read("CPUTot", quantity, 0),
        memory_mib=one.read("RealMemory", quantity, 0),
        reason=by_whom[1] if by_whom else remark,
        gres=one.read("Gres", gres, ()),
        used=one.read("GresUsed", gres, ()),
        shards_used=held.get("gres/shard", 0),
        cpus_used=held.get("cpu", 0),
        memory_used_mib=held.get("mem", 0),
        partitions=_list(told.get("Partitions", "")),
        features=_list(told.get("ActiveFeatures", "")),
        unread=tuple(one.unread),
    )


class _Fields:
    """Of one entry, each read by itself. ``unread``: names of those that are not understood."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told
        self.unread: list[str] = []

    def read(self, name: str, read: Callable[[str], T], otherwise: T) -> T:
        try:
            return read(self._told.get(name, ""))
        except Unreadable:
            self.unread.append(name)
            return otherwise


def _states(value: str) -> frozenset[str]:
    """``DOWN*+DRAIN`` -> DOWN NOT_RESPONDING DRAIN."""
    found: set[str] = set()
    for part in value.split("+"):
        name = part.rstrip("".join(_SIGNS))
        found |= {name.upper(), *(_SIGNS[sign] for sign in part[len(name) :])}
    if "" in found:
        raise Unreadable("a node's state", value)
    return frozenset(found)


def _list(value: str) -> tuple[str, ...]:
    return () if value in NOTHING else tuple(value.split(","))


def parse_nodes_json(out: str, odd: Odd | None = None) -> list[SlurmNode]:
    """From ``sinfo --json`` of Slurm 22.05, or ``scontrol show nodes --json`` of later releases, whose ``sinfo --json``
    is a summary of several nodes each and is not understood."""
    found = each("sinfo", document(out, "sinfo", "nodes"), lambda entry: _node_of(entry_of(entry, "sinfo")), odd)
    if not found:
        raise Unreadable("sinfo", out, "no nodes")
    return found


def _node_of(entry: dict[str, Any]) -> SlurmNode:
    name, cpus, memory = text(entry.get("name")), number(entry.get("cpus")), number(entry.get("real_memory"))
    states = words(entry.get("state")) + words(entry.get("state_flags") or [])
    if not name or not states or cpus is None or memory is None:
        raise Unreadable("sinfo", repr(entry), "a node without name, state, CPUs or memory")
    held = tres(text(entry.get("tres_used")))
    features = entry.get("active_features") or []
    return SlurmNode(
        name=name,
        address=text(entry.get("address")) or name,
        states=frozenset(states),
        cpus=cpus,
        memory_mib=memory,
        reason=text(entry.get("reason")),
        gres=gres(text(entry.get("gres"))),
        used=gres(text(entry.get("gres_used"))),
        shards_used=held.get("gres/shard", 0),
        cpus_used=held.get("cpu", 0),
        memory_used_mib=held.get("mem", 0),
        partitions=tuple(entry.get("partitions") or ()),
        features=_list(features) if isinstance(features, str) else tuple(features),
    )


@dataclass(frozen=True)
class SlurmPartition:
    """``max_time_s``, ``default_time_s``: None: without limit, and: as the longest. ``accounts``, ``groups``,
    ``qos``: who may; None: everybody. ``up``: it starts jobs. ``own_qos``: whose limits hold for all in it."""

    name: str
    nodes: tuple[str, ...]
    up: bool
    state: str
    default: bool = False
    max_time_s: int | None = None
    default_time_s: int | None = None
    accounts: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None
    accounts_denied: tuple[str, ...] = ()
    qos_denied: tuple[str, ...] = ()
    own_qos: str = ""


def parse_partitions(out: str, odd: Odd | None = None) -> list[SlurmPartition]:
    """From the text of ``PARTITIONS_ARGV``."""
    what = "scontrol show partition"
    found = each(what, _lines(out), lambda line: _partition(pairs(line, what, "PartitionName")), odd)
    if not found:
        raise Unreadable(what, out, "no partitions")
    return found


def _partition(told: dict[str, str]) -> SlurmPartition:
    if not told["PartitionName"] or not {"State", "MaxTime", "Nodes"} <= told.keys():
        raise Unreadable("scontrol show partition", repr(told), "a partition without state, time or nodes")
    return SlurmPartition(
        name=told["PartitionName"],
        nodes=hosts(told["Nodes"]),
        up=told["State"] == "UP",
        state=told["State"],
        default=told.get("Default") == "YES",
        max_time_s=duration(told["MaxTime"]),
        default_time_s=duration(told.get("DefaultTime", "")),
        accounts=_allowed(told.get("AllowAccounts", "ALL")),
        groups=_allowed(told.get("AllowGroups", "ALL")),
        qos=_allowed(told.get("AllowQos", "ALL")),
        accounts_denied=_list(told.get("DenyAccounts", "")),
        qos_denied=_list(told.get("DenyQos", "")),
        own_qos=text(told.get("QoS")),
    )


def _allowed(value: str) -> tuple[str, ...] | None:
    return None if value.upper() == "ALL" else _list(value)


@dataclass(frozen=True)
class SlurmReservation:
    """Nodes that are set aside from ``begins_at`` to ``ends_at``, in seconds since the epoch. ``cpus``: how many of
    theirs; None: not told."""

    name: str
    begins_at: float
    ends_at: float
    nodes: tuple[str, ...]
    flags: frozenset[str] = frozenset()
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    cpus: int | None = None

    @property
    def maintenance(self) -> bool:
        return "MAINT" in self.flags


def parse_reservations(out: str, odd: Odd | None = None) -> list[SlurmReservation]:
    """From the text of ``RESERVATIONS_ARGV``, which says in words that there are none."""
    what = "scontrol show reservation"
    lines = [line for line in _lines(out) if line.strip() != "No reservations in the system"]
    if not lines and out.strip():
        return []
    found = each(what, lines, lambda line: _reservation(pairs(line, what, "ReservationName")), odd)
    if not found:
        raise Unreadable(what, out)
    return found


def _reservation(told: dict[str, str]) -> SlurmReservation:
    begins_at, ends_at = moment(told.get("StartTime", "")), moment(told.get("EndTime", ""))
    if not told["ReservationName"] or begins_at is None or ends_at is None or "Nodes" not in told:
        raise Unreadable("scontrol show reservation", repr(told), "a reservation without times or nodes")
    return SlurmReservation(
        name=told["ReservationName"],
        begins_at=begins_at,
        ends_at=ends_at,
        nodes=hosts(told["Nodes"]),
        flags=frozenset(_list(told.get("Flags", ""))),
        users=_list(told.get("Users", "")),
        accounts=_list(told.get("Accounts", "")),
        cpus=tres(told.get("TRES", "")).get("cpu"),
    )
