"""The engine ``slurm``: asks the cluster, hands over, ends. All state and all decisions are above it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...clock import duration_text
from ...devices.model import Device
from ...elsewhere import Outlook
from ...enforcement import COOPERATIVE, NONE_NEEDED, SIMULATED
from ...errors import PublicError
from ...kind import Kind
from ...limits.schema import Stop
from ...placement import Holding
from ...shares import Shape, ShareRequest
from ..base import LaunchRefused
from ..external import ExternalJob, Life, Order, job_prefix
from . import cluster, words
from .accounting import SlurmEnd, accounting_argv, parse_accounting
from .commands import Commands
from .config import SlurmPool
from .errors import SchedulerRefused, SchedulerSilent
from .jobs import ended, external_jobs, last_attempts
from .nodes import NODES_ARGV, PARTITIONS_ARGV, parse_nodes, parse_partitions
from .queue import SlurmJob, parse_queue, queue_argv
from .request import sbatch_options
from .script import parse_submitted, sbatch_argv, script
from .submissions import Account, Ways, log_folder, submission_of

log = logging.getLogger("timeshare.service")
SETTLING_S = 15.0
"""A command that was given up may have told Slurm all the same, but not later than this."""
SILENT_S = 40.0
"""Jobs are asked about every 15 s at least: who has not answered for so long is said to be silent."""
MOST_ASKED = 200
"""Jobs that sacct is asked about at once."""


class SlurmEngine:
    """Implements ``engines.external.ExternalEngine``. ``tag``: in the names of our jobs. ``stop``: the graces in
    force. ``addresses``: takes where nodes are reached."""

    def __init__(
        self,
        pool: SlurmPool,
        commands: Commands,
        ways: Ways,
        tag: str,
        stop: Callable[[], Stop],
        addresses: dict[str, str],
    ) -> None:
        self.name = pool.name
        self.title = pool.title or (f"Slurm, partition {pool.partition}" if pool.partition else "Slurm")
        self.nodes_environment: Mapping[str, str] = {"TIMESHARE_SERVICE_URL": ways.service_url}
        if pool.hub_api_url:
            self.nodes_environment = {**self.nodes_environment, "JUPYTERHUB_API_URL": pool.hub_api_url}
        self._pool, self._commands, self._ways, self._tag, self._stop = pool, commands, ways, tag, stop
        self._addresses = addresses
        self.settled_s = pool.command_timeout + SETTLING_S
        self._seen = cluster.Snapshot(cluster.site_of(pool, ()))
        self._jobs: list[SlurmJob] = []
        self._answered_at = time.time()

    # --- what decisions ask

    def check(self, request: ShareRequest, seconds: int, kind: Kind) -> None:
        seen = self._seen
        if not seen.seen_at:
            raise PublicError("unseen", f"{self.title} has not answered yet: try again in a minute", 503)
        sbatch_options(request, seen.site, request.nodes)
        if kind is Kind.SESSION and request.nodes > 1:
            raise PublicError("invalid", f"nodes is {request.nodes}: a session is on one node", 400)
        if seen.max_time_s is not None and seconds > seen.max_time_s:
            longest = f"the partition allows {duration_text(seen.max_time_s)}"
            message = f"time_limit_s is {seconds}: {longest}; ask for at most {seen.max_time_s} seconds"
            raise PublicError("time-limit", message, 400, {"time_limit_s": seconds, "limit": seen.max_time_s})

    def enforcement(self, request: ShareRequest) -> str:
        """Before a node can tell no more than this is claimed; what the node saw is told once it runs."""
        if request.shape is Shape.CPU:
            return NONE_NEEDED
        return SIMULATED if self._pool.simulated else COOPERATIVE

    def outlook(self, request: ShareRequest, now: float) -> Outlook:
        units = 0
        with contextlib.suppress(PublicError):
            options = sbatch_options(request, self._seen.site, request.nodes)
            gres = next((option for option in options if option.startswith("--gres=")), "")
            units = int(gres.rpartition(":")[2]) if request.shape is Shape.FRACTION and gres else 0
        return cluster.outlook_of(self._seen, self._jobs, request, units, time.time())

    def silence(self) -> str:
        seconds = time.time() - self._answered_at
        return f"{self.title} has not answered for {duration_text(round(seconds))}" if seconds > SILENT_S else ""

    def cannot_extend(self) -> str:
        if self._pool.extend:
            return ""
        return "this site does not let timeshare move the ends of jobs in Slurm; save your work, and start again"

    def holdings(self, request: ShareRequest, places: Mapping[str, Sequence[int]]) -> tuple[Holding, ...]:
        return cluster.holdings_of(self._seen, self.name, request, places)

    # --- what it is asked to do

    async def devices(self) -> tuple[Device, ...]:
        nodes, partitions = await asyncio.gather(self._commands.run(NODES_ARGV), self._commands.run(PARTITIONS_ARGV))
        told = parse_nodes(nodes.out)
        self._seen = cluster.snapshot_of(self._pool, told, parse_partitions(partitions.out), time.time())
        self._addresses.update({node.name: node.address for node in told})
        return cluster.devices_of(self._seen, self.name, self._pool.simulated)

    async def submit(self, order: Order) -> str:
        account = self._account(order.owner)
        try:
            submission = submission_of(order, self._seen.site, self._ways, account, self._stop())
        except PublicError as error:
            raise LaunchRefused(error.message) from None
        try:
            folder = log_folder(self._ways, account)
            await self._commands.run(["mkdir", "-p", "-m", "0700", "--", folder], self._user(order.owner))
            answer = await self._commands.run(sbatch_argv(submission), self._user(order.owner), script(submission))
        except SchedulerRefused as error:
            raise LaunchRefused(words.refusal(error.text).message) from None
        return str(parse_submitted(answer.out))

    async def look(self, job_ids: Sequence[str]) -> Mapping[str, ExternalJob]:
        answer = await self._commands.run(queue_argv())
        self._jobs, self._answered_at = parse_queue(answer.out), time.time()
        mine = [job for job in self._jobs if job.name.startswith(job_prefix(self._tag))]
        listed = {one.job_id: one for job in mine for one in external_jobs(job, job_ids)}
        live = {name: job for name, job in listed.items() if job.life is not Life.ENDED}
        return live | await self._ends([name for name in job_ids if name not in live], listed)

    async def interrupt(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", "--signal=INT", "--batch", job.job_id], job)

    async def cancel(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", job.job_id], job)

    async def extend(self, job: ExternalJob, seconds: int) -> None:
        minutes = -(-(seconds + self._stop().longest_s) // 60)
        try:
            await self._commands.run(["scontrol", "update", f"JobId={job.job_id}", f"TimeLimit={minutes}"])
        except SchedulerRefused as error:
            raise LaunchRefused(words.refusal(error.text).message) from None

    # --- inside

    def _user(self, owner: str) -> str:
        """As whom commands run; empty: every job is of the service's own account."""
        return owner if self._pool.run_as else ""

    def _account(self, owner: str) -> Account:
        try:
            entry = pwd.getpwnam(owner) if self._pool.run_as else pwd.getpwuid(os.geteuid())
        except KeyError:
            raise LaunchRefused(f"there is no account {owner!r} on the hub's machine, so none to submit as") from None
        return Account(entry.pw_name, entry.pw_dir)

    async def _ends(self, job_ids: Sequence[str], listed: Mapping[str, ExternalJob]) -> dict[str, ExternalJob]:
        """How these ended: by accounting, which knows better; by the list, while accounting does not answer."""
        ends: dict[str, SlurmEnd] = {}
        numbers = sorted({int(name.partition("_")[0]) for name in job_ids})
        for begin in range(0, len(numbers), MOST_ASKED):
            separator = f"<{secrets.token_hex(8)}>"
            try:
                answer = await self._commands.run(accounting_argv(separator, numbers[begin : begin + MOST_ASKED]))
                ends |= last_attempts(parse_accounting(answer.out, separator))
            except (SchedulerSilent, SchedulerRefused) as error:
                log.warning("%s: accounting did not answer: %s", self.name, error)
                return {name: listed[name] for name in job_ids if name in listed}
        found = {}
        for name in job_ids:
            end, job = ends.get(name), listed.get(name)
            if end is not None and end.life == "ended" and (job is None or job.name == end.name):
                found[name] = ended(name, end)
            elif job is not None:
                found[name] = job  # accounting has not heard of its end yet
            elif end is not None:
                found[name] = replace(ended(name, end), life=Life.UNKNOWN)
        return found

    async def _ended_quietly(self, argv: Sequence[str], job: ExternalJob) -> None:
        try:
            await self._commands.run(argv, self._user(job.owner))
        except SchedulerRefused as error:
            if "invalid job id" not in error.text.lower() and "already" not in error.text.lower():
                raise LaunchRefused(words.refusal(error.text).message) from None
