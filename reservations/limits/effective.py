"""What one person may have: the scopes of the file, and the overrides, brought together. Pure.

For each key the first of these that says something counts:

1. overrides in force for her, the newest first, then those for her groups;
2. ``users.NAME``;
3. ``groups.G.each`` of her groups (with what these inherit): the most generous of what they say;
4. ``defaults``;
5. what is built in (``BUILT_IN``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..kind import Kind
from ..shares import Shape
from .schema import Budget, Limits, PersonLimits, Section
from .values import UNLIMITED

BUILT_IN: Mapping[str, Any] = {
    "shapes": tuple(Shape),
    "models": ("*",),
    "largest": UNLIMITED,
    "gpus": UNLIMITED,
    "waiting": UNLIMITED,
    "sessions.at_once": 4.0,
    "sessions.default_time": 2 * 3600,
    "sessions.max_time": 12 * 3600,
    "sessions.default_cpus": 2.0,
    "sessions.max_cpus": 8.0,
    "sessions.default_host_memory_gib": UNLIMITED,
    "sessions.max_host_memory_gib": UNLIMITED,
    "jobs.at_once": 100.0,
    "jobs.default_time": 8 * 3600,
    "jobs.max_time": 3 * 86400,
    "jobs.default_cpus": 2.0,
    "jobs.max_cpus": 8.0,
    "jobs.default_host_memory_gib": UNLIMITED,
    "jobs.max_host_memory_gib": UNLIMITED,
    "extension.longest": 2 * 3600,
    "extension.total": 86400,
    "extension.times": UNLIMITED,
    "budgets": (),
    "shares": 1.0,
    "idle.after": 0,
    "idle.per_gpu": False,
    "idle.grace": 900,
    "idle.gpu_below": 5.0,
    "idle.cpu_below": 10.0,
    "idle.busy_cap": 0,
    "idle.warn": (600, 120),
    "idle.then": "give_back",
    "idle.keep": 8 * 3600,
}
EXCEPTION = "an exception"
"""How the source of a value begins that an override says."""
OTHERS = "others"
"""Whom those are counted with who are in no group of the file."""


@dataclass(frozen=True)
class Override:
    """A time-boxed exception. ``scope`` is ``user`` or ``group``; ``until`` seconds since the epoch.

    ``limits`` says what holds instead; ``extra_gpu_hours`` is added to every budget of hers.
    """

    id: str
    scope: str
    name: str
    limits: PersonLimits
    extra_gpu_hours: float
    until: float
    why: str
    by: str
    made_at: float
    revoked_at: float | None = None

    def in_force(self, now: float) -> bool:
        return self.revoked_at is None and now < self.until


@dataclass(frozen=True)
class Effective:
    """The limits of one person. ``account``: the group that she is counted with. ``values``: by key, as in
    ``BUILT_IN``. ``sources``: by key, who says so."""

    person: str
    groups: tuple[str, ...]
    account: str
    values: Mapping[str, Any]
    sources: Mapping[str, str]
    extra_gpu_hours: float = 0.0

    @property
    def gpus(self) -> float:
        return float(self.values["gpus"])

    @property
    def largest(self) -> float:
        return float(self.values["largest"])

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return tuple(self.values["budgets"])

    def at_once(self, kind: Kind) -> float:
        return float(self.values[f"{_section(kind)}.at_once"])

    def default_time(self, kind: Kind) -> int:
        return min(int(self.values[f"{_section(kind)}.default_time"]), self.max_time(kind))

    def max_time(self, kind: Kind) -> int:
        return int(self.values[f"{_section(kind)}.max_time"])

    def default_cpus(self, kind: Kind) -> float:
        """Cores when none are asked for."""
        return min(float(self.values[f"{_section(kind)}.default_cpus"]), self.max_cpus(kind))

    def max_cpus(self, kind: Kind) -> float:
        """Most cores to ask for; infinite: as many as there are."""
        return float(self.values[f"{_section(kind)}.max_cpus"])

    def default_host_memory_gib(self, kind: Kind) -> float:
        """Main memory when none is asked for, in GiB; infinite: as much as one session may have at all."""
        return min(float(self.values[f"{_section(kind)}.default_host_memory_gib"]), self.max_host_memory_gib(kind))

    def max_host_memory_gib(self, kind: Kind) -> float:
        """Most main memory to ask for, in GiB; infinite: as much as one session may have at all."""
        return float(self.values[f"{_section(kind)}.max_host_memory_gib"])


def _section(kind: Kind) -> str:
    return "sessions" if kind is Kind.SESSION else "jobs"


def resolve(
    limits: Limits, person: str, groups: Iterable[str], overrides: Sequence[Override] = (), now: float = 0.0
) -> Effective:
    """What ``person`` may have, who is in ``groups`` (by JupyterHub; the file's own ``members`` are added here)."""
    mine = groups_of(limits, person, groups)
    valid = [o for o in overrides if o.in_force(now) and _concerns(o, person, mine)]
    scopes: list[tuple[str, Mapping[str, Any]]] = []
    for override in sorted(valid, key=lambda o: (o.scope != "user", -o.made_at)):
        scopes.append((f"{EXCEPTION} until its end, because: {override.why}", said(override.limits)))
    if person in limits.users:
        scopes.append((f"users.{person}", said(limits.users[person])))
    scopes.append(("", _of_groups(limits, mine)))
    scopes.append(("defaults", said(limits.defaults)))
    scopes.append(("built in", BUILT_IN))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key in BUILT_IN:
        name, found = next((name, found) for name, found in scopes if key in found)
        values[key] = found[key] if name else found[key][1]
        sources[key] = name or found[key][0]
    extra = sum(override.extra_gpu_hours for override in valid)
    return Effective(person, mine, mine[0] if mine else OTHERS, values, sources, extra)


def _concerns(override: Override, person: str, groups: Sequence[str]) -> bool:
    return override.name == person if override.scope == "user" else override.name in groups


def groups_of(limits: Limits, person: str, groups: Iterable[str]) -> tuple[str, ...]:
    """The groups of the file that ``person`` is in, in the file's order."""
    known = set(groups)
    return tuple(name for name, group in limits.groups.items() if name in known or person in group.members)


def said(section: Section) -> dict[str, Any]:
    """The keys that ``section`` says something about, nested ones with a dot."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found.update({f"{name}.{key}": inner for key, inner in said(value).items()})
        elif value is not None:
            found[name] = value
    return found


def _of_groups(limits: Limits, groups: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """By key the most generous of what the groups say, and who says it."""
    best: dict[str, tuple[str, Any]] = {}
    for group in groups:
        for key, (source, value) in _inherited(limits, group).items():
            if key in best:
                value = GENEROUS.get(key, max)(best[key][1], value)
                source = best[key][0] if value == best[key][1] else source
            best[key] = (source, value)
    return best


def _inherited(limits: Limits, group: str) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    name: str | None = group
    while name is not None:
        for key, value in said(limits.groups[name].each).items():
            found.setdefault(key, (f"groups.{name}.each", value))
        name = limits.groups[name].inherits
    return found


def _both(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys([*one, *other]))


def _larger_budget(one: tuple[Budget, ...], other: tuple[Budget, ...]) -> tuple[Budget, ...]:
    return max(one, other, key=_a_day)


def _a_day(budgets: tuple[Budget, ...]) -> float:
    days = {"day": 1, "week": 7, "month": 30}
    return min((b.gpu_hours / days[b.every] for b in budgets), default=UNLIMITED)


def _longer(one: int, other: int) -> int:
    """Of idle times, in which 0 stands for 'never'."""
    return 0 if 0 in (one, other) else max(one, other)


GENTLEST = ("park", "give_back", "stop")


def _gentler(one: str, other: str) -> str:
    return min(one, other, key=GENTLEST.index)


GENEROUS: Mapping[str, Callable[[Any, Any], Any]] = {
    "shapes": _both,
    "models": _both,
    "budgets": _larger_budget,
    "idle.gpu_below": min,
    "idle.cpu_below": min,
    "idle.after": _longer,
    "idle.busy_cap": _longer,
    "idle.per_gpu": min,
    "idle.then": _gentler,
}
"""What the more generous of two values is, where it is not the larger one."""
