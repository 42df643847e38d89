"""The limits as the decision sees them at one moment: typed, resolved, without files or clocks. Pure.

``Policy()`` is no policy: first come, first served, and whoever fits gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Protocol

from .clock import duration_text, rfc3339
from .errors import PublicError
from .kind import Kind
from .placement import Holding, Slot, SlotKey, gpus_of, least_gpus, need, never_fits
from .queue import Waiting
from .shares import Shape, ShareRequest

UNLIMITED = float("inf")
TINY = 1e-9
Span = tuple[float, float]


@dataclass(frozen=True)
class Person:
    """An owner's standing. ``gpus``: most that she may hold at once; ``largest``: most in one share; ``models``:
    patterns of what she may use. ``used_up``: by kind, why nothing of it may start now (a budget is empty).
    ``may_run_out``: kinds that an empty budget would keep from starting. ``later``: kinds that go behind everyone else.
    ``use``: weighted GPUs that she held, averaged over the past with the half-life of each kind."""

    account: str = ""
    groups: tuple[str, ...] = ()
    gpus: float = UNLIMITED
    largest: float = UNLIMITED
    models: tuple[str, ...] = ("*",)
    shares: float = 1.0
    use: float = 0.0
    used_up: Mapping[Kind, str] = field(default_factory=dict)
    may_run_out: frozenset[Kind] = frozenset()
    later: frozenset[Kind] = frozenset()


class Register(Protocol):
    """Who knows how people stand."""

    def person(self, name: str) -> Person: ...

    def account(self, name: str) -> str:
        """``person(name).account``, for those who are only counted."""

    def claim(self, name: str) -> tuple[str, float, float]:
        """``account``, ``shares`` and ``use`` of ``person(name)``, for those who are only compared."""


class People(Mapping[str, Person]):
    """Everybody whom a decision may concern. How somebody stands, of them or not, is found out when it is asked."""

    def __init__(self, names: Callable[[], Collection[str]], register: Register) -> None:
        self._all, self.register = names, register
        self._names: Collection[str] | None = None
        self._known: dict[str, Person] = {}

    def __getitem__(self, name: str) -> Person:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self.register.person(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._everybody())

    def __len__(self) -> int:
        return len(self._everybody())

    def __contains__(self, name: object) -> bool:
        return name in self._everybody()

    def _everybody(self) -> Collection[str]:
        if self._names is None:
            self._names = self._all()
        return self._names


@dataclass(frozen=True)
class Account:
    """A group's standing. ``quota``: GPUs that are its own. ``gpus``: most that its members may hold together."""

    shares: float = 1.0
    quota: float = 0.0
    gpus: float = UNLIMITED


@dataclass(frozen=True)
class Preemption:
    """That over-quota batch gives way now. ``after`` and ``grace`` in seconds."""

    after: float
    grace: float


@dataclass(frozen=True)
class PoolRule:
    """Devices that share rules. ``kept``: GPUs that batch may use only if it can be preempted, by time: spans in
    ascending order with the number kept. ``preempt`` None: nothing is preempted here now. ``unmatched``: it has no
    devices of its own; ``slots`` are those for which its restriction holds all the same (``limits.pools``)."""

    name: str
    slots: frozenset[SlotKey]
    gpus_in_all: float
    groups: frozenset[str] | None = None
    kinds: frozenset[Kind] = frozenset(Kind)
    max_time: float = UNLIMITED
    gpus: float = UNLIMITED
    kept: float = 0.0
    kept_spans: tuple[Span, ...] = ()
    preempt: Preemption | None = None
    unmatched: bool = False

    def refusal(self, kind: Kind, groups: Iterable[str], seconds: float) -> str:
        """Why a request may never use this pool; empty when it may."""
        why = self._refusal(kind, groups, seconds)
        note = " (it names no device of its own here, so this holds for others until an administrator corrects it)"
        return why + note if why and self.unmatched else why

    def _refusal(self, kind: Kind, groups: Iterable[str], seconds: float) -> str:
        if kind not in self.kinds:
            return f"the pool {self.name} takes no {kind.plural}"
        if self.groups is not None and not self.groups & set(groups):
            return f"the pool {self.name} is for {', '.join(sorted(self.groups)) or 'nobody'}"
        if seconds > self.max_time:
            return f"the longest time limit in the pool {self.name} is {duration_text(self.max_time)}"
        return ""


@dataclass(frozen=True)
class Block:
    """Slots that are kept from ``begins`` to ``ends``, for an event or for maintenance (then for nobody). ``since``:
    when it begins, for reading."""

    name: str
    slots: frozenset[SlotKey]
    begins: float
    ends: float
    groups: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    since: str = ""

    def concerns(self, owner: str, groups: Iterable[str]) -> bool:
        return owner not in self.users and not self.groups & set(groups)


@dataclass(frozen=True)
class FairRules:
    """``entry_s``: what is held now counts as if it had been held for so much longer, so that nobody takes everything
    that is free at one moment; relative to ``half_life_s``."""

    method: str = "fair_tree"
    weight: float = 1.0
    age_weight: float = 1.0
    max_age_s: float = 86400.0
    entry: float = 0.03


@dataclass(frozen=True)
class Domain:
    """Where and when a request may run. ``slots`` None: anywhere."""

    slots: frozenset[SlotKey] | None = None
    blocks: Mapping[SlotKey, tuple[Span, ...]] = field(default_factory=dict)

    def has(self, key: SlotKey) -> bool:
        return self.slots is None or key in self.slots

    def allows(self, key: SlotKey, began: float, seconds: float) -> bool:
        return self.has(key) and self.clear(key, began, seconds) == began

    def clear(self, key: SlotKey, began: float, seconds: float) -> float:
        """``began``, or the end of the block that a run of ``seconds`` from then would meet."""
        for begins, ends in self.blocks.get(key, ()):
            if begins < began + seconds and began < ends:
                return ends
        return began


ANYWHERE = Domain()


@dataclass
class Found:
    """What was found out from a policy and its slots, which do not change."""

    domains: dict[object, Domain] = field(default_factory=dict)
    pool_of: dict[SlotKey, PoolRule] | None = None
    in_pools: dict[tuple[Holding, ...], dict[str, float]] = field(default_factory=dict)
    never_fits: dict[tuple[int, ShareRequest], PublicError | None] = field(default_factory=dict)
    least: dict[tuple[ShareRequest, tuple[str, ...]], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """All of it. ``backfill_depth``: how many waiting requests are planned for; 0 means that nobody overtakes.

    ``fair`` None: first come, first served. ``quotas``: some account has one; those without then have 0. ``slots``: all
    there are, for those who may not use all. ``grace_s``: what a stop may take beyond a time limit. ``sure_until``:
    until when (seconds) the hours of the pools are laid out.
    """

    backfill_depth: int = 100
    fair: FairRules | None = None
    people: Mapping[str, Person] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    quotas: bool = False
    pools: tuple[PoolRule, ...] = ()
    blocks: tuple[Block, ...] = ()
    slots: Mapping[SlotKey, Slot] = field(default_factory=dict)
    grace_s: float = 0.0
    sure_until: float = UNLIMITED
    found: Found = field(default_factory=lambda: Found(), compare=False, repr=False)
    """Policies that differ in their people only share it."""

    def account_of(self, owner: str) -> str:
        """The account that ``owner`` is counted with."""
        people = self.people
        return people.register.account(owner) if isinstance(people, People) else self.person(owner).account

    def claim_of(self, owner: str) -> tuple[str, float, float]:
        """The account of ``owner``, her shares in it, and her use."""
        if isinstance(self.people, People):
            return self.people.register.claim(owner)
        person = self.person(owner)
        return person.account, person.shares, person.use

    @property
    def bounded(self) -> bool:
        """Whether limits of people, groups or pools may matter."""
        return bool(self.pools or self.accounts or isinstance(self.people, People) or self.people)

    @property
    def plain(self) -> bool:
        """Whether nothing but first come, first served is asked of a decision."""
        return not (self.bounded or self.blocks)

    def person(self, owner: str) -> Person:
        return self.people.get(owner, _NOBODY)

    def pool(self, name: str) -> PoolRule:
        return next(pool for pool in self.pools if pool.name == name)

    def account(self, name: str) -> Account:
        return self.accounts.get(name, _NO_ACCOUNT)

    @cached_property
    def ranked(self) -> bool:
        """Whether the queue is anything but first come, first served."""
        return self.fair is not None or self.quotas or any(person.later for person in self.people.values())

    @property
    def pool_of(self) -> dict[SlotKey, PoolRule]:
        """The pool of each slot that is in one."""
        if self.found.pool_of is None:
            self.found.pool_of = {key: pool for pool in self.pools if not pool.unmatched for key in pool.slots}
        return self.found.pool_of

    def rules_of(self, key: SlotKey) -> list[PoolRule]:
        """Every pool whose restriction holds for the slot ``key``."""
        return [pool for pool in self.pools if key in pool.slots]

    def in_pools(self, holdings: tuple[Holding, ...]) -> Mapping[str, float]:
        """GPUs that ``holdings`` count, by pool."""
        known = self.found.in_pools.get(holdings)
        if known is None:
            known = {}
            for holding in holdings:
                pool = self.pool_of.get(holding.key)
                if pool is not None:
                    known[pool.name] = known.get(pool.name, 0.0) + gpus_of((holding,), self.slots)
            self.found.in_pools[holdings] = known
        return known

    def never_fits(self, slots: Sequence[Slot], request: ShareRequest) -> PublicError | None:
        """``placement.never_fits``, looked for once. ``slots``: all there are; the same for as long as this holds."""
        key = (len(slots), request)
        if key not in self.found.never_fits:
            self.found.never_fits[key] = never_fits(slots, request)
        return self.found.never_fits[key]

    def least_gpus(self, slots: Iterable[Slot], request: ShareRequest, models: tuple[str, ...] = ("*",)) -> float:
        """``placement.least_gpus`` over those of ``models``, or over all where these have none; looked for once."""
        key = (request, models)
        known = self.found.least.get(key)
        if known is None:
            every = tuple(slots)
            open_to = [slot for slot in every if may_use(models, slot.model)]
            known = self.found.least[key] = least_gpus(request, open_to or every)
        return known

    def domain(self, item: Waiting) -> Domain:
        """Where ``item`` may run. The same object for the same answer."""
        person = self.person(item.owner)
        sized = person.largest != UNLIMITED and item.request.shape is Shape.FRACTION
        if not self.pools and not self.blocks and person.models == ("*",) and not sized:
            return ANYWHERE
        named = item.owner if any(item.owner in block.users for block in self.blocks) else ""
        seconds = item.seconds if any(pool.max_time != UNLIMITED for pool in self.pools) else 0.0
        wish = (item.request, person.largest) if sized else None
        key = (person.groups, person.models, named, item.kind, seconds, wish)
        domain = self.found.domains.get(key)
        if domain is None:
            domain = self.found.domains[key] = self._domain(item, person, sized)
        return domain

    def kept_for(self, key: SlotKey, owner: str, began: float, ended: float) -> str:
        """What the slot ``key`` is kept for between ``began`` and ``ended`` (seconds), so that ``owner`` may not have
        it, in words."""
        groups = self.person(owner).groups
        meant = [block for block in self.blocks if key in block.slots and block.concerns(owner, groups)]
        first = min((b for b in meant if b.begins < ended and began < b.ends), key=lambda block: block.begins)
        return f"from {first.since or rfc3339(first.begins)} on its devices are kept for {first.name}"

    def _domain(self, item: Waiting, person: Person, sized: bool) -> Domain:
        barred: set[SlotKey] = set()
        for pool in self.pools:
            if pool.refusal(item.kind, person.groups, item.seconds - self.grace_s):
                barred |= pool.slots
        for key, slot in self.slots.items():
            wanted = need(slot, item.request) if sized else None
            too_large = wanted is not None and slot.gpus(wanted) > person.largest + TINY
            if too_large or not may_use(person.models, slot.model):
                barred.add(key)
        blocks: dict[SlotKey, list[Span]] = {}
        for block in self.blocks:
            if block.concerns(item.owner, person.groups):
                for key in block.slots:
                    blocks.setdefault(key, []).append((block.begins, block.ends))
        slots = frozenset(self.slots) - barred if barred else None
        return Domain(slots, {key: tuple(sorted(spans)) for key, spans in blocks.items()})


def may_use(patterns: Iterable[str], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


_NOBODY = Person()
_NO_ACCOUNT = Account()
