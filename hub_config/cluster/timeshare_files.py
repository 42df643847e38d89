"""timeshare's part: ``timeshare_slurm.py`` and the begin of a limits file, as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...reservations.clock import duration_text
from .plan import MIB_PER_GIB, Node, Plan

PAD = "    "


def timeshare_slurm(plan: Plan) -> str:
    """Return timeshare_slurm.py: one way in for each partition, all to the same Slurm."""
    hosts = plan.hosts
    lines = [
        "# Written by `timeshare cluster describe`, for the state folder; docs/slurm.md has every setting.",
        "c = get_config()  # noqa: F821",
        "",
        f"c.SlurmPool.fraction = {_text('shard' if plan.shared else '')}",
        "c.SlurmPool.gpus = {",
        *(f"{PAD}{_text(model)}: {_gpu(plan, model)}," for model in plan.models),
        "}",
        f"c.SlurmPool.python = {_text(f'{hosts.timeshare}/bin/python')}",
        f"c.SlurmPool.ports = {_text(hosts.ports)}",
    ]
    if hosts.public_url:
        base = hosts.public_url.rstrip("/")
        lines.append(f"c.SlurmPool.service_url = {_text(f'{base}/services/timeshare')}")
        lines.append(f"c.SlurmPool.hub_api_url = {_text(f'{base}/hub/api')}")
    lines.append("c.Slurm.pools = {")
    for name in hosts.partitions:
        if plan.of(name):
            lines.append(f"{PAD}{_text(name)}: {_dict(_pool(plan, name))},")
    return "\n".join([*lines, "}"]) + "\n"


def _gpu(plan: Plan, model: str) -> str:
    is_shared = any(node.shards and any(gpu.model == model for gpu in node.gpus) for node in plan.nodes)
    shards = {"shards": plan.hosts.shards[model]} if is_shared else {}
    return _dict({"model": model, "memory_gib": _gib(plan.models[model]), **shards})


def _gib(mib: int) -> float:
    """Never more than there is."""
    gib = mib * 100 // MIB_PER_GIB / 100
    return int(gib) if gib == int(gib) else gib


def _pool(plan: Plan, name: str) -> dict[str, Any]:
    nodes = plan.of(name)
    title = plan.hosts.partitions[name].title
    with_gpus = [node for node in nodes if node.count]
    share: dict[str, Any] = {}
    if with_gpus:
        share = {
            "cpus": max(1, min(node.survey.cpus // node.count for node in with_gpus)),
            "memory_gib": max(1, min(node.memory_mib // node.count for node in with_gpus) // MIB_PER_GIB),
        }
    return {"title": title or f"Slurm, {name}", "partition": name, **share}


def _dict(values: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{_text(key)}: {_value(value)}" for key, value in values.items()) + "}"


def _value(value: Any) -> str:
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """In quotes. The words of the list need no others: they hold no quote and no backslash."""
    return f'"{value}"'


def limits(plan: Plan) -> str:
    """Return a limits file to begin with: a pool for each partition, and where its rules end."""
    return "\n".join(_limits(plan)) + "\n"


def _limits(plan: Plan) -> Iterator[str]:
    yield "# A limits file to begin with, written by `timeshare cluster describe`: put into it what your lab wants."
    yield "# `timeshare limits check` tells what is wrong with it; docs/admin_guide.md has every key. Order, fair"
    yield "# share, quotas, preemption, GPUs kept for sessions, events and maintenance are Slurm's: see docs/slurm.md."
    yield ""
    yield "timezone: UTC"
    if plan.models:
        yield "weights:                 # what a GPU of a model counts in budgets"
    yield from (f"  {model}: 1" for model in plan.models)
    yield ""
    yield "defaults:"
    yield "  gpus: 4"
    yield "  largest: 4"
    yield "  sessions: {at_once: 2}"
    yield "  idle: {after: 1h, then: stop}  # Slurm takes back a whole job or nothing, so an idle session is stopped"
    yield ""
    yield "pools:"
    for name, said in plan.hosts.partitions.items():
        nodes = plan.of(name)
        if not nodes:
            continue
        yield f"  {name}:{' ' * max(1, 22 - len(name))}# {_what(nodes)}"
        yield f"    engines: [{name}]"
        yield f"    max_time: {_duration(said.max_time)}"


def _what(nodes: tuple[Node, ...]) -> str:
    gpus: dict[str, int] = {}
    for gpu in (gpu for node in nodes for gpu in node.gpus):
        gpus[gpu.model] = gpus.get(gpu.model, 0) + len(gpu.minors)
    return ", ".join(f"{count} {model}" for model, count in gpus.items()) or "no GPUs"


def _duration(seconds: int) -> str:
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def next_steps(plan: Plan) -> str:
    """Return what to copy where, for the person who does it."""
    hosts = plan.hosts
    parts = [
        f"- `{name}`: {_what(plan.of(name))}, up to {duration_text(said.max_time)}"
        for name, said in hosts.partitions.items()
    ]
    notes = [f"- {note}" for note in plan.notes] or ["- nothing"]
    return f"""\
# What to do with these files

Written by `timeshare cluster describe`; docs/several_hosts.md leads through it. As root of
{hosts.controller}; `hosts.txt` has the hosts, a line each.

{chr(10).join(parts)}

To look at before:

{chr(10).join(notes)}

1. Munge with one key on all machines (`apt-get install munge` makes one on the first):

       for host in $(cat hosts.txt); do scp -p /etc/munge/munge.key root@$host:/etc/munge/; done
       for host in $(cat hosts.txt); do ssh root@$host "chown munge /etc/munge/*.key; systemctl restart munge"; done

2. The database and the accounting, here alone:

       mariadb < database.sql
       install -m 0600 -o slurm -g slurm slurmdbd.conf /etc/slurm/slurmdbd.conf
       systemctl enable --now slurmdbd
       sacctmgr -i add cluster {hosts.cluster}

3. Slurm's files, here and on every host the same, then the daemons:

       install -m 0644 slurm.conf gres.conf cgroup.conf /etc/slurm/
       for host in $(cat hosts.txt); do scp slurm.conf gres.conf cgroup.conf root@$host:/etc/slurm/; done
       systemctl enable --now slurmctld
       for host in $(cat hosts.txt); do ssh root@$host systemctl enable --now slurmd; done
       sinfo -N -l

4. People, for Slurm's fair share: `sacctmgr -i add account lab`, then `sacctmgr -i add user NAME account=lab` for each.

5. timeshare, then a restart of it:

       install -m 0644 timeshare_slurm.py /var/lib/timeshare/
       timeshare limits apply limits.yaml
       timeshare doctor --engine slurm
       timeshare doctor --engine slurm --job

slurmdbd.conf and database.sql hold the password of the database: remove them here once they are in their place.
"""
