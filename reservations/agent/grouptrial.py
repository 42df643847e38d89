"""Tries for real which control groups can be made here, and what they hold."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

from .cgroups import CONTROLLERS, Bounds, Folders, Group, GroupError, Groups, Mounts, Systemd, remove, scope_command

TIMEOUT_S = 10
MEMORY_MIB = 64
CPUS = 3
_BOUNDS = Bounds(CPUS, MEMORY_MIB, 1)
_FILES = {
    "processes": {"pids.max": "1"},
    "memory": {"memory.max": str(MEMORY_MIB << 20), "memory.limit_in_bytes": str(MEMORY_MIB << 20)},
    "cpu": {"cpu.weight": str(100 * CPUS), "cpu.shares": str(1024 * CPUS)},
}
"""What the kernel must say of the bounds of a trial."""
_TRIAL = f"""
import json, os, sys, time
ending, files, folders = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
sys.path.append(ending)
import ending
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    said = "free"
    try:
        if os.fork() == 0:
            time.sleep({TIMEOUT_S})
            os._exit(0)
    except OSError:
        said = "bound"
    os.write(writer, said.encode())
    time.sleep({TIMEOUT_S})
    os._exit(0)
os.close(writer)
said = os.read(reader, 10).decode()
held = []
for bound, wanted in files.items():
    for place in [*folders, *map(os.path.dirname, folders)]:
        for name, value in wanted.items():
            try:
                if open(place + "/" + name).read().strip() == value and (bound != "processes" or said == "bound"):
                    held.append(bound)
            except OSError:
                pass
within = child in ending.group_pids(folders[0])
ending.kill_group(folders[0])
_, status = os.waitpid(child, 0)
ended = os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9
print("ended" if within and ended else "not-ended", *held)
"""


def choose_groups(way_name: str | None) -> Groups | None:
    """Return the way to make control groups that works here, with the bounds that it really holds; None: there is
    none. ``way_name``: of the device filter, whose own groups must fit."""
    return _tried(way_name)[0]


def group_findings(way_name: str | None = None) -> list[tuple[str, bool, str, str]]:
    """Return for people what control groups do here: name, whether it works, what was seen, what to do if not."""
    groups, why = _tried(way_name)
    root = "run timeshare as root on a machine whose control groups (/sys/fs/cgroup) can be written"
    ended = "a session's processes are ended together, also those that fork without end"
    listed = f"no control groups ({why}): a session's processes are stopped, listed and then ended one by one"
    rows = [("sessions as groups", groups is not None, ended if groups else listed, "" if groups else root)]
    words = {
        "processes": "how many processes a session has at most",
        "memory": "how much main memory a session takes at most",
        "cpu": "each session's part of the cores while others want theirs",
    }
    for bound, controller in CONTROLLERS.items():
        holds = groups is not None and bound in groups.bounds
        advice = "" if holds else f"{root}, with the controller {controller}"
        rows.append((f"bound: {bound}", holds, words[bound] + ("" if holds else ": nothing holds it"), advice))
    return rows


def _tried(way_name: str | None) -> tuple[Groups | None, str]:
    """The way that works, else why none does."""
    mounts = Mounts.here()
    kinds: list[type[Systemd] | type[Folders]] = [Folders]
    if way_name in (None, "systemd", "bubblewrap"):
        kinds.insert(0, Systemd)
    why = ""
    for kind in kinds:
        try:
            return kind(mounts, _try(kind(mounts))), ""
        except GroupError:
            pass  # one controller that cannot be had must not cost all of it
        try:
            _try(kind(mounts, ()))
        except GroupError as error:
            why = str(error)
            continue
        return kind(mounts, [bound for bound in CONTROLLERS if _holds(kind(mounts, [bound]), bound)]), ""
    return None, why


def _holds(groups: Groups, bound: str) -> bool:
    try:
        return bound in _try(groups)
    except GroupError:
        return False


def _try(groups: Groups) -> set[str]:
    """The bounds that it holds. Raises GroupError when processes cannot be ended by it."""
    name = f"trial-{uuid.uuid4().hex[:8]}"
    group = Group(())
    try:
        group = groups.prepare(name, _BOUNDS)
        said = _run(name, group)
    except (OSError, subprocess.SubprocessError) as error:
        raise GroupError(f"the trial failed: {error}") from None
    finally:
        remove(group.folders)
    if said[:1] != ["ended"]:
        raise GroupError(f"a process could not be ended with its group: {' '.join(said) or 'no answer'}")
    return set(said[1:]) & groups.bounds


def _run(name: str, group: Group) -> list[str]:
    program = [sys.executable, "-I", "-S", "-c", _TRIAL, str(Path(__file__).parent), json.dumps(_FILES)]
    command = [*scope_command(name, group.properties), *program, *group.folders]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, text=True)
    return done.stdout.split() or done.stderr.strip().splitlines()[-1:]


def bounds_of(groups: Groups | None) -> list[str]:
    """Return what control groups hold on this node, for the answer to ``hello``."""
    bounds: Iterable[str] = groups.bounds if groups is not None else ()
    return sorted(bounds)
