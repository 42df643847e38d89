"""Reading what jobs have put out, for who asks over the API. Nothing in it is interpreted here."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from .refusals import Refused

MOST_BYTES = 256 * 1024
"""Of a spool, handed out at once."""


def read_spool(folder: str, user: str | None, offset: int) -> dict[str, object]:
    """``text`` of the spool in ``folder`` from byte ``offset`` on, and ``next``, the offset to go on with.

    It must be a plain file of the account ``user`` (None: our own). Raises Refused.
    """
    path = Path(folder) / "spool.jsonl"
    try:
        owner = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
        # Not blocking: what lies there may be a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {"text": "", "next": offset}
    except (OSError, KeyError) as error:
        raise Refused("invalid", f"{path} cannot be read: {error}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
            raise Refused("invalid", f"{path} is not a plain file of the job's owner: it is not read")
        file.seek(offset)
        data = file.read(MOST_BYTES)
    return {"text": data.decode("ascii", "replace"), "next": offset + len(data)}
