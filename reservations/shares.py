"""From what a person asks for to one typed share request. Validated here, once, on every path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from .devices.model import MIB_PER_GIB
from .errors import PublicError, invalid
from .mig import PROFILE_PATTERN
from .numeric import finite, whole

MAX_COUNT = 1024
MAX_MEMORY_GIB = 1024.0
MAX_NODES = 64
MIN_CPUS = 0.1
MAX_CPUS = 1024.0
MIN_HOST_MEMORY_GIB = 0.5
"""Below it a notebook server does not even start."""
MAX_HOST_MEMORY_GIB = 65536.0
FULL_COMPUTE = 1000
"""Compute weight of a whole device, in thousandths."""
MODEL_PATTERN = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,62}")
ENGINE_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,30}")
SHARE_FIELDS = (
    *("gpus", "memory_gib", "compute_percent", "mig_profile", "model", "cpu_only", "engine", "nodes"),
    *("cpus", "host_memory_gib"),
)


class Shape(str, Enum):
    """The four kinds of share. ``CPU`` holds no GPU, and sees none."""

    WHOLE = "whole"
    FRACTION = "fraction"
    MIG = "mig"
    CPU = "cpu"


@dataclass(frozen=True)
class ShareRequest:
    """A validated wish.

    ``count``: whole devices on one node. ``memory_mib``: device memory of one device, in MiB. ``compute``: weight in
    thousandths of a device, 0 for "in proportion to the memory". ``profile``: a MIG profile such as ``1g.10gb``.
    ``model``: a device model such as ``a100-40gb``; empty for any. ``engine``: the name of the engine that is to run
    it, such as ``slurm``; empty: this machine. ``nodes``: of an engine, with the same on each. ``cpus``: cores, and
    ``host_memory_mib``: main memory in MiB, both of each node; None: not asked for, the default of the limits.
    """

    shape: Shape
    count: int = 0
    memory_mib: int = 0
    compute: int = 0
    profile: str = ""
    model: str = ""
    engine: str = ""
    nodes: int = 1
    cpus: float | None = None
    host_memory_mib: int | None = None

    def describe(self) -> str:
        """The share in a person's words, such as ``10 GiB of one a100-40gb``."""
        what = self._what() + self._beside()
        if self.nodes > 1:
            return f"{what} on each of {self.nodes} nodes of {self.engine}"
        return f"{what} on {self.engine}" if self.engine else what

    def _beside(self) -> str:
        """Cores and main memory, where they were asked for."""
        told = [] if self.cpus is None else [cores_text(self.cpus)]
        if self.host_memory_mib is not None:
            told.append(f"{self.host_memory_mib / MIB_PER_GIB:g} GiB of main memory")
        return f" with {' and '.join(told)}" if told else ""

    def _what(self) -> str:
        model = self.model or "GPU"
        if self.shape is Shape.WHOLE:
            return f"{self.count} whole {model}{'s' if self.count > 1 and not self.model else ''}"
        if self.shape is Shape.FRACTION:
            weight = f" at {self.compute / 10:g} % compute" if self.compute else ""
            return f"{self.memory_mib / MIB_PER_GIB:g} GiB of one {model}{weight}"
        if self.shape is Shape.MIG:
            return f"one {self.profile} slice{' of ' + self.model if self.model else ''}"
        return "CPU only"

    def as_options(self) -> dict[str, Any]:
        """The same wish in the fields of the API; ``parse_share`` of it gives an equal request."""
        fields: dict[str, Any] = {}
        if self.shape is Shape.WHOLE:
            fields["gpus"] = self.count
        elif self.shape is Shape.FRACTION:
            fields["memory_gib"] = self.memory_mib / MIB_PER_GIB
            if self.compute:
                fields["compute_percent"] = self.compute / 10
        elif self.shape is Shape.MIG:
            fields["mig_profile"] = self.profile
        else:
            fields["cpu_only"] = True
        if self.model:
            fields["model"] = self.model
        if self.engine:
            fields["engine"] = self.engine
        if self.nodes > 1:
            fields["nodes"] = self.nodes
        if self.cpus is not None:
            fields["cpus"] = self.cpus
        if self.host_memory_mib is not None:
            fields["host_memory_gib"] = self.host_memory_mib / MIB_PER_GIB
        return fields


def cores_text(cpus: float) -> str:
    """``1.0`` -> ``1 core``, ``2.5`` -> ``2.5 cores``."""
    return f"{cpus:g} core{'' if cpus == 1 else 's'}"


def parse_share(fields: Mapping[str, Any]) -> ShareRequest:
    """The typed request for API fields (``gpus``, ``memory_gib``, ``compute_percent``, ``mig_profile``, ``model``,
    ``cpu_only``, ``engine``, ``nodes``, ``cpus``, ``host_memory_gib``).

    Raises PublicError naming the field, the value and the rule.
    """
    cpus = _at_least("cpus", fields["cpus"], MIN_CPUS, MAX_CPUS, "cores") if "cpus" in fields else None
    memory_mib = _host_memory_mib(fields["host_memory_gib"]) if "host_memory_gib" in fields else None
    beside = {"cpus", "host_memory_gib"}
    devices = _parse_devices({name: value for name, value in fields.items() if name not in beside})
    return replace(devices, cpus=cpus, host_memory_mib=memory_mib)


def _parse_devices(fields: Mapping[str, Any]) -> ShareRequest:
    unknown = sorted(set(fields) - set(SHARE_FIELDS))
    if unknown:
        raise invalid(str(unknown[0]), fields[unknown[0]], f"no such field; known fields: {', '.join(SHARE_FIELDS)}")
    given = dict(fields)
    shapes = [name for name in ("gpus", "memory_gib", "mig_profile", "cpu_only") if name in given]
    if len(shapes) != 1:
        raise _not_one_shape(shapes)
    model = _model(given.get("model", ""))
    if "compute_percent" in given and shapes[0] != "memory_gib":
        raise invalid("compute_percent", given["compute_percent"], "goes with memory_gib only")
    engine = _engine(given.get("engine", ""))
    nodes = _nodes(given["nodes"], shapes[0], engine) if "nodes" in given else 1
    if shapes[0] == "gpus":
        return ShareRequest(Shape.WHOLE, count=_count(given["gpus"]), model=model, engine=engine, nodes=nodes)
    if shapes[0] == "memory_gib":
        return ShareRequest(
            Shape.FRACTION,
            memory_mib=_memory_mib(given["memory_gib"]),
            compute=_compute(given["compute_percent"]) if "compute_percent" in given else 0,
            model=model,
            engine=engine,
        )
    if shapes[0] == "mig_profile":
        return ShareRequest(Shape.MIG, profile=_profile(given["mig_profile"]), model=model, engine=engine)
    return _cpu_only(given["cpu_only"], model, engine, nodes)


def _not_one_shape(shapes: Sequence[str]) -> PublicError:
    rule = "give exactly one of gpus, memory_gib, mig_profile or cpu_only"
    if not shapes:
        return PublicError("invalid", f"no share asked for: {rule}", 400, {"field": "share", "rule": rule})
    return invalid("share", " and ".join(shapes), f"two shapes at once; {rule}")


def _model(value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not MODEL_PATTERN.fullmatch(value):
        raise invalid("model", value, "must be a model name in lower case, such as a100-40gb")
    return value


def _engine(value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not ENGINE_PATTERN.fullmatch(value):
        raise invalid("engine", value, "must be the name of an engine, such as slurm; left out: this machine")
    return value


def _nodes(value: object, shape: str, engine: str) -> int:
    nodes = whole(value)
    if nodes is None or not 1 <= nodes <= MAX_NODES:
        raise invalid("nodes", value, f"must be a whole number from 1 to {MAX_NODES}")
    if shape not in ("gpus", "cpu_only"):
        raise invalid("nodes", value, f"goes with gpus or cpu_only: {shape} is a part of one GPU")
    if not engine:
        raise invalid("nodes", value, "this machine is one node: leave nodes out, or name an engine that has several")
    return nodes


def _count(value: object) -> int:
    count = whole(value)
    if count is None or not 1 <= count <= MAX_COUNT:
        raise invalid(
            "gpus",
            value,
            f"must be a whole number from 1 to {MAX_COUNT}; for no GPU ask for cpu_only instead",
        )
    return count


def _number(name: str, value: object, low: float, high: float, unit: str) -> float:
    number = finite(value)
    if number is None or not low < number <= high:
        raise invalid(name, value, f"must be a number of {unit} above {low:g} and at most {high:g}")
    return number


def _at_least(name: str, value: object, low: float, high: float, unit: str) -> float:
    # Compared before it is converted: an integer of 400 digits has no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(name, value, f"must be a number of {unit} from {low:g} to {high:g}")
    return float(value)


def _host_memory_mib(value: object) -> int:
    unit = "GiB of main memory (that of a GPU is memory_gib)"
    return round(_at_least("host_memory_gib", value, MIN_HOST_MEMORY_GIB, MAX_HOST_MEMORY_GIB, unit) * MIB_PER_GIB)


def _memory_mib(value: object) -> int:
    mib = _number("memory_gib", value, 0, MAX_MEMORY_GIB, "GiB") * MIB_PER_GIB
    if mib < 1:
        raise invalid("memory_gib", value, "must be at least 1 MiB (0.001 GiB)")
    return round(mib)


def _compute(value: object) -> int:
    return max(1, round(_number("compute_percent", value, 0, 100, "percent of a device") * 10))


def _profile(value: object) -> str:
    if not isinstance(value, str) or not PROFILE_PATTERN.fullmatch(value):
        raise invalid("mig_profile", value, "must be a MIG profile such as 1g.10gb")
    return value


def _cpu_only(value: object, model: str, engine: str, nodes: int) -> ShareRequest:
    if value is not True:
        raise invalid("cpu_only", value, "must be true, or left out")
    if model:
        raise invalid("model", model, "a cpu_only session holds no GPU: leave model out")
    return ShareRequest(Shape.CPU, engine=engine, nodes=nodes)
