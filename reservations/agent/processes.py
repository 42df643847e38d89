"""Which processes belong to which session, read from /proc in one pass."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ID_MARK = b"TIMESHARE_RESERVATION_ID="
GENERATION_MARK = b"TIMESHARE_GENERATION="
KERNEL_MARKS = (b"ipykernel_launcher", b"ipykernel", b"timeshare.notebooks.runner")
"""Of programs that an interrupt means something to: kernels, and what runs a job and passes it on in its own time."""


@dataclass(frozen=True)
class Process:
    """``mark``: reservation and generation in its environment, if any. Zombies are not processes here."""

    pid: int
    parent: int
    ticks: int
    mark: tuple[str, int] | None


def start_ticks(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; with the pid it names one process of this boot."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == b"Z" else int(fields[19])


def cpu_ticks(pid: int) -> int | None:
    """CPU time of a process, and of its children that have ended, in clock ticks."""
    fields = _stat(pid)
    return None if fields is None else sum(int(field) for field in fields[11:15])


def _stat(pid: int) -> list[bytes] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def read_processes() -> dict[int, Process]:
    """Everything that runs now, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat(int(name))
        if fields is not None and fields[0] not in (b"Z", b"X"):
            found[int(name)] = Process(int(name), int(fields[1]), int(fields[19]), _mark(int(name)))
    return found


def _mark(pid: int) -> tuple[str, int] | None:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    if ID_MARK not in environ:
        return None
    values = dict(item.split(b"=", 1) for item in environ.split(b"\0") if b"=" in item)
    reservation = values.get(ID_MARK[:-1], b"").decode(errors="replace")
    generation = values.get(GENERATION_MARK[:-1], b"0")
    return (reservation, int(generation)) if generation.isdigit() else None


def session_pids(table: dict[int, Process], mark: tuple[str, int], launcher: int | None) -> set[int]:
    """Pids of one start: what lies below its launcher, and what carries its mark. The launcher itself is left out."""
    own = {process.pid for process in table.values() if process.mark == mark}
    if launcher is not None and launcher in table:
        own |= descendants(table, launcher)
        own.discard(launcher)
    return own


def descendants(table: dict[int, Process], root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = set(), [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def kernels(pids: Iterable[int]) -> set[int]:
    """Those of ``pids`` that are Jupyter kernels: an interrupt means something to them."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(argument in KERNEL_MARKS for argument in argv):
                found.add(pid)
    return found


def send(table: dict[int, Process], pids: Iterable[int], number: signal.Signals) -> None:
    """Signals each process that is still the one in ``table``: a pid may have been given to another since."""
    for pid in pids:
        if start_ticks(pid) == table[pid].ticks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def names_of(pids: Iterable[int]) -> dict[int, str]:
    """Program names of those that still run."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return found
