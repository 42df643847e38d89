"""A ledger that cannot be written or reached for now, in words: a full disk, a database that does not answer.

Everything else that a database complains of is a fault of ours, and stays what it is.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ..errors import PublicError
from ..storage import free_bytes, full_text

FULL, SILENT = "storage-full", "ledger-silent"
_FULL_TEXTS = ("database or disk is full", "No space left on device", "Disk quota exceeded")
_SQLITE_TEXTS = ("disk I/O error", "unable to open database file", "attempt to write a readonly database", "is locked")
_POSTGRES_FULL = "53100"
"""disk_full: https://www.postgresql.org/docs/current/errcodes-appendix.html"""
GOES_ON = "What runs goes on, and what is known can be read. It works again by itself"


class LedgerSilent(PublicError):
    """The ledger cannot be written or read for now; what was asked for is not done."""


def outage(error: DBAPIError, url: sa.URL) -> LedgerSilent | None:
    """Return what ``error`` means for whoever asked; None for an error of another kind."""
    text = str(error.orig)
    if getattr(error.orig, "sqlstate", None) == _POSTGRES_FULL or any(known in text for known in _FULL_TEXTS):
        return _full(url)
    if url.get_backend_name() != "sqlite":
        if not (error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)):
            return None
        place = f"{url.host or 'this machine'}{f':{url.port}' if url.port else ''}"
        message = f"the ledger's database on {place} does not answer, so nothing can be written down"
    elif any(known in text for known in _SQLITE_TEXTS):
        message = f"the ledger in {_folder(url)} cannot be written ({text})"
    else:
        return None
    return LedgerSilent(SILENT, f"{message}: this was not done. {GOES_ON}; try again in a minute", 503)


def _full(url: sa.URL) -> LedgerSilent:
    if url.get_backend_name() != "sqlite":
        message = f"the disk of the ledger's database on {url.host or 'this machine'} is full: this was not done"
        return LedgerSilent(FULL, f"{message}. {GOES_ON} once there is room", 507)
    folder = _folder(url)
    message = f"{full_text(folder)}, so nothing can be written down: this was not done"
    details = {"folder": str(folder), "free_bytes": free_bytes(folder)}
    advice = "once an administrator has made room there, 1 GiB or more"
    return LedgerSilent(FULL, f"{message}. {GOES_ON} {advice}", 507, details)


def _folder(url: sa.URL) -> Path:
    return Path(url.database or ".").absolute().parent
