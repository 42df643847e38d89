"""The engine ``slurm``: asks the cluster, hands over, ends. All state and all decisions are above it."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...clock import duration_text
from ...devices.model import Device
from ...elsewhere import Outlook, OwnLimits
from ...enforcement import COOPERATIVE, NONE_NEEDED, SIMULATED
from ...errors import PublicError
from ...kind import Kind
from ...limits.schema import Limits
from ...placement import Holding
from ...shares import Shape, ShareRequest
from ..base import LaunchRefused
from ..external import ExternalJob, Life, Looked, Order, job_prefix
from . import allowances, cluster, explain, words
from .allowances import Book, Place
from .commands import ALL_RIGHTS, Commands
from .config import SlurmPool
from .errors import SchedulerRefused, SchedulerSilent
from .jobs import ended, external_jobs
from .log_folders import below, status_argv, unsafe
from .outlook import OLD_S, Ask, announced, outlook_of
from .queue import SlurmJob
from .request import sbatch_options
from .script import parse_submitted, sbatch_argv, script
from .source import SlurmSource
from .submissions import Account, Ways, log_folder, submission_of

log = logging.getLogger("timeshare.service")
SETTLING_S = 15.0
"""A command that was given up may have told Slurm all the same, but not later than this."""
SILENT_S = 40.0
"""Jobs are asked about every 15 s at least: who has not answered for so long is said to be silent."""


class SlurmEngine:
    """Implements ``engines.external.ExternalEngine``. ``source``: what is shared with other pools in the same Slurm.
    ``tag``: in the names of our jobs. ``limits``: those in force,
    for their graces and their time zone. ``addresses``: takes where nodes are reached."""

    def __init__(
        self,
        pool: SlurmPool,
        commands: Commands,
        source: SlurmSource,
        ways: Ways,
        tag: str,
        limits: Callable[[], Limits],
        addresses: dict[str, str],
    ) -> None:
        self.name = pool.name
        self.title = pool.title or (f"Slurm, partition {pool.partition}" if pool.partition else "Slurm")
        self.nodes_environment: Mapping[str, str] = {"TIMESHARE_SERVICE_URL": ways.service_url}
        if hub_api_url := pool.hub_api_url or ways.hub_api_url:
            self.nodes_environment = {**self.nodes_environment, "JUPYTERHUB_API_URL": hub_api_url}
        self._source, self._had_cluster, self._had_jobs, self._had_book = source, 0, 0, 0
        self._pool, self._commands, self._ways, self._tag, self._limits = pool, commands, ways, tag, limits
        self._addresses = addresses
        self.settled_s = pool.command_timeout + SETTLING_S
        self._seen = cluster.Snapshot(cluster.site_of(pool, ()))
        self._jobs: list[SlurmJob] = []
        self._accounts: dict[str, str] = {}
        self._book: Book | None = None
        self._readable = True
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

    def outlook(self, request: ShareRequest, seconds: int, owner: str) -> Outlook:
        units, rules = 0, self._limits()
        with contextlib.suppress(PublicError):
            options = sbatch_options(request, self._seen.site, request.nodes)
            gres = next((option for option in options if option.startswith("--gres=")), "")
            units = int(gres.rpartition(":")[2]) if request.shape is Shape.FRACTION and gres else 0
        ask = Ask(request, units, owner, seconds, rules.stop.longest_s, rules.zone)
        return outlook_of(self._seen, self._jobs, ask, time.time())

    def announced(self) -> list[str]:
        return [f"{self.title}, {text}" for text in announced(self._seen, self._limits().zone, time.time())]

    def silence(self) -> str:
        seconds = time.time() - self._answered_at
        return f"{self.title} has not answered for {duration_text(round(seconds))}" if seconds > SILENT_S else ""

    def troubles(self) -> list[str]:
        seen, silence = self._seen, self.silence()
        age = time.time() - seen.seen_at
        old = f"{self.title}: what it has free was told {duration_text(round(age))} ago" if seen.seen_at else ""
        found = [silence, old if age > OLD_S else ""]
        return [*filter(None, found), *(f"{self.title}: {text}" for text in self._source.troubles())]

    def cannot_extend(self) -> str:
        if self._pool.extend:
            return ""
        return "this site does not let timeshare move the ends of jobs in Slurm; save your work, and start again"

    def holdings(self, request: ShareRequest, places: Mapping[str, Sequence[int]]) -> tuple[Holding, ...]:
        return cluster.holdings_of(self._seen, self.name, request, places)

    def own_limits(self, owner: str) -> OwnLimits | None:
        book, place = self._book, self._place
        if book is None:
            return None
        found = allowances.concerning(book, owner, place) if owner else [*book.associations, *book.qos.values()]
        return OwnLimits(allowances.rows(found), book.seen_at)

    def account_of(self, owner: str) -> str:
        """Looked up once: a directory may be slow, and an account keeps its name."""
        if owner not in self._accounts:
            try:
                self._accounts[owner] = self._account(owner).name
            except LaunchRefused:
                return ""
        return self._accounts[owner]

    # --- what it is asked to do

    async def learn(self) -> None:
        try:
            told = await self._source.book(self._had_book)
        except SchedulerSilent as error:
            if self._readable:  # there may be no accounting, or none for this account: said once
                log.info("%s: its own limits are not readable: %s", self.name, error)
            self._readable = False
            return
        self._had_book, self._book, self._readable = told.number, told.value, True

    async def devices(self) -> tuple[Device, ...]:
        told = await self._source.cluster(self._had_cluster)
        self._had_cluster, facts = told.number, told.value
        self._seen = cluster.snapshot_of(self._pool, facts, time.time() - told.age_s)
        self._addresses.update({node.name: node.address for node in facts.nodes})
        return cluster.devices_of(self._seen, self.name, self._pool.simulated)

    async def submit(self, order: Order) -> str:
        account = self._account(order.owner)
        try:
            ways = replace(self._ways, kill_wait_s=self._seen.timing.kill_wait_s)
            submission = submission_of(order, self._seen.site, ways, account, self._limits().stop)
        except PublicError as error:
            raise LaunchRefused(error.message) from None
        try:
            await self._make_log_folder(account, self._user(order.owner))
            answer = await self._commands.run(sbatch_argv(submission), self._user(order.owner), script(submission))
        except SchedulerRefused as error:
            value = explain.value_for(order.owner, self._known)
            raise LaunchRefused(words.refusal(error.text, value).message) from None
        return str(parse_submitted(answer.out))

    async def look(self, job_ids: Sequence[str], within_s: float) -> Looked:
        told = await self._source.jobs(self._had_jobs, within_s)
        self._had_jobs, self._jobs = told.number, told.value
        self._answered_at = time.time() - told.age_s
        mine = [job for job in self._jobs if self._is_ours(job)]
        mine.sort(key=lambda job: job.array_tasks is not None)  # what is told apart wins over what may be any task
        listed = {one.job_id: one for job in mine for one in external_jobs(job, job_ids, self._why)}
        live = {name: job for name, job in listed.items() if job.life is not Life.ENDED}
        ends = await self._ends([name for name in job_ids if name not in live], listed)
        partial = self._source.is_partial(told) or self._source.ends_are_partial
        return Looked(live | ends, told.age_s, partial)  # accounting may have taken its time

    async def interrupt(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", "--signal=INT", "--batch", job.job_id], job)

    async def cancel(self, job: ExternalJob) -> None:
        await self._ended_quietly(["scancel", job.job_id], job)

    async def extend(self, job: ExternalJob, seconds: int) -> None:
        minutes = -(-(seconds + self._limits().stop.longest_s) // 60)
        try:
            await self._commands.run(["scontrol", "update", f"JobId={job.job_id}", f"TimeLimit={minutes}"])
        except SchedulerRefused as error:
            raise LaunchRefused(words.refusal(error.text).message) from None

    # --- inside

    def _is_ours(self, job: SlurmJob) -> bool:
        """By its name, which anybody can give; where all are of one account, by that as well."""
        anybodys = self._pool.run_as or job.user in ("", self.account_of(""))
        return job.name.startswith(job_prefix(self._tag)) and bool(anybodys)

    def _why(self, job: SlurmJob) -> str:
        return explain.why_waiting(job, self._known, time.time())

    @property
    def _place(self) -> Place:
        return Place(self._pool.account, self._pool.qos, self._seen.partition, self._seen.partition_qos)

    @property
    def _known(self) -> explain.Known:
        return explain.Known(self._seen, self._place, self._limits().zone, self._book)

    def _user(self, owner: str) -> str:
        """As whom commands run; empty: every job is of the service's own account."""
        return owner if self._pool.run_as else ""

    def _account(self, owner: str) -> Account:
        try:
            entry = pwd.getpwnam(owner) if self._pool.run_as else pwd.getpwuid(os.geteuid())
        except KeyError:
            raise LaunchRefused(f"there is no account {owner!r} on the hub's machine, so none to submit as") from None
        if self._pool.run_as and entry.pw_uid == 0:
            raise LaunchRefused(f"account {owner!r} {ALL_RIGHTS}")
        return Account(entry.pw_name, entry.pw_dir, entry.pw_uid)

    async def _make_log_folder(self, account: Account, user: str) -> None:
        folder = log_folder(self._ways, account)
        await self._commands.run(["mkdir", "-p", "-m", "0700", "--", folder], user)
        if not below(folder, account.home):
            told = await self._commands.run(status_argv(folder), user)
            why = unsafe(told.out, account.uid)
            if why:
                raise LaunchRefused(f"logs cannot be kept in {folder}: {why}; an administrator can name another place")

    async def _ends(self, job_ids: Sequence[str], listed: Mapping[str, ExternalJob]) -> dict[str, ExternalJob]:
        """How these ended: by accounting, which knows better; by the list, while accounting does not answer."""
        ends = await self._source.ends(sorted({int(name.partition("_")[0]) for name in job_ids}))
        if ends is None:
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
