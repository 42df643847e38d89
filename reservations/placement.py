"""Where a share goes. Pure: free space and a request in, holdings out; needs no service, ledger or driver.

A *slot* is what can hold shares: an unpartitioned device (divisible by memory and compute weight) or one MIG instance
(indivisible). The rules, in this order:

1. whole devices stay whole: a fraction goes to a device that is already shared, if one can take it;
2. the tightest fit wins: the slot that keeps the least memory over after the grant. What a MIG instance has beyond the
   wish is held and used by nobody, so it counts twice; what is left of a device may still serve others;
3. smaller devices before larger ones, so that the large stay for those who need them;
4. ties go to the first slot in the devices' fixed order. With random ties the same rules pack far worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .devices.model import MIB_PER_GIB, Device
from .errors import PublicError
from .shares import FULL_COMPUTE, Shape, ShareRequest

LOST_WEIGHT = 2
"""Of memory lost inside a MIG instance, against memory left over. Of 1, 1.5, 2, 3 and 9, 2 filled machines with both
kinds of device most (benchmarks/placement.py, mean of its lists), and on no list less than 1 did."""


SlotKey = tuple[str, str]
"""Device UUID and instance UUID, the latter empty for a device that is not partitioned."""


@dataclass(frozen=True)
class Slot:
    """One place for shares. ``memory_mib`` and ``compute`` (thousandths) are its full size; ``part`` is what part of
    its device's memory it is, 1 unless it is a MIG instance. ``engine``: as that of its device."""

    device_uuid: str
    instance_uuid: str
    node: str
    model: str
    memory_mib: int
    compute: int
    profile: str
    order: int
    part: float = 1.0
    engine: str = ""

    @cached_property
    def key(self) -> SlotKey:
        return (self.device_uuid, self.instance_uuid)

    def gpus(self, wanted: tuple[int, int]) -> float:
        """What ``wanted`` (MiB, thousandths) of this slot counts in GPUs: the larger part, of memory or compute."""
        return self.part * max(wanted[0] / self.memory_mib, wanted[1] / self.compute)


@dataclass(frozen=True)
class Holding:
    """What a reservation has of one slot. ``instance_uuid`` is empty unless it is a MIG instance."""

    device_uuid: str
    instance_uuid: str
    memory_mib: int
    compute: int
    whole: bool

    @cached_property
    def key(self) -> SlotKey:
        return (self.device_uuid, self.instance_uuid)


class Room(NamedTuple):
    """The free part of a slot at some time: memory in MiB and compute in thousandths."""

    slot: Slot
    memory_mib: int
    compute: int

    @property
    def untouched(self) -> bool:
        return self.memory_mib == self.slot.memory_mib and self.compute == self.slot.compute


def slots_of(devices: Iterable[Device], *, include_cordoned: bool = False) -> tuple[Slot, ...]:
    """The slots of healthy devices in their fixed order; a partitioned device gives one slot an instance. What nobody
    knows the size of gives none."""
    slots: list[Slot] = []
    for device in sorted(devices, key=lambda d: (d.node, d.order, d.uuid)):
        if device.cordoned and not include_cordoned:
            continue
        if device.memory_mib < 1:
            continue
        if not device.partitioned:
            slots.append(_slot(device, "", device.memory_mib, "", len(slots)))
        for instance in device.instances:
            if not instance.profile or instance.memory_mib < 1 or (instance.cordoned and not include_cordoned):
                continue
            slots.append(_slot(device, instance.uuid, instance.memory_mib, instance.profile, len(slots)))
    return tuple(slots)


def _slot(device: Device, instance_uuid: str, memory_mib: int, profile: str, order: int) -> Slot:
    return Slot(
        device_uuid=device.uuid,
        instance_uuid=instance_uuid,
        node=device.node,
        model=device.model,
        memory_mib=memory_mib,
        compute=FULL_COMPUTE,
        profile=profile,
        order=order,
        part=min(1.0, memory_mib / device.memory_mib) if instance_uuid else 1.0,
        engine=device.engine,
    )


def need(slot: Slot, request: ShareRequest) -> tuple[int, int] | None:
    """Memory (MiB) and compute (thousandths) that ``request`` takes of ``slot``; None when it can never go there."""
    if request.engine != slot.engine or (request.model and request.model != slot.model):
        return None
    if request.shape is Shape.WHOLE:
        return None if slot.profile else (slot.memory_mib, slot.compute)
    if request.shape is Shape.MIG:
        return (slot.memory_mib, slot.compute) if slot.profile == request.profile else None
    if request.shape is not Shape.FRACTION or request.memory_mib > slot.memory_mib:
        return None
    if slot.profile:
        return (slot.memory_mib, slot.compute)
    # Rounded down, so that n equal memory shares which fill a device always fit its compute as well.
    return (
        request.memory_mib,
        request.compute or max(1, FULL_COMPUTE * request.memory_mib // slot.memory_mib),
    )


def place(rooms: Sequence[Room], request: ShareRequest) -> tuple[Holding, ...] | None:
    """The holdings that ``request`` gets now, or None when nothing has room. A CPU share holds nothing: ``()``."""
    if request.shape is Shape.CPU:
        return ()
    if request.shape is Shape.WHOLE:
        return _place_whole(rooms, request)
    best: tuple[tuple[int, int, int, int], Holding] | None = None
    for room in rooms:
        wanted = need(room.slot, request)
        if wanted is None or room.memory_mib < wanted[0] or room.compute < wanted[1]:
            continue
        rank = _rank(room, request, wanted[0])
        if best is None or rank < best[0]:
            best = (rank, hold(room.slot, wanted))
    return (best[1],) if best else None


def _rank(room: Room, request: ShareRequest, memory_mib: int) -> tuple[int, int, int, int]:
    slot = room.slot
    breaks_a_whole_device = room.untouched and not slot.profile and memory_mib < slot.memory_mib
    # A MIG instance is taken entirely, so what it has beyond the wish is lost, not left over.
    lost = slot.memory_mib - request.memory_mib if slot.profile and request.shape is Shape.FRACTION else 0
    left_over = room.memory_mib - memory_mib
    return (int(breaks_a_whole_device), LOST_WEIGHT * lost + left_over, slot.memory_mib, slot.order)


def _place_whole(rooms: Sequence[Room], request: ShareRequest) -> tuple[Holding, ...] | None:
    groups: dict[tuple[str, str], list[Slot]] = {}
    for room in sorted(rooms, key=lambda room: room.slot.order):
        if room.untouched and need(room.slot, request) is not None:
            groups.setdefault((room.slot.node, room.slot.model), []).append(room.slot)
    fitting = [slots for slots in groups.values() if len(slots) >= request.count]
    fitting.sort(key=lambda slots: (slots[0].memory_mib, len(slots), slots[0].order))
    chosen = _nodes_of_one_model(fitting, request.nodes) or _nodes_of_any_model(fitting, request.nodes)
    if chosen is None:
        return None
    return tuple(hold(slot, (slot.memory_mib, slot.compute)) for slots in chosen for slot in slots[: request.count])


def _nodes_of_one_model(fitting: Sequence[list[Slot]], nodes: int) -> list[list[Slot]] | None:
    """``nodes`` of ``fitting``, the first best: what computes together goes as fast as its slowest part."""
    by_model: dict[str, list[list[Slot]]] = {}
    for slots in fitting:
        same = by_model.setdefault(slots[0].model, [])
        same.append(slots)
        if len(same) == nodes:
            return same
    return None


def _nodes_of_any_model(fitting: Sequence[list[Slot]], nodes: int) -> list[list[Slot]] | None:
    by_node: dict[str, list[Slot]] = {}
    for slots in fitting:
        by_node.setdefault(slots[0].node, slots)
    return list(by_node.values())[:nodes] if len(by_node) >= nodes else None


def hold(slot: Slot, wanted: tuple[int, int]) -> Holding:
    whole = wanted == (slot.memory_mib, slot.compute) and not slot.profile
    return Holding(slot.device_uuid, slot.instance_uuid, wanted[0], wanted[1], whole)


def rooms_of(slots: Iterable[Slot], holdings: Iterable[Holding]) -> tuple[Room, ...]:
    """The free part of each slot while ``holdings`` are held."""
    taken: dict[SlotKey, tuple[int, int]] = {}
    for holding in holdings:
        memory_mib, compute = taken.get(holding.key, (0, 0))
        taken[holding.key] = (memory_mib + holding.memory_mib, compute + holding.compute)
    rooms = []
    for slot in slots:
        memory_mib, compute = taken.get(slot.key, (0, 0))
        rooms.append(Room(slot, slot.memory_mib - memory_mib, slot.compute - compute))
    return tuple(rooms)


def never_fits(slots: Sequence[Slot], request: ShareRequest) -> PublicError | None:
    """Why ``request`` could not be granted even if nobody held anything; None when it could."""
    slots = [slot for slot in slots if slot.engine == request.engine]
    empty = [Room(slot, slot.memory_mib, slot.compute) for slot in slots]
    if place(empty, request) is not None:
        return None
    models = sorted({slot.model for slot in slots})
    if request.model and request.model not in models:
        known = ", ".join(models) or "none"
        return _refusal("unknown-model", f"model is '{request.model}': this pool has {known}", request, models=models)
    return _too_large([slot for slot in slots if request.model in ("", slot.model)], request)


def _too_large(slots: Sequence[Slot], request: ShareRequest) -> PublicError:
    if request.shape is Shape.MIG:
        profiles = sorted({slot.profile for slot in slots if slot.profile})
        offered = f"it has {', '.join(profiles)}" if profiles else "no device here is MIG-partitioned"
        message = f"mig_profile is '{request.profile}': this pool has no such slice; {offered}"
        return _refusal("unknown-profile", message, request, profiles=profiles)
    if request.shape is Shape.WHOLE:
        groups: dict[tuple[str, str], int] = {}
        for slot in slots:
            if not slot.profile:
                groups[slot.node, slot.model] = groups.get((slot.node, slot.model), 0) + 1
        enough = len({node for (node, _), count in groups.items() if count >= request.count})
        if 0 < enough < request.nodes:
            message = (
                f"nodes is {request.nodes}: {enough} here {'has' if enough == 1 else 'have'} {request.count} whole "
                f"GPU{'s' if request.count > 1 else ''} of one model; ask for no more nodes than that"
            )
            return _refusal("too-many-nodes", message, request, largest=enough)
        most = max(groups.values(), default=0)
        instead = f"ask for gpus from 1 to {most}" if most else "ask for a MIG profile or memory_gib instead"
        message = f"gpus is {request.count}: the most whole GPUs of one model on one node is {most}; {instead}"
        return _refusal("too-large", message, request, largest=most)
    largest = max((slot.memory_mib for slot in slots), default=0)
    message = (
        f"memory_gib is {request.memory_mib / MIB_PER_GIB:g}: the largest that one device here can give is "
        f"{largest / MIB_PER_GIB:g} GiB; ask for no more than that, or for several whole GPUs"
    )
    return _refusal("too-large", message, request, largest_gib=largest / MIB_PER_GIB)


def _refusal(reason: str, message: str, request: ShareRequest, **details: object) -> PublicError:
    return PublicError(reason, message, 422, {"share": request.as_options(), **details})


def gpus_of(holdings: Iterable[Holding], slots: Mapping[SlotKey, Slot]) -> float:
    """What ``holdings`` count in GPUs. One on a device that nobody knows any more counts nothing."""
    return sum(slots[h.key].gpus((h.memory_mib, h.compute)) for h in holdings if h.key in slots)


def least_gpus(request: ShareRequest, slots: Iterable[Slot]) -> float:
    """The fewest GPUs that ``request`` can count, over all slots that it may go to; 0 when there are none."""
    if request.shape is Shape.CPU:
        return 0.0
    if request.shape is Shape.WHOLE:
        return float(request.count * request.nodes)
    return min((slot.gpus(wanted) for slot in slots if (wanted := need(slot, request)) is not None), default=0.0)
