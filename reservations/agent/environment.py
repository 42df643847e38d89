"""The variables that a session sees. Pure. docs/environment.md lists them for users."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from .records import Order, SharePart


class Held(Protocol):
    """What a session is told about itself."""

    @property
    def reservation_id(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def share(self) -> Sequence[SharePart]: ...
    @property
    def share_text(self) -> str: ...
    @property
    def enforcement(self) -> str: ...
    @property
    def ends_at(self) -> str | None: ...


def uuids_of(share: Sequence[SharePart]) -> list[str]:
    return [part.instance_uuid or part.device_uuid for part in share]


def share_environment(held: Held, simulated: bool) -> dict[str, str]:
    """What a session holds, whoever gave it the devices."""
    variables = {
        "TIMESHARE_RESERVATION_ID": held.reservation_id,
        "TIMESHARE_GENERATION": str(held.generation),
        "TIMESHARE_SHARE": json.dumps([asdict(part) for part in held.share]),
        "TIMESHARE_SHARE_TEXT": held.share_text,
        "TIMESHARE_DEVICES": ",".join(uuids_of(held.share)),
        "TIMESHARE_MEMORY_MIB": str(sum(part.memory_mib for part in held.share)),
        # As a share of one device; several whole devices together are more than 100.
        "TIMESHARE_COMPUTE_PERCENT": f"{sum(part.compute for part in held.share) / 10:g}",
        "TIMESHARE_ENFORCEMENT": held.enforcement,
        "TIMESHARE_ENDS_AT": held.ends_at or "",
        "TIMESHARE_SIMULATED": "1" if simulated else "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if any(not part.whole and not part.instance_uuid for part in held.share):
        # Courtesy to neighbours on the same device: take memory as it is needed, not all of it at once.
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return variables


def session_environment(order: Order, simulated: bool) -> dict[str, str]:
    """What is added to, and wins over, the environment that the hub asked for."""
    uuids = uuids_of(order.share)
    return {
        **share_environment(order, simulated),
        # Empty, not unset: unset means "all of them". Simulated devices do not exist for CUDA.
        "CUDA_VISIBLE_DEVICES": "" if simulated else ",".join(uuids),
        "NVIDIA_VISIBLE_DEVICES": "void" if simulated or not uuids else ",".join(uuids),
    }
