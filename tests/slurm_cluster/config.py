"""The configuration files of a cluster, as text. Slurm wants one setting a line."""

from __future__ import annotations

import socket
from pathlib import Path

from slurm_cluster.layout import Layout, VirtualNode

MEMSW = Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")


def files(layout: Layout) -> dict[str, str]:
    return {
        "slurm.conf": slurm_conf(layout),
        "gres.conf": gres_conf(layout),
        "cgroup.conf": cgroup_conf(),
        "slurmdbd.conf": slurmdbd_conf(layout),
    }


def slurm_conf(layout: Layout) -> str:
    host = socket.gethostname().split(".")[0]
    folder = layout.folder
    return f"""\
ClusterName={layout.name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={layout.ctl_port}
SlurmUser=slurm
StateSaveLocation={folder}/state
SlurmctldPidFile={layout.pid_file("slurmctld")}
SlurmctldLogFile={layout.log_file("slurmctld")}
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={layout.pid_file("slurmd.%n")}
SlurmdLogFile={layout.log_file("slurmd.%n")}
# Nothing listens beyond loopback: without these daemons and srun listen on all addresses.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny

AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again: 120 s by default.
AuthInfo=socket={layout.munge_socket},cred_expire=10

# The nodes have the CPUs and the memory that are written below, not those of this machine.
SlurmdParameters=config_overrides
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
MpiDefault=none
# Nodes whose slurmd was away come back by themselves.
ReturnToService=2
# Long: a slurmd that a test kills and starts again, on a slow machine, does not lose its jobs.
SlurmdTimeout=60
SlurmctldTimeout=30
InactiveLimit=0
# A job that is to end gets TERM, and KILL so many seconds later; 30 by default.
KillWait=3
UnkillableStepTimeout=60

SchedulerType=sched/backfill
# Look for jobs that can start every few seconds. By default: after events, every 30 s (backfill), every 60 s (others).
SchedulerParameters=sched_interval=2,bf_interval=3,bf_resolution=60,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Not mps beside shard: jobs with shards would then not be told their GPU.
GresTypes=gpu,shard
PriorityType=priority/multifactor
PriorityDecayHalfLife=7-0
# Minutes, and the least possible: fair share is seen soon.
PriorityCalcPeriod=1
PriorityWeightFairshare=10000
PriorityWeightAge=100
PriorityWeightQOS=5000
PreemptType=preempt/qos
PreemptMode=REQUEUE
JobRequeue=1
# What can never run is refused at once; by default it waits for ever.
EnforcePartLimits=ALL
PrivateData=jobs,usage

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.dbd_port}
# In spite of its name: the munge socket for speaking to slurmdbd. AuthInfo is not asked for that one.
AccountingStoragePass={layout.munge_socket}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu,{",".join(f"gres/gpu:{n.model}" for n in layout.nodes if n.model)},gres/shard

NodeName=DEFAULT CPUs=16 Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=64000 State=UNKNOWN
{"".join(_node_line(node, host) for node in layout.nodes)}
PartitionName=DEFAULT DefaultTime=00:10:00 DefMemPerCPU=500 State=UP
PartitionName=gpu Nodes={",".join(n.name for n in layout.nodes if n.model)} Default=YES MaxTime=2-00:00:00
PartitionName=cpu Nodes={",".join(n.name for n in layout.nodes if not n.model)} MaxTime=1-00:00:00
"""


def _node_line(node: VirtualNode, host: str) -> str:
    gres = [f"gpu:{node.model}:{len(node.devices)}"] if node.model else []
    gres += [f"shard:{node.shards}"] if node.shards else []
    more = f" Gres={','.join(gres)}" if gres else ""
    return f"NodeName={node.name} NodeHostname={host} NodeAddr=127.0.0.1 Port={node.port}{more}\n"


def gres_conf(layout: Layout) -> str:
    lines = ["AutoDetect=off"]
    for node in layout.nodes:
        if node.model:
            lines += [f"NodeName={node.name} Name=gpu Type={node.model} File={path}" for path in node.devices]
        if node.shards:
            lines.append(f"NodeName={node.name} Name=shard Count={node.shards}")
    return "\n".join(lines) + "\n"


def cgroup_conf() -> str:
    # Where memory of a job may go to swap, a limit on memory alone is none.
    swap = "ConstrainSwapSpace=yes\n" if MEMSW.exists() else ""
    return f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainDevices=yes
ConstrainRAMSpace=yes
{swap}"""


def slurmdbd_conf(layout: Layout) -> str:
    # "localhost" means the socket named by MYSQL_UNIX_PORT, where MariaDB knows who asks: no port, no password.
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={layout.dbd_port}
SlurmUser=slurm
CommunicationParameters=NoInAddrAny
LogFile={layout.log_file("slurmdbd")}
PidFile={layout.pid_file("slurmdbd")}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""
