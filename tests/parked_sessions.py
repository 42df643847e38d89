"""Sessions with kernels that hold simulated GPU memory, to be parked. The kernels are real processes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes import driver_tells

from timeshare.reservations.devices.simulated import SimulatedSource

SPEC = "a100-40gb:3"
GPU = tuple(f"GPU-simulated-{number:04d}" for number in range(3))
KERNEL = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(0.1)"
SERVER = (
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    f"[subprocess.Popen([sys.executable, '-c', {KERNEL!r}, 'ipykernel_launcher']) for _ in range(2)]\n"
    "while True: time.sleep(0.1)",
)
"""A server with two kernels."""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class Driver:
    """The simulated driver, as a test tells it what there is, and sees what it did. ``place``: its file of faults."""

    place: Path
    processes: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def tell(self, **checkpoint: Any) -> None:
        """What is written in ``processes``, and these faults of checkpoints."""
        self.checkpoint = checkpoint
        driver_tells(self.place, processes=self.processes, checkpoint=checkpoint)

    def hold(self, pid: int, memory_mib: int | None, device: str = GPU[0], **more: Any) -> None:
        """``pid`` holds so much from now on."""
        self.processes.append({"pid": pid, "device": device, "memory_mib": memory_mib, **more})
        self.tell(**self.checkpoint)

    def drop(self, pid: int) -> None:
        """It holds nothing any more, as when it has ended."""
        self.processes = [entry for entry in self.processes if entry["pid"] != pid]
        self.tell(**self.checkpoint)

    def on_gpus(self) -> dict[int, str]:
        """Who holds memory where, as the driver shows it."""
        return {p.pid: p.device_uuid for p in SimulatedSource(SPEC, self.place).processes()}

    def states(self) -> dict[int, str]:
        """Of all processes that were ever touched."""
        place = self.place.with_name("checkpoints.json")
        known = json.loads(place.read_text()) if place.exists() else {}
        return {int(pid): told["state"] for pid, told in known.items()}
