"""Which devices a session may see, what must be hidden from it, and what that makes its share worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..devices.model import Device, Inventory
from ..devices.nodes import gpu_nodes, wanted_paths
from ..enforcement import COOPERATIVE, HARDWARE, NONE_NEEDED, SIMULATED, WATCHDOG
from ..mig import shares_memory
from .isolation import FilterError, Rule, Way, gpu_majors
from .records import Order
from .refusals import Refused


@dataclass(frozen=True)
class Sight:
    """``held``: the devices of the order's share. ``rule`` is None where no filter is needed."""

    order: Order
    held: tuple[Device, ...]
    rule: Rule | None
    simulated: bool

    def filter(self, way: Way | None, key: str) -> dict[str, Any]:
        """Makes the filter. Raises Refused: running without it would show other people's GPUs to this session
        while everybody believes them hidden."""
        if way is None or self.rule is None:
            return {}
        try:
            return way.prepare(key, self.rule)
        except FilterError as error:
            way.clean(key)
            raise Refused("failed", f"the device filter could not be made: {error}") from None

    def enforcement(self, way: Way | None, filter_: dict[str, Any]) -> str:
        """The level, never more than what really holds."""
        if not self.order.share:
            return NONE_NEEDED if filter_ or self.simulated or self.rule is None else COOPERATIVE
        if self.simulated:
            return SIMULATED
        if any(not part.whole and not part.instance_uuid for part in self.order.share):
            return WATCHDOG
        # A device without a file of its own (minor unknown) cannot be told from others by a filter. With nothing
        # left to hide the session holds every device there is.
        gated = all(device.minor is not None for device in self.held)
        chosen = {part.instance_uuid for part in self.order.share}
        gated &= not any(shares_memory(i.profile) for d in self.held for i in d.instances if i.uuid in chosen)
        return HARDWARE if way is not None and gated else COOPERATIVE


def sight_of(order: Order, inventory: Inventory, device_root: Path, simulated: bool) -> Sight:
    """Raises Refused when a device of the share is not, or no longer, on this machine."""
    devices = inventory.by_uuid()
    for part in order.share:
        device = devices.get(part.device_uuid)
        instances = {instance.uuid for instance in device.instances} if device else set()
        if device is None or (part.instance_uuid and part.instance_uuid not in instances):
            lost = part.instance_uuid or part.device_uuid
            raise Refused("failed", f"device {lost} is not on this machine any more: ask for another share")
    held = tuple(devices[part.device_uuid] for part in order.share)
    if simulated:
        return Sight(order, held, None, True)
    wanted = wanted_paths(held, [part.instance_uuid for part in order.share], device_root)
    nodes = gpu_nodes(device_root)
    hidden = tuple(node for node in nodes if node.path not in wanted)
    majors = gpu_majors(Path("/proc/devices").read_text())
    rule = Rule(hidden, tuple(node for node in nodes if node.path in wanted), majors)
    return Sight(order, held, rule if hidden or majors else None, False)
