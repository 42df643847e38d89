"""How much memory the node has for what comes off its GPUs, and how much each cgroup of a session lets it take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
NO_LIMIT = 1 << 60
"""Limits from here on are none: cgroups of version 1 write a large number for it."""


@dataclass(frozen=True)
class Limit:
    """Of a cgroup, in MiB. ``used`` without what the kernel can drop at any time (file cache that nobody reads)."""

    where: str
    limit_mib: int
    used_mib: int


@dataclass(frozen=True)
class HostMemory:
    """Reads the kernel's own files. ``root``: where these are."""

    root: Path = Path("/")

    def available_mib(self) -> int | None:
        """What new work could take without swapping; None: the kernel does not say."""
        try:
            for line in (self.root / "proc/meminfo").read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) // 1024
        except (OSError, ValueError, IndexError):
            pass
        return None

    def limits(self, pid: int) -> tuple[Limit, ...]:
        """Of every cgroup that counts the memory of ``pid``. Raises OSError when it has ended."""
        found: list[Limit] = []
        for line in (self.root / f"proc/{pid}/cgroup").read_text().splitlines():
            _, sign, rest = line.partition(":")
            controllers, sign, path = rest.partition(":")
            if not sign:
                continue
            if not controllers:
                found += self._of("cgroup2", "", path, ("memory.max", "memory.current", "inactive_file"))
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                found += self._of("cgroup", "memory", path, names)
        return tuple(found)

    def _of(self, kind: str, option: str, path: str, names: tuple[str, str, str]) -> Iterator[Limit]:
        mounted = self._mount(kind, option)
        if mounted is None:
            return
        place = mounted / path.lstrip("/")
        while place.is_relative_to(mounted):
            limit = _number(place / names[0])
            used = _number(place / names[1])
            if limit is not None and used is not None and limit < NO_LIMIT:
                yield Limit(str(place), limit // MIB, max(0, used - _stat(place, names[2])) // MIB)
            place = place.parent

    def _mount(self, kind: str, option: str) -> Path | None:
        for line in (self.root / "proc/mounts").read_text().splitlines():
            row = line.split()
            if len(row) > 3 and row[2] == kind and (not option or option in row[3].split(",")):
                return self.root / row[1].lstrip("/")
        return None


def _number(path: Path) -> int | None:
    """None for ``max``, and where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(place: Path, name: str) -> int:
    try:
        rows = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        return int(rows[name])
    except (OSError, ValueError, KeyError):
        return 0
