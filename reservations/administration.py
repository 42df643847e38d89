"""What administrators change while everything runs: the limits, and exceptions to them. Every change is audited.

The limits file is the truth: it may be edited in place, or replaced through here. A file with a mistake in it changes
nothing; what is wrong with it is told until it is corrected. What runs keeps what it was granted, unless the
administrator says otherwise.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from zoneinfo import ZoneInfo

from .clock import moment_text
from .errors import PublicError
from .ledger import Ledger, policy, sweep
from .ledger.reader import Span
from .limits.effective import Override
from .limits.load import LimitsError, LimitsFile, parse_limits, read_limits
from .limits.schema import Limits, PersonLimits
from .limits.values import near
from .opening import standing_of
from .pool import Pool
from .reservation import Reservation
from .review import Review
from .storage import full_disk
from .usage import Charge

LONGEST_OVERRIDE_S = 366 * 86400.0


@dataclass(frozen=True)
class Exemption:
    """What is asked for as an exception. ``scope``: ``user`` or ``group``; ``until`` in seconds since the epoch."""

    scope: str
    name: str
    limits: PersonLimits
    extra_gpu_hours: float
    until: float
    why: str


@dataclass(frozen=True)
class Moment:
    """The present, for a report.

    ``running``: what is held, charged until now and cut to ``span``; what ended stands in the ledger, up to the row
    ``span.last_charge``. ``live``: what has not ended. ``removed_until``: of what ended before, within the span,
    something is no longer kept; None: all of it is there.
    """

    span: Span
    running: tuple[Charge, ...]
    live: tuple[Reservation, ...]
    removed_until: float | None


class Administration:
    """One a service. ``path`` None: the limits are the defaults, and cannot be changed. Used in the pool's thread."""

    def __init__(self, pool: Pool, ledger: Ledger, path: Path | None) -> None:
        self.pool = pool
        self.path = path
        self.problem = ""
        """What is wrong with the file as it stands now; empty when it is in force."""
        self.review = Review(pool)
        self._ledger = ledger
        self._seen = self._looked_at = _stamp(path)
        self.text = read_limits(path).text if path is not None else ""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the limits in force."""
        return self.pool.limits.zone

    def known_people(self) -> set[str]:
        """Names of which something is known here: by limits and exceptions, by what runs and waits, or as members
        of groups."""
        limits = self.pool.limits
        found = {*limits.users, *(name for group in limits.groups.values() for name in group.members)}
        found |= {name for event in limits.events for name in event.users}
        found |= {name for name, groups in self.pool.standing.known_groups().items() if groups}
        found |= {made.name for made in self.overrides() if made.scope == "user"}
        return found | {reservation.owner for reservation in self.pool.live()} | self.pool.standing.books.owners()

    def look(self) -> None:
        """Takes over the file if it has changed, and logs what in the limits in force is probably not intended here."""
        self.reload_if_changed()
        self.review.tell(self.text)

    def reload_if_changed(self) -> None:
        """Takes over the file if it has changed; a bad one changes nothing but ``problem``. One that is not as it was
        at the last look is left for the next: an editor may have emptied it, and be about to write."""
        stamp, before = _stamp(self.path), self._looked_at
        self._looked_at = stamp
        if stamp == self._seen or stamp != before:
            return
        try:
            file = read_limits(self.path)
        except LimitsError as error:
            self._seen, self.problem = stamp, str(error)
            self._note("timeshare", "limits-refused", f"the file has a mistake, the old limits stay: {error}")
            return
        if _stamp(self.path) != stamp:
            return
        if file.version != self.pool.standing.version:
            self._install(file, "timeshare", "the file was edited")
        self._seen, self.problem = stamp, ""  # last: what could not be taken over is tried again

    def apply(self, text: str, base_version: str, who: str, cut_running: bool = False) -> None:
        """Replaces the file, at once or not at all. ``base_version``: of the limits that ``text`` was made from, so
        that nobody overwrites what somebody else has just changed. Raises PublicError."""
        if self.path is None:
            raise PublicError("no-file", "this deployment has no limits file: start it with --limits FILE", 409)
        file = LimitsFile(_checked(text), text)
        current = self.pool.standing.version
        if base_version != current:
            message = (
                f"base_version is {base_version!r} and the limits in force are {current!r}: somebody changed them "
                "meanwhile; read them again and make your change there"
            )
            raise PublicError("changed-meanwhile", message, 409, {"current": current})
        if _stamp(self.path) not in (None, self._seen):
            message = "the file has just been edited in place: read the limits again in a few seconds, and change those"
            raise PublicError("changed-meanwhile", message, 409, {"current": current})
        with replacing(self.path, text) as put:
            self._install(file, who, "applied" + (", running work is cut to it" if cut_running else ""), put)
        self._seen = self._looked_at = _stamp(self.path)
        self.problem = ""
        if cut_running:
            self.pool.cut_to_limits()

    def override(self, asked: Exemption, who: str) -> Override:
        """Makes an exception. Raises PublicError."""
        now = self.pool.clock()
        if not now < asked.until <= now + LONGEST_OVERRIDE_S:
            rule = "must lie ahead, and at most a year: exceptions end by themselves"
            raise PublicError("invalid", f"until is {moment_text(asked.until, self.zone)}: it {rule}", 422)
        if asked.scope == "group" and asked.name not in self.pool.limits.groups:
            known = self.pool.limits.groups
            names = f"{', '.join(known) or 'none'}{near(asked.name, known)}"
            raise PublicError("invalid", f"name is {asked.name!r}: no such group in the limits; known: {names}", 422)
        made = Override(id=str(uuid.uuid4()), by=who, made_at=now, **vars(asked))
        with self._ledger.transaction() as connection:
            policy.add_override(connection, made)
            what = made.limits.model_dump_json(exclude_defaults=True)
            text = f"{made.scope} {made.name}: {what}, {made.extra_gpu_hours:g} more GPU-hours"
            detail = f"{text}, until {moment_text(made.until, self.zone)}, because: {made.why}"
            policy.add_audit(connection, who, "exception", detail, now)
        self._refresh_overrides()
        return made

    def revoke(self, override_id: str, who: str) -> Override:
        """Ends an exception before its time. Raises PublicError 404."""
        found = next((o for o in self.overrides() if o.id == override_id), None)
        if found is None:
            raise PublicError("not-found", f"there is no exception {override_id[:60]!r}", 404)
        now = self.pool.clock()
        if found.in_force(now):
            with self._ledger.transaction() as connection:
                policy.revoke_override(connection, override_id, now)
                policy.add_audit(connection, who, "exception-ended", f"{found.scope} {found.name}: {found.why}", now)
            self._refresh_overrides()
            found = replace(found, revoked_at=now)
        return found

    def overrides(self) -> list[Override]:
        """All that are kept, the newest first."""
        with self._ledger.reading() as connection:
            return policy.overrides(connection)

    def audit(self, limit: int) -> list[dict[str, object]]:
        """The newest ``limit`` entries."""
        with self._ledger.reading() as connection:
            return policy.audit(connection, limit)

    def moment(self, since: float, until: float) -> Moment:
        """What a report on the time between ``since`` and ``until`` must know of the present."""
        with self._ledger.reading() as connection:
            span = Span(since, until, policy.last_charge(connection))
            removed_until = sweep.swept(connection).get("charges", 0.0)
        cut = [replace(c, began=max(c.began, since), ended=min(c.ended, until)) for c in self.pool.running()]
        running = tuple(charge for charge in cut if charge.ended > charge.began)
        live = tuple(r for r in self.pool.live() if r.submitted_at < until)
        return Moment(span, running, live, removed_until if removed_until > since else None)

    def _install(self, file: LimitsFile, who: str, what: str, put: Callable[[], None] = lambda: None) -> None:
        """Takes ``file`` over. ``put`` is called once all of it that goes into the ledger is there."""
        before = self.pool.standing.version
        groups = self.pool.standing.known_groups()
        standing = standing_of(self._ledger, file, self.pool.clock(), self.pool.standing.books)
        for name, found in groups.items():
            standing.set_groups(name, found)
        self._note(who, "limits", f"{what}: version {before} gave way to {file.version}")
        put()
        self.text = file.text
        self.pool.set_standing(standing)

    def _note(self, who: str, what: str, detail: str) -> None:
        with self._ledger.transaction() as connection:
            policy.add_audit(connection, who, what, detail, self.pool.clock())

    def _refresh_overrides(self) -> None:
        now = self.pool.clock()
        self.pool.standing.set_overrides(o for o in self.overrides() if o.in_force(now))
        self.pool.touch()


def _checked(text: str) -> Limits:
    try:
        return parse_limits(text)
    except LimitsError as error:
        raise PublicError("bad-limits", str(error), 422, {"errors": str(error).splitlines()}) from None


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


@contextmanager
def replacing(path: Path, text: str) -> Iterator[Callable[[], None]]:
    """A file beside ``path`` that holds ``text``, on disk; what is yielded puts it in the place of ``path``: whoever
    reads sees the old file or the new one, never half of it. Not called, nothing is left. Raises PublicError."""
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _in_words(path):
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, path.stat().st_mode & 0o777)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

        def put() -> None:
            with _in_words(path):
                draft.replace(path)

        yield put
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = full_disk(error, path.parent)
        if why is not None:
            message = (
                f"{why}, so the limits file cannot be written: the old limits stay. Make room there, and try again"
            )
            raise PublicError("storage-full", message, 507, {"folder": str(path.parent)}) from None
        message = f"the limits file cannot be written ({error.strerror}): the old limits stay"
        raise PublicError("not-writable", message, 409) from None
