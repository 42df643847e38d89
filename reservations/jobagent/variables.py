"""The environment of a server that a job agent starts. Pure."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from ..agent.environment import share_environment, uuids_of
from ..agent.records import SharePart
from .ports import with_port
from .seat import Seat
from .setting import OWN, Setting
from .talk import Order

_OF_THE_BATCH_SYSTEM = ("SLURM_", "SLURMD_", "CUDA_", "NVIDIA_", "ROCR_", "ZE_", "GPU_DEVICE_ORDINAL")


@dataclass(frozen=True)
class _Held:
    reservation_id: str
    generation: int
    share: tuple[SharePart, ...]
    share_text: str
    enforcement: str
    ends_at: str | None


def server_environment(
    order: Order, port: int, setting: Setting, seat: Seat, job: Mapping[str, str], account: pwd.struct_passwd
) -> dict[str, str]:
    """The job's own environment (``job``: what modules set in its script counts), then the order's; what the batch
    system says of devices, the account, and what timeshare says of the share win."""
    wins = {name: value for name, value in job.items() if name.startswith(_OF_THE_BATCH_SYSTEM)}
    wins |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
    asked = {**order.env, **{name: with_port(order.env[name], port) for name in order.port_in if name in order.env}}
    path = {"PATH": job.get("PATH") or os.defpath}
    told = {**job, **path, **asked, **wins, **_share(order, setting, seat, job)}
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
