"""Tells the kernels of a session which devices it holds now: its GPU may have been given back, or be another one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

FILE_VARIABLE = "TIMESHARE_DEVICES_FILE"
"""In the environment of kernels: where this is written."""
FACTS = ("parked", "kept")
"""What is written beside variables: whether the GPU was given back, and whether what kernels held on it is kept."""


class Devices:
    """``take`` is called with every status."""

    def __init__(self, reservation_id: str) -> None:
        self.path = Path(jupyter_runtime_dir()) / f"timeshare-{reservation_id}.json"
        self._written: dict[str, Any] = {}
        os.environ[FILE_VARIABLE] = str(self.path)

    def take(self, reservation: dict[str, Any]) -> None:
        """Writes it down when it has changed, and lets new kernels begin with it."""
        if reservation["handling"] is not None:
            return  # a moment later it is settled
        uuids = [part["instance_uuid"] or part["device_uuid"] for part in reservation["placement"]]
        now = {
            "parked": reservation["state"] == "parked",
            "kept": reservation["kept_mib"] > 0,
            **variables(uuids, bool(reservation["simulated"])),
        }
        if now == self._written or (not self._written and not now["parked"]):
            return  # as it began
        self._written = now
        os.environ.update({name: value for name, value in now.items() if name not in FACTS})
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(now))
        draft.replace(self.path)


def variables(uuids: list[str], simulated: bool) -> dict[str, str]:
    """Of the environment, as the node sets them at the start. Empty, not unset: unset means all devices."""
    named = ",".join(uuids)
    simulated = simulated or os.environ.get("TIMESHARE_SIMULATED") == "1"
    return {
        "TIMESHARE_DEVICES": named,
        "CUDA_VISIBLE_DEVICES": "" if simulated else named,
        "NVIDIA_VISIBLE_DEVICES": "void" if simulated or not uuids else named,
    }
