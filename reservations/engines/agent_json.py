"""What a node agent answers, one entry after the other. Pure.

An agent of another release may tell more, or an entry be damaged: neither takes the others along.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from ..devices.model import Device, Inventory, MigInstance
from .base import EngineEvent, EngineReading, EngineSession, EngineUnknown, SessionState

log = logging.getLogger("timeshare.service")
T = TypeVar("T")
DAMAGED = (KeyError, TypeError, ValueError, AttributeError)


def each(entries: object, read: Callable[[Any], T], what: str) -> list[T]:
    """Return what ``read`` makes of each entry that it understands. Raises EngineUnknown where there is no list."""
    if not isinstance(entries, list):
        raise EngineUnknown(f"the node agent's answer is not understood: no list of {what}")
    found = []
    for entry in entries:
        try:
            found.append(read(entry))
        except DAMAGED as error:
            log.warning("one of the %s that the node agent tells is not understood: %r: %.200r", what, error, entry)
    return found


def _known(cls: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``told`` that ``cls`` has."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in told.items() if name in names}


def read_inventory(told: Mapping[str, Any]) -> Inventory:
    """Return the devices, those too of which not all is understood: these are out of service."""
    if not isinstance(told, dict):
        raise EngineUnknown("the node agent's answer is not understood: no inventory")
    devices = tuple(each(told.get("devices"), _device, "GPUs"))
    driver, cuda, note = (str(told.get(name, "")) for name in ("driver", "cuda", "note"))
    return Inventory(devices, driver, cuda, bool(told.get("simulated", False)), note)


def _device(told: Mapping[str, Any]) -> Device:
    uuid = told["uuid"]
    if not isinstance(uuid, str):
        raise TypeError("a UUID is text")
    try:
        instances = each(told.get("instances", []), _instance, "MIG instances")
        device = Device(**{**_known(Device, told), "instances": tuple(instances)})
        sizes = (device.memory_mib, device.order)
        if not isinstance(device.model, str) or not all(type(size) is int and size >= 0 for size in sizes):
            raise TypeError("its model, memory or place is not understood")
        return device
    except (*DAMAGED, EngineUnknown) as error:
        why = f"what its node tells of it is not understood: {error!r:.120}"
        log.warning("%s: %s", uuid, why)
        return replace(Device(uuid, "unknown", 0), cordoned=why)


def _instance(told: Mapping[str, Any]) -> MigInstance:
    instance = MigInstance(**_known(MigInstance, told))
    if not isinstance(instance.profile, str) or type(instance.memory_mib) is not int:
        raise TypeError("its profile or memory is not understood")
    return instance


def read_sessions(told: object) -> list[EngineSession]:
    """Return all starts; one whose state is not understood is unknown. Raises EngineUnknown when one cannot even be
    named: it would be taken for gone."""
    if not isinstance(told, list):
        raise EngineUnknown("the node agent's answer is not understood: no list of sessions")
    return [_session(one) for one in told]


def _session(told: Any) -> EngineSession:
    try:
        name, generation = str(told["reservation_id"]), int(told["generation"])
    except DAMAGED as error:
        raise EngineUnknown(
            f"a session that the node agent tells is not understood: {error!r}: {told!r:.120}"
        ) from None
    try:
        state, message = SessionState(told["state"]), str(told.get("message", ""))
        devices = tuple(str(uuid) for uuid in told.get("devices", ()))
        return EngineSession(
            name, generation, state, told.get("exit_code"), message, str(told.get("owner", "")), devices
        )
    except DAMAGED as error:
        log.warning("what the node agent tells of %s is not understood: %r", name, error)
        return EngineSession(name, generation, SessionState.UNKNOWN, message="its state is not understood")


def read_readings(told: object) -> list[EngineReading]:
    """Return what sessions use, as far as it is understood; of the others nothing is known."""
    return each(told, lambda one: EngineReading(**_known(EngineReading, one)), "readings")


def read_events(told: object) -> list[EngineEvent]:
    """Return what the agent noticed, as far as it is understood."""
    return each(told, _event, "events")


def _event(told: Mapping[str, Any]) -> EngineEvent:
    device, reservation = told.get("device_uuid"), told.get("reservation_id")
    return EngineEvent(
        int(told["seq"]), str(told["kind"]), str(told["message"]), device, reservation, bool(told.get("cordon"))
    )
