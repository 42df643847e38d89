"""Slurm's names of limits, as reasons and refusals have them: what each is about, and its value. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...clock import duration_text
from ...devices.model import MIB_PER_GIB
from .limits import Limits

_NAME = re.compile(
    r"(?P<whose>QOS|Assoc)(?P<scope>Grp|Max|Min)"
    r"(?P<what>CPU|Cpu|GRES|UnknownGRES|Mem|Memory|Node|Jobs?|SubmitJobs?|Wall|WallDuration|Billing|BB|Energy|Licen[cs]es?)"
    r"(?P<minutes>Run(?:Minutes|Mins)|Minutes|Mins)?(?P<per>PerUser|PerAccount|PerAcct|PerJob|PerNode)?"
    r"(?:Limit|NotSatisfied)?"
)
_TRES = {"cpu": "cpu", "gres": "gres/", "unknowngres": "gres/", "mem": "mem", "memory": "mem", "node": "node"}
_RESOURCES = {"cpu": "CPUs", "node": "nodes", "gres/gpu": "GPUs", "gres/shard": "shards", "billing": "billed resources"}


@dataclass(frozen=True)
class LimitName:
    """``QOSMaxGRESPerUser`` in parts: ``qos`` (else an association), ``scope`` (``Grp``, ``Max``, ``Min``), ``what`` in
    lower case, ``minutes`` and ``per`` as there."""

    text: str
    qos: bool
    scope: str
    what: str
    minutes: str = ""
    per: str = ""

    @property
    def of_jobs(self) -> bool:
        return "job" in self.what

    @property
    def of_account(self) -> bool:
        return self.per in ("PerAccount", "PerAcct")


def limit_name(text: str) -> LimitName | None:
    """None for what is no such name."""
    found = _NAME.fullmatch(text)
    if not found:
        return None
    return LimitName(
        text, found["whose"] == "QOS", found["scope"], found["what"].lower(), found["minutes"] or "", found["per"] or ""
    )


def names_in(text: str) -> list[LimitName]:
    return [name for word in re.findall(r"\w+", text) if (name := limit_name(word)) is not None]


def value_in(name: LimitName, limits: Limits) -> str:
    """What this limit is there, such as ``2 GPUs``; empty: it has none, or it was not asked for."""
    if name.scope == "Min" or name.minutes or name.per == "PerNode":
        return ""
    if name.of_jobs:
        count = _count(name, limits)
        return "" if count is None else f"{count} job{'' if count == 1 else 's'}"
    if name.what.startswith("wall"):
        seconds = limits.total_wall_s if name.scope == "Grp" else limits.max_wall_s
        return "" if seconds is None else duration_text(seconds)
    return amounts(_tres(name, limits), _TRES.get(name.what, name.what))


def _count(name: LimitName, limits: Limits) -> int | None:
    submit = name.what.startswith("submit")
    if name.scope == "Grp":
        return limits.total_submit if submit else limits.total_jobs
    if name.of_account:
        return limits.max_submit_of_account if submit else limits.max_jobs_of_account
    return limits.max_submit if submit else limits.max_jobs


def _tres(name: LimitName, limits: Limits) -> Mapping[str, int]:
    if name.scope == "Grp":
        return limits.total
    if name.of_account:
        return limits.of_account
    return limits.of_user if name.per == "PerUser" else limits.of_job


def amounts(tres: Mapping[str, int], begins: str = "") -> str:
    """``2 GPUs, 64 GiB of memory``. ``begins``: of those only whose names begin so."""
    return ", ".join(amount(name, count) for name, count in tres.items() if name.startswith(begins))


def amount(name: str, count: int) -> str:
    if name == "mem":
        return f"{count / MIB_PER_GIB:g} GiB of memory"
    if name.startswith("gres/gpu:"):
        return f"{count} {name.removeprefix('gres/gpu:')} GPU{'' if count == 1 else 's'}"
    words = _RESOURCES.get(name, name.removeprefix("gres/"))
    return f"{count} {words[:-1] if count == 1 and words.endswith('s') else words}"


def value_of(name: LimitName, candidates: Iterable[Limits]) -> str:
    """Of the first of ``candidates`` that has it, with whose it is: ``2 GPUs in QOS interactive``."""
    for limits in candidates:
        if bool(limits.account) != name.qos and (value := value_in(name, limits)):
            return f"{value} {whose(limits)}"
    return ""


def whose(limits: Limits) -> str:
    if not limits.account:
        return f"in QOS {limits.name}"
    return f"for {limits.user} in account {limits.account}" if limits.user else f"for the account {limits.account}"
