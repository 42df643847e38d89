"""The hub's own database on a disk that takes nothing more, or away: pages are read, and what cannot be written is
refused in words. JupyterHub (6.1) takes everybody for logged out then, as it writes when somebody was last seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError, PendingRollbackError
from tornado import web

from ..reservations.ledger.outage import LedgerSilent, outage, outage_of

WHAT = "the hub's database"


def outlive_full_disk(page: type[Any]) -> None:
    """Have every handler below ``page`` go on as far as nothing must be written, and say why where something must."""
    prepare: Callable[[Any], Any] = page.prepare
    record: Callable[..., bool] = page._record_activity
    send_error: Callable[..., None] = page.send_error
    log_exception: Callable[..., None] = page.log_exception

    async def prepared(self: Any) -> None:
        if not self.db.is_active:  # something else could not be written: what is read begins anew
            self.db.rollback()
        await prepare(self)

    def recorded(self: Any, *about: Any, **more: Any) -> bool:
        """When somebody was last seen may be lost; who asks JupyterHub for it would write it down itself."""
        if record(self, *about, **more):
            try:
                self.db.commit()
            except DBAPIError as error:
                self.db.rollback()
                if told(self, error) is None:
                    raise
        return False

    def sent(self: Any, status_code: int = 500, **more: Any) -> None:
        error = more.get("exc_info", (None, None, None))[1]
        refusal = told(self, error)
        if refusal is not None:
            self.db.rollback()
            refused = web.HTTPError(refusal.status, refusal.message)
            status_code, more = refusal.status, {"exc_info": (web.HTTPError, refused, None)}
        send_error(self, status_code, **more)

    def logged(self: Any, kind: Any, error: Any, trace: Any) -> None:
        refusal = told(self, error)
        if refusal is None:
            log_exception(self, kind, error, trace)
        else:
            self.log.error("%s", refusal)

    page.prepare, page._record_activity, page.send_error, page.log_exception = prepared, recorded, sent, logged


def told(handler: Any, error: BaseException | None) -> LedgerSilent | None:
    """Return what ``error`` means for whoever asked; None for one of another kind."""
    url = handler.db.get_bind().url
    if isinstance(error, PendingRollbackError):  # it quotes the one that nobody had told of
        return outage_of(str(error), url, WHAT)
    return outage(error, url, WHAT) if isinstance(error, DBAPIError) else None
