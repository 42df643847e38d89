"""The processes below this one, without looking at everybody else's on the node."""

from __future__ import annotations

from ..agent.ending import below
from ..agent.processes import Process, read_process


def processes_below(root: int) -> dict[int, Process]:
    """What lives below ``root``, by pid; itself left out."""
    found = (read_process(pid) for pid in below(root))
    return {process.pid: process for process in found if process is not None}
