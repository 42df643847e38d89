"""Mail for people whose session is idle, through a command of the site."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from .judging import Judgement

log = logging.getLogger("timeshare.culler")
TIMEOUT_S = 30.0
SUBJECT = {
    "warn": "Your GPU session is idle",
    "give_back": "Your idle GPU was given back",
    "park": "Your idle GPU goes back, and what your kernels hold on it is kept",
    "stop": "Your idle GPU session was stopped",
}


@dataclass(frozen=True)
class Mailer:
    """``command``: a program and its arguments, in which ``{user}`` is the user's name. It gets the text on standard
    input, headers first. Mail is a courtesy: when it fails, that is logged, and nothing waits for it."""

    command: Sequence[str]

    async def tell(self, judgement: Judgement) -> None:
        if judgement.owner.startswith("-"):
            return  # it would be read as an option
        words = [word.replace("{user}", judgement.owner) for word in self.command]
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await asyncio.wait_for(process.communicate(text_of(judgement).encode()), TIMEOUT_S)
        except (OSError, asyncio.TimeoutError) as error:
            log.warning("mail to %s failed: %s", judgement.owner, error or "it took too long")


def text_of(judgement: Judgement) -> str:
    action = str(judgement.body["action"])
    return (
        f"To: {judgement.owner}\nSubject: {SUBJECT[action]}\n\n"
        f"Your session is {judgement.body['why']}.\n\n"
        "The hub's home page shows it, and lets you keep it alive.\n"
    )
