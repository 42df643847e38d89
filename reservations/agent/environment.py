"""The variables that a session sees. Pure. docs/environment.md lists them for users."""

from __future__ import annotations

import json
from dataclasses import asdict

from .records import Order


def session_environment(order: Order, simulated: bool) -> dict[str, str]:
    """What is added to, and wins over, the environment that the hub asked for."""
    uuids = [part.instance_uuid or part.device_uuid for part in order.share]
    memory_mib = sum(part.memory_mib for part in order.share)
    variables = {
        "TIMESHARE_RESERVATION_ID": order.reservation_id,
        "TIMESHARE_GENERATION": str(order.generation),
        "TIMESHARE_SHARE": json.dumps([asdict(part) for part in order.share]),
        "TIMESHARE_SHARE_TEXT": order.share_text,
        "TIMESHARE_DEVICES": ",".join(uuids),
        "TIMESHARE_MEMORY_MIB": str(memory_mib),
        # As a share of one device; several whole devices together are more than 100.
        "TIMESHARE_COMPUTE_PERCENT": f"{sum(part.compute for part in order.share) / 10:g}",
        "TIMESHARE_ENFORCEMENT": order.enforcement,
        "TIMESHARE_ENDS_AT": order.ends_at or "",
        "TIMESHARE_SIMULATED": "1" if simulated else "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Empty, not unset: unset means "all of them". Simulated devices do not exist for CUDA.
        "CUDA_VISIBLE_DEVICES": "" if simulated else ",".join(uuids),
        "NVIDIA_VISIBLE_DEVICES": "void" if simulated or not uuids else ",".join(uuids),
    }
    if any(not part.whole and not part.instance_uuid for part in order.share):
        # Courtesy to neighbours on the same device: take memory as it is needed, not all of it at once.
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return variables
