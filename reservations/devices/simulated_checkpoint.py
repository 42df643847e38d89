"""Checkpoints of processes on GPUs that are not there: who held GPU memory by the file of simulated faults is said to
hold none while it is checkpointed, and to hold it elsewhere once it was restored there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError, State
from .model import DeviceError
from .simulated import SimulatedSource, read_json


class SimulatedCheckpointer:
    """A ``Checkpointer`` over a ``SimulatedSource``. What it did stands in a file beside that of the faults, as the
    driver too remembers it whoever asks."""

    def __init__(self, source: SimulatedSource) -> None:
        self._source = source

    def available(self) -> str:
        try:
            return str(self._told().get("unavailable", ""))
        except CheckpointError as error:
            return str(error)

    def state(self, pid: int) -> State:
        if not Path(f"/proc/{pid}").exists():
            raise CheckpointError(f"process {pid}: its state: there is no such process")
        if pid in self._told().get("failed", ()):
            return "failed"
        found: State = self._known().get(str(pid), {}).get("state", "running")
        return found

    def lock(self, pid: int, timeout_s: float) -> None:
        self._expect(pid, "lock", "running")
        self._write(pid, state="locked")

    def checkpoint(self, pid: int) -> None:
        self._expect(pid, "checkpoint", "locked")
        self._write(pid, state="checkpointed")

    def restore(self, pid: int, gpus: Mapping[str, str]) -> None:
        self._expect(pid, "restore", "checkpointed")
        known = set(self._source.inventory().by_uuid())
        if gpus and not known == set(gpus) == set(gpus.values()):
            raise CheckpointError(f"process {pid}: restore: the map must name each GPU of the machine once")
        before = self._known().get(str(pid), {}).get("gpus", {})
        after = {first: gpus.get(now, now) for first, now in before.items()} if before else dict(gpus)
        mine = self._source.held_by(pid, after)
        free = self._source.free_mib()
        if any(mib > free[uuid] for uuid, mib in mine.items()):
            raise CheckpointError(f"process {pid}: restore: out of memory")
        self._write(pid, state="locked", gpus=after)

    def unlock(self, pid: int) -> None:
        self._expect(pid, "unlock", "locked")
        self._write(pid, state="running")

    def _expect(self, pid: int, what: str, state: State) -> None:
        told = self._told()
        time.sleep(float(told.get("delay_s", 0)))
        if pid in told.get(what, ()):
            raise CheckpointError(f"process {pid}: {what}: refused by the simulated driver")
        found = self.state(pid)
        if found != state:
            raise CheckpointError(f"process {pid}: {what}: it is {found}, not {state}")

    def _told(self) -> Mapping[str, Any]:
        try:
            return self._source.checkpoint_faults()
        except DeviceError as error:
            raise CheckpointError(str(error)) from None

    def _known(self) -> dict[str, Any]:
        return read_json(self._source.checkpoints)

    def _write(self, pid: int, **changes: Any) -> None:
        place = self._source.checkpoints
        if place is None:
            raise CheckpointError(f"process {pid}: no simulated process holds GPU memory here")
        known = self._known()
        known[str(pid)] = {**known.get(str(pid), {}), **changes}
        draft = place.with_name(f"{place.name}.{os.getpid()}")
        draft.write_text(json.dumps(known))
        draft.replace(place)
