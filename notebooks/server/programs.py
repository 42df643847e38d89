"""Programs that work beside the kernels: what was started from a terminal, with nohup or in tmux. Read from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VIEWERS = frozenset(
    [
        "less",
        "more",
        "man",
        "vi",
        "vim",
        "nvim",
        "nano",
        "emacs",
        "tail",
        "watch",
        "top",
        "htop",
        "btop",
        "nvtop",
        "nvidia-smi",
        "gpustat",
        "screen",
    ]
)
"""They draw and wait, even if they use some CPU for it; what is started from them counts by itself."""
LEAST_CPU = 0.005
"""Of a core: less than that is waiting."""
LEAST_BYTES = 1024 * 1024
"""Read and written in a minute: a download that hardly needs the CPU is work too."""
KERNELS = (b"ipykernel_launcher", b"ipykernel")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
MARK = b"TIMESHARE_RESERVATION_ID="
MOST_ENVIRON, MOST_ARGUMENTS = 128 * 1024, 16 * 1024
"""Bytes that are read of what a process says about itself."""


@dataclass(frozen=True)
class Program:
    """A process at one moment. ``ticks``: CPU used so far; ``moved``: bytes read and written so far, None: unknown.
    ``began`` tells it from another one that got its pid later."""

    pid: int
    parent: int
    name: str
    began: int
    ticks: int
    moved: int | None
    kernel: bool = False


@dataclass(frozen=True)
class Look:
    """At all processes of the session. ``at``: seconds of a clock that does not step."""

    at: float
    programs: Mapping[int, Program]


def beside(programs: Mapping[int, Program], server: int) -> dict[int, Program]:
    """Those that are neither the server, nor a kernel, nor of a kernel, nor helpers that the server itself runs.

    A terminal's shell is a child of the server; what counts is what was started from it.
    """
    found = {}
    for program in programs.values():
        line = _ancestors(programs, program.pid)
        if any(programs[pid].kernel for pid in line) or program.pid == server or program.parent == server:
            continue
        found[program.pid] = program
    return found


def _ancestors(programs: Mapping[int, Program], pid: int) -> list[int]:
    """``pid`` and what it comes from, as far as that belongs to the session."""
    line: list[int] = []
    while pid in programs and pid not in line:
        line.append(pid)
        pid = programs[pid].parent
    return line


def works(before: Look, after: Look, server: int) -> bool | None:
    """Whether a program worked between two looks; None: nobody can say."""
    seconds = after.at - before.at
    if seconds <= 0:
        return None
    known = True
    for program in beside(after.programs, server).values():
        if program.name in VIEWERS:
            continue
        old = before.programs.get(program.pid)
        same = old is not None and old.began == program.began
        ticks = program.ticks - (old.ticks if same and old else 0)
        if ticks / TICKS_A_SECOND / seconds >= LEAST_CPU:
            return True
        if program.moved is None or (same and old is not None and old.moved is None):
            known = False
        elif (program.moved - ((old.moved or 0) if same and old else 0)) * 60 / seconds >= LEAST_BYTES:
            return True
    return False if known else None


def read_programs(reservation_id: str) -> dict[int, Program] | None:
    """Every process of this session that is ours to see; None when /proc cannot be read."""
    mark = MARK + reservation_id.encode()
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    found = (_read(int(name), mark) for name in names)
    return {program.pid: program for program in found if program is not None}


def _read(pid: int, mark: bytes) -> Program | None:
    place = Path(f"/proc/{pid}")
    try:
        if mark not in _start_of(place / "environ", MOST_ENVIRON).split(b"\0"):
            return None
        name, _, rest = (place / "stat").read_bytes().partition(b"(")[2].rpartition(b")")
        fields = rest.split()
        words = _start_of(place / "cmdline", MOST_ARGUMENTS).split(b"\0")
    except OSError:
        return None  # it has ended, or belongs to somebody else
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    ticks = sum(int(field) for field in fields[11:15])
    kernel = any(word in KERNELS for word in words)
    return Program(pid, int(fields[1]), name.decode(errors="replace"), int(fields[19]), ticks, _moved(place), kernel)


def _start_of(path: Path, most: int) -> bytes:
    """A process may have an environment of megabytes, and a person may have many such processes."""
    with open(path, "rb", buffering=0) as file:
        return file.read(most)


def _moved(place: Path) -> int | None:
    try:
        rows = dict(line.split(b": ") for line in (place / "io").read_bytes().splitlines())
        return int(rows[b"rchar"]) + int(rows[b"wchar"])
    except (OSError, ValueError, KeyError):
        return None
