"""The engine ``slurm``: asks the cluster, hands over, ends. All state and all decisions are above it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import time
from collections.abc import Callable, Mapping, Sequence

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
from ..external import ExternalJob, Life, Order
from . import accounting, cluster, words
from .commands import Commands
from .config import SlurmPool
from .errors import SchedulerRefused, SchedulerSilent
from .nodes import read_nodes, read_partitions
from .queue import SlurmJob, read_queue
from .request import sbatch_options
from .script import parse_submitted, sbatch_argv, script
from .submissions import Account, Ways, log_folder, submission_of

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
        self._seen = cluster.Snapshot(cluster.site_of(pool, ()))
        self._jobs: list[SlurmJob] = []

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
        if self._pool.simulated:
            return SIMULATED
        return NONE_NEEDED if request.shape is Shape.CPU else COOPERATIVE

    def outlook(self, request: ShareRequest, now: float) -> Outlook:
        units = 0
        with contextlib.suppress(PublicError):
            options = sbatch_options(request, self._seen.site, request.nodes)
            gres = next((option for option in options if option.startswith("--gres=")), "")
            units = int(gres.rpartition(":")[2]) if request.shape is Shape.FRACTION and gres else 0
        return cluster.outlook_of(self._seen, self._jobs, request, units, time.time())

    def cannot_extend(self) -> str:
        if self._pool.extend:
            return ""
        return "this site does not let timeshare move the ends of jobs in Slurm; save your work, and start again"

    def holdings(self, request: ShareRequest, places: Mapping[str, Sequence[int]]) -> tuple[Holding, ...]:
        return cluster.holdings_of(self._seen, self.name, request, places)

    # --- what it is asked to do

    async def devices(self) -> tuple[Device, ...]:
        nodes, partitions = await asyncio.gather(
            self._commands.run(["scontrol", "show", "node", "-d", "-o"]),
            self._commands.run(["scontrol", "show", "partition", "-o"]),
        )
        told = read_nodes(nodes.out)
        self._seen = cluster.snapshot_of(self._pool, told, read_partitions(partitions.out), time.time())
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
            raise LaunchRefused(words.refused(error.text)) from None
        return str(parse_submitted(answer.out))

    async def look(self, job_ids: Sequence[str]) -> Mapping[str, ExternalJob]:
        answer = await self._commands.run(["squeue", "--json"])
        self._jobs = read_queue(answer.out)
        mine = {job.id: job for job in self._jobs if job.name.startswith(f"timeshare-{self._tag}-")}
        found = {name: self._external(job) for name, job in mine.items() if job.life is not Life.ENDED}
        over = [name for name in job_ids if name not in found]
        return found | await self._ends(over, mine)

    async def interrupt(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", "--signal=INT", "--batch", job.job_id], job)

    async def cancel(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", job.job_id], job)

    async def extend(self, job: ExternalJob, seconds: int) -> None:
        minutes = -(-(seconds + self._stop().longest_s) // 60)
        try:
            await self._commands.run(["scontrol", "update", f"JobId={job.job_id}", f"TimeLimit={minutes}"])
        except SchedulerRefused as error:
            raise LaunchRefused(words.refused(error.text)) from None

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

    def _external(self, job: SlurmJob) -> ExternalJob:
        running = job.life in (Life.RUNNING, Life.ENDING)
        said = "" if running and job.state == "RUNNING" else words.waits(job.reason)
        if job.state in ("SUSPENDED", "STOPPED"):
            said = "Slurm has suspended it"
        return ExternalJob(
            job_id=job.id,
            name=job.name,
            owner=job.user,
            life=job.life,
            index=job.index,
            said=said,
            expected_at=job.start_at if job.life is Life.PENDING else None,
            started_at=job.start_at if running else None,
            node=job.nodes[0] if job.nodes else "",
            address=self._addresses.get(job.nodes[0], "") if job.nodes else "",
            places={node: (job.gpus or {}).get(node, ()) for node in job.nodes} if running else {},
            restarts=job.restarts,
            time_limit_s=job.time_limit_s,
        )

    async def _ends(self, job_ids: Sequence[str], listed: Mapping[str, SlurmJob]) -> dict[str, ExternalJob]:
        """How these ended: by accounting, which knows better; by the list, while accounting does not answer."""
        ends: dict[str, accounting.SlurmEnd] = {}
        silent = False
        for begin in range(0, len(job_ids), MOST_ASKED):
            asked = ",".join(job_ids[begin : begin + MOST_ASKED])
            try:
                answer = await self._commands.run([*accounting.ARGUMENTS, "-j", asked])
                ends |= accounting.read_ends(answer.out)
            except (SchedulerSilent, SchedulerRefused):
                silent = True
        found = {}
        for name in job_ids:
            end, job = ends.get(name), listed.get(name)
            if end is not None and end.life is Life.ENDED:
                reason, detail = words.ended(end.state, end.code, end.signal, end.by, end.reason)
                index = int(name.rpartition("_")[2]) if "_" in name else 0
                found[name] = ExternalJob(name, end.name, end.user, Life.ENDED, index, reason=reason, detail=detail)
            elif job is not None and (silent or end is None):
                reason, detail = words.ended(job.state, 1, 0, "", job.reason)
                found[name] = ExternalJob(name, job.name, job.user, Life.ENDED, job.index, reason=reason, detail=detail)
            elif job is not None or end is not None:
                # The two do not agree yet: a moment later they do.
                told = job.name if job is not None else end.name if end is not None else ""
                found[name] = ExternalJob(name, told, "", Life.UNKNOWN)
        return found

    async def _ended_quietly(self, argv: Sequence[str], job: ExternalJob) -> None:
        try:
            await self._commands.run(argv, self._user(job.owner))
        except SchedulerRefused as error:
            if "invalid job id" not in error.text.lower() and "already" not in error.text.lower():
                raise LaunchRefused(words.refused(error.text)) from None
