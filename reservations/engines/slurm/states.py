"""Slurm's words for where a job is in its life. Pure."""

from __future__ import annotations

from typing import Literal

Life = Literal["pending", "running", "ending", "ended", "unknown"]

_LIVES: dict[str, Life] = {
    "PENDING": "pending",
    "REQUEUED": "pending",  # in the queue; in the accounting it is the end of an attempt
    "REQUEUE_FED": "pending",
    "REQUEUE_HOLD": "pending",
    "SPECIAL_EXIT": "pending",
    "EXPEDITING": "pending",
    # Its devices are its own from here on, whether its program runs, waits for a node to boot or stands still.
    "CONFIGURING": "running",
    "POWER_UP_NODE": "running",
    "RUNNING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "COMPLETING": "ending",
    "STAGE_OUT": "ending",
    "BOOT_FAIL": "ended",
    "CANCELLED": "ended",
    "COMPLETED": "ended",
    "DEADLINE": "ended",
    "FAILED": "ended",
    "NODE_FAIL": "ended",
    "OUT_OF_MEMORY": "ended",
    "PREEMPTED": "ended",
    "TIMEOUT": "ended",
    # Another cluster of the federation has it: what it does there is not said here.
    "REVOKED": "unknown",
}
_NEUTRAL = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "UPDATE_DB"})
"""Remarks that say nothing about it."""
# Of several words the one that comes first here decides: what is still ending is not over, however it ended.
_ORDER: tuple[Life, ...] = ("unknown", "ending", "pending", "running", "ended")


def life(state: str) -> Life:
    """``state``: one or several words, as ``COMPLETED+COMPLETING`` or ``CANCELLED by 1001``. A word that is not known
    makes it unknown, and so does none."""
    names = [part.split(" by ")[0].strip().upper() for part in state.split("+")]
    lives = {_LIVES.get(name, "unknown") for name in names if name not in _NEUTRAL}
    return next((one for one in _ORDER if one in lives), "unknown")
