"""Protects a session while something in it must not be taken for idle."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Iterator

from .batch.service import Refused, Service, Unreachable
from .batch.states import duration

LONGEST_H = 168.0


@contextlib.contextmanager
def keep(why: str, hours: float = 1.0) -> Iterator[None]:
    """Keeps this session's GPU through the block, for ``hours`` at most, whatever the idle rules say; time limits hold.

        with timeshare.notebooks.keep("waits for the beam", hours=2):
            wait_for_beam()

    Protected time has a budget, which a block that ends early does not use up. Raises ValueError for hours that are
    not between 0 and 168, and Refused when the budget does not allow it. Outside of a session, and while the service
    does not answer, the block runs unprotected, and says so.
    """
    if not 0 < hours <= LONGEST_H or math.isnan(hours):
        raise ValueError(f"hours is {hours}: it must be more than 0 and at most {LONGEST_H:g}")
    if not why.strip():
        raise ValueError("why is empty: say what is protected, for those who wait for a GPU")
    key = f"block-{secrets.token_hex(8)}"
    service, reservation_id = _session()
    if service is not None:
        try:
            told = service.do(reservation_id, "keep", {"key": key, "seconds": hours * 3600, "why": why.strip()[:200]})
            print(f"This session is protected for {duration(told['kept_s'])}: {told['kept_why']}")
        except Unreachable as error:
            service = None
            print(f"Nothing is protected: {error}")
    try:
        yield
    finally:
        if service is not None:
            with contextlib.suppress(Refused, Unreachable):  # it ends by itself
                service.do(reservation_id, "keep", {"key": key, "seconds": 0})


def _session() -> tuple[Service | None, str]:
    reservation_id = os.environ.get("TIMESHARE_RESERVATION_ID", "")
    try:
        if reservation_id:
            return Service.of_session(), reservation_id
    except Refused:
        pass
    print("Nothing is protected: this is not a session of timeshare")
    return None, ""
