"""What ``timeshare doctor`` tries at a Slurm as somebody: the words before commands, the log folder, a submission that
is only checked, and on demand a tiny job."""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Sequence
from pathlib import Path

from ..reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ..reservations.engines.slurm import words
from ..reservations.engines.slurm.cluster import site_of
from ..reservations.engines.slurm.commands import Commands
from ..reservations.engines.slurm.config import SlurmPool
from ..reservations.engines.slurm.errors import SchedulerRefused, SchedulerSilent
from ..reservations.engines.slurm.log_folders import below, status_argv, unsafe
from ..reservations.engines.slurm.nodes import SlurmNode
from ..reservations.engines.slurm.queue import SlurmJob, parse_queue, queue_argv
from ..reservations.engines.slurm.request import sbatch_options
from ..reservations.engines.slurm.script import Program, Submission, output_path, parse_submitted, sbatch_argv, script
from ..reservations.engines.slurm.submissions import Account, Ways, log_folder
from ..reservations.errors import PublicError
from ..reservations.jobagent.trial import NO_HUB, NO_SERVICE
from ..reservations.shares import Shape, ShareRequest
from .findings import FAIL, OK, WARN, Finding

NAME = "timeshare-doctor"
MODULE = "timeshare.reservations.jobagent.trial"
TIME_LIMIT_S = 120
WAIT_S = 180.0
LOOK_S = 2.0


class Trial:
    """``account``: as whom. ``nodes``: of the pool's partition."""

    def __init__(
        self,
        pool: SlurmPool,
        commands: Commands,
        account: pwd.struct_passwd,
        state_dir: Path,
        nodes: Sequence[SlurmNode],
    ) -> None:
        self._pool, self._commands, self._state_dir, self._nodes = pool, commands, state_dir, nodes
        self._name = account.pw_name
        self._user = account.pw_name if pool.run_as else ""
        self._home, self._uid = account.pw_dir, account.pw_uid
        ways = Ways(pool.service_url, pool.python, pool.log_folder, key=lambda _: "")
        self._folder = log_folder(ways, Account(account.pw_name, account.pw_dir))

    async def can_become(self) -> Finding:
        what = "run_as"
        if not self._user:
            return Finding(OK, what, f"none: every job is of {self._name}")
        prefix = " ".join(self._pool.run_as)
        try:
            await self._commands.run(["sbatch", "--version"], self._user)
        except (SchedulerSilent, SchedulerRefused) as error:
            advice = "runuser needs root; sudo needs the rules of docs/slurm.md, The hub's machine"
            return Finding(FAIL, what, f"`{prefix}` does not work for {self._name}: {error}", advice)
        return Finding(OK, what, f"commands run as {self._name} (`{prefix}`)")

    async def log_folder(self) -> Finding:
        what = "log_folder"
        try:
            await self._commands.run(["mkdir", "-p", "-m", "0700", "--", self._folder], self._user)
            told = "" if below(self._folder, self._home) else await self._status()
        except (SchedulerSilent, SchedulerRefused) as error:
            advice = "homes must be there, here and on the nodes; or name another log_folder"
            return Finding(FAIL, what, f"{self._name} cannot make {self._folder}: {error}", advice)
        if why := unsafe(told, self._uid):
            return Finding(FAIL, what, f"logs cannot be kept in {self._folder}: {why}", "name another log_folder")
        return Finding(OK, what, f"{self._folder} of {self._name}")

    async def _status(self) -> str:
        return (await self._commands.run(status_argv(self._folder), self._user)).out

    async def submission(self) -> Finding:
        """Nothing is submitted: Slurm says whether it would take the smallest thing that the pool offers."""
        what = "submission"
        try:
            tiny = self._tiny(("true",))
            await self._commands.run(sbatch_argv(tiny, test_only=True), self._user, script(tiny))
        except SchedulerRefused as error:
            said = words.refusal(error.text).message
            return Finding(FAIL, what, f"as {self._name}: {said}", "account, qos and partition of the pool; sacctmgr")
        except (SchedulerSilent, PublicError, ValueError) as error:
            return Finding(WARN, what, f"not known: {error}")
        return Finding(OK, what, f"Slurm would take a job of {self._name}")

    async def job(self) -> Finding:
        """Runs one, and waits for it."""
        what, job = "a job", 0
        try:
            tiny = self._tiny(self._program())
            answer = await self._commands.run(sbatch_argv(tiny), self._user, script(tiny))
            job = parse_submitted(answer.out)
            found = await self._ended(job)
        except SchedulerRefused as error:
            return Finding(FAIL, what, words.refusal(error.text).message, "see `submission`")
        except (SchedulerSilent, PublicError, ValueError) as error:
            return Finding(WARN, what, f"not known: {error}")
        finally:
            if job:
                await self._cancel(job)
        return self._judged(job, found, f"its output is in {output_path(tiny)}")

    def _judged(self, job: int, found: SlurmJob | None, log: str) -> Finding:
        what = "a job"
        if found is None:
            return Finding(WARN, what, f"job {job} is gone, and nobody saw how it ended", log)
        if found.life != "ended":
            why = words.why_waiting(found.reason).text if found.life == "pending" else "it runs on"
            return Finding(WARN, what, f"job {job} has not ended after {WAIT_S:.0f} s and was cancelled: {why}")
        node, code = ", ".join(found.nodes), found.exit_code
        if code == 0 and not found.signal:
            return Finding(OK, what, f"{node} has timeshare, and reaches the service and the hub (job {job})")
        if code == NO_SERVICE:
            return Finding(FAIL, what, f"{node} does not reach the service: is it running? service_url", log)
        if code == NO_HUB:
            return Finding(FAIL, what, f"{node} does not reach the hub's API: is it running? hub_api_url", log)
        if code in (1, 126, 127):
            detail = f"{node} cannot import timeshare with {self._pool.python}"
            return Finding(FAIL, what, detail, f"install it there, or set python; {log}")
        _, said = words.ending(found.state, code, found.signal)
        return Finding(FAIL, what, f"on {node}: {said or found.state}", log)

    async def _ended(self, job: int) -> SlurmJob | None:
        """The job once it has ended, or as it is when waiting takes too long; None: Slurm does not know it any more."""
        until, found = time.monotonic() + WAIT_S, None
        while time.monotonic() < until:
            jobs = parse_queue((await self._commands.run(queue_argv())).out)
            found = next((one for one in jobs if one.job_id == job), None)
            if found is None or found.life == "ended":
                return found
            await asyncio.sleep(LOOK_S)
        return found

    async def _cancel(self, job: int) -> None:
        try:
            await self._commands.run(["scancel", str(job)], self._user)
        except (SchedulerSilent, SchedulerRefused):
            return  # it has ended, or its time limit ends it

    def _tiny(self, argv: Sequence[str]) -> Submission:
        """Raises PublicError, or ValueError for a pool that says what cannot be."""
        options = tuple(sbatch_options(ShareRequest(Shape.CPU), site_of(self._pool, self._nodes)))
        return Submission(NAME, Program(tuple(argv), self._home), self._folder, TIME_LIMIT_S, options)

    def _program(self) -> tuple[str, ...]:
        """With the addresses that nodes are told. Raises ValueError while nobody knows them."""
        service, hub = self._pool.service_url, self._pool.hub_api_url
        if not service or not hub:
            try:
                here = load_deployment(self._state_dir / FILE_NAME)
            except DeploymentError as error:
                raise ValueError(f"service_url or hub_api_url is empty, and {error}") from None
            service, hub = service or here.public_service_url, hub or here.public_hub_api_url
        return (self._pool.python, "-m", MODULE, service, f"{hub.rstrip('/')}/")
