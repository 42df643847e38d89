"""What one host has: GPUs by its driver, cores and memory by its kernel. It is printed on that host as one JSON
document, which whoever reads it does not trust."""

from __future__ import annotations

import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ...reservations.devices.model import Device, DeviceSource
from ...reservations.limits.values import Seen
from ...reservations.shares import MODEL_PATTERN
from ...reservations.text import escaped

VERSION = 1
MOST_BYTES = 256 * 1024
CPUS = Path("/sys/devices/system/cpu")
MEMORY = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
TEXT = 300
Words = Annotated[Seen, Field(max_length=TEXT)]
"""Text for people. One line: it is written into files that somebody follows."""


class SurveyError(Exception):
    """What a host answered cannot be used; the text says why."""


class Part(BaseModel):
    """Numbers are whole and bounded, and no text of a host reaches a line of slurm.conf unless it is one plain word."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


def _model(name: str) -> str:
    if not MODEL_PATTERN.fullmatch(name):
        raise ValueError("must be the name of a model such as a100-40gb")
    return name


class Gpu(Part):
    """``minor``: the number in ``/dev/nvidiaN``. ``why_not``: why it cannot be handed out as it is; empty: it can."""

    model: Annotated[str, AfterValidator(_model)]
    memory_mib: int = Field(ge=0, le=4 * 1024 * 1024)
    minor: int | None = Field(default=None, ge=0, le=254)
    why_not: Words = ""


class Survey(Part):
    """``sockets``, ``cores`` (of each) and ``threads`` (of each core): 0 where the kernel tells nothing regular.
    ``slurm``: the version of slurmd there, empty without one. ``cgroup``: 1 or 2."""

    version: int = Field(ge=VERSION, le=VERSION)
    host: Words
    cpus: int = Field(ge=1, le=4096)
    sockets: int = Field(default=0, ge=0, le=64)
    cores: int = Field(default=0, ge=0, le=1024)
    threads: int = Field(default=0, ge=0, le=16)
    memory_mib: int = Field(ge=512, le=64 * 1024 * 1024)
    cgroup: int = Field(default=0, ge=0, le=2)
    has_slurmd: bool = False
    driver: Words = ""
    note: Words = ""
    gpus: tuple[Gpu, ...] = Field(default=(), max_length=64)


def parse_survey(text: str) -> Survey:
    """Return the survey in a host's answer. Raises SurveyError in words."""
    if len(text) > MOST_BYTES:
        raise SurveyError(f"it answered more than {MOST_BYTES // 1024} KiB: that is no survey")
    try:
        return Survey.model_validate_json(text)
    except ValidationError as error:
        one = error.errors()[0]
        where = ".".join(str(step) for step in one["loc"]) or "its answer"
        raise SurveyError(f"{where}: {one['msg'].removeprefix('Value error, ')} (it is {one['input']!r:.80})") from None


@dataclass(frozen=True)
class Machine:
    """Where the kernel tells of cores, memory and control groups."""

    cpus: Path = CPUS
    memory: Path = MEMORY
    cgroups: Path = CGROUPS


def survey(source: DeviceSource, machine: Machine | None = None) -> dict[str, Any]:
    """What this host has. Raises DeviceError when the driver does not answer at all."""
    machine = machine or Machine()
    inventory = source.inventory()
    sockets, cores, threads = topology(machine.cpus)
    return {
        "version": VERSION,
        "host": socket.gethostname(),
        "cpus": sockets * cores * threads or os.cpu_count() or 1,
        "sockets": sockets,
        "cores": cores,
        "threads": threads,
        "memory_mib": memory_mib(machine.memory),
        "cgroup": 2 if (machine.cgroups / "cgroup.controllers").exists() else 1,
        "has_slurmd": shutil.which("slurmd", path="/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin") is not None,
        "driver": escaped(inventory.driver)[:TEXT],
        "note": escaped(inventory.note)[:TEXT],
        "gpus": [_gpu(device) for device in inventory.devices],
    }


def _gpu(device: Device) -> dict[str, Any]:
    """A simulated GPU has no device file: it takes the place of one for trying."""
    minor = device.order if device.simulated else device.minor
    return {
        "model": device.model,
        "memory_mib": device.memory_mib,
        "minor": minor,
        "why_not": escaped(_why_not(device, minor))[:TEXT],
    }


def _why_not(device: Device, minor: int | None) -> str:
    if device.partitioned:
        return "it is divided by MIG: write its instances into gres.conf with AutoDetect=nvml, see docs/slurm.md"
    if device.cordoned:
        return device.cordoned
    if minor is None:
        return "the driver does not tell the number of its device file"
    return ""


def topology(cpus: Path) -> tuple[int, int, int]:
    """Return sockets, cores of each, threads of each core; zeros where the kernel tells nothing regular."""
    packages: dict[int, dict[int, int]] = {}
    for folder in cpus.glob("cpu[0-9]*/topology"):
        package, core = _number(folder / "physical_package_id"), _number(folder / "core_id")
        if package is None or core is None or package < 0:
            return 0, 0, 0
        cores = packages.setdefault(package, {})
        cores[core] = cores.get(core, 0) + 1
    shapes = {(len(cores), *sorted(set(cores.values()))) for cores in packages.values()}
    shape = shapes.pop() if len(shapes) == 1 else ()
    return (len(packages), shape[0], shape[1]) if len(shape) == 2 else (0, 0, 0)


def memory_mib(path: Path) -> int:
    """Return the main memory in MiB."""
    found = re.search(r"^MemTotal:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
