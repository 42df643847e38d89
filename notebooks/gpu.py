"""Before each cell: which devices the session holds now. A cell that looks as if it needed a GPU asks for the one that
was given back; so does every cell of a kernel whose GPU state is kept, since its CUDA calls would wait for ever."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .batch.service import Refused, Service, Unreachable
from .batch.states import duration

FILE_VARIABLE = "TIMESHARE_DEVICES_FILE"
NEEDS_GPU = re.compile(r"\b(cuda|gpu|cupy|cudf|jax|tensorflow|keras|numba\.cuda)\b|\.cuda\(", re.IGNORECASE)
CUDA_LIBRARY = "/libcuda.so"
FACTS = ("parked", "kept")
"""Of the file: all else in it are variables."""
WAITS = " What this kernel holds on the GPU is kept; its CUDA calls wait until the GPU is back."
PAUSE_S = 20.0
"""After so long without a cell the GPU may be gone."""
POLL_S = 2


class GpuHook:
    """``before_cell`` is IPython's event ``pre_run_cell``."""

    def __init__(self) -> None:
        self._cell_at = time.monotonic()

    def before_cell(self, info: Any) -> None:
        """Never raises: a cell runs, with or without its GPU."""
        pause, self._cell_at = time.monotonic() - self._cell_at, time.monotonic()
        told, cuda = _told(), uses_cuda()
        if cuda and pause > PAUSE_S and not (told or {}).get("parked"):
            told = _asked_service() or told
        if told is None:
            return
        kept = cuda and bool(told.get("kept"))
        wants = kept or NEEDS_GPU.search(info.raw_cell or "")
        if not told["parked"] or not wants or "gpu_batch" in info.raw_cell:
            os.environ.update({name: value for name, value in told.items() if name not in FACTS})
            return
        waits = WAITS if kept else ""
        try:
            self._ask_again()
        except (Refused, Unreachable) as error:
            print(f"This session's GPU was given back, and cannot be had now: {error}{'.' + waits if waits else ''}")
        except KeyboardInterrupt:
            print(f"Interrupted: the cell runs without a GPU. It stays in the queue; the panel can leave it.{waits}")

    @staticmethod
    def _ask_again() -> None:
        service, reservation_id = Service.of_session(), os.environ["TIMESHARE_RESERVATION_ID"]
        print("This session's GPU was given back. Asking for it again …", flush=True)
        reservation = _asked(service, reservation_id)
        kept_mib = reservation["kept_mib"]
        place = None
        while reservation["state"] == "parked" and reservation["asked_again"]:
            if reservation["position"] != place:
                place = reservation["position"]
                start = reservation["latest_start_in_s"]
                when = "" if start is None else f", expected in {duration(start)}"
                print(f"Position {place} in line{when}. Interrupt the kernel to go on without it.", flush=True)
            time.sleep(POLL_S)
            reservation = service.get(reservation_id)
        detail = reservation["detail"]
        while reservation["handling"] is not None:
            if reservation["detail"] != detail:
                detail = reservation["detail"]
                print(f"{detail[:1].upper()}{detail[1:]}.", flush=True)
            time.sleep(0.2)
            reservation = service.get(reservation_id)
        if reservation["state"] != "active":
            raise Refused(reservation["detail"])
        uuids = [part["instance_uuid"] or part["device_uuid"] for part in reservation["placement"]]
        shown = "" if reservation["simulated"] else ",".join(uuids)
        os.environ.update(TIMESHARE_DEVICES=",".join(uuids), CUDA_VISIBLE_DEVICES=shown)
        state = f", with {kept_mib / 1024:.1f} GiB of GPU state" if kept_mib and not reservation["kept_mib"] else ""
        print(f"It has {reservation['share_text']} again{state}.", flush=True)


def _told() -> dict[str, Any] | None:
    """What the server wrote down; None while everything is as it began."""
    try:
        told: dict[str, Any] = json.loads(Path(os.environ[FILE_VARIABLE]).read_text())
    except (KeyError, OSError, ValueError):
        return None
    return told


def _asked_service() -> dict[str, Any] | None:
    """The same from the service: while nobody looked, the server may not know yet. None: it does not answer."""
    try:
        service = replace(Service.of_session(), timeout_s=3.0)
        now = service.get(os.environ["TIMESHARE_RESERVATION_ID"])
    except (Refused, Unreachable, KeyError):
        return None
    taken = now["state"] == "parked" or now["handling"] in ("returning", "parking")
    return {"parked": taken, "kept": now["kept_mib"] > 0 or now["handling"] == "parking"}


def _asked(service: Service, reservation_id: str) -> dict[str, Any]:
    """The reservation, asked for again; while its GPU is just being taken, that comes first."""
    while (reservation := service.get(reservation_id))["handling"] in ("returning", "parking"):
        time.sleep(0.2)
    return reservation if reservation["state"] == "active" else service.do(reservation_id, "ask_again", {})


def uses_cuda(pid: int | None = None) -> bool:
    """Whether this process (or ``pid``), or one that it started, has loaded the NVIDIA driver's library."""
    place = Path(f"/proc/{pid or os.getpid()}")
    try:
        children = [int(child) for task in place.glob("task/*/children") for child in task.read_text().split()]
        loaded = CUDA_LIBRARY in (place / "maps").read_text(errors="replace")
    except (OSError, ValueError):
        return False  # it has just ended
    return loaded or any(uses_cuda(child) for child in children)


def load(shell: Any) -> None:
    """In sessions only, and once."""
    if FILE_VARIABLE in os.environ and not getattr(shell, "timeshare_gpu", None):
        shell.timeshare_gpu = GpuHook()
        shell.events.register("pre_run_cell", shell.timeshare_gpu.before_cell)
