"""Hides the GPUs that a session does not hold. The strongest way that this machine allows is chosen once.

Each way takes a rule and gives a *filter*: cgroups that the server enters before its program runs, words put before its
command, or properties of the scope in which the launcher runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..devices.nodes import Node, node_of
from .bpf import attach_filter, device_program
from .cgroups import GROUP, Mounts, manages_this_machine, remove, scope_command
from .ending import group_pids

TIMEOUT_S = 10
MINORS = 256
"""Minor numbers that a kind of GPU file is taken to have at most."""


class FilterError(Exception):
    """The filter could not be made; the text is for a person."""


@dataclass(frozen=True)
class Rule:
    """What a session may open. ``hidden``: device files that it may not, ``held``: those that it may. ``majors``: the
    numbers of kinds of which it may open nothing but ``held``, whenever the file is made (nvidia-modprobe lets anybody
    make files of GPUs)."""

    hidden: Sequence[Node]
    held: Sequence[Node] = ()
    majors: frozenset[int] = frozenset()


GPU_KINDS = frozenset({"nvidia", "nvidia-frontend", "nvidiactl", "nvidia-caps"})


def gpu_majors(listing: str) -> frozenset[int]:
    """Major numbers of GPU device files in the text of /proc/devices."""
    rows = (line.split() for line in listing.splitlines())
    return frozenset(int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit() and row[1] in GPU_KINDS)


def filtered_pids(filter_: dict[str, Any]) -> set[int]:
    """Return the pids in the cgroups of a filter; none where it has none."""
    return set().union(*(group_pids(folder) for folder in filter_.get("cgroups", ())))


@dataclass(frozen=True)
class Probe:
    """Whether one way works here. ``detail``: what was seen; ``advice``: what to do when it does not."""

    name: str
    works: bool
    detail: str
    advice: str


class Way(Protocol):
    name: str

    def prepare(self, key: str, rule: Rule) -> dict[str, Any]:
        """The filter ``key``: a session's name, or that, a slash and how often its filter has changed. Raises
        FilterError."""

    def clean(self, key: str) -> None:
        """Removes what ``prepare`` made, once nothing runs in it."""


class Systemd:
    """A transient scope with ``DeviceAllow``: every kind of character device but NVIDIA's, and those held by path."""

    name = "systemd"

    def prepare(self, key: str, rule: Rule) -> dict[str, Any]:
        if not manages_this_machine():
            raise FilterError("systemd does not manage this machine, or timeshare is not run by root")
        properties = ["-p", "DevicePolicy=closed"]
        for kind in device_kinds(Path("/proc/devices").read_text()):
            properties += ["-p", f"DeviceAllow={kind} rwm"]
        concealed = {node.path for node in rule.hidden}
        for path in sorted(Path("/dev").glob("nvidia*")) + sorted(Path("/dev/nvidia-caps").glob("*")):
            if str(path) not in concealed and node_of(path) is not None:
                properties += ["-p", f"DeviceAllow={path} rw"]
        return {"properties": properties}

    def clean(self, key: str) -> None:
        """systemd removes the scope with its last process."""


def device_kinds(listing: str) -> list[str]:
    """``char-…`` and ``block-…`` names of /proc/devices, those of NVIDIA left out."""
    kinds, prefix = set(), "char"
    for line in listing.splitlines():
        if line.startswith("Block"):
            prefix = "block"
        words = line.split()
        if len(words) == 2 and words[0].isdigit() and not words[1].startswith("nvidia"):
            kinds.add(f"{prefix}-{words[1]}")
    return sorted(kinds)


class CgroupV2:
    """An eBPF program on a cgroup of version 2."""

    name = "cgroup-v2"

    def __init__(self) -> None:
        self._root = Mounts.here().unified

    def prepare(self, key: str, rule: Rule) -> dict[str, Any]:
        if self._root is None:
            raise FilterError("no cgroup file system of version 2 is mounted")
        folder = self._root / GROUP / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            attach_filter(folder, device_program(_numbers(rule.hidden), _numbers(rule.held), rule.majors))
        except OSError as error:
            raise FilterError(f"eBPF device filter: {error.strerror or error}") from None
        return {"cgroups": [str(folder)]}

    def clean(self, key: str) -> None:
        if self._root is not None:
            _clean(self._root / GROUP, key)


class CgroupV1:
    """The devices controller of cgroups of version 1."""

    name = "cgroup-v1"

    def __init__(self) -> None:
        self._root = Mounts.here().v1.get("devices")

    def prepare(self, key: str, rule: Rule) -> dict[str, Any]:
        if self._root is None:
            raise FilterError("no devices controller of version 1 is mounted")
        folder = self._root / GROUP / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for entry in self._denied(rule):
                (folder / "devices.deny").write_text(f"c {entry} rwm")
        except OSError as error:
            raise FilterError(f"devices controller: {error.strerror or error}") from None
        return {"cgroups": [str(folder)]}

    def _denied(self, rule: Rule) -> list[str]:
        """Entries to deny. This controller knows no exceptions from a denied kind, so the rest is denied one by one."""
        held = set(_numbers(rule.held))
        entries = {f"{major}:{minor}" for major, minor in _numbers(rule.hidden)}
        for major in rule.majors:
            if any(number == major for number, _ in held):
                entries |= {f"{major}:{minor}" for minor in range(MINORS) if (major, minor) not in held}
            else:
                entries.add(f"{major}:*")
        return sorted(entries)

    def clean(self, key: str) -> None:
        if self._root is not None:
            _clean(self._root / GROUP, key)


def _clean(top: Path, key: str) -> None:
    """Removes the filter's group and, with the last filter of a session, the folder of that session."""
    remove([str(top / key)])
    if "/" in key:
        with contextlib.suppress(OSError):
            (top / key).parent.rmdir()


def _numbers(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    return [(node.major, node.minor) for node in nodes]


class Bubblewrap:
    """A mount namespace in which the hidden device files are covered by /dev/null. Files made later are not."""

    name = "bubblewrap"

    def prepare(self, key: str, rule: Rule) -> dict[str, Any]:
        program = shutil.which("bwrap")
        if program is None:
            raise FilterError("bubblewrap is not installed")
        words = [program, "--dev-bind", "/", "/"]
        for node in rule.hidden:
            words += ["--dev-bind", os.devnull, node.path]
        return {"prefix": [*words, "--"]}

    def clean(self, key: str) -> None:
        """The namespace ends with its last process."""


ADVICE = {
    "systemd": "run timeshare as a systemd service of root (hub_config/timeshare.service)",
    "cgroup-v2": "run timeshare as root on a kernel with cgroups of version 2 and eBPF",
    "cgroup-v1": "run timeshare as root where the devices controller of version 1 is mounted",
    "bubblewrap": "install the package bubblewrap, and allow user namespaces when timeshare is not run by root",
}


def ways() -> list[Way]:
    """The strongest first."""
    return [Systemd(), CgroupV2(), CgroupV1(), Bubblewrap()]


def probe() -> list[Probe]:
    """Tries every way for real: a program under the filter must fail to open /dev/full, and still open /dev/zero."""
    return [_probe(way) for way in ways()]


def _probe(way: Way) -> Probe:
    key = f"probe-{uuid.uuid4().hex[:8]}"
    node = node_of(Path("/dev/full"))
    assert node is not None
    try:
        filter_ = way.prepare(key, Rule([node]))
        works, detail = _try(key, filter_)
    except (FilterError, OSError, subprocess.SubprocessError) as error:
        works, detail = False, str(error)
    finally:
        way.clean(key)
    return Probe(way.name, works, detail, "" if works else ADVICE[way.name])


_ATTEMPT = """
import os, sys
for folder in sys.argv[1:]:
    with open(os.path.join(folder, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
"""
_OPEN = """
import sys
open("/dev/zero", "rb").close()
try:
    opened = open("/dev/full", "rb").read(1)
except OSError:
    opened = b""
print("hidden" if opened == b"" else "open")
"""


def _try(key: str, filter_: dict[str, Any]) -> tuple[bool, str]:
    inner = [*filter_.get("prefix", ()), sys.executable, "-I", "-S", "-c", _OPEN]
    enter = f"{_ATTEMPT}\nos.execvp({inner[0]!r}, {inner!r})"
    command = [
        *scope_command(key, filter_.get("properties", ())),
        sys.executable,
        "-I",
        "-S",
        "-c",
        enter,
        *filter_.get("cgroups", ()),
    ]
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=TIMEOUT_S, check=False)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if done.stdout.strip() == b"hidden":
        return True, "a hidden device could not be opened"
    return False, said[-1] if said else "the hidden device could still be opened"


def choose() -> Way | None:
    """The strongest way that works here."""
    for way in ways():
        if _probe(way).works:
            return way
    return None
