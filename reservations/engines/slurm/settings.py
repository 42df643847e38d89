"""How a Slurm is configured, as its controller says. Pure."""

from __future__ import annotations

from .errors import Unreadable
from .fields import NOTHING

CONFIG_ARGV = ("scontrol", "show", "config")
"""For ``parse_config``."""


def parse_config(out: str) -> dict[str, str]:
    """Names and values, those of ``cgroup.conf`` too; empty where there is none."""
    rows = [line.partition("=") for line in out.split("\n") if "=" in line]
    told = {name.strip(): value.strip() for name, _, value in rows}
    if "SLURM_VERSION" not in told:
        raise Unreadable("scontrol show config", out, "no version")
    return {name: "" if value in NOTHING else value for name, value in told.items()}
