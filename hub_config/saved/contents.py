"""What of a state folder belongs in a backup."""

from __future__ import annotations

import ast
from pathlib import Path

from ...reservations.deployment import FILE_NAME
from ...reservations.engines.slurm.config import CONFIG_FILE as SLURM_FILE
from ...reservations.service.bounds import CONFIG_FILE as BOUNDS_FILE

LEDGER = "ledger.sqlite"
HUB = "hub.sqlite"
LIMITS = "limits.yaml"
LIMITS_ELSEWHERE = "limits-of-backup.yaml"
"""A copy of limits that lie outside of the state folder, which are the admin's to put back."""
SITE = "jupyterhub_site.py"
FILES = (FILE_NAME, "hub_cookie_secret", LIMITS, SITE, SLURM_FILE, BOUNDS_FILE)
"""Taken as they are. ``deployment.json``: sessions have keys that are derived from its signing key. The cookie secret:
who is logged in stays so."""
SIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database: with another one in its place it would be written into that."""
RESTORING = "restoring"
SET_ASIDE = "before-restore-"
OF_THIS_RUN = ("agent", "components", "logs", "proxy", "run", "up.lock", RESTORING)
"""Never in a backup. ``agent``: the sessions that run now, which an older copy would tell wrongly; ``components``, the
proxy's routes and ``run``: processes of now; ``proxy``: is installed again."""


def belonging() -> tuple[str, ...]:
    """Return everything in a state folder that a restore puts in place or aside."""
    return (*FILES, LIMITS_ELSEWHERE, *(f"{name}{side}" for name in (LEDGER, HUB) for side in ("", *SIDE)))


def others(state_dir: Path) -> list[str]:
    """Return what lies there besides, which is in no backup and which nobody can make again."""
    known = {*belonging(), *OF_THIS_RUN}
    return sorted(p.name for p in state_dir.iterdir() if p.name not in known and not p.name.startswith(SET_ASIDE))


def hub_database_elsewhere(state_dir: Path) -> int:
    """Return the line of the site's configuration that names another database of JupyterHub; 0: none does."""
    try:
        tree = ast.parse((state_dir / SITE).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return 0
    found = (node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "db_url")
    return next(found, 0)
