"""Random worlds in which people come, ask for more time, stop early and give up, with an event loop of their own.

It keeps its own books of who holds what until when, of what everybody was told, and of every limit, and shares nothing
with the decision but the facts that go in and the grants and promises that come out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from pools import mig_device, pool

from timeshare.reservations.devices.model import Device
from timeshare.reservations.kind import Kind
from timeshare.reservations.outlook import delayed, forecast, latest_for_new, unfit
from timeshare.reservations.placement import Slot, slots_of
from timeshare.reservations.policy import Block, Person, Policy, PoolRule
from timeshare.reservations.queue import Facts, Held, Waiting
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import Shape, ShareRequest

STEP = 10.0
OWNERS = ("ada", "ben", "cleo", "dora")


@dataclass
class Run:
    """One that holds devices. ``ends``: when it really ends; ``limit``: when its time limit ends it."""

    item: Waiting
    held: Held
    ends: float

    @property
    def limit(self) -> float:
        return self.held.frees_at


@dataclass
class World:
    """``told``: the latest firm start that each was told, and never a later one. ``excused``: those for whom a device
    failed."""

    seed: int
    devices: tuple[Device, ...]
    policy: Policy
    now: float = 0.0
    waiting: list[Waiting] = field(default_factory=list)
    running: dict[str, Run] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)
    promised: int = 0
    broken: list[str] = field(default_factory=list)
    number: int = 0

    def facts(self) -> Facts:
        return Facts(self.devices, tuple(run.held for run in self.running.values()), tuple(self.waiting), self.now)

    def fail(self, what: str) -> None:
        self.broken.append(f"seed {self.seed}, at {self.now}: {what}")


def policy_of(random: random.Random, slots: tuple[Slot, ...]) -> Policy:
    """First come, first served, with limits of every kind that a decision reads."""
    kinds = random.choice(["plain", "plain", "people", "pools", "blocks", "all"])
    people: dict[str, Person] = {}
    pools: tuple[PoolRule, ...] = ()
    blocks: tuple[Block, ...] = ()
    if kinds in ("people", "all"):
        people = {owner: Person(account=random.choice("xy"), gpus=random.choice([1.0, 2.0, 3.0])) for owner in OWNERS}
    if kinds in ("pools", "all"):
        cut = random.randint(1, len(slots))
        pools = tuple(
            PoolRule(
                name=name,
                slots=frozenset(slot.key for slot in part),
                gpus_in_all=sum(slot.part for slot in part),
                gpus=random.choice([1.0, 2.0, float("inf")]),
                kinds=random.choice([frozenset(Kind), frozenset(Kind), frozenset([Kind.SESSION])]),
                max_time=random.choice([float("inf"), float("inf"), 300.0]),
                kept=random.choice([0.0, 1.0]),
                kept_spans=((200.0, 500.0), (900.0, 1300.0)),
            )
            for name, part in (("one", slots[:cut]), ("two", slots[cut:]))
            if part
        )
    if kinds in ("blocks", "all"):
        chosen = frozenset(slot.key for slot in random.sample(slots, random.randint(1, len(slots))))
        begins = random.randint(1, 100) * STEP
        blocks = (Block("down", chosen, begins, begins + 200.0, users=frozenset(random.sample(OWNERS, 1))),)
    return Policy(
        backfill_depth=random.choice([100, 100, 3, 0]),
        people=people,
        pools=pools,
        blocks=blocks,
        slots={slot.key: slot for slot in slots},
    )


def devices_of(random: random.Random) -> tuple[Device, ...]:
    plain = pool(*random.choice([("a100",), ("a100", "a100"), ("a100", "a100", "t4"), ("a100",) * 4]))
    return (*plain, mig_device("1g.5gb", "2g.10gb", order=9)) if random.random() < 0.3 else plain


def wish_of(random: random.Random) -> ShareRequest:
    model = random.choice(["", "", "", "a100"])
    return random.choice(
        [
            ShareRequest(Shape.WHOLE, count=1, model=model),
            ShareRequest(Shape.WHOLE, count=2, model=model),
            ShareRequest(Shape.FRACTION, memory_mib=random.choice([4_000, 10_000, 20_000, 30_000]), model=model),
            ShareRequest(Shape.WHOLE, count=1),
        ]
    )


class Loop:
    """Plays one world from its seed."""

    def __init__(self, seed: int, arrivals: int = 24) -> None:
        self.random = random.Random(seed)
        devices = devices_of(self.random)
        slots = slots_of(devices)
        self.world = World(seed, devices, policy_of(self.random, slots))
        self.slots = {slot.key: slot for slot in slots}
        self.arrivals = arrivals
        self.fails = self.random.random() < 0.15

    def play(self) -> World:
        world = self.world
        coming = sorted(self.random.randint(0, 120) * STEP for _ in range(self.arrivals))
        while coming or world.waiting or world.running:
            moments = [*(run.ends for run in world.running.values()), *coming[:1], *self._due()]
            if not moments:
                break  # those who are left wait for devices that failed
            world.now = max(world.now, min(moments))
            for name in [name for name, run in world.running.items() if run.ends <= world.now]:
                del world.running[name]
            self._decide()
            while coming and coming[0] <= world.now:
                coming.pop(0)
                self._arrive()
            self._people_act()
            self._decide()
            if world.broken or world.now > 100_000:
                break
        return world

    def _due(self) -> list[float]:
        """When time alone lets somebody start: a promise, or the end of what is kept from them."""
        world = self.world
        ends = [end for pool in world.policy.pools for _, end in pool.kept_spans]
        ends += [block.ends for block in world.policy.blocks]
        later = [w.promise.start for w in world.waiting if w.promise] + (ends if world.waiting else [])
        return [at for at in later if at > world.now]

    def _arrive(self) -> None:
        world, dice = self.world, self.random
        world.number += 1
        kind = dice.choice([Kind.SESSION, Kind.SESSION, Kind.BATCH])
        seconds = dice.randint(1, 40) * STEP
        item = Waiting(f"r{world.number}", dice.choice(OWNERS), wish_of(dice), seconds, world.now, kind)
        (offer,) = latest_for_new(world.facts(), world.policy, [item])
        world.waiting.append(item)
        self._decide()
        found = world.started.get(item.id)
        if found is None and any(w.id == item.id for w in world.waiting):
            told = forecast(world.facts(), world.policy)[item.id]
            found = told.latest_start
            if offer.firm and not told.firm:
                world.fail(f"{item.id} was offered a firm start and is told one that is not")
        if offer.firm and found is not None and offer.latest_start is not None and found > offer.latest_start:
            world.fail(f"{item.id} was offered {offer.latest_start}, and it is {found}")

    def _people_act(self) -> None:
        world, dice = self.world, self.random
        act = dice.random()
        if act < 0.25 and world.running:  # somebody stops early
            name = dice.choice(sorted(world.running))
            run = world.running[name]
            run.ends = max(world.now, world.now + (run.ends - world.now) * dice.choice([0.0, 0.3]))
            if run.ends <= world.now:
                del world.running[name]
        elif act < 0.45 and world.running:
            run = world.running[dice.choice(sorted(world.running))]
            longer = replace(run.held, frees_at=run.held.frees_at + dice.randint(1, 20) * STEP)
            if not delayed(world.facts(), world.policy, longer) and not unfit(world.facts(), world.policy, longer):
                run.held, run.ends = longer, longer.frees_at
        elif act < 0.52 and world.waiting:
            world.waiting.remove(dice.choice(world.waiting))
        elif act < 0.56 and self.fails:
            self._device_fails()

    def _device_fails(self) -> None:
        """It takes no more; what runs on it ends."""
        self.fails = False
        world, dice = self.world, self.random
        uuid = dice.choice(world.devices).uuid
        world.devices = tuple(replace(d, cordoned="XID 79") if d.uuid == uuid else d for d in world.devices)
        for item in world.waiting:
            if item.promise and any(holding.device_uuid == uuid for holding in item.promise.holdings):
                world.excused.add(item.id)

    def _decide(self) -> None:
        world = self.world
        decision = schedule(world.facts(), world.policy)
        for name in decision.broken:
            if name not in world.excused:
                world.fail(f"{name} is told that its promise is broken, and no device of it failed")
        for grant in decision.grants:
            item = next(item for item in world.waiting if item.id == grant.id)
            gpus = sum(self.slots[h.key].gpus((h.memory_mib, h.compute)) for h in grant.holdings)
            held = Held(item.id, item.owner, grant.holdings, world.now + item.seconds, item.kind, gpus, world.now)
            lasts = item.seconds * self.random.choice([1.0, 1.0, 0.5, 0.1])
            world.running[item.id] = Run(item, held, world.now + lasts)
            world.started[item.id] = world.now
        gone = set(world.started) | {refusal.id for refusal in decision.refusals}
        told: dict[str, Any] = decision.promises
        world.waiting = [
            replace(item, promise=told[item.id]) if item.id in told else item
            for item in world.waiting
            if item.id not in gone
        ]
        world.promised += sum(1 for promise in told.values() if promise)
        self._check(decision.grants)

    # --- what must hold, counted anew

    def _check(self, grants: Any) -> None:
        world = self.world
        for grant in grants:
            told = world.told.get(grant.id)
            if told is not None and world.now > told and grant.id not in world.excused:
                world.fail(f"{grant.id} starts at {world.now} and was promised {told}")
        for name, told in forecast(world.facts(), world.policy).items():
            before = world.told.get(name)
            if name in world.excused:
                continue
            if before is not None and (told.latest_start is None or told.latest_start > before):
                world.fail(f"{name} was promised {before} and is told {told.latest_start}")
            if before is not None and world.now > before:
                world.fail(f"{name} was promised {before} and still waits")
            if told.firm and told.latest_start is not None:
                world.told[name] = told.latest_start
        self._check_room()
        self._check_limits()

    def _check_room(self) -> None:
        for key, slot in self.slots.items():
            held = [h for run in self.world.running.values() for h in run.held.holdings if h.key == key]
            if sum(h.memory_mib for h in held) > slot.memory_mib or sum(h.compute for h in held) > slot.compute:
                self.world.fail(f"{key} is given out twice")

    def _check_limits(self) -> None:
        world, policy = self.world, self.world.policy
        for owner, person in policy.people.items():
            if sum(run.held.gpus for run in world.running.values() if run.item.owner == owner) > person.gpus + 1e-6:
                world.fail(f"{owner} holds more than {person.gpus}")
        for rule in policy.pools:
            kept = any(begins <= world.now < ends for begins, ends in rule.kept_spans) and rule.kept
            batch = 0.0
            for owner in OWNERS:
                mine = [run for run in world.running.values() if run.item.owner == owner]
                inside = [(run, h) for run in mine for h in run.held.holdings if h.key in rule.slots]
                parts = [(run, self.slots[h.key].gpus((h.memory_mib, h.compute))) for run, h in inside]
                if sum(part for _, part in parts) > rule.gpus + 1e-6:
                    world.fail(f"{owner} holds more than {rule.gpus} of {rule.name}")
                batch += sum(part for run, part in parts if run.item.kind is Kind.BATCH)
            if kept and batch > 0.0 and batch > rule.gpus_in_all - kept + 1e-6:
                world.fail(f"batch holds {batch} of {rule.name}, of which {kept} are kept")
        for block in policy.blocks:
            if block.begins <= world.now < block.ends:
                for run in world.running.values():
                    if run.item.owner not in block.users and any(h.key in block.slots for h in run.held.holdings):
                        world.fail(f"{run.item.id} runs on what is kept for {block.name}")
