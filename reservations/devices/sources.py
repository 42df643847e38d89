"""Which inventory a deployment uses."""

from __future__ import annotations

from .model import DeviceSource
from .nvml import NvmlSource
from .simulated import SimulatedSource


def open_source(simulate: str) -> DeviceSource:
    """The machine's GPUs through NVML for an empty ``simulate``; else the simulated ones that it specifies.

    Raises PublicError for a specification that is wrong.
    """
    return SimulatedSource(simulate) if simulate else NvmlSource()
