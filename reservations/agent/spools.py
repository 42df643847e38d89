"""Reading what jobs have put out, for who asks over the API. Nothing in it is interpreted here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .account import as_account
from .refusals import Refused

MOST_BYTES = 256 * 1024
"""Of a spool, handed out at once."""


def read_spool(folder: str, user: str | None, offset: int) -> dict[str, object]:
    """Return ``text`` of the spool in ``folder`` from byte ``offset``, and ``next``, the offset to go on with.

    It is opened with the rights of the account ``user`` (None: our own), whose path it is, and must be a plain file of
    that account. Anything else is as if nothing were there: what lies elsewhere, and whether, is not told. Raises
    Refused where there is no such account.
    """
    if not 0 <= offset < 1 << 62:
        raise Refused("invalid", f"offset is {str(offset)[:40]}: it must be from 0 to what a file can have")
    path = Path(folder) / "spool.jsonl"
    try:
        data = as_account(user, lambda uid: _read(path, uid, offset))
    except KeyError:
        raise Refused("invalid", f"this machine has no account {user!r}: the spool is not read") from None
    except OSError:
        data = b""
    return {"text": data.decode("ascii", "replace"), "next": offset + len(data)}


def _read(path: Path, owner: int, offset: int) -> bytes:
    # Not blocking: what lies there may be a pipe that nobody writes to.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
            return b""
        file.seek(offset)
        return file.read(MOST_BYTES)
