"""How many processes Linux has killed because memory was used up: of the memory cgroup of this process, which is the
job's own where jobs have one each; of the whole machine where no cgroup counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MACHINE = "proc/vmstat"


@dataclass(frozen=True)
class OomKills:
    """``counted_by``: the file of the kernel that says so. ``number``: since there is that file."""

    counted_by: str
    number: int

    def more_than(self, before: OomKills) -> bool:
        """Never by two files that count differently: nobody knows then."""
        return self.counted_by == before.counted_by and self.number > before.number


def oom_kills(root: Path = Path("/")) -> OomKills:
    """``root``: where the kernel's files are."""
    for name in (*_cgroups(root), MACHINE):
        try:
            rows = [line.split() for line in (root / name).read_text().splitlines()]
        except OSError:
            continue
        for row in rows:
            if row[:1] == ["oom_kill"] and len(row) > 1 and row[1].isdigit():
                return OomKills(name, int(row[1]))
    return OomKills("", 0)


def _cgroups(root: Path) -> Iterator[str]:
    """Files that count for the cgroup of this process, the nearest first: see cgroup-v2.rst and cgroup-v1/memory.rst of
    Linux. In version 2 what a cgroup does not count itself, the next one above it counts."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, sign, path = rest.partition(":")
        if not sign:
            continue
        if "memory" in controllers.split(","):
            yield f"sys/fs/cgroup/memory{path}/memory.oom_control"
        elif not controllers:
            for place in (path, *map(str, Path(path).parents)):
                yield f"sys/fs/cgroup{place.rstrip('/')}/memory.events"
