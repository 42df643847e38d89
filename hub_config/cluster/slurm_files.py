"""Slurm's own files, as text. Slurm wants one setting a line, and reads `#` as the begin of a comment. Pure.

Every word that a host or the list of hosts says comes through ``hosts`` and ``survey``, which let single words pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from .plan import Node, Plan

HEAD = "# Written by `timeshare cluster describe`. The same file on the hub's machine and on every host.\n"
SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={controller}
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmctldPidFile=/run/slurmctld.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmdPidFile=/run/slurmd.pid
SlurmdLogFile=/var/log/slurm/slurmd.log
# Munge proves who asks: one key on all machines, /etc/munge/munge.key. cred_expire is also how long a batch job waits
# that is started again: 120 s by default.
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=30

# Jobs get the GPUs, cores and memory that they were given and no others; nothing of a job outlives it.
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/linux
PrologFlags=Contain
MpiDefault=none
# A host that was away comes back by itself.
ReturnToService=1
# Time to save when Slurm itself ends a job.
KillWait=30
UnkillableStepTimeout=120

SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Never mps beside shard: jobs with shards would then not be told their GPU.
GresTypes={gres_types}
PriorityType=priority/multifactor
PriorityDecayHalfLife=7-0
PriorityWeightAge=1000
PriorityWeightFairshare=10000
# What a partition does not allow is refused at once; by default it waits for ever.
EnforcePartLimits=ALL

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller_name}
AccountingStorageTRES={tres}
"""
CGROUP_CONF = """\
# Off by default: without it every job can open every GPU of its host.
ConstrainDevices=yes
ConstrainCores=yes
ConstrainRAMSpace=yes
"""
SWAP = """\
# Where memory of a job may go to swap, a limit on memory alone is none.
ConstrainSwapSpace=yes
"""
SLURMDBD_CONF = """\
# The hub's machine only. It holds a password: owner slurm, mode 0600, or slurmdbd does not start.
AuthType=auth/munge
DbdHost={controller_name}
SlurmUser=slurm
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""
DATABASE_SQL = """\
-- The hub's machine only: mariadb < database.sql, as root. It holds the password of slurmdbd.conf.
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}';
ALTER USER 'slurm'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
"""


def slurm_conf(plan: Plan) -> str:
    """Return slurm.conf."""
    hosts = plan.hosts
    address = f"({hosts.controller_address})" if hosts.controller_address else ""
    types = "gpu,shard" if plan.shared else "gpu"
    tres = ["gres/gpu", *(f"gres/gpu:{model}" for model in plan.models), *(["gres/shard"] if plan.shared else [])]
    text = SLURM_CONF.format(
        cluster=hosts.cluster,
        controller=f"{hosts.controller}{address}",
        controller_name=hosts.controller,
        gres_types=types,
        tres=",".join(tres),
    )
    return HEAD + text + "\n" + "\n".join([*_nodes(plan), "", *_partitions(plan)]) + "\n"


def _nodes(plan: Plan) -> Iterator[str]:
    for node in plan.nodes:
        address = f" NodeAddr={node.host.address}" if node.host.address else ""
        gres = f" Gres={node.gres} Feature={','.join(node.features)}" if node.gres else ""
        yield f"NodeName={node.host.name}{address} {_cpus(node)} RealMemory={node.memory_mib}{gres} State=UNKNOWN"


def _cpus(node: Node) -> str:
    """Cores as they are, where the kernel tells something regular: a node that has others than it says is drained."""
    survey = node.survey
    if survey.sockets * survey.cores * survey.threads != survey.cpus:
        return f"CPUs={survey.cpus}"
    return f"Sockets={survey.sockets} CoresPerSocket={survey.cores} ThreadsPerCore={survey.threads}"


def _partitions(plan: Plan) -> Iterator[str]:
    for name, said in plan.hosts.partitions.items():
        nodes = plan.of(name)
        if not nodes:
            yield f"# The partition {name} has no host that answered."
            continue
        members = ",".join(node.host.name for node in nodes)
        default = " Default=YES" if said.default else ""
        times = f"MaxTime={_time(said.max_time)} DefaultTime={_time(said.default_time)}"
        memory = min(node.memory_mib // node.survey.cpus for node in nodes)
        yield f"PartitionName={name} Nodes={members}{default} {times} DefMemPerCPU={max(1, memory)} State=UP"


def _time(seconds: int) -> str:
    """Seconds as Slurm has them, rounded up to minutes: ``1-02:03:00``."""
    minutes = -(-seconds // 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"


def gres_conf(plan: Plan) -> str:
    """Return gres.conf. Slurms of distributions are often built without NVML, so nothing is left to AutoDetect."""
    lines = ["AutoDetect=off"]
    for node in plan.nodes:
        name = node.host.name
        lines += [f"NodeName={name} Name=gpu Type={gpu.model} File={gpu.files}" for gpu in node.gpus]
        if node.shards:
            lines.append(f"NodeName={name} Name=shard Count={node.shards}")
    return HEAD + "\n".join(lines) + "\n"


def cgroup_conf(plan: Plan) -> str:
    """Return cgroup.conf. Which version of control groups a host has, Slurm finds by itself; of version 1 many kernels
    do not account for swap, and a slurmd that is told to limit it would not start."""
    return HEAD + CGROUP_CONF + (SWAP if all(node.survey.cgroup == 2 for node in plan.nodes) else "")


def slurmdbd_conf(plan: Plan, password: str) -> str:
    """Return slurmdbd.conf."""
    return SLURMDBD_CONF.format(controller_name=plan.hosts.controller, password=password)


def database_sql(password: str) -> str:
    """Return what makes the database of slurmdbd."""
    return DATABASE_SQL.format(password=password)
