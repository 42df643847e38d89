"""What ``sacct`` says of jobs that are over. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..external import Life
from .errors import Unreadable
from .queue import life

FIELDS = ("JobID", "JobName", "User", "State", "ExitCode", "Reason", "Start", "End")
ARGUMENTS = ("sacct", "-X", "-P", "-n", f"--format={','.join(FIELDS)}")


@dataclass(frozen=True)
class SlurmEnd:
    """Of the last attempt of a job. ``code`` and ``signal`` as the program left them."""

    id: str
    name: str
    user: str
    state: str
    by: str
    code: int
    signal: int
    reason: str

    @property
    def life(self) -> Life:
        return life(self.state)


def read_ends(text: str) -> dict[str, SlurmEnd]:
    """By id. Raises Unreadable."""
    found = {}
    for line in text.splitlines():
        words = line.split("|")
        if len(words) != len(FIELDS):
            raise Unreadable("sacct", text)
        job_id, name, user, state, exit_code, reason = words[:6]
        code, _, signal = exit_code.partition(":")
        try:
            word, _, by = state.partition(" by ")
            end = SlurmEnd(job_id, name, user, word.split()[0].upper(), by, int(code), int(signal or 0), reason)
        except (ValueError, IndexError):
            raise Unreadable("sacct", text) from None
        found[job_id] = end
    return found
