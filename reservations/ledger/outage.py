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


def outage(error: DBAPIError, url: sa.URL, what: str = "the ledger") -> LedgerSilent | None:
    """Return what ``error`` means for whoever asked; None for an error of another kind. ``what`` is at ``url``."""
    if getattr(error.orig, "sqlstate", None) == _POSTGRES_FULL:
        return _full(url, what)
    if (found := outage_of(str(error.orig), url, what)) is not None:
        return found
    gone = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    if url.get_backend_name() == "sqlite" or not gone:
        return None
    place = f"{url.host or 'this machine'}{f':{url.port}' if url.port else ''}"
    return _silent(f"the server of {what} on {place} does not answer, so nothing can be written down")


def outage_of(text: str, url: sa.URL, what: str) -> LedgerSilent | None:
    """The same of an error that quotes the database's, as far as its ``text`` tells."""
    if any(known in text for known in _FULL_TEXTS):
        return _full(url, what)
    told = next((known for known in _SQLITE_TEXTS if known in text), None)
    if url.get_backend_name() != "sqlite" or told is None:
        return None
    return _silent(f"{what} in {_folder(url)} cannot be written ({told})")


def _silent(message: str) -> LedgerSilent:
    return LedgerSilent(SILENT, f"{message}: this was not done. {GOES_ON}; try again in a minute", 503)


def _full(url: sa.URL, what: str) -> LedgerSilent:
    if url.get_backend_name() != "sqlite":
        message = f"the disk of {what} on {url.host or 'this machine'} is full: this was not done"
        return LedgerSilent(FULL, f"{message}. {GOES_ON} once there is room", 507)
    folder = _folder(url)
    message = f"{full_text(folder)}, so nothing can be written down: this was not done"
    details = {"folder": str(folder), "free_bytes": free_bytes(folder)}
    advice = "once an administrator has made room there, 1 GiB or more"
    return LedgerSilent(FULL, f"{message}. {GOES_ON} {advice}", 507, details)


def _folder(url: sa.URL) -> Path:
    return Path(url.database or ".").absolute().parent
