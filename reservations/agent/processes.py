"""Facts about processes, read from /proc. What a process says about itself is data: nothing in it can make a reader
raise, and no reader takes more than a bounded part of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

ID_MARK = b"TIMESHARE_RESERVATION_ID="
GENERATION_MARK = b"TIMESHARE_GENERATION="
KERNEL_MARKS = (b"ipykernel_launcher", b"ipykernel", b"timeshare.notebooks.runner")
"""Of programs that an interrupt means something to: kernels, and what runs a job and passes it on in its own time."""
MOST_ENVIRON = 128 * 1024
"""Bytes of an environment that are read. The marks of honest processes are among the first few thousand."""
MOST_ARGUMENTS = 16 * 1024
_MARKED_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_MARKED_GENERATION = re.compile(rb"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Process:
    """One process that runs. ``ticks``: its start in clock ticks since boot, which with the pid names it for good."""

    pid: int
    parent: int
    ticks: int


def start_ticks(pid: int) -> int | None:
    """Return the start time of a living process in clock ticks since boot, None if it is gone."""
    process = read_process(pid)
    return None if process is None else process.ticks


def cpu_ticks(pid: int) -> int | None:
    """Return the CPU time of a process, and of its children that have ended, in clock ticks."""
    fields = _stat(pid)
    return None if fields is None else sum(int(field) for field in fields[11:15])


def read_process(pid: int | str) -> Process | None:
    """Return the facts about ``pid``, None if it does not run."""
    fields = _stat(pid)
    return None if fields is None or not _runs(fields) else Process(int(pid), int(fields[1]), int(fields[19]))


def read_processes() -> dict[int, Process]:
    """Return everything that runs now, by pid."""
    found = (read_process(name) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def _stat(pid: int | str) -> list[bytes] | None:
    """Fields of /proc/PID/stat behind the name, which may hold anything, brackets and line breaks too: see proc(5)."""
    text = read_start(f"/proc/{pid}/stat", 4096)
    fields = text.rpartition(b")")[2].split()
    return fields if len(fields) > 19 else None


def _runs(fields: list[bytes]) -> bool:
    # A process whose first thread has ended is shown as a zombie while its other threads run on.
    return fields[0] not in (b"Z", b"X") or (fields[0] == b"Z" and int(fields[17]) > 1)


def read_start(path: str, most: int) -> bytes:
    """Return the first ``most`` bytes of a file, nothing if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, most)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def account_of(pid: int, accounts: Container[int]) -> int | None:
    """Return the one of ``accounts`` that ``pid`` runs as, None for any other process.

    Real, effective, saved and file system user id must all be that account's: whoever runs another one's setuid
    program has a process that is partly hers, with an environment of his own making.
    """
    try:
        if os.stat(f"/proc/{pid}").st_uid not in accounts:  # by far the cheapest; most processes are others'
            return None
    except OSError:
        return None
    for line in read_start(f"/proc/{pid}/status", 4096).splitlines():
        if line.startswith(b"Uid:"):
            ids = set(line.split()[1:])
            return int(ids.pop()) if len(ids) == 1 else None
    return None


def mark_of(pid: int) -> tuple[str, int] | None:
    """Return reservation and generation as the environment of ``pid`` has them, None where it has none."""
    environ = read_start(f"/proc/{pid}/environ", MOST_ENVIRON)
    if ID_MARK not in environ:
        return None
    reservation = generation = b""
    for item in environ.split(b"\0"):
        if item.startswith(ID_MARK):
            reservation = item[len(ID_MARK) :]
        elif item.startswith(GENERATION_MARK):
            generation = item[len(GENERATION_MARK) :]
    # The pattern comes before the number: int() raises for more than 4,300 digits.
    if not _MARKED_ID.fullmatch(reservation) or not _MARKED_GENERATION.fullmatch(generation):
        return None
    return reservation.decode(), int(generation)


def kernels(pids: Iterable[int]) -> set[int]:
    """Return those of ``pids`` that call themselves Jupyter kernels: an interrupt means something to them."""
    found = set()
    for pid in pids:
        arguments = read_start(f"/proc/{pid}/cmdline", MOST_ARGUMENTS).split(b"\0")
        if any(argument in KERNEL_MARKS for argument in arguments):
            found.add(pid)
    return found


def send(table: Mapping[int, Process], pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that is still the one in ``table``: a pid may have been given to another since."""
    for pid in pids:
        if pid in table:
            signal_one(pid, table[pid].ticks, number)


def signal_one(pid: int, ticks: int, number: signal.Signals) -> None:
    """Signal the process ``pid`` that began at ``ticks``, and no other one that got its pid."""
    try:
        descriptor = os.pidfd_open(pid)  # names the process, also when its pid is given to another one meanwhile
    except ProcessLookupError:
        return
    except OSError:  # a kernel before Linux 5.3
        if start_ticks(pid) == ticks:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        return
    try:
        if start_ticks(pid) == ticks:
            with contextlib.suppress(OSError):  # gone, or not ours to end (sudo)
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def names_of(pids: Iterable[int]) -> dict[int, str]:
    """Return the program names of those that still run, fit for a line of text."""
    found = {}
    for pid in pids:
        name = read_start(f"/proc/{pid}/comm", 64).decode(errors="replace").strip()
        if name:
            found[pid] = "".join(c if c.isprintable() else "?" for c in name)
    return found
