"""NVIDIA's names of MIG profiles: read and written by this one grammar.

``1g.10gb`` is a GPU instance with one compute slice; ``+me``, ``+gfx``, ``+me.all`` and ``-me`` say what it has, or
lacks, beside that. ``1c.3g.40gb`` is a compute instance: one slice of a GPU instance ``3g.40gb``, with whose other
compute instances it shares memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PROFILE_PATTERN = re.compile(
    r"(?:([1-9][0-9]?)c\.)?([1-9][0-9]?)g\.([1-9][0-9]{0,3})gb((?:[+-][a-z][a-z0-9]{0,11}(?:\.[a-z0-9]{1,12})*){0,4})"
)


@dataclass(frozen=True)
class MigProfile:
    """The parts of a name. ``compute_slices``: of a compute instance that is a part of its GPU instance; None: it is
    the whole of it. ``memory_gb`` as NVIDIA rounds it. ``extras``: such as ``+me``; empty for none."""

    gpu_slices: int
    memory_gb: int
    compute_slices: int | None = None
    extras: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether others may use the same memory, with nothing between them."""
        return self.compute_slices is not None


def parse_profile(name: str) -> MigProfile | None:
    """Return the parts of ``name``; None where it is no name of a profile."""
    found = PROFILE_PATTERN.fullmatch(name)
    if found is None:
        return None
    return MigProfile(int(found[2]), int(found[3]), int(found[1]) if found[1] else None, found[4])


def shares_memory(name: str) -> bool:
    """Return whether ``name`` is that of a compute instance beside others in one GPU instance."""
    found = parse_profile(name)
    return found is not None and found.shares_memory


def split_layout(layout: str) -> list[str]:
    """Return the names in ``3g.20gb+1g.5gb+me``: a ``+`` before a digit begins another one."""
    return re.split(r"\+(?=[0-9])", layout)
