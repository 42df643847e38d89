"""Which inventory a deployment uses, and what moves processes off its GPUs."""

from __future__ import annotations

from .checkpoint import Checkpointer, CudaCheckpointer
from .model import DeviceSource
from .nvml import NvmlSource
from .simulated import SimulatedSource
from .simulated_checkpoint import SimulatedCheckpointer


def open_source(simulate: str) -> DeviceSource:
    """The machine's GPUs through NVML for an empty ``simulate``; else the simulated ones that it specifies.

    Raises PublicError for a specification that is wrong.
    """
    return SimulatedSource(simulate) if simulate else NvmlSource()


def open_checkpointer(source: DeviceSource) -> Checkpointer:
    """What belongs to ``source``."""
    return SimulatedCheckpointer(source) if isinstance(source, SimulatedSource) else CudaCheckpointer()
