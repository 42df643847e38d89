"""Which rules of the limits hold on which engine. Pure.

On this machine timeshare orders and places the work itself, so all hold. An engine such as Slurm orders and places it
in its own terms: there some rules do not hold, and some hold in another way. The shipped files say so at the rule, the
schema in its description, and who states such a rule where it cannot hold is warned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from .effective import BUILT_IN
from .pools import matches
from .schema import CalendarEntry, Limits, PoolLimits
from .values import Fault, Where

HERE = "local"
"""What the limits call the engine of this machine."""
ANY = "*"
"""A step of a place: any name, or any number of a list."""


@dataclass(frozen=True)
class Difference:
    """What becomes of a rule on an engine that places work itself. ``holds``: in another way; else not at all.
    ``words``: what happens there instead, and what to use."""

    holds: bool
    words: str

    @property
    def text(self) -> str:
        """For people, at the rule."""
        return f"{'On Slurm' if self.holds else 'Not on Slurm'}: {self.words}."


def _none(words: str) -> Difference:
    return Difference(False, words)


def _other(words: str) -> Difference:
    return Difference(True, words)


PERSON = (("defaults",), ("groups", ANY, "each"), ("users", ANY))
FAIR = _none("its own fair share orders the work, by the shares of its accounts (sacctmgr)")
RESERVED = _none("set nodes aside by its own reservations (scontrol create reservation)")
ALONE = "what asks for nothing gets {} of c.SlurmPool"
DIFFERENCES: Mapping[Where, Difference] = {
    **{(*scope, "shares"): FAIR for scope in PERSON},
    **{
        (*scope, kind, "default_cpus"): _none(ALONE.format("cpus for each GPU"))
        for scope in PERSON
        for kind in ("sessions", "jobs")
    },
    **{
        (*scope, kind, "default_host_memory_gib"): _none(ALONE.format("memory_gib for each GPU"))
        for scope in PERSON
        for kind in ("sessions", "jobs")
    },
    **{(*scope, "extension"): _other("ends can be moved with c.SlurmPool.extend only") for scope in PERSON},
    **{
        (*place, "idle", "then"): _other("it takes back a whole job or nothing, so an idle session is stopped")
        for place in (*PERSON, ("pools", ANY))
    },
    ("groups", ANY, "shares"): FAIR,
    ("groups", ANY, "quota"): _none("guarantee GPUs by its own QOS or reservations"),
    ("fair_share",): FAIR,
    ("backfill_depth",): _none("its own backfill plans (bf_max_job_test in SchedulerParameters)"),
    ("pools", ANY, "gpus"): _none("use MaxTRESPerUser of a QOS of its partition; gpus of a person does hold"),
    ("pools", ANY, "keep_for_sessions"): _none("use a partition or a QOS of its own for sessions"),
    ("pools", ANY, "preempt"): _none("use its own preemption (PreemptType and QOS)"),
    ("events", ANY): RESERVED,
    ("maintenance", ANY): RESERVED,
    ("host_memory_fraction",): _none("a job's memory is bounded by RealMemory of its node and MaxMemPerNode"),
    ("parking",): _none("nothing is kept of the GPU of a session there"),
    ("retention", "session_logs"): _none("logs of sessions lie in log_folder of their owners"),
    ("retention", "session_logs_gib"): _none("logs of sessions lie in log_folder of their owners"),
}
"""By the begin of a place in the file: everything below it. What is not named holds there as here."""


def difference(place: Where) -> Difference | None:
    """What becomes of the rule at ``place`` on an engine that places work itself; None: it holds there as here."""
    for begin, found in DIFFERENCES.items():
        if len(begin) <= len(place) and all(step in (ANY, at) for step, at in zip(begin, place, strict=False)):
            return found
    return None


def stated(limits: Limits, within: Where = ()) -> Iterator[tuple[Where, Difference]]:
    """Yield each place below ``within`` where the file says a rule of ``DIFFERENCES``, as far up as it is one."""
    for begin, found in DIFFERENCES.items():
        for place in _places(limits, begin, ()):
            if place[: len(within)] == within:
                yield place, found


def _places(node: Any, steps: Where, above: Where) -> Iterator[Where]:
    """Places that match ``steps`` and are written in the file."""
    if not steps:
        if node not in (None, ()):
            yield above
        return
    step, rest = steps[0], steps[1:]
    if step == ANY:
        entries = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, inner in entries:
            yield from _places(inner, rest, (*above, key))
    elif isinstance(node, BaseModel) and str(step) in node.model_fields_set:
        yield from _places(getattr(node, str(step)), rest, (*above, str(step)))


def not_held(limits: Limits, where: str) -> Iterator[Fault]:
    """Yield every rule of the file that does not hold where nothing runs on this machine. ``where``: in words. What is
    as it would be without the file, as in the one that is shipped, is not meant for anything."""
    for place, found in stated(limits):
        told_elsewhere = place[0] == "pools" or _entry_of_pool(limits, place)
        if not found.holds and not told_elsewhere and not _is_default(limits, place):
            yield Fault(place, text_of(place, found, where))


def _entry_of_pool(limits: Limits, place: Where) -> bool:
    """Whether the pool of an event or a maintenance is told of already: all of it is elsewhere."""
    entries: Mapping[Any, tuple[CalendarEntry, ...]] = {"events": limits.events, "maintenance": limits.maintenance}
    found = entries[place[0]][int(place[1])] if place[0] in entries else None
    return found is not None and found.pool is not None and is_elsewhere(limits.pools[found.pool])


def _is_default(limits: Limits, place: Where) -> bool:
    value, default = _at(limits, place), _at(Limits(), place)
    if place[0] == "defaults":
        default = BUILT_IN.get(".".join(str(step) for step in place[1:]))
    return bool(value == default)


def _at(node: Any, place: Where) -> Any:
    for step in place:
        if isinstance(node, Mapping):
            node = node.get(step)
        elif isinstance(node, tuple):
            node = node[step] if isinstance(step, int) and step < len(node) else None
        else:
            node = getattr(node, str(step), None)
    return node


def is_elsewhere(pool: PoolLimits) -> bool:
    """Whether no device of this machine can be of ``pool``."""
    return bool(pool.engines) and not matches(HERE, pool.engines)


def text_of(place: Where, found: Difference, where: str) -> str:
    """A warning about the rule at ``place``."""
    key = next(str(step) for step in reversed(place) if isinstance(step, str))
    return (
        f"does not hold in {where}: an engine such as Slurm places and orders the work itself, and {key} holds on this "
        f"machine only; there {found.words}, see docs/slurm.md"
    )


def with_differences(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the file, whose descriptions say where a rule does not hold."""
    for begin, found in DIFFERENCES.items():
        node, name = _described(schema, begin)
        if node is not None:
            told = node.setdefault("properties", {})[name]
            if found.text not in told.get("description", ""):
                told["description"] = f"{told.get('description', '')} {found.text}".strip()
    return schema


def _described(schema: dict[str, Any], place: Where) -> tuple[dict[str, Any] | None, str]:
    """The section of the schema in which the last step of ``place`` is a key."""
    place = place[:-1] if place[-1] == ANY else place  # what is said of each entry is said of the list
    node = schema
    for step in place[:-1]:
        inner = node.get("additionalProperties") if step == ANY else node.get("properties", {}).get(step)
        if not isinstance(inner, dict):
            return None, ""
        node = _resolved(inner, schema)
    return (node, str(place[-1])) if place[-1] in node.get("properties", {}) else (None, "")


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node
