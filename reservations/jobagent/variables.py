"""The environment of a server that a job agent starts. Pure."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..agent.environment import share_environment, uuids_of
from ..agent.records import SharePart
from .seat import Seat
from .setting import OWN, Setting
from .talk import SOCKET_HERE, Order

_OF_THE_BATCH_SYSTEM = ("SLURM_", "SLURMD_", "CUDA_", "NVIDIA_", "ROCR_", "ZE_", "GPU_DEVICE_ORDINAL")


@dataclass(frozen=True)
class _Held:
    reservation_id: str
    generation: int
    share: tuple[SharePart, ...]
    share_text: str
    enforcement: str
    ends_at: str | None


def with_socket(argv: Sequence[str], socket: str) -> tuple[str, ...]:
    """Return the words of an order with the path of the server's socket in its place."""
    return tuple(word.replace(SOCKET_HERE, socket) for word in argv)


def server_environment(
    order: Order, folder: Path, setting: Setting, seat: Seat, job: Mapping[str, str], account: pwd.struct_passwd
) -> dict[str, str]:
    """The job's own environment (``job``: what modules set in its script counts), then the order's; what the batch
    system says of devices, the account, the ``folder`` for sockets and what timeshare says of the share win."""
    wins = {name: value for name, value in job.items() if name.startswith(_OF_THE_BATCH_SYSTEM)}
    wins |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
    wins["JUPYTER_RUNTIME_DIR"] = str(folder)
    path = {"PATH": job.get("PATH") or os.defpath}
    told = {**job, **path, **order.env, **wins, **_share(order, setting, seat, job)}
    return {name: value for name, value in told.items() if name not in OWN}


def _share(order: Order, setting: Setting, seat: Seat, job: Mapping[str, str]) -> dict[str, str]:
    simulated = setting.share.simulated
    held = _Held(setting.reservation_id, order.generation, seat.share, setting.share.text, seat.level, order.ends_at)
    variables = share_environment(held, simulated)
    # Empty, not unset: unset means "all of them". Simulated devices do not exist for CUDA.
    variables["CUDA_VISIBLE_DEVICES"] = "" if simulated else job.get("CUDA_VISIBLE_DEVICES", "")
    if simulated or not seat.share:
        variables["NVIDIA_VISIBLE_DEVICES"] = "void"
    elif seat.measured:
        variables["NVIDIA_VISIBLE_DEVICES"] = ",".join(uuids_of(seat.share))
    return variables
