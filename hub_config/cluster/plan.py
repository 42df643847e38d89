"""What becomes of hosts and their surveys: nodes, their GPUs and shards. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .hosts import Host, Hosts
from .survey import Gpu, Survey

MIB_PER_GIB = 1024
TOLERANCE = 0.99
"""A kernel or firmware of another version finds a little less memory; a node that has less than it says is drained."""


@dataclass(frozen=True)
class GpuSet:
    """GPUs of one model in a node. ``minors``: the numbers of their device files, in order."""

    model: str
    memory_mib: int
    minors: tuple[int, ...]

    @property
    def files(self) -> str:
        """Their device files as gres.conf has them: ``/dev/nvidia[0-2,5]``."""
        spans = []
        for _, run in itertools.groupby(enumerate(self.minors), lambda one: one[1] - one[0]):
            numbers = [minor for _, minor in run]
            spans.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
        return f"/dev/nvidia{spans[0]}" if spans == [str(self.minors[0])] else f"/dev/nvidia[{','.join(spans)}]"


@dataclass(frozen=True)
class Node:
    """``shards``: parts of all its GPUs together; 0: they are handed out whole."""

    host: Host
    partition: str
    survey: Survey
    gpus: tuple[GpuSet, ...]
    shards: int
    memory_mib: int

    @property
    def count(self) -> int:
        return sum(len(gpu.minors) for gpu in self.gpus)

    @property
    def features(self) -> tuple[str, ...]:
        """By which Slurm finds shards of a model among those of others."""
        return tuple(re.sub(r"[^a-z0-9_]", "_", gpu.model) for gpu in self.gpus)

    @property
    def gres(self) -> str:
        words = [f"gpu:{gpu.model}:{len(gpu.minors)}" for gpu in self.gpus]
        return ",".join([*words, f"shard:{self.shards}"] if self.shards else words)


@dataclass(frozen=True)
class Plan:
    """``notes``: what is not as somebody might expect, in words."""

    hosts: Hosts
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]

    @property
    def shared(self) -> bool:
        return any(node.shards for node in self.nodes)

    @property
    def models(self) -> Mapping[str, int]:
        """MiB of one GPU of each model: the least that one has."""
        found: dict[str, int] = {}
        for gpu in (gpu for node in self.nodes for gpu in node.gpus):
            found[gpu.model] = min(gpu.memory_mib, found.get(gpu.model, gpu.memory_mib))
        return dict(sorted(found.items()))

    def of(self, partition: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.partition == partition)


def plan(hosts: Hosts, surveys: Mapping[str, Survey], silent: Mapping[str, str]) -> Plan:
    """Return the nodes of the hosts that have a survey. ``silent``: why others have none."""
    notes: list[str] = []
    nodes: list[Node] = []
    for host in hosts.hosts:
        if host.name in surveys:
            node = _node(hosts, host, surveys[host.name])
            nodes.append(node)
            notes += _notes(hosts, node)
        else:
            notes.append(f"{host.name} is left out: {silent.get(host.name, 'nobody has asked it')}")
    found = Plan(hosts, tuple(nodes), tuple(notes))
    unknown = sorted(set(hosts.shards) - set(found.models))
    more = tuple(f"no host has a {model}: what shards says of it holds for nothing" for model in unknown)
    return Plan(hosts, found.nodes, found.notes + more)


def _node(hosts: Hosts, host: Host, survey: Survey) -> Node:
    twice = _twice(survey)
    gpus = tuple(_sets(gpu for gpu in survey.gpus if not gpu.why_not and gpu.minor not in (None, *twice)))
    each = {hosts.shards.get(gpu.model, 0) for gpu in gpus}
    shards = each.pop() * sum(len(gpu.minors) for gpu in gpus) if len(each) == 1 else 0
    left = survey.memory_mib - hosts.keep_memory_gib * MIB_PER_GIB
    memory = max(256, int(min(survey.memory_mib * TOLERANCE, left)))
    return Node(host, hosts.partition_of(host), survey, gpus, shards, memory)


def _twice(survey: Survey) -> frozenset[int]:
    """Device files that several GPUs say they have: nobody can say which of them is meant."""
    minors = [gpu.minor for gpu in survey.gpus if not gpu.why_not and gpu.minor is not None]
    return frozenset(minor for minor in minors if minors.count(minor) > 1)


def _sets(gpus: Iterable[Gpu]) -> Iterator[GpuSet]:
    models: dict[str, dict[int, int]] = {}
    for gpu in gpus:
        assert gpu.minor is not None
        models.setdefault(gpu.model, {}).setdefault(gpu.minor, gpu.memory_mib)
    for model, found in sorted(models.items()):
        yield GpuSet(model, min(found.values()), tuple(sorted(found)))


def _notes(hosts: Hosts, node: Node) -> Iterator[str]:
    name, survey, twice = node.host.name, node.survey, _twice(node.survey)
    for number, gpu in enumerate(survey.gpus):
        why = gpu.why_not or ("it tells no device file" if gpu.minor is None else "")
        if gpu.minor in twice and not why:
            why = f"another GPU says that it is /dev/nvidia{gpu.minor} too"
        if why:
            yield f"{name}: GPU {number} ({gpu.model}) is left out: {why}"
    if not node.gpus:
        yield f"{name} has no GPU that can be handed out{f' ({survey.note})' if survey.note else ''}"
    each = {hosts.shards.get(gpu.model, 0) for gpu in node.gpus}
    if len(each) > 1:
        models = ", ".join(gpu.model for gpu in node.gpus)
        yield (
            f"{name} has {models}, of which shards says different numbers: Slurm counts shards by node, so its GPUs "
            "are handed out whole; say the same number for these models"
        )
    if not survey.has_slurmd:
        yield f"{name} has no slurmd yet: apt-get install slurmd"
