"""Small pools for the tests."""

from __future__ import annotations

from timeshare.reservations.devices.model import Device, MigInstance


def pool(*models: str, memory_mib: int = 40_000, node: str = "local") -> tuple[Device, ...]:
    """One device a model name, in order."""
    return tuple(
        Device(uuid=f"GPU-{i}", model=model, memory_mib=memory_mib, node=node, order=i)
        for i, model in enumerate(models)
    )


def mig_device(*profiles: str, order: int = 0, model: str = "a100-40gb") -> Device:
    """A partitioned device with one instance a profile; ``2g.10gb`` has 10 GiB."""
    instances = tuple(
        MigInstance(f"MIG-{order}-{i}", profile, int(profile.split(".")[1].removesuffix("gb")) * 1024)
        for i, profile in enumerate(profiles)
    )
    return Device(uuid=f"GPU-{order}", model=model, memory_mib=40_000, order=order, instances=instances)
