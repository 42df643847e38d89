"""Slurm's words, said to people. Pure."""

from __future__ import annotations

import re

from ...reservation import Reason

WAITS = {
    "None": "it has not been looked at yet",
    "Priority": "others go first",
    "Resources": "what it needs is not free yet",
    "BeginTime": "it was taken back a moment ago and may start again soon",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "it waits for a job that can never have the end that it needs",
    "JobHeldUser": "it is held by its owner: `scontrol release` lets it go on",
    "JobHeldAdmin": "an administrator of Slurm holds it",
    "JobArrayTaskLimit": "others of its array run",
    "PartitionDown": "its partition takes no work at the moment",
    "PartitionInactive": "its partition takes no work at the moment",
    "PartitionTimeLimit": "its time limit is longer than its partition allows",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "ReqNodeNotAvail": "nodes that it needs are down, being emptied or reserved",
    "NodeDown": "a node that it needs is down",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation is over",
    "Licenses": "no licence is free",
    "Cleaning": "what ran there before is being cleaned up",
    "Prolog": "its node is being prepared",
    "JobLaunchFailure": "it could not be started, and is held: an administrator of Slurm must look",
    "launch_failed_requeued_held": "it could not be started, and is held: an administrator of Slurm must look",
    "InactiveLimit": "it was inactive for too long",
}
_SCOPES = {
    "QOSGrp": "everybody in this quality of service",
    "QOSMax": "one user, or one job, in this quality of service",
    "QOSMin": "one job in this quality of service",
    "AssocGrp": "everybody in this account",
    "AssocMax": "one user, or one job, in this account",
    "Max": "one account",
}
_WHAT = {
    "GRES": "GPUs",
    "Cpu": "CPUs",
    "CPU": "CPUs",
    "Mem": "memory",
    "Node": "nodes",
    "Jobs": "jobs",
    "Submit": "jobs that wait or run",
    "Wall": "time",
    "Billing": "what is charged",
    "Energy": "energy",
    "BB": "buffer space",
    "License": "licences",
}
_REFUSED = {
    "invalid account": "Slurm knows no account of yours that may run there: ask an administrator of Slurm for one",
    "invalid qos": "Slurm has no such quality of service for you: an administrator must correct the pool's qos",
    "invalid partition": "Slurm has no such partition: an administrator must correct the pool's partition",
    "requested time limit is invalid": "the time limit is longer than the partition allows: ask for less time",
    "node configuration is not available": "no node of the partition could ever give that: ask for less",
    "invalid generic resource": "Slurm does not know these GPUs: an administrator must correct the pool's gpus",
    "node count specification": "there are not so many nodes: ask for fewer",
    "more processors requested": "no node has so many CPUs: an administrator must correct the pool's cpus",
    "memory specification": "no node has so much memory: an administrator must correct the pool's memory_gib",
    "invalid feature": "no node has the features of the pool's constraint: an administrator must correct it",
    "reservation is invalid": "Slurm has no such reservation: an administrator must correct the pool's reservation",
    "access/permission denied": "Slurm does not allow that",
    "job violates accounting/qos policy": "a limit of Slurm is reached: wait for your jobs there, or ask for less",
}
_LIMIT = re.compile(r"\b((?:QOS|Assoc|Max)[A-Z][A-Za-z]+)\b")


def waits(reason: str) -> str:
    """Why a job waits, for its owner."""
    first = reason.split(",")[0].strip().strip("()")
    if first in WAITS:
        return WAITS[first]
    scope = next((text for start, text in _SCOPES.items() if first.startswith(start)), "")
    what = next((text for part, text in _WHAT.items() if part in first), "")
    if scope:
        return f"a limit of Slurm on {what or 'what may be held'} of {scope} is reached ({first})"
    return f"Slurm says {reason}"


def refused(said: str) -> str:
    """A refusal of sbatch, for whoever asked: the limit by its name where Slurm names it."""
    lower = said.lower()
    found = next((text for part, text in _REFUSED.items() if part in lower), "")
    limit = _LIMIT.search(said)
    named = f" ({limit[1]})" if limit else ""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in said.splitlines() if line.strip()]
    return f"{found}{named}" if found else f"Slurm refused it: {'; '.join(lines) or 'without a reason'}"


def ended(state: str, code: int, signal: int, by: str = "", reason: str = "") -> tuple[Reason, str]:
    """What the end of a job was."""
    if state == "COMPLETED":
        return Reason.COMPLETED, "it ran to its end"
    if state in ("TIMEOUT", "DEADLINE"):
        return Reason.TIME_LIMIT, "Slurm ended it at its time limit"
    if state == "CANCELLED":
        return Reason.CANCELLED, f"it was cancelled in Slurm{f' by user number {by}' if by else ''}"
    if state == "PREEMPTED":
        return Reason.PREEMPTED, "Slurm gave what it held to a job that goes first"
    if state == "OUT_OF_MEMORY":
        return Reason.FAILED, "it was ended because it used more main memory than its job may"
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return Reason.LOST, "its node failed"
    if state == "REVOKED":
        return Reason.LOST, "Slurm moved it to another cluster"
    if signal:
        return Reason.FAILED, f"it was ended by signal {signal}; most often 9 means out of memory"
    return Reason.FAILED, f"it ended with exit status {code}; what its job put out says why"
