"""The machine that sessions of the local engine share: its cores and its main memory."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class HostSize:
    """``cpus``: cores. ``memory_mib``: main memory (not that of its GPUs), in MiB."""

    cpus: int
    memory_mib: int


def this_machine() -> HostSize:
    """The size of the machine that this process runs on. The local engine's agent is on the same one: it is reached by
    a unix socket."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return HostSize(os.cpu_count() or 1, memory // (1024 * 1024))
