"""A reservation's job at an engine that places work itself, such as Slurm: what must be known of it after a crash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class External:
    """``attempt``: of handing it to the engine, from 1 on and written down before it is tried; 0: not tried yet.
    ``tried_at``: when. ``job_id``: what the engine calls it, empty while nobody knows. ``said``: what the engine last
    said of it, for people. ``expected_at``: when it expects to start it, None: it does not say. ``node``: where it
    runs. ``base``: the number of its first start there. ``asked_to_stop``: its processes were told that the end has
    come. Times in seconds on the ledger's clock.
    """

    attempt: int = 0
    tried_at: float | None = None
    job_id: str = ""
    said: str = ""
    expected_at: float | None = None
    node: str = ""
    base: int = 1
    asked_to_stop: bool = False

    @property
    def handed_over(self) -> bool:
        """Whether the engine may know of it."""
        return self.attempt > 0

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)
