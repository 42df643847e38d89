"""What the service process needs to know to start."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Settings:
    """``url``: of the service itself with its prefix, such as ``http://127.0.0.1:8085/services/timeshare``; the API
    answers below it, and there the service listens unless it inherits a socket.

    ``public_url`` and ``public_hub_api_url``: of service and hub as nodes reach them that are not this machine.
    ``signing_key``: what keys of sessions and job agents are derived from; it is kept over restarts and sent to nobody.
    ``admin_token``: the deployment's own token, which may act for any user. ``culler_token``: that of the idle culler,
    which may read what sessions do, and judge them; empty: there is none. ``hub_api_url`` and ``hub_token``: how
    other tokens are checked with JupyterHub; empty means that only the deployment's own token is known.
    ``engine_period_s``: how often engine and ledger are compared. ``stale_after_s``: devices not seen for this long
    get nothing new. ``multi_user``: jobs run as the account of their owner. ``log_dir``: where the logs of their
    runners go. ``state_dir``: where files of the site say what else there is, such as a Slurm. ``local``: whether
    anything runs on this machine itself. ``account_prefix``: what stands before a person's name in that account's.
    """

    url: str
    ledger_url: str
    admin_token: str
    signing_key: str
    culler_token: str = ""
    public_url: str = ""
    public_hub_api_url: str = ""
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
    account_prefix: str = ""

    def account(self, owner: str) -> str | None:
        """Return the account as which jobs of ``owner`` run; None: this process's own."""
        return f"{self.account_prefix}{owner}" if self.multi_user else None

    @property
    def prefix(self) -> str:
        """Path below which the API answers."""
        return urlsplit(self.url).path.rstrip("/")

    def tag(self, engine: str) -> str:
        """Short, of this deployment and ``engine`` alone, and the same for as long as its signing key is."""
        return engine_tag(self.signing_key, engine)


def engine_tag(signing_key: str, engine: str) -> str:
    """See ``Settings.tag``."""
    return hashlib.sha256(f"tag:{signing_key}:{engine}".encode()).hexdigest()[:8]
