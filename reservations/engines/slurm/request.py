"""From a share to options of sbatch. Pure. What can never run is refused here: Slurm would let it wait for ever."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...devices.model import MIB_PER_GIB
from ...errors import PublicError
from ...mig import parse_profile
from ...shares import FULL_COMPUTE, MODEL_PATTERN, Shape, ShareRequest

FRACTIONS = ("", "shard", "mps")
MPS_PERCENT = 100
"""Slurm counts MPS in percent of a GPU."""
# Slurm reads these values as lists and expressions; spaces and quotes would end them.
_VALUE = re.compile(r"[\w.:,+@|&()\[\]*-]+", re.ASCII)


@dataclass(frozen=True)
class GpuType:
    """GPUs of one kind. ``gres``: the type in Slurm's own words (``a100`` of ``gpu:a100:4``); ``model`` and
    ``memory_mib``: what people ask for, and MiB of one. ``per_node``: the most that one node has; 0: not known, and
    not checked. ``shards``: of one GPU; 0: GPUs of this kind are not shared (with MPS, 1 for those that are).
    ``feature``: a node feature that all nodes with this kind have and no others; empty: none, so that a fraction of
    this very kind cannot be asked for where there are others."""

    gres: str
    model: str
    memory_mib: int
    per_node: int = 0
    shards: int = 0
    feature: str = ""


@dataclass(frozen=True)
class MigType:
    """MIG instances of one kind, which Slurm counts as GPUs of a type of their own: ``gres`` such as ``a100_1g.5gb``,
    ``profile`` such as ``1g.5gb``, cut out of GPUs of ``model``."""

    gres: str
    profile: str
    model: str


@dataclass(frozen=True)
class SlurmSite:
    """What the administrator says about the cluster. Empty text: no such option, Slurm's default holds.

    ``fraction``: how parts of a GPU are asked for, ``shard``, ``mps`` or empty for not at all. ``cpus`` and
    ``memory_mib`` (of main memory): for each whole GPU; a part gets its part, at least one CPU. ``cpus_alone`` and
    ``memory_mib_alone``: for what holds no GPU. 0: Slurm's default.

    Raises ValueError naming what is wrong.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    gpus: tuple[GpuType, ...] = ()
    mig: tuple[MigType, ...] = ()
    fraction: str = ""
    cpus: int = 0
    memory_mib: int = 0
    cpus_alone: int = 0
    memory_mib_alone: int = 0

    def __post_init__(self) -> None:
        if self.fraction not in FRACTIONS:
            raise ValueError(f"fraction is {self.fraction!r}: must be shard, mps or empty")
        for name in ("partition", "account", "qos", "reservation", "constraint"):
            _valued(name, getattr(self, name))
        for name in ("cpus", "memory_mib", "cpus_alone", "memory_mib_alone"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: must be 0 (Slurm's default) or more")
        for gpu in self.gpus:
            _checked_gpu(gpu)
        for mig in self.mig:
            _checked_mig(mig)

    @property
    def shared(self) -> tuple[GpuType, ...]:
        """The kinds of which parts can be had."""
        return tuple(gpu for gpu in self.gpus if gpu.shards) if self.fraction else ()

    def units(self, gpu: GpuType) -> int:
        """Into how many parts Slurm divides one GPU of this kind."""
        return MPS_PERCENT if self.fraction == "mps" else gpu.shards


def _valued(name: str, value: str) -> None:
    if value and not _VALUE.fullmatch(value):
        raise ValueError(f"{name} is {value!r}: must be a name, without spaces and quotes")


def _checked_gpu(gpu: GpuType) -> None:
    _valued("gres", gpu.gres)
    _valued("feature", gpu.feature)
    if not MODEL_PATTERN.fullmatch(gpu.model):
        raise ValueError(f"model is {gpu.model!r}: must be a model name in lower case, such as a100-40gb")
    if gpu.memory_mib < 1:
        raise ValueError(f"memory_mib of {gpu.model} is {gpu.memory_mib}: must be the MiB of one GPU")
    if gpu.shards < 0 or gpu.per_node < 0:
        raise ValueError(f"shards and per_node of {gpu.model} must be 0 or more")


def _checked_mig(mig: MigType) -> None:
    _valued("gres", mig.gres)
    if parse_profile(mig.profile) is None:
        raise ValueError(f"profile is {mig.profile!r}: must be a MIG profile such as 1g.10gb")


def sbatch_options(request: ShareRequest, site: SlurmSite, nodes: int = 1) -> list[str]:
    """Options of sbatch for the share, on each of ``nodes`` nodes. Raises PublicError for what can never run.

    Cores and main memory that are asked for win over what the pool says for each GPU.
    """
    if nodes < 1 or (nodes > 1 and request.shape in (Shape.FRACTION, Shape.MIG)):
        message = f"nodes is {nodes}: a part of a GPU is on one node; ask for whole GPUs to have several"
        raise _refusal("too-many-nodes", message, request, nodes=nodes)
    told = [f"--{name}={value}" for name, value in _places(site) if value]
    told += ["--nodes=1"] if nodes == 1 else [f"--nodes={nodes}", "--ntasks-per-node=1"]
    if request.shape is Shape.CPU:
        return told + _constraint(site) + _host(request, site.cpus_alone, site.memory_mib_alone)
    if request.shape is Shape.WHOLE:
        return told + _whole(request, site)
    if request.shape is Shape.MIG:
        return told + _mig(request, site)
    return told + _fraction(request, site)


def _places(site: SlurmSite) -> tuple[tuple[str, str], ...]:
    return (
        ("partition", site.partition),
        ("account", site.account),
        ("qos", site.qos),
        ("reservation", site.reservation),
    )


def _host(request: ShareRequest, cpus: float, memory_mib: float) -> list[str]:
    """CPUs and main memory on each node: what ``request`` asks for, else ``cpus`` and ``memory_mib`` of the pool."""
    cpus = cpus if request.cpus is None else request.cpus
    memory_mib = memory_mib if request.host_memory_mib is None else request.host_memory_mib
    options = [f"--cpus-per-task={max(1, math.ceil(cpus))}"] if cpus else []
    return options + ([f"--mem={max(1, math.ceil(memory_mib))}M"] if memory_mib else [])


def _constraint(site: SlurmSite, features: Iterable[str] = ()) -> list[str]:
    wanted = [text for text in ("|".join(features), site.constraint) if text]
    if len(wanted) > 1:
        wanted = [f"({text})" if "|" in text else text for text in wanted]
    return [f"--constraint={'&'.join(wanted)}"] if wanted else []


def _whole(request: ShareRequest, site: SlurmSite) -> list[str]:
    kinds = _kinds(request, site.gpus, site)
    enough = [gpu for gpu in kinds if not gpu.per_node or gpu.per_node >= request.count]
    if not enough:
        most = max((gpu.per_node for gpu in kinds), default=0)
        what = request.model or "any model"
        instead = f"ask for gpus from 1 to {most}" if most else "ask for a MIG profile or for cpu_only instead"
        message = f"gpus is {request.count}: the most whole GPUs of {what} on one node is {most}; {instead}"
        raise _refusal("too-large", message, request, largest=most)
    # Without a type Slurm would count MIG instances as GPUs; then the first kind that the site lists is taken.
    kind = f"{enough[0].gres}:" if request.model or site.mig or len(site.gpus) == 1 else ""
    part = request.count
    return [f"--gres=gpu:{kind}{part}", *_constraint(site), *_host(request, site.cpus * part, site.memory_mib * part)]


def _mig(request: ShareRequest, site: SlurmSite) -> list[str]:
    cut = [mig for mig in site.mig if mig.profile == request.profile]
    found = [mig for mig in cut if request.model in ("", mig.model)]
    if not found:
        known = sorted({mig.profile for mig in site.mig if request.model in ("", mig.model)})
        offered = f"it has {', '.join(known)}" if known else "no GPU of it is MIG-partitioned"
        whose = f" of {request.model}" if request.model else ""
        message = f"mig_profile is '{request.profile}': this cluster has no such slice{whose}; {offered}"
        raise _refusal("unknown-profile", message, request, profiles=known)
    part = _slices(found[0].profile) / MIG_SLICES
    return [
        f"--gres=gpu:{found[0].gres}:1",
        *_constraint(site),
        *_host(request, site.cpus * part, site.memory_mib * part),
    ]


MIG_SLICES = 7
"""A GPU has seven compute slices; ``3g.20gb`` is three of them."""


def _slices(profile: str) -> int:
    found = parse_profile(profile)
    assert found is not None  # checked when the site was read
    return min(MIG_SLICES, found.compute_slices or found.gpu_slices)


def _fraction(request: ShareRequest, site: SlurmSite) -> list[str]:
    kinds = _kinds(request, site.shared, site)
    fitting = [gpu for gpu in kinds if gpu.memory_mib >= request.memory_mib]
    if not fitting:
        raise _no_fraction(request, kinds, site)
    features: list[str] = []
    if len(fitting) < len(site.shared):
        findable = [gpu for gpu in fitting if gpu.feature]
        if not findable:
            names = ", ".join(gpu.model for gpu in fitting)
            message = (
                f"{request.describe()}: no node feature is configured by which Slurm finds shared GPUs of {names} "
                "among the others; ask for whole GPUs"
            )
            raise _refusal("impossible", message, request)
        fitting, features = findable, [gpu.feature for gpu in findable]
    # Wherever it lands it must be enough, so the smallest GPU decides the count.
    count = max(_units(request, gpu, site) for gpu in fitting)
    part = min(1.0, count / min(site.units(gpu) for gpu in fitting))
    host = _host(request, site.cpus * part, site.memory_mib * part)
    return [f"--gres={site.fraction}:{count}", *_constraint(site, features), *host]


def _units(request: ShareRequest, gpu: GpuType, site: SlurmSite) -> int:
    """How many of the parts of one GPU are as much memory, and as much compute, as is asked for."""
    units = site.units(gpu)
    memory = -(-request.memory_mib * units // gpu.memory_mib)
    return max(1, memory, -(-request.compute * units // FULL_COMPUTE))


def _kinds(request: ShareRequest, kinds: tuple[GpuType, ...], site: SlurmSite) -> tuple[GpuType, ...]:
    """Those of the model that is asked for, if one is."""
    if not request.model:
        return kinds
    known = sorted({gpu.model for gpu in site.gpus})
    if request.model not in known:
        offered = f"it has {', '.join(known)}" if known else "it has no GPUs"
        message = f"model is '{request.model}': this cluster has no such GPU; {offered}"
        raise _refusal("unknown-model", message, request, models=known)
    return tuple(gpu for gpu in kinds if gpu.model == request.model)


def _no_fraction(request: ShareRequest, kinds: tuple[GpuType, ...], site: SlurmSite) -> PublicError:
    asked = f"memory_gib is {request.memory_mib / MIB_PER_GIB:g}"
    if not kinds:
        shared = sorted({gpu.model for gpu in site.shared})
        if shared:
            why = f"{request.model} is not shared on this cluster; parts can be had of {', '.join(shared)}"
        else:
            why = "parts of a GPU are not configured on this cluster; ask for gpus instead"
        return _refusal("no-fractions", f"{asked}: {why}", request, models=shared)
    largest = max(gpu.memory_mib for gpu in kinds) / MIB_PER_GIB
    message = (
        f"{asked}: the largest that one GPU here can give is {largest:g} GiB; ask for no more than that, or for "
        "several whole GPUs"
    )
    return _refusal("too-large", message, request, largest_gib=largest)


def _refusal(reason: str, message: str, request: ShareRequest, **details: object) -> PublicError:
    return PublicError(reason, message, 422, {"share": request.as_options(), **details})
