"""Whether a deployment runs on a state folder, started by ``timeshare up`` or by units of systemd."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from ...reservations.deployment import FILE_NAME, VARIABLE
from ..run.leftovers import leftovers

MODULES = {
    b"timeshare.reservations.agent": "agent",
    b"timeshare.reservations.service": "service",
    b"timeshare.hub_config.run.hub_start": "hub",
    b"timeshare.idle_culler": "culler",
    b"timeshare.spawners.starter": "starter",
}


def running(state_dir: Path) -> list[str]:
    """Return the names of its parts that run, with their pids. Sessions are none of them: they go on."""
    found = dict(leftovers(state_dir))
    meant = f"{VARIABLE}={state_dir / FILE_NAME}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and (name := _part(entry, meant)):
            found[int(entry.name)] = name
    return sorted(f"{name} (process {pid})" for pid, name in found.items())


def _part(process: Path, meant: bytes) -> str:
    """Which part of the deployment a process is; empty: none. Of another account it is none, whatever it says."""
    try:
        if process.stat().st_uid != os.geteuid():
            return ""
        words = (process / "cmdline").read_bytes().split(b"\0")
        pairs = pairwise(words)
        name = next((MODULES[word] for before, word in pairs if before == b"-m" and word in MODULES), "")
        return name if name and meant in (process / "environ").read_bytes().split(b"\0") else ""
    except OSError:  # it has ended
        return ""
