"""Sessions on Slurm only, for a hub on a machine without GPUs of its own."""

from __future__ import annotations

from ..reservations.client import Json
from .asking import LaunchError
from .base import GpuSpawner


class SlurmGpuSpawner(GpuSpawner):
    """Entry point ``timeshare-slurm``. How a server starts in a job of Slurm is what every spawner here knows; this one
    knows nothing else."""

    async def launch(self, reservation: Json) -> str:
        raise LaunchError("this hub starts sessions on Slurm only: pick one of its offers")
