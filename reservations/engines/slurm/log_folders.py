"""Whether the folder where Slurm writes what a job puts out is its owner's alone. Pure.

Slurm opens the file as the owner, so a link that somebody else planted there would make it write where they want.
"""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

from .errors import Unreadable


def below(folder: str, home: str) -> bool:
    """Whether it lies in the home folder, of which nobody else has a say."""
    return PurePosixPath(home) in PurePosixPath(folder).parents


def status_argv(folder: str) -> list[str]:
    """Return the command that tells owner and mode of ``folder`` and of all above it; ``unsafe`` reads its answer."""
    path = PurePosixPath(folder)
    return ["stat", "--dereference", "--format=%u %f %n", "--", *map(str, (path, *path.parents))]


def unsafe(answer: str, uid: int) -> str:
    """Return why somebody else than account ``uid`` and root could put other files in its place; empty: nobody can.

    Raises Unreadable. Groups that may write to a folder above are the site's to judge.
    """
    for line in answer.splitlines():
        words = line.split(" ", 2)
        try:
            owner, mode, name = int(words[0]), int(words[1], 16), words[2]
        except (ValueError, IndexError):
            raise Unreadable("stat", answer) from None
        if owner not in (0, uid):
            return f"{name} belongs to another account (user id {owner})"
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"every account may change {name}"
    return ""
