"""How a Slurm is configured, as its controller says. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import Unreadable
from .fields import NOTHING

CONFIG_ARGV = ("scontrol", "show", "config")
"""For ``parse_config``."""


@dataclass(frozen=True)
class Timing:
    """How Slurm ends jobs, by default as it does where nothing is configured. ``kill_wait_s``: from SIGTERM to SIGKILL.
    ``over_time_s``: that jobs may run beyond their time limit; infinite: they are never ended for it."""

    kill_wait_s: float = 30.0
    over_time_s: float = 0.0

    @property
    def beyond_s(self) -> float:
        """How long a job may still hold its node after its time limit."""
        return self.over_time_s + self.kill_wait_s


def timing_of(config: Mapping[str, str]) -> Timing:
    """From ``KillWait = 30 sec`` and ``OverTimeLimit = 0 min``, which may be UNLIMITED."""
    wait, over = (re.match(r"\d+", config.get(name, "")) for name in ("KillWait", "OverTimeLimit"))
    endless = config.get("OverTimeLimit", "").upper().startswith(("UNLIMITED", "INFINITE"))
    return Timing(
        float(wait[0]) if wait else Timing.kill_wait_s,
        math.inf if endless else 60.0 * float(over[0]) if over else Timing.over_time_s,
    )


def parse_config(out: str) -> dict[str, str]:
    """Names and values, those of ``cgroup.conf`` too; empty where there is none."""
    rows = [line.partition("=") for line in out.split("\n") if "=" in line]
    told = {name.strip(): value.strip() for name, _, value in rows}
    if "SLURM_VERSION" not in told:
        raise Unreadable("scontrol show config", out, "no version")
    return {name: "" if value in NOTHING else value for name, value in told.items()}
