"""What Slurm says, for people: why a job waits, why it was refused, how it ended. Pure.

What is not known here is shown as Slurm says it.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import PublicError
from ...reservation import Reason
from .limit_names import LimitName, limit_name, names_in
from .states import life


@dataclass(frozen=True)
class Waiting:
    """``text``: a sentence. ``starts``: by itself, once there is room or time; False: somebody has to do something."""

    text: str
    starts: bool = True


_WAITING = {
    "": Waiting("Slurm has not looked at it yet"),
    "AccountNotAllowed": Waiting("its account may not use this partition", False),
    "BadConstraints": Waiting("no node has what it asks for", False),
    "BeginTime": Waiting("its earliest start has not come yet"),
    "BlockJobLimit": Waiting("as many jobs run as Slurm manages at once"),
    "Cleaning": Waiting("its last attempt is still being cleaned up"),
    "Constraints": Waiting("no node that has what it asks for is free"),
    "DeadLine": Waiting("it cannot end before its deadline", False),
    "Dependency": Waiting("it waits for another job to end"),
    "DependencyNeverSatisfied": Waiting("it waits for another job, which did not end as it would have to", False),
    "FedJobLock": Waiting("the clusters of the federation are deciding where it runs"),
    "InactiveLimit": Waiting("the limit of inactivity was reached", False),
    "InvalidAccount": Waiting("its account is not valid any more", False),
    "InvalidQOS": Waiting("its QOS is not valid any more", False),
    "JobArrayTaskLimit": Waiting("as many tasks of its array run as are allowed at once"),
    "JobHeldAdmin": Waiting("an administrator holds it back", False),
    "JobHeldUser": Waiting("it is held back, by its owner or because it failed to start before", False),
    "JobHoldMaxRequeue": Waiting("it was started again too often, and is held back", False),
    "JobLaunchFailure": Waiting("it could not be started on its node", False),
    "Licenses": Waiting("a licence that it needs is taken"),
    "MaxMemPerLimit": Waiting("it asks for more memory for each CPU than is allowed", False),
    "NodeDown": Waiting("a node that it needs is down"),
    "None": Waiting("Slurm has not looked at it yet"),
    "OutOfMemory": Waiting("it ran out of memory", False),
    "PartitionConfig": Waiting("it asks for what its partition does not allow", False),
    "PartitionDown": Waiting("its partition starts no jobs at the moment"),
    "PartitionInactive": Waiting("its partition is inactive"),
    "PartitionNodeLimit": Waiting("it asks for more nodes than its partition allows or has", False),
    "PartitionTimeLimit": Waiting("its time limit is longer than its partition allows", False),
    "Priority": Waiting("others are before it in the queue"),
    "Prolog": Waiting("its node is being prepared"),
    "QOSJobLimit": Waiting("as many jobs of its QOS run as are allowed at once"),
    "QOSNotAllowed": Waiting("its QOS may not be used with this account or partition", False),
    "QOSResourceLimit": Waiting("its QOS holds as much as it may"),
    "QOSTimeLimit": Waiting("its time limit is longer than its QOS allows", False),
    "QOSUsageThreshold": Waiting("the fair share of its account is used up for now"),
    "Reservation": Waiting("the reservation of nodes that it asks for has not begun or is full"),
    "ReservationDeleted": Waiting("the reservation of nodes that it asks for is gone", False),
    "ReqNodeNotAvail": Waiting("nodes that it needs are not available: they are down, or set aside for maintenance"),
    "Resources": Waiting("what it asks for is not free yet"),
    "SchedDefer": Waiting("Slurm has not looked at it yet"),
    "SystemFailure": Waiting("Slurm failed to start it", False),
    "AssociationJobLimit": Waiting("as many of your jobs run as your account allows at once"),
    "AssociationResourceLimit": Waiting("your jobs hold as much as your account allows"),
    "AssociationTimeLimit": Waiting("its time limit is longer than your account allows", False),
    "launch failed requeued held": Waiting("it could not be started on its node, and is held back", False),
    "job requeued in held state": Waiting("it was put back into the queue, and is held back", False),
}
_RESOURCES = {
    "cpu": "CPUs",
    "gres": "GPUs",
    "unknowngres": "resources",
    "mem": "memory",
    "memory": "memory",
    "node": "nodes",
    "job": "running jobs",
    "jobs": "running jobs",
    "submitjob": "jobs that run or wait",
    "submitjobs": "jobs that run or wait",
    "wall": "time",
    "wallduration": "time",
    "billing": "billed resources",
    "bb": "burst buffer",
    "energy": "energy",
}


ValueOf = Callable[[LimitName], str]
"""What a limit is that Slurm names, such as ``2 GPUs in QOS interactive``; empty: not known."""


def _unknown(name: LimitName) -> str:
    return ""


def why_waiting(reason: str, value: ValueOf = _unknown) -> Waiting:
    """For ``SlurmJob.reason``, such as ``QOSMaxGRESPerUser`` or ``ReqNodeNotAvail, UnavailableNodes:a1``."""
    name, _, detail = reason.strip("() ").partition(",")
    known = _WAITING.get(name) or _WAITING.get(name.replace("_", " "))
    nodes = detail.strip().removeprefix("UnavailableNodes:").strip()
    if known and nodes:
        return Waiting(f"{known.text} ({nodes})", known.starts)
    if known:
        return known
    limit = limit_name(name)
    return _limited(limit, named(limit, value)) if limit else Waiting(f"Slurm says: {reason}")


def named(limit: LimitName, value: ValueOf) -> str:
    """``Slurm's limit QOSMaxGRESPerUser: 2 GPUs in QOS interactive``."""
    is_ = value(limit)
    return f"Slurm's limit {limit.text}" + (f": {is_}" if is_ else "")


def _limited(limit: LimitName, named: str) -> Waiting:
    """A limit of a QOS or an association, from the parts of its name, which is told too: administrators know it."""
    what, place = _RESOURCES.get(limit.what, "licences"), "its QOS" if limit.qos else "your account"
    if limit.scope == "Min":
        return Waiting(f"it asks for less {what} than {place} wants a job to have ({named})", False)
    if limit.per in ("PerJob", "PerNode"):
        one = "one job" if limit.per == "PerJob" else "one node"
        used = f"time on {what}" if limit.minutes else what
        return Waiting(f"it asks for more {used} than {place} allows for {one} ({named})", False)
    if limit.minutes.startswith("Run"):
        return Waiting(f"what runs with {place} has as much time on {what} before it as is allowed ({named})")
    if limit.minutes or limit.what == "wall":
        budget = what if limit.what == "wall" else f"time on {what}"
        return Waiting(f"the {budget} that {place} has been given is used up ({named})", False)
    # The limits of an association, unless they are of the whole group, are each user's own.
    if limit.per == "PerUser" or (not limit.qos and limit.scope == "Max"):
        whose, whom = "your jobs", "each person"
    elif limit.per or not limit.qos:
        whose, whom = "the jobs of your account", "your account as a whole"
    else:
        whose, whom = "the jobs of this QOS", "all its users together"
    if limit.of_jobs:
        full = f"there are as many {what} as {place} allows {whom}"
    else:
        full = f"{whose} hold all the {what} that {place} allows"
    return Waiting(f"{full} ({named}); it starts when others end")


# Slurm's texts, what they mean, and what would work. The first that is found counts.
_REFUSALS = (
    (
        "QOSMaxSubmitJobPerUserLimit",
        "too-many-waiting",
        "you have as many jobs as its QOS allows; end one of them first",
    ),
    (
        "AssocMaxSubmitJobLimit",
        "too-many-waiting",
        "you have as many jobs as your account allows; end one of them first",
    ),
    ("GrpSubmitJobs", "too-many-waiting", "there are as many jobs as your account or QOS allows; try again later"),
    ("MaxWallDurationPerJobLimit", "too-long", "it asks for more time than one job may have; ask for less"),
    ("QOSTimeLimit", "too-long", "it asks for more time than its QOS allows; ask for less"),
    (
        "Requested time limit is invalid",
        "too-long",
        "it asks for more time than its partition allows, or none is set; ask for less",
    ),
    ("Invalid account or account/partition", "no-account", "you have no account there; ask an administrator for one"),
    ("Invalid qos", "no-qos", "you may not use the QOS that this cluster is configured with; ask an administrator"),
    (
        "Invalid partition name",
        "no-partition",
        "the partition that is configured does not exist; tell an administrator",
    ),
    (
        "User's group not permitted",
        "not-allowed",
        "your groups may not use the partition; ask an administrator for access",
    ),
    ("Requested reservation is invalid", "no-reservation", "the reservation that is configured is not there now"),
    (
        "Access denied to requested reservation",
        "no-reservation",
        "the reservation that is configured is not open to you; ask an administrator",
    ),
    (
        "Invalid feature specification",
        "impossible",
        "no node has the feature that is configured; tell an administrator",
    ),
    ("Invalid generic resource", "impossible", "this cluster has no such GPUs or parts of GPUs; choose another share"),
    ("Memory specification can not be satisfied", "too-large", "it asks for more memory than a node has; ask for less"),
    ("More processors requested than permitted", "too-large", "it asks for more CPUs than a node has; ask for less"),
    ("Node count specification invalid", "too-large", "it asks for more nodes than there are; ask for fewer"),
    (
        "Requested node configuration is not available",
        "too-large",
        "no node has that much together; choose a smaller share or another model",
    ),
    ("Pathname of a file, directory or other parameter too long", "invalid", "a path or a name of it is too long"),
    ("Invalid job array specification", "too-many", "it has more tasks than an array may have; use fewer"),
    ("Batch script contains DOS line breaks", "invalid", "a text of it has line breaks of DOS"),
)
_QUOTED_PREFIX = re.compile(
    r"^(?:\w+: )?(?:error: )?(?:Batch job submission failed: |allocation failure: )?", re.MULTILINE
)


def refusal(said: str, value: ValueOf = _unknown) -> PublicError:
    """What sbatch said when it took nothing. 409: something about the cluster or the account is in the way; 422: this
    can never run."""
    quoted = "; ".join(line.strip() for line in _QUOTED_PREFIX.sub("", said).splitlines() if line.strip())[:500]
    limit = next(iter(names_in(said)), None)
    for text, reason, meaning in _REFUSALS:
        if text.lower() in said.lower():
            status = 422 if reason in ("too-long", "too-large", "impossible", "invalid", "too-many") else 409
            known = f"; {named(limit, value)}" if limit is not None and value(limit) else ""
            return PublicError(reason, f"Slurm refused it: {meaning} ({quoted}{known})", status, {"slurm": quoted})
    if limit is not None:
        text = _limited(limit, named(limit, value)).text
        return PublicError("limit", f"Slurm refused it: {text}", 409, {"slurm": quoted})
    return PublicError("refused", f"Slurm refused it: {quoted or 'it did not say why'}", 409, {"slurm": quoted})


IO_SIGNAL = 53
"""Not a signal: Slurm's way to say that the folder or the output of a job could not be opened."""
_ENDS = {
    "COMPLETED": (Reason.COMPLETED, ""),
    "TIMEOUT": (Reason.TIME_LIMIT, "it reached Slurm's time limit"),
    "DEADLINE": (Reason.TIME_LIMIT, "its deadline passed"),
    "PREEMPTED": (Reason.PREEMPTED, "Slurm gave its place to a job that goes first"),
    "REQUEUED": (Reason.PREEMPTED, "it was put back into the queue"),
    "NODE_FAIL": (Reason.LOST, "its node failed"),
    "BOOT_FAIL": (Reason.LOST, "its node did not boot"),
    "OUT_OF_MEMORY": (Reason.FAILED, "out of memory: it used more of its node's main memory than it had asked for"),
}


def ending(
    state: str,
    exit_code: int | None = None,
    signal: int | None = None,
    cancelled_by: int | None = None,
    owner: int | None = None,
) -> tuple[Reason, str]:
    """Why it is over, and in words. ``cancelled_by`` and ``owner`` are users' numbers. Raises ValueError for a state in
    which it is not over."""
    name = state.split(" by ")[0].upper()
    if name in _ENDS:
        return _ENDS[name]
    if name == "CANCELLED":
        return Reason.CANCELLED, _by_whom(cancelled_by, owner)
    if name == "FAILED":
        return Reason.FAILED, _failure(exit_code, signal)
    if life(state) == "ended":
        return Reason.FAILED, f"Slurm says: {state}"
    raise ValueError(f"state is {state!r}: it is not over")


def _by_whom(cancelled_by: int | None, owner: int | None) -> str:
    if cancelled_by is None:
        return "it was cancelled in Slurm"
    if cancelled_by == owner:
        return "it was cancelled in Slurm by its owner"
    return "it was cancelled in Slurm by " + ("an administrator" if cancelled_by == 0 else f"user {cancelled_by}")


def _failure(exit_code: int | None, signal: int | None) -> str:
    if signal == IO_SIGNAL:
        return "it could not be started: its folder or its output file could not be opened on the node"
    if signal:
        try:
            return f"it was ended by {signals.Signals(signal).name}"
        except ValueError:
            return f"it was ended by signal {signal}"
    return f"it ended with exit code {exit_code}" if exit_code else "it failed"
