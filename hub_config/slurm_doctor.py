"""``timeshare doctor --engine slurm``: asks every pool's Slurm what ``slurm_findings`` judges. Changes nothing but the
log folder of the account that is tried, and, with ``--job``, runs one tiny job."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..reservations.deployment import FILE_NAME, Deployment, DeploymentError, load_deployment
from ..reservations.engines.slurm.accounting import accounting_argv, parse_accounting
from ..reservations.engines.slurm.commands import Commands, new_separator
from ..reservations.engines.slurm.config import CONFIG_FILE, ConfigError, SlurmPool, read_pools
from ..reservations.engines.slurm.errors import SchedulerRefused, SchedulerSilent
from ..reservations.engines.slurm.nodes import (
    NODES_ARGV,
    PARTITIONS_ARGV,
    SlurmNode,
    SlurmPartition,
    parse_nodes,
    parse_partitions,
    untyped,
)
from ..reservations.engines.slurm.odd import Odd
from ..reservations.engines.slurm.queue import parse_queue, parse_queue_text, queue_argv, queue_text_argv
from ..reservations.engines.slurm.settings import CONFIG_ARGV, parse_config
from . import slurm_findings as judge
from .findings import FAIL, NOTE, OK, WARN, Finding
from .run.folders import FolderError, check_state_dir
from .slurm_trial import Trial

COMMANDS = ("sbatch", "scancel", "squeue", "scontrol", "sacct")
FIRST_UID, NOBODY = 1000, 65534


@dataclass(frozen=True)
class Told:
    """``nodes``: of the pool's partition. ``odd``: what of it was not understood."""

    config: Mapping[str, str]
    nodes: Sequence[SlurmNode]
    partitions: Sequence[SlurmPartition]
    odd: Odd = field(default_factory=Odd)


def examine(state_dir: Path, user: str, job: bool) -> list[Finding]:
    """``user``: whose jobs are tried; empty: the first account of this machine. ``job``: run one."""
    try:
        if state_dir.exists():
            check_state_dir(state_dir)
        pools = read_pools(state_dir)
    except FolderError as error:
        return [Finding(FAIL, "state folder", str(error))]
    except ConfigError as error:
        return [Finding(FAIL, CONFIG_FILE, str(error), "docs/slurm.md lists every setting")]
    if not pools:
        detail = f"there is none in {state_dir}, so there is no Slurm"
        return [Finding(FAIL, CONFIG_FILE, detail, "write it (docs/slurm.md), or name another folder by --state")]
    return asyncio.run(_all(state_dir, pools, user, job))


async def _all(state_dir: Path, pools: Sequence[SlurmPool], user: str, job: bool) -> list[Finding]:
    found = [Finding(OK, CONFIG_FILE, f"pools: {', '.join(pool.name for pool in pools)}")]
    for pool in pools:
        try:
            findings = [finding async for finding in _pool(state_dir, pool, user, job)]
        except (SchedulerSilent, SchedulerRefused) as error:
            findings = [Finding(FAIL, "Slurm", f"it stopped answering: {error}", "try again in a minute")]
        found += [replace(finding, what=f"{pool.name}: {finding.what}") for finding in findings]
    return found


async def _pool(state_dir: Path, pool: SlurmPool, user: str, job: bool) -> AsyncIterator[Finding]:
    missing = [name for name in (*COMMANDS, *pool.run_as[:1]) if shutil.which(name, path=pool.path) is None]
    if missing:
        advice = "install Slurm's clients (Debian: slurm-client), and what run_as begins with"
        yield Finding(FAIL, "commands", f"not found in {pool.path}: {', '.join(missing)}", advice)
        return
    yield Finding(OK, "commands", ", ".join(COMMANDS))
    commands = pool.commands()
    try:
        told = await _told(pool, commands)
    except (SchedulerSilent, SchedulerRefused) as error:
        advice = "look at slurm.conf (SLURM_CONF in environment), munge, and the log of slurmctld"
        yield Finding(FAIL, "slurmctld", f"it does not answer: {error}", advice)
        return
    asker = await _asker(commands)
    yield judge.version(told.config)
    yield await _queue(commands)
    yield judge.privacy(told.config, asker)
    here = _deployment(state_dir)
    yield judge.own_machine(pool, asker, here is None or here.local)
    yield judge.extension(pool, told.config, asker)
    for finding in _configuration(pool, told):
        yield finding
    for finding in judge.addresses(pool, told.nodes, socket.gethostname().partition(".")[0], here):
        yield finding
    yield await _accounting(commands, told.config)
    async for finding in _people(state_dir, pool, commands, told, user, job):
        yield finding


def _deployment(state_dir: Path) -> Deployment | None:
    """None: it was not started yet."""
    try:
        return load_deployment(state_dir / FILE_NAME)
    except DeploymentError:
        return None


async def _told(pool: SlurmPool, commands: Commands) -> Told:
    config = parse_config((await commands.run(CONFIG_ARGV)).out)
    odd = Odd()
    nodes = parse_nodes((await commands.run(NODES_ARGV)).out, odd)
    partitions = parse_partitions((await commands.run(PARTITIONS_ARGV)).out, odd)
    odd.notes += untyped(nodes)
    mine = judge.own_partition(pool, partitions)
    members = [node for node in nodes if mine is not None and node.name in mine.nodes]
    return Told(config, members, partitions, odd)


def _not_understood(what: str, odd: Odd) -> Iterator[Finding]:
    for text in odd.texts():
        yield Finding(
            WARN, what, text, "everything else is read as usual; the log of the service has the first of each"
        )


def _configuration(pool: SlurmPool, told: Told) -> Iterator[Finding]:
    yield from _not_understood("scontrol", told.odd)
    yield judge.partition(pool, told.partitions)
    if told.nodes:
        yield judge.open_nodes(told.nodes)
        yield from judge.gpus(pool, told.nodes)
        yield judge.sharing(pool, told.nodes, told.config)
    yield judge.part_limits(told.config)
    yield judge.confinement(told.config)
    yield judge.requeue(told.config)
    yield judge.kill_wait(told.config)


async def _asker(commands: Commands) -> judge.Asker:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
        out = (await commands.run(["sacctmgr", "-nP", "show", "user", name, "format=AdminLevel"])).out
    except KeyError:
        return judge.Asker(str(uid), uid)
    except (SchedulerSilent, SchedulerRefused):
        return judge.Asker(name, uid)  # there may be no accounting
    return judge.Asker(name, uid, out.strip())


async def _queue(commands: Commands) -> Finding:
    what = "squeue --json"
    advice = "Slurm's clients are to be built with JSON (package libjson-c); Debian's and SchedMD's are"
    odd = Odd()
    try:
        jobs = parse_queue((await commands.run(queue_argv())).out, odd)
    except SchedulerRefused as error:
        return await _queue_as_text(commands, error.text, advice)
    except SchedulerSilent as error:
        return Finding(FAIL, what, str(error), advice)
    return _answered(what, f"{len(jobs)} jobs are seen", odd)


def _answered(what: str, detail: str, odd: Odd) -> Finding:
    texts = odd.texts()
    return Finding(WARN if texts else OK, what, "; ".join([detail, *texts]))


async def _queue_as_text(commands: Commands, refused: str, advice: str) -> Finding:
    separator = new_separator()
    try:
        jobs = parse_queue_text((await commands.run(queue_text_argv(separator))).out, separator)
    except (SchedulerSilent, SchedulerRefused) as error:
        return Finding(FAIL, "squeue", f"{refused}; as text: {error}", advice)
    detail = f"{len(jobs)} jobs are seen as text, without the numbers of their GPUs ({refused})"
    return Finding(WARN, "squeue", detail, advice)


async def _accounting(commands: Commands, config: Mapping[str, str]) -> Finding:
    what = "accounting"
    if config.get("AccountingStorageType", "").rpartition("/")[2] in ("", "none"):
        detail = "there is none: how a job ended is forgotten after MinJobAge"
        return Finding(WARN, what, detail, "run slurmdbd: AccountingStorageType=accounting_storage/slurmdbd")
    separator = new_separator()
    try:
        odd = Odd()
        parse_accounting((await commands.run(accounting_argv(separator, []))).out, separator, odd)
    except (SchedulerSilent, SchedulerRefused) as error:
        return Finding(
            WARN, what, f"it does not answer: {error}", "look at slurmdbd; ends are told by squeue meanwhile"
        )
    return _answered(what, "sacct answers", odd)


async def _people(
    state_dir: Path, pool: SlurmPool, commands: Commands, told: Told, user: str, job: bool
) -> AsyncIterator[Finding]:
    """Whether somebody's jobs can be submitted, run and end."""
    try:
        account = _account(pool, user)
    except KeyError:
        detail = f"there is no account {user!r} on this machine" if user else "there is no account of a person here"
        yield Finding(FAIL, "run_as", detail, "accounts must be the same here and on the nodes; name one by --user")
        return
    trial = Trial(pool, commands, account, state_dir, told.nodes)
    as_whom = await trial.can_become()
    yield as_whom
    if as_whom.level == FAIL:
        return
    yield await trial.log_folder()
    yield await trial.submission()
    if job:
        yield await trial.job()
    else:
        yield Finding(NOTE, "a job", "not tried", "`timeshare doctor --engine slurm --job` runs a tiny job")


def _account(pool: SlurmPool, user: str) -> pwd.struct_passwd:
    """Raises KeyError."""
    if not pool.run_as:
        return pwd.getpwuid(os.geteuid())
    if user:
        return pwd.getpwnam(user)
    people = (one for one in pwd.getpwall() if FIRST_UID <= one.pw_uid < NOBODY and os.path.isdir(one.pw_dir))
    first = min(people, key=lambda one: one.pw_uid, default=None)
    if first is None:
        raise KeyError
    return first
