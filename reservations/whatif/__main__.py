"""Tries limits for the service, in a process of its own that stands back behind everything else: JSON on standard
input (``old`` and ``new`` limits as text, ``days`` of the past, ``devices`` as the API shows them), JSON on standard
output (``table`` or ``error``)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..deployment import current_deployment
from ..limits.load import limits_in_force
from .command import compared, device, extent
from .history import from_ledger, read_history
from .replay import Scenario
from .trace import TraceError


def tried(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``asked``."""
    from . import report  # matplotlib takes a second to load

    old, new = (limits_in_force(asked[name]) for name in ("old", "new"))
    now = time.time()
    try:
        history = read_history(current_deployment().ledger_url, now - asked["days"] * 86400)
    except TraceError as error:
        return {"error": str(error)}
    arrivals = from_ledger(history, old.limits, now)
    devices = tuple(device(item, order) for order, item in enumerate(asked["devices"]))
    if not arrivals or not devices:
        return {"error": f"nothing was asked for in the last {asked['days']} days"}
    comparison = compared(Scenario(devices, arrivals), old, new, [extent(arrivals, devices)])
    return {"table": report.as_text(comparison)}


if __name__ == "__main__":
    os.nice(10)
    json.dump(tried(json.load(sys.stdin)), sys.stdout)
