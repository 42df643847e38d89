"""The devices of a pool as they are known: what the agent reports, what is missing, what is out of service."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from .devices.model import Device, Inventory
from .host import HostSize
from .placement import Slot, slots_of

MISSING = "not reported by its node any more"


class Fleet:
    """``cordons``: why each device that was taken out of service is, by UUID; the ledger keeps them. ``host``: the size
    of this machine."""

    def __init__(self, cordons: dict[str, str], host: HostSize) -> None:
        self.cordons = cordons
        self.host = host
        self.occupied: dict[str, str] = {}
        """Why each device is out of service on which something runs that the ledger does not know, by UUID."""
        self.apart: dict[str, str] = {}
        """The same for what is held by rows of the ledger that are not understood."""
        self.inventory: Inventory | None = None
        """This machine's, as its agent told it last."""
        self._elsewhere: dict[str, tuple[Device, ...]] = {}
        self.devices: tuple[Device, ...] = ()
        self.slots: tuple[Slot, ...] = ()

    def has_told(self, engine: str) -> bool:
        """Whether the devices of ``engine`` are known; of this machine: empty."""
        return engine in self._elsewhere if engine else self.inventory is not None

    def update(self, inventory: Inventory, holders: Set[str]) -> bool:
        """Takes over the ``inventory`` of this machine; whether anything changed. A missing device that is
        held (``holders``: UUIDs) stays, out of service: what is not reported is not gone."""
        self.inventory = inventory
        return self._renew(holders)

    def update_engine(self, engine: str, devices: tuple[Device, ...], holders: Set[str]) -> bool:
        """The same for what an engine has that places work itself."""
        self._elsewhere[engine] = tuple(replace(device, engine=engine) for device in devices)
        return self._renew(holders)

    def _renew(self, holders: Set[str]) -> bool:
        here = self.inventory.devices if self.inventory is not None else ()
        known = {
            device.uuid: replace(device, cordoned=self._why_out(device))
            for devices in (here, *self._elsewhere.values())
            for device in devices
        }
        for device in self.devices:
            if device.uuid not in known and device.uuid in holders:
                known[device.uuid] = replace(device, cordoned=MISSING)
        devices = tuple(known.values())
        if devices == self.devices:
            return False
        self.devices = devices
        self.slots = slots_of(devices, include_cordoned=True)
        return True

    def _why_out(self, device: Device) -> str | None:
        return device.cordoned or self.cordons.get(device.uuid) or self._taken(device.uuid)

    def _taken(self, uuid: str) -> str | None:
        return self.occupied.get(uuid) or self.apart.get(uuid)

    def with_cordon(self, device_uuid: str, why: str | None) -> dict[str, str]:
        """The cordons with this one; ``why`` None puts the device back into service."""
        kept = {name: text for name, text in self.cordons.items() if name != device_uuid}
        return {**kept, device_uuid: why} if why else kept
