"""The processes below this one, without looking at everybody else's on the node."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..agent.processes import Process, descendants, read_processes, start_ticks


def processes_below(root: int) -> dict[int, Process]:
    """What lives below ``root``, by pid; itself left out."""
    found: dict[int, Process] = {}
    todo = [root]
    while todo:
        parent = todo.pop()
        try:
            children = _children(parent)
        except FileNotFoundError:  # a kernel built without these lists
            table = read_processes()
            return {pid: table[pid] for pid in descendants(table, root)}
        for pid in children:
            ticks = start_ticks(pid)
            if pid not in found and ticks is not None:
                found[pid] = Process(pid, parent, ticks)
                todo.append(pid)
    return found


def _children(pid: int) -> list[int]:
    """Of every thread of a process; none of one that is gone. Raises FileNotFoundError where the kernel has no list."""
    found: list[int] = []
    threads = []
    with contextlib.suppress(OSError):
        threads = os.listdir(f"/proc/{pid}/task")
    for thread in threads:
        folder = Path(f"/proc/{pid}/task/{thread}")
        try:
            found += [int(child) for child in (folder / "children").read_text().split()]
        except FileNotFoundError:
            if (folder / "stat").exists():
                raise
        except OSError:
            continue  # the thread ended meanwhile
    return found
