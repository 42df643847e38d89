"""What a decision is made on, and what it comes to. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from .devices.model import Device
from .errors import PublicError
from .kind import Kind
from .placement import Holding, Slot, slots_of
from .shares import ShareRequest


@dataclass(frozen=True)
class Promise:
    """A latest start (seconds) that its owner was told as firm, and the holdings that are kept for it from then on."""

    start: float
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Waiting:
    """A request in the queue. ``seconds`` is its declared time limit with the grace a stop may take. ``promise``: what
    it was promised; None: nothing yet."""

    id: str
    owner: str
    request: ShareRequest
    seconds: float
    submitted_at: float
    kind: Kind = Kind.SESSION
    promise: Promise | None = None


@dataclass(frozen=True)
class Held:
    """A reservation that holds devices. ``frees_at``: when these are free at the latest, stop grace included.

    ``gpus``: what it counts in GPUs. ``since``: when it was granted. ``stopping``: its end has begun. ``requeues``: how
    often it was preempted before.
    """

    id: str
    owner: str
    holdings: tuple[Holding, ...]
    frees_at: float
    kind: Kind = Kind.SESSION
    gpus: float = 0.0
    since: float = 0.0
    stopping: bool = False
    requeues: int = 0

    def until(self, now: float) -> float:
        """When its devices may be free at the earliest that is known: one that is past its end still holds them until
        it is seen gone."""
        return self.frees_at if self.frees_at > now else now + 1.0


@dataclass(frozen=True)
class Facts:
    """The world at ``now`` (seconds): devices, who holds what, and who waits, in the order in which they came.

    ``known_slots``: the slots of all ``devices``, where somebody knows them already.
    """

    devices: tuple[Device, ...]
    held: tuple[Held, ...]
    waiting: tuple[Waiting, ...]
    now: float
    known_slots: tuple[Slot, ...] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def all_slots(self) -> tuple[Slot, ...]:
        """Every slot, those out of service too."""
        return self.known_slots or slots_of(self.devices, include_cordoned=True)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The slots in service."""
        out = {device.uuid for device in self.devices if device.cordoned}
        out |= {instance.uuid for device in self.devices for instance in device.instances if instance.cordoned}
        if not out:
            return self.all_slots
        return tuple(slot for slot in self.all_slots if out.isdisjoint(slot.key))


@dataclass(frozen=True)
class Grant:
    id: str
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Refusal:
    id: str
    error: PublicError


@dataclass(frozen=True)
class Preempted:
    """``id`` gives way to ``winner``; ``why`` is told to its owner. ``grace`` in seconds."""

    id: str
    winner: str
    grace: float
    why: str


@dataclass(frozen=True)
class Forecast:
    """Where a waiting request stands: ``position`` from 1; ``latest_start`` in seconds, None when nobody can say; why
    it waits. ``firm``: nobody who comes later can go first, so the start can only come earlier."""

    position: int
    latest_start: float | None
    why: str = ""
    firm: bool = True


@dataclass
class Decision:
    """``promises``: of those who wait on, what is promised now where that is new: a first one, an earlier one, or None
    where one cannot be kept and nothing else can be promised. ``broken``: those whose promise cannot be kept."""

    grants: list[Grant] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    preemptions: list[Preempted] = field(default_factory=list)
    promises: dict[str, Promise | None] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
