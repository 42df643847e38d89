"""What the service process needs to know to start."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """``prefix``: the path below which the API answers, such as ``/services/timeshare``.

    ``admin_token``: the deployment's own token, which may act for any user. ``culler_token``: that of the idle culler,
    which may read what sessions do, and judge them; empty: there is none. ``hub_api_url`` and ``hub_token``: how
    other tokens are checked with JupyterHub; empty means that only the deployment's own token is known.
    ``engine_period_s``: how often engine and ledger are compared. ``stale_after_s``: devices not seen for this long
    get nothing new. ``multi_user``: jobs run as the account of their owner. ``log_dir``: where the logs of their
    runners go. ``state_dir``: where files of the site say what else there is, such as a Slurm. ``local``: whether
    anything runs on this machine itself.
    """

    port: int
    ledger_url: str
    admin_token: str
    culler_token: str = ""
    address: str = "127.0.0.1"
    prefix: str = "/services/timeshare"
    limits_path: Path | None = None
    agent_socket: Path | None = None
    hub_api_url: str = ""
    hub_token: str = ""
    engine_period_s: float = 2.0
    stale_after_s: float = 20.0
    multi_user: bool = False
    log_dir: Path | None = None
    state_dir: Path | None = None
    local: bool = True

    @property
    def url(self) -> str:
        """As this machine reaches it."""
        return f"http://{self.address}:{self.port}{self.prefix}"

    def tag(self, engine: str) -> str:
        """Short, of this deployment and ``engine`` alone, and the same for as long as its tokens are."""
        return engine_tag(self.admin_token, engine)


def engine_tag(admin_token: str, engine: str) -> str:
    """See ``Settings.tag``."""
    return hashlib.sha256(f"tag:{admin_token}:{engine}".encode()).hexdigest()[:8]
