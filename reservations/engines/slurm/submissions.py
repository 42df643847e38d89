"""From what is to be handed over to a submission: which program, with which words and variables. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...jobagent.setting import KEY
from ...kind import Kind
from ...limits.schema import Stop
from ...reservation import Reservation
from ...shares import FULL_COMPUTE, Shape, ShareRequest
from ..external import Order
from .request import SlurmSite, sbatch_options
from .script import Program, Submission
from .settings import Timing

AGENT = "timeshare.reservations.jobagent"
RUNNER = "timeshare.notebooks.runner"
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Account:
    """Of the owner of a job, as the nodes know her too."""

    name: str
    home: str
    uid: int = -1


@dataclass(frozen=True)
class Ways:
    """How programs find each other on the nodes. ``python``: with timeshare. ``log_folder``: from each home. ``ports``:
    for servers, empty: any. ``key``: of the job agent of a reservation. ``hub_api_url``: empty, and nodes are told
    none. ``kill_wait_s``: that Slurm leaves between its own SIGTERM and SIGKILL."""

    service_url: str
    python: str
    log_folder: str
    key: Callable[[str], str]
    ports: str = ""
    simulated: bool = False
    hub_api_url: str = ""
    kill_wait_s: float = Timing.kill_wait_s


def submission_of(order: Order, site: SlurmSite, ways: Ways, account: Account, stop: Stop) -> Submission:
    """Raises PublicError for a share that can never run."""
    programs = {index: _program(order, one, site, ways, account, stop) for index, one in order.tasks.items()}
    batch = order.kind is Kind.BATCH
    first = next(iter(order.tasks.values()))
    return Submission(
        name=order.name,
        program=programs if order.is_array else programs[0],
        folder=log_folder(ways, account),
        time_limit_s=order.seconds,
        options=tuple(sbatch_options(order.request, site, order.request.nodes)),
        grace_s=stop.save_grace + stop.term_grace,
        requeue=batch,
        parallel=order.parallel if order.is_array else 0,
        comment=first.job.name if first.job is not None else f"timeshare session {first.server_name}".strip(),
    )


def log_folder(ways: Ways, account: Account) -> str:
    """Where Slurm writes what the jobs of this account put out."""
    return str(PurePosixPath(account.home) / ways.log_folder.replace("{user}", account.name))


def _program(
    order: Order, reservation: Reservation, site: SlurmSite, ways: Ways, account: Account, stop: Stop
) -> Program:
    assert reservation.external is not None
    base = {**_account(account), **_share(order.request, site, ways), "TIMESHARE_RESERVATION_ID": reservation.id}
    base["TIMESHARE_KILL_WAIT_S"] = f"{ways.kill_wait_s:g}"
    generation = reservation.external.base
    job = reservation.job
    if job is None:
        own = {
            KEY: ways.key(reservation.id),
            "TIMESHARE_SERVICE_URL": ways.service_url,
            "TIMESHARE_ATTEMPT": str(reservation.external.attempt),
            "TIMESHARE_PORTS": ways.ports,
            "TIMESHARE_SAVE_GRACE_S": str(stop.save_grace),
            "TIMESHARE_TERM_GRACE_S": str(stop.term_grace),
        }
        return Program((ways.python, "-m", AGENT), account.home, {**base, **own}, generation=generation)
    argv = (job.python, "-m", RUNNER, job.folder, "--digest", job.digest, "--key-stdin")
    path = f"{PurePosixPath(job.python).parent}{os.pathsep}{PATH}"
    env = {**base, "PATH": path, "TIMESHARE_STOP_GRACE_S": str(stop.save_grace)}
    # -m puts the working folder before Python's own: nobody but root may be able to put a module there.
    return Program(argv, "/", env, stdin=job.key, generation=generation)


def _account(account: Account) -> dict[str, str]:
    names = dict.fromkeys(("USER", "LOGNAME"), account.name)
    return {**names, "HOME": account.home, "PATH": PATH, "LANG": "C.UTF-8"}


def _share(request: ShareRequest, site: SlurmSite, ways: Ways) -> dict[str, str]:
    """What was asked for, for the agent or the runner; the node's own word on devices comes beside it."""
    memory_mib = request.memory_mib
    if request.shape is Shape.WHOLE:
        memory_mib = min((gpu.memory_mib for gpu in site.gpus if request.model in ("", gpu.model)), default=0)
    return {
        "TIMESHARE_SHARE_TEXT": request.describe(),
        "TIMESHARE_SHARE_SHAPE": request.shape.value,
        "TIMESHARE_SHARE_MEMORY_MIB": str(memory_mib),
        "TIMESHARE_SHARE_COMPUTE": str(request.compute or (FULL_COMPUTE if request.shape is Shape.WHOLE else 0)),
        "TIMESHARE_SHARE_SIMULATED": "1" if ways.simulated else "0",
        "TIMESHARE_SIMULATED": "1" if ways.simulated else "0",
    }
