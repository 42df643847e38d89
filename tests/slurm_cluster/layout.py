"""What a cluster consists of: folder, nodes, ports, people. Kept in its folder, so that another process can end it."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import asdict, dataclass
from pathlib import Path

from timeshare.hub_config.run.ports import free_port

ACCOUNTS = {"lab": ("tsalice", "tsbob"), "other": ("tscarol",)}
"""Slurm account -> operating-system users in it."""
LONGEST_FOLDER = 60
"""Unix sockets lie in the folder, and their paths may have 107 characters."""


@dataclass(frozen=True)
class VirtualNode:
    """One slurmd of this machine. ``model`` is None without GPUs; ``devices`` are paths that jobs can open."""

    name: str
    port: int
    model: str | None = None
    devices: tuple[str, ...] = ()
    shards: int = 0


@dataclass(frozen=True)
class Layout:
    """``name``: four letters that set this cluster apart from others on the machine: cgroups of slurmd are called after
    nodes, and GPUs have to lie in /dev (file systems of temporary files may be mounted without device nodes)."""

    folder: Path
    name: str
    ctl_port: int
    dbd_port: int
    nodes: tuple[VirtualNode, ...]

    @classmethod
    def new(cls, folder: Path) -> Layout:
        if len(str(folder)) > LONGEST_FOLDER:
            raise ValueError(
                f"{folder} is {len(str(folder))} characters long, {LONGEST_FOLDER} are allowed: sockets lie in it"
            )
        name = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
        ctl, dbd, *ports = free_ports(6)

        def gpus(model: str) -> tuple[str, ...]:
            return tuple(f"/dev/timeshare-{name}/{model}-{index}" for index in range(4))

        nodes = (
            VirtualNode(f"{name}-gpu1", ports[0], "p100", gpus("p100")),
            VirtualNode(f"{name}-gpu2", ports[1], "v100", gpus("v100"), shards=16),
            VirtualNode(f"{name}-gpu3", ports[2], "a100", gpus("a100")),
            VirtualNode(f"{name}-cpu1", ports[3]),
        )
        return cls(folder, name, ctl, dbd, nodes)

    @property
    def conf(self) -> Path:
        """The folder of slurm.conf and the files beside it."""
        return self.folder / "etc"

    @property
    def devices(self) -> Path:
        return Path(f"/dev/timeshare-{self.name}")

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        return self.folder / "db" / "socket"

    def pid_file(self, daemon: str) -> Path:
        return self.folder / "run" / f"{daemon}.pid"

    def log_file(self, daemon: str) -> Path:
        return self.folder / "log" / f"{daemon}.log"

    def save(self) -> None:
        values = {**asdict(self), "folder": str(self.folder)}
        written = self.folder / "layout.json.new"
        written.write_text(json.dumps(values, indent=1))
        written.rename(self.folder / "layout.json")

    @classmethod
    def load(cls, folder: Path) -> Layout | None:
        """That of the cluster in ``folder``; None where none was started."""
        try:
            values = json.loads((folder / "layout.json").read_text())
        except FileNotFoundError:
            return None
        nodes = tuple(VirtualNode(**{**node, "devices": tuple(node["devices"])}) for node in values.pop("nodes"))
        return cls(**{**values, "folder": folder, "nodes": nodes})


def free_ports(count: int) -> list[int]:
    """Those that a daemon which a test starts again finds still free."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port("127.0.0.1", found))
    return list(found)
