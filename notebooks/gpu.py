"""Before each cell: which devices the session holds now. A cell that looks as if it needed a GPU asks for the one that
was given back."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from .batch.service import Refused, Service, Unreachable
from .batch.states import duration

FILE_VARIABLE = "TIMESHARE_DEVICES_FILE"
NEEDS_GPU = re.compile(r"\b(cuda|gpu|cupy|cudf|jax|tensorflow|keras|numba\.cuda)\b|\.cuda\(", re.IGNORECASE)
POLL_S = 2


class GpuHook:
    """``before_cell`` is IPython's event ``pre_run_cell``."""

    def before_cell(self, info: Any) -> None:
        """Never raises: a cell runs, with or without its GPU."""
        told = self._told()
        if told is None:
            return
        if told["parked"] and NEEDS_GPU.search(info.raw_cell or "") and "gpu_batch" not in info.raw_cell:
            try:
                self._ask_again()
            except (Refused, Unreachable) as error:
                print(f"This session's GPU was given back, and cannot be had now: {error}")
            except KeyboardInterrupt:
                print("Interrupted: the cell runs without a GPU. It stays in the queue; the panel can leave it.")
            return
        os.environ.update({name: value for name, value in told.items() if name != "parked"})

    @staticmethod
    def _told() -> dict[str, Any] | None:
        """What the server wrote down; None while everything is as it began."""
        try:
            told: dict[str, Any] = json.loads(Path(os.environ[FILE_VARIABLE]).read_text())
        except (KeyError, OSError, ValueError):
            return None
        return told

    @staticmethod
    def _ask_again() -> None:
        service, reservation_id = Service.of_session(), os.environ["TIMESHARE_RESERVATION_ID"]
        print("This session's GPU was given back. Asking for it again …", flush=True)
        reservation = service.do(reservation_id, "ask_again", {})
        place = None
        while reservation["state"] == "parked" and reservation["asked_again"]:
            if reservation["position"] != place:
                place = reservation["position"]
                start = reservation["latest_start_in_s"]
                when = "" if start is None else f", expected in {duration(start)}"
                print(f"Position {place} in line{when}. Interrupt the kernel to go on without it.", flush=True)
            time.sleep(POLL_S)
            reservation = service.get(reservation_id)
        while reservation["handling"] is not None:
            time.sleep(0.2)
            reservation = service.get(reservation_id)
        if reservation["state"] != "active":
            raise Refused(reservation["detail"])
        uuids = [part["instance_uuid"] or part["device_uuid"] for part in reservation["placement"]]
        shown = "" if reservation["simulated"] else ",".join(uuids)
        os.environ.update(TIMESHARE_DEVICES=",".join(uuids), CUDA_VISIBLE_DEVICES=shown)
        print(f"It has {reservation['share_text']} again.", flush=True)


def load(shell: Any) -> None:
    """In sessions only, and once."""
    if FILE_VARIABLE in os.environ and not getattr(shell, "timeshare_gpu", None):
        shell.timeshare_gpu = GpuHook()
        shell.events.register("pre_run_cell", shell.timeshare_gpu.before_cell)
