"""What of the hub's own environment a session sees: nothing that is root's. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath

ACCOUNT_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where an account finds programs, as login(1) has it: without the folders that are for root."""


def search_path(program: str, multi_user: bool, hub: Mapping[str, str]) -> str:
    """Return the PATH of a session whose server is ``program``: its own folder first, and nothing of root's.

    With one person (``multi_user`` False) the hub's environment, ``hub``, is that person's own, and its PATH counts.
    """
    usual = ACCOUNT_PATH if multi_user else hub.get("PATH") or ACCOUNT_PATH
    folder = str(PurePath(program).parent)
    if not PurePath(program).is_absolute() or folder in usual.split(os.pathsep):
        return usual
    return os.pathsep.join((folder, usual))
