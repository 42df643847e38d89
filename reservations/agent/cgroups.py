"""Control groups: one for every session, so that it can be ended as a whole and kept within bounds.

A session's group is a folder in each hierarchy that is of use: of version 2, or for what that does not have (Linux can
be started with both) of version 1. The first folder is the one that says what belongs to the session, and by which it
is ended. The launcher stays outside: it has to outlive all of it, and to tell how it ended.

Kernel: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids,freezer-subsystem}.rst.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

GROUP = "timeshare"
SLICE = "timeshare.slice"
PROCESSES = 4096
"""Processes and threads that a session may have at the same time. A Lab with 20 kernels on a node of 64 cores has about
1,500, since numerical libraries start a thread for each core; a fork bomb ends here, not at the node's own limit."""
CONTROLLERS = {"processes": "pids", "memory": "memory", "cpu": "cpu"}
"""What is kept within bounds, by the name it has in ``session_bounds``, and the controller that does it."""


class GroupError(Exception):
    """A control group could not be made; the text is for a person."""


@dataclass(frozen=True)
class Bounds:
    """What a session may take of its node. ``cpus``: cores it is sure of when all others want theirs; it may use more
    while they leave it idle, None is as one core. ``memory_mib``: main memory at most, None: no bound."""

    cpus: float | None = None
    memory_mib: int | None = None
    processes: int = PROCESSES


@dataclass(frozen=True)
class Group:
    """A session's group. ``folders``: to enter, in this order; what is missing of them the launcher makes.
    ``properties``: of the scope in which the launcher is to run, for systemd; without any it needs none."""

    folders: tuple[str, ...]
    properties: tuple[str, ...] = ()


class Groups(Protocol):
    """A way to make control groups. ``bounds``: what it keeps within bounds, of CONTROLLERS."""

    @property
    def name(self) -> str: ...
    @property
    def bounds(self) -> frozenset[str]: ...

    def prepare(self, name: str, bounds: Bounds) -> Group:
        """Make the group. Raises GroupError."""


def group_name(root: Path, reservation_id: str, generation: int) -> str:
    """Return a name that tells nobody the reservation's id: every account can read the names of control groups. Its
    beginning is the same for all groups of an agent."""
    return f"{own_prefix(root)}{_digest(f'{root} {reservation_id}.{generation}', 8)}"


def own_prefix(root: Path) -> str:
    """Return how the names of all groups of the agent begin whose records are in ``root``."""
    return f"{_digest(str(root), 4)}-"


def _digest(text: str, size: int) -> str:
    return hashlib.blake2s(text.encode("utf-8", "surrogateescape"), digest_size=size).hexdigest()


@dataclass(frozen=True)
class Mounts:
    """Where hierarchies are mounted: ``unified`` of version 2, ``v1`` by controller."""

    unified: Path | None = None
    v1: Mapping[str, Path] = field(default_factory=dict)

    @staticmethod
    def read(listing: str) -> Mounts:
        """Out of the text of /proc/mounts."""
        unified, v1 = None, {}
        for row in map(str.split, listing.splitlines()):
            if len(row) > 3 and row[2] == "cgroup2":
                unified = unified or Path(row[1])
            elif len(row) > 3 and row[2] == "cgroup":
                v1.update({option: Path(row[1]) for option in row[3].split(",")})
        return Mounts(unified, v1)

    @staticmethod
    def here() -> Mounts:
        return Mounts.read(Path("/proc/mounts").read_text())


class Folders:
    """Makes the folders itself, below ``timeshare`` at the top of each hierarchy. ``bounds``: which to use."""

    name = "cgroup"

    def __init__(self, mounts: Mounts, bounds: Iterable[str] = CONTROLLERS) -> None:
        wanted = {CONTROLLERS[bound] for bound in bounds}
        self._tops = _tops(mounts, wanted)
        has = {controller for top in self._tops for controller in top.controllers}
        self.bounds = frozenset(bound for bound, controller in CONTROLLERS.items() if controller in has)

    def prepare(self, name: str, bounds: Bounds) -> Group:
        if not self._tops:
            raise GroupError("no hierarchy of control groups can be written by which processes can be ended together")
        made = [top.folder / GROUP / name for top in self._tops]
        try:
            for top, folder in zip(self._tops, made, strict=True):
                top.prepare()
                folder.mkdir(exist_ok=True)
                for controller in top.controllers:
                    bound(folder, controller, bounds, top.unified)
        except OSError as error:
            remove([str(folder) for folder in made])
            raise GroupError(f"{error.filename}: {error.strerror}") from None
        return Group(tuple(map(str, made)))


@dataclass(frozen=True)
class _Top:
    """One hierarchy. ``controllers``: those of CONTROLLERS that it has."""

    folder: Path
    controllers: tuple[str, ...]
    unified: bool

    def prepare(self) -> None:
        """All sessions together weigh as one process on each core, beside what is not in any group."""
        ours = self.folder / GROUP
        ours.mkdir(exist_ok=True)
        if self.unified:
            for controller in self.controllers:
                for place in (self.folder, ours):
                    _write(place / "cgroup.subtree_control", f"+{controller}")
        if "cpu" in self.controllers:
            bound(ours, "cpu", Bounds(cpus=os.cpu_count()), self.unified)


def _tops(mounts: Mounts, wanted: set[str]) -> list[_Top]:
    """The hierarchies to use; the first is the one to end processes by. Empty: there is none."""
    if mounts.unified is not None and _writable(mounts.unified):
        has = wanted & set((mounts.unified / "cgroup.controllers").read_text().split())
        first = _Top(mounts.unified, tuple(sorted(has)), True)
    elif "freezer" in mounts.v1 and _writable(mounts.v1["freezer"]):
        first = _Top(mounts.v1["freezer"], (), False)
    else:
        return []
    places: dict[Path, list[str]] = {}
    for controller in sorted((wanted - set(first.controllers)) & set(mounts.v1)):
        if _writable(mounts.v1[controller]):  # several may lie in one place
            places.setdefault(mounts.v1[controller], []).append(controller)
    return [first, *(_Top(place, tuple(names), False) for place, names in places.items())]


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def bound(folder: Path, controller: str, bounds: Bounds, unified: bool) -> None:
    """Write the bounds that ``controller`` holds into a group. Raises OSError."""
    if controller == "pids":
        _write(folder / "pids.max", str(bounds.processes))
    elif controller == "cpu" and unified:
        _write(folder / "cpu.weight", str(min(10_000, max(1, round(100 * (bounds.cpus or 1))))))
    elif controller == "cpu":
        _write(folder / "cpu.shares", str(min(262_144, max(2, round(1024 * (bounds.cpus or 1))))))
    elif bounds.memory_mib is not None:
        size = str(bounds.memory_mib * 1024 * 1024)
        names = ("memory.max",) if unified else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        for name in names:
            if name == names[0] or (folder / name).exists():
                _write(folder / name, size)
        if unified and (folder / "memory.swap.max").exists():
            _write(folder / "memory.swap.max", "0")


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never makes a file
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def sweep(root: Path, kept: Iterable[str]) -> None:
    """Remove what an agent with its records in ``root`` made for starts that never began. ``kept``: folders of those
    that did."""
    mounts, known = Mounts.here(), set(kept)
    for top in {mounts.unified, *mounts.v1.values()} - {None}:
        assert top is not None
        remove([str(folder) for folder in (top / GROUP).glob(f"{own_prefix(root)}*") if str(folder) not in known])


def remove(folders: Iterable[str]) -> None:
    """Remove empty groups and those below them; one in which something runs stays."""
    for folder in folders:
        for place, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(place)


class Systemd:
    """A transient scope for the launcher, with the session's group within: systemd leaves that to us (Delegate). For
    machines with nothing but version 2; on others systemd does not mind folders of ours."""

    name = "systemd"

    def __init__(self, mounts: Mounts, bounds: Iterable[str] = CONTROLLERS) -> None:
        self._mounts = mounts
        self.bounds = frozenset(bounds)

    def prepare(self, name: str, bounds: Bounds) -> Group:
        unified = self._mounts.unified
        if unified is None or not manages_this_machine() or set(CONTROLLERS.values()) & set(self._mounts.v1):
            raise GroupError("systemd does not manage this machine by control groups of version 2")
        weight = min(10_000, max(1, round(100 * (bounds.cpus or 1))))
        words = ["-p", "Delegate=yes", "-p", f"TasksMax={bounds.processes}", "-p", f"CPUWeight={weight}"]
        if bounds.memory_mib is not None:
            words += ["-p", f"MemoryMax={bounds.memory_mib}M", "-p", "MemorySwapMax=0"]
        return Group((str(unified / SLICE / f"{GROUP}-{name}.scope" / "session"),), tuple(words))


def manages_this_machine() -> bool:
    """Return whether systemd does, and takes orders for scopes from us."""
    return Path("/run/systemd/system").is_dir() and os.geteuid() == 0 and shutil.which("systemd-run") is not None


def scope_command(name: str, properties: Sequence[str]) -> list[str]:
    """Return the words to put before a command that is to run in a scope of its own; none without properties."""
    if not properties:
        return []
    scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--slice={SLICE}", f"--unit={GROUP}-{name}"]
    return [*scope, *properties, "--"]
