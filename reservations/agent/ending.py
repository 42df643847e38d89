"""Ends processes that fork faster than lists of them can be made. Used by the agent, by job agents and, as a file
beside it, by the launcher, which starts faster without the package: so nothing here but what Python has loaded anyway.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # the launcher starts faster without these
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SIGKILL, SIGSTOP = 9, 19
SETTLE_S = 1.0
"""How long one attempt to stop everything may take."""
LOOKS = 3
"""How many lists of processes have to be empty before nothing is left: one may miss a child whose parent ends."""
FREEZE_S = 0.5
"""How long a group may take to freeze; one that takes longer is signalled all the same."""


def kill_group(folder: str) -> None:
    """Send SIGKILL to everything in the control group ``folder`` and below. Call it until the group is empty.

    Linux 5.14 does it in one step that no fork escapes (cgroup-v2.rst, ``cgroup.kill``). Before that, and in version 1,
    the group is frozen first: what is frozen does not fork.
    """
    if _write(f"{folder}/cgroup.kill", "1"):
        return
    try:
        freeze(folder)
        for pid in group_pids(folder):
            signal_pid(pid, SIGKILL)
    finally:
        thaw(folder)  # in version 1 a frozen process does not die


def freeze(folder: str) -> None:
    """Stop everything in the control group ``folder`` where it is, if that can be done; ``thaw`` lets it run on."""
    if not (_write(f"{folder}/freezer.state", "FROZEN") or _write(f"{folder}/cgroup.freeze", "1")):
        return
    until = time.monotonic() + FREEZE_S
    while time.monotonic() < until:
        if _read(f"{folder}/freezer.state").strip() == "FROZEN" or "frozen 1" in _read(f"{folder}/cgroup.events"):
            return
        time.sleep(0.002)


def thaw(folder: str) -> None:
    """Let a frozen group run on: whoever froze it may have been killed before doing so."""
    _write(f"{folder}/freezer.state", "THAWED")
    _write(f"{folder}/cgroup.freeze", "0")


def group_pids(folder: str) -> set[int]:
    """Return the pids in the control group ``folder`` and in groups below it; none if there is no such group."""
    found = {int(pid) for pid in _read(f"{folder}/cgroup.procs").split()} - {0}  # 0: it ended while it was listed
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        below = []
    return found.union(*(group_pids(path) for path in below))


def populated(folder: str) -> bool:
    """Return whether anything runs in the control group ``folder`` or below.

    Version 2 counts it (cgroup-v2.rst, ``populated``), which no fork escapes. A list of pids is of the past: of a chain
    of forks none may be left when it has been read.
    """
    for line in _read(f"{folder}/cgroup.events").splitlines():
        if line.startswith("populated "):
            return line != "populated 0"
    return any(group_pids(folder) for _ in range(LOOKS))


def oom_kills(folders: Sequence[str]) -> int:
    """Return how many processes of a group the kernel has ended because memory was used up, as far as it says so."""
    for folder in folders:
        for path in (
            f"{folder}/memory.oom_control",  # version 1
            f"{folder}/memory.events",
            f"{os.path.dirname(folder)}/memory.events",  # where the bounds are those of a scope around it
        ):
            for line in _read(path).splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill" and number.strip().isdigit():
                    return int(number)
    return 0


def kill_all(look: Callable[[], Iterable[int]]) -> None:
    """Stop everything that ``look`` finds until two looks agree, then kill it. Call it until nothing is left.

    For where there is no control group. ``look`` may be a generator: each process is stopped before the next is looked
    for, so that its children are read when it can have no more.
    """
    stopped: set[int] = set()
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        seen = set()
        for pid in look():
            if pid not in stopped:
                signal_pid(pid, SIGSTOP)
            seen.add(pid)
        if seen == stopped:
            break
        stopped = seen
    for pid in stopped:
        signal_pid(pid, SIGKILL)


def below(root: int) -> Iterator[int]:
    """Yield the pids of all processes below ``root``, each one before its own children are read."""
    todo, seen = [root], {root}
    while todo:
        for pid in children(todo.pop()):
            if pid not in seen:
                seen.add(pid)
                yield pid
                todo.append(pid)


def children(pid: int) -> list[int]:
    """Return the pids of the direct children of every thread of ``pid``; none of one that is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        place = f"/proc/{pid}/task/{thread}"
        try:
            with open(f"{place}/children") as file:
                found += [int(child) for child in file.read().split()]
        except FileNotFoundError:
            if os.path.exists(f"{place}/stat"):  # a kernel built without these lists
                return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == pid]
        except OSError:
            continue  # the thread ended meanwhile
    return found


def _parent(pid: str) -> int:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def signal_pid(pid: int, number: int) -> None:
    """Signal a process that was just seen; one that is gone, or not ours to end (sudo), is passed over."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> bool:
    """Whether the kernel took ``text``; a file that is not there is never made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
