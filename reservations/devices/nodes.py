"""Which device files a session needs for what it holds, and which belong to GPUs at all."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .model import Device

SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""Needed by every session that holds a GPU; they are no gate, since they give nothing without a GPU's own file."""


@dataclass(frozen=True)
class Node:
    """A character device file."""

    path: str
    major: int
    minor: int


def gpu_nodes(root: Path = Path("/dev")) -> tuple[Node, ...]:
    """Every device file of NVIDIA GPUs, the shared ones and those of MIG too."""
    paths = [*root.glob("nvidia*"), *(root / "nvidia-caps").glob("nvidia-cap*")]
    found = (node_of(path) for path in sorted(paths))
    return tuple(node for node in found if node is not None)


def node_of(path: Path) -> Node | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return Node(str(path), os.major(status.st_rdev), os.minor(status.st_rdev))


def wanted_paths(devices: Iterable[Device], instances: Iterable[str], root: Path = Path("/dev")) -> set[str]:
    """Paths that a session needs which holds ``devices``, or only ``instances`` (MIG UUIDs) of them."""
    wanted: set[str] = set()
    chosen = set(instances)
    for device in devices:
        if device.minor is None:
            continue
        wanted |= {str(root / name) for name in (f"nvidia{device.minor}", *SHARED)}
        for instance in device.instances:
            if instance.uuid in chosen:
                wanted |= _capabilities(device.minor, instance.gpu_instance_id, instance.compute_instance_id, root)
    return wanted


def _capabilities(minor: int, gpu_instance: int, compute_instance: int, root: Path) -> set[str]:
    """The MIG access files: one for the GPU instance, one for the compute instance inside it."""
    base = Path(f"/proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{gpu_instance}")
    found = set()
    for access in (base / "access", base / f"ci{compute_instance}" / "access"):
        try:
            match = re.search(r"DeviceFileMinor:\s*(\d+)", access.read_text())
        except OSError:
            continue
        if match:
            found.add(str(root / "nvidia-caps" / f"nvidia-cap{match[1]}"))
    return found
