"""What ``scontrol show node`` and ``scontrol show partition`` say, with ``-o``: a line each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .errors import Unreadable
from .values import counts, hosts, tres

_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z/]*)=")
_AWAY = {
    "DOWN": "it is down",
    "DRAIN": "it is being emptied",
    "FAIL": "it is failing",
    "ERROR": "it has an error",
    "NOT_RESPONDING": "it does not answer",
    "MAINT": "it is in maintenance",
    "RESERVED": "it is reserved",
    "REBOOT": "it restarts",
    "POWERED_DOWN": "it is switched off",
    "UNKNOWN": "nobody knows how it is",
    "FUTURE": "it is not there yet",
    "INVAL": "it is not as it should be",
}


@dataclass(frozen=True)
class SlurmNode:
    """``gpus``: how many by type; ``shards``: in all. ``used``: GPUs by type, ``shards_used``: shards, that jobs hold.
    ``away``: why nothing starts on it now, in words; empty: it takes work. ``features``: active ones."""

    name: str
    address: str
    partitions: tuple[str, ...]
    gpus: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0
    used: Mapping[str, int] = field(default_factory=dict)
    shards_used: int = 0
    away: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlurmPartition:
    """``max_time_s`` None: no limit. ``away``: why nothing starts there; empty: it takes work."""

    name: str
    nodes: tuple[str, ...]
    max_time_s: int | None
    default: bool
    away: str = ""


def read_nodes(text: str) -> list[SlurmNode]:
    """Raises Unreadable."""
    return [_node(row) for row in _rows(text, "NodeName", "scontrol show node")]


def read_partitions(text: str) -> list[SlurmPartition]:
    """Raises Unreadable."""
    return [_partition(row) for row in _rows(text, "PartitionName", "scontrol show partition")]


def _rows(text: str, first: str, what: str) -> Iterator[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not all(line.startswith(f"{first}=") for line in lines):
        raise Unreadable(what, text)
    for line in lines:
        at = [(match[1], match.start(), match.end()) for match in _FIELD.finditer(line)]
        ends = [start for _, start, _ in at[1:]] + [len(line)]
        yield {name: line[begin:end].strip() for (name, _, begin), end in zip(at, ends, strict=True)}


def _node(row: Mapping[str, str]) -> SlurmNode:
    try:
        configured, held = counts(row["Gres"]), tres(row.get("AllocTRES", ""))
        gpus: dict[str, int] = {}
        for (kind, type_), count in configured.items():
            if kind == "gpu":
                gpus[type_ or "gpu"] = gpus.get(type_ or "gpu", 0) + count
        typed = {type_: held[f"gpu:{type_}"] for type_ in gpus if f"gpu:{type_}" in held}
        # Without types there is the sum only.
        used = typed or ({next(iter(gpus)): held.get("gpu", 0)} if len(gpus) == 1 else {})
        shards = sum(count for (kind, _), count in configured.items() if kind == "shard")
        features = row.get("ActiveFeatures", "")
        return SlurmNode(
            name=row["NodeName"],
            address=row.get("NodeAddr") or row["NodeName"],
            partitions=tuple(row.get("Partitions", "").split(",")) if row.get("Partitions") else (),
            gpus=gpus,
            shards=shards,
            used=used,
            shards_used=held.get("shard", 0),
            away=_away(row["State"], row.get("Reason", "")),
            features=tuple(features.split(",")) if features and features != "(null)" else (),
        )
    except (KeyError, ValueError) as error:
        raise Unreadable("scontrol show node", str(dict(row)), repr(error)) from None


def _away(told: str, reason: str) -> str:
    flags = told.upper().replace("*", "+NOT_RESPONDING").split("+")
    why = next((text for flag in flags for word, text in _AWAY.items() if flag.startswith(word)), "")
    said = re.sub(r"\s*\[.*$", "", reason)
    return f"{why} ({said})" if why and said else why


def _partition(row: Mapping[str, str]) -> SlurmPartition:
    try:
        up = row["State"].upper() == "UP"
        return SlurmPartition(
            name=row["PartitionName"],
            nodes=hosts(row["Nodes"]),
            max_time_s=duration_s(row["MaxTime"]),
            default=row["Default"].upper() == "YES",
            away="" if up else f"the partition {row['PartitionName']} is {row['State'].lower()}",
        )
    except (KeyError, ValueError) as error:
        raise Unreadable("scontrol show partition", str(dict(row)), repr(error)) from None


def duration_s(text: str) -> int | None:
    """``2-00:00:00`` in seconds; None without end. Raises ValueError."""
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", "N/A"):
        return None
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = ([0] * (3 - len(parts)) + parts) if not days else [*parts, 0, 0][:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
