"""A pool from a ledger and a limits file: what the service does when it starts, and what tests and benchmarks do."""

from __future__ import annotations

from .clock import Clock
from .deployment import DeploymentError
from .host import HostSize
from .ledger import Ledger, balances, policy
from .limits.load import LimitsFile
from .pool import Pool
from .reservation import Reason, State
from .standing import Standing, half_lives
from .usage import Books


def open_pool(ledger: Ledger, file: LimitsFile, clock: Clock, host: HostSize | None = None) -> Pool:
    """A pool with everything that the ledger knows of. ``host``: the size of its machine; None: of this one."""
    return Pool(ledger, standing_of(ledger, file, clock()), clock, host)


def standing_of(ledger: Ledger, file: LimitsFile, now: float, before: Books | None = None) -> Standing:
    """How everybody stands under ``file``, which is remembered as a version that was in force. ``before``: the books so
    far, which go on where the rules for them are the same."""
    books = Books(file.limits.zone, half_lives(file.limits))
    with ledger.transaction() as connection:
        policy.remember_limits(connection, file.version, file.text, now)
        if before is not None and books.follows(before):
            books = before
        else:
            balances.fill(connection, books, now - Books.horizon(half_lives(file.limits)), now)
        overrides = policy.overrides(connection)
        people = policy.people(connection)
    standing = Standing(file.limits, file.version, books)
    standing.set_overrides(override for override in overrides if override.in_force(now))
    for name, groups in people.items():
        standing.set_groups(name, groups)
    return standing


def close_local(pool: Pool) -> None:
    """From here on nothing may run on this machine itself; who waits for it is refused. Raises DeploymentError while
    something still does: without its agent nobody would end it."""
    here = [reservation for reservation in pool.live() if reservation.external is None]
    running = [reservation for reservation in here if reservation.state is not State.QUEUED]
    if running:
        message = f"of {len(running)} sessions or jobs something still runs on this machine"
        raise DeploymentError(f"{message}: start once without --no-local, end them, and then start with it")
    for reservation in here:
        pool.end(reservation.id, Reason.REFUSED, "nothing runs on the hub's own machine any more: name an engine")
    pool.local = False
