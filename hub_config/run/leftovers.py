"""Processes that an earlier supervisor left, by what they wrote down of themselves and what the kernel says of them.

Nothing else is believed: any account can start a process with any environment, name and arguments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ...reservations.agent.processes import start_ticks
from ...reservations.clock import read_boot_id

STOP_WAIT_S = 8.0


def records(state_dir: Path) -> Path:
    """Return the folder with a file for each component, written by ``begin``."""
    return state_dir / "components"


@dataclass(frozen=True)
class Component:
    """A component that runs. ``ticks``: its start time, which with the pid names one process of this boot."""

    name: str
    pid: int
    ticks: int

    def lives(self) -> bool:
        return start_ticks(self.pid) == self.ticks and _user_of(self.pid) == os.geteuid()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process and to no other that has its pid meanwhile."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.lives():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def leftovers(state_dir: Path) -> dict[int, str]:
    """Return pid and name of every component of the deployment that runs."""
    return {component.pid: component.name for component in _living(state_dir)}


def end_leftovers(state_dir: Path) -> list[str]:
    """End the components that an earlier supervisor left, and return their names."""
    found = _living(state_dir)
    for number, patience in ((signal.SIGTERM, STOP_WAIT_S), (signal.SIGKILL, 2.0)):
        for component in found:
            component.signal(number)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(component.lives() for component in found):
            time.sleep(0.05)
    return sorted(component.name for component in found)


def _living(state_dir: Path) -> list[Component]:
    try:
        paths = sorted(path for path in records(state_dir).iterdir() if path.suffix != ".new")
    except OSError:
        return []
    return [component for path in paths if (component := _read(path)) is not None and component.lives()]


def _read(path: Path) -> Component | None:
    """Return what ``begin`` wrote; None for what it did not write in this boot."""
    try:
        pid, ticks, boot = path.read_text().split()
        return Component(path.name, int(pid), int(ticks)) if boot == read_boot_id() else None
    except (OSError, ValueError):
        return None


def _user_of(pid: int) -> int | None:
    """Return the effective user id of a process. Not the owner of /proc/PID, which is root for some of others."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(b"Uid:")), None)
    return int(line.split()[2]) if line is not None else None
