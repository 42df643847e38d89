"""What every session does: reports and readings in, samples and idle times out, kept over restarts.

The pool's thread owns it, but for ``report``, which only puts down what a session says until the next sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .activity import Idle, Sample, Watched, idle, watch
from .clock import duration_text
from .errors import PublicError
from .ledger import Ledger, sound
from .ledger import activity as rows
from .limits.idle import IdleSettings
from .pool import Pool
from .protection import MOST, Keeps
from .reservation import Reservation, State
from .watching import KEPT, History, Point, Reading, Report, Warned, sample_of

FIRST_S = 5.0
"""A session whose rules are not known yet says sooner again what it does."""
SLOWEST_S, FASTEST_S = 60.0, 2.0
"""Between two samples: a sixth of the shortest idle limit in force, within these."""
ASKED_FOR = ("keep", "keep ended")
MOST_ASKED_FOR = 50
"""Of what its owner can write as often as they like, the newest are kept; what was decided about it stays."""


@dataclass
class Session:
    """What is known of one session; see ``watching`` for the parts. ``reading`` is the node's last one.
    ``refused_at``: when it could not be parked last; its idle time counts from there, so that nobody is warned of the
    same over and over."""

    watched: Watched | None = None
    keeps: Keeps = field(default_factory=Keeps)
    warned: Warned | None = None
    history: History = ()
    reading: Reading | None = None
    sample: Sample | None = None
    refused_at: float = 0.0


class Monitor:
    """See the module. ``period`` in seconds: how often samples are taken, and reports wanted."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger
        self._reports: dict[str, Report] = {}
        self.period = SLOWEST_S
        self._taken_at = float("-inf")
        self._version = -1
        self.passed_at: float | None = None
        """When the culler asked last."""
        now = pool.clock()
        with ledger.transaction() as connection:
            stored = rows.read_all(connection)
        self._sessions = {name: found for name, state in stored.items() if (found := _understood(state)) is not None}
        for session in self._sessions.values():
            if session.warned is not None:
                # Nobody could read the warning while this process was away: its time begins anew.
                session.warned = replace(session.warned, at=now)
        self._show_warnings()

    # --- what comes in

    def report(self, reservation_id: str, report: Report) -> float:
        """What a session says of itself; in how many seconds it is to say it again. Called by any thread."""
        self._reports[reservation_id] = report
        return self.period if reservation_id in self._sessions else min(self.period, FIRST_S)

    def due(self) -> bool:
        """Whether the time of the next sample has come."""
        if self._version != self._pool.version:
            self._version = self._pool.version
            self.period = _period(self._settings(r).after for r in self._running().values())
        return self._pool.clock() >= self._taken_at + self.period

    def _running(self) -> dict[str, Reservation]:
        return {r.id: r for r in self._pool.live() if r.state is State.ACTIVE and r.job is None}

    def take(self, readings: Mapping[tuple[str, int], Reading]) -> None:
        """A sample of every session that runs, from what its node and it itself said last; written at once."""
        now = self._taken_at = self._pool.clock()
        running = self._running()
        for name in self._sessions.keys() - running.keys():
            self._sessions[name].warned = None  # what it was about is done, or void
        for name, reservation in running.items():
            self._sample(reservation, readings.get((name, reservation.generation)), self._settings(reservation), now)
        gone = [name for name in self._sessions if name not in running and not self._is_parked(name)]
        for name in gone:
            del self._sessions[name]
        live = {reservation.id for reservation in self._pool.live()}
        for name in self._reports.keys() - live:  # a report that comes meanwhile stays, and disturbs nothing
            self._reports.pop(name, None)
        with self._ledger.transaction() as connection:
            rows.write(connection, {name: _as_row(self._sessions[name]) for name in running})
            rows.drop(connection, gone)
        self._show_warnings()

    def _show_warnings(self) -> None:
        before = self._pool.idle_warnings
        self._pool.idle_warnings = {n: s.warned for n, s in self._sessions.items() if s.warned is not None}
        if before != self._pool.idle_warnings:
            self._pool.touch()

    def _sample(self, reservation: Reservation, reading: Reading | None, rules: IdleSettings, now: float) -> None:
        session = self._of(reservation)
        if reading is not None:
            session.reading = reading
        report = self._reports.get(reservation.id)
        if report is not None and report.generation != reservation.generation:
            report = None
        sample = sample_of(report, session.reading, now, 2.5 * self.period)
        if sample is None:
            return  # nothing was heard: after a while that is a gap
        session.sample = sample
        session.watched = watch(session.watched, sample, rules.thresholds, now)
        memory = session.reading.memory_mib if session.reading is not None else None
        session.history = (*session.history, Point(now, sample.gpu, sample.cpu, memory))[-KEPT:]
        if session.warned is not None and idle(session.watched, now).since != session.warned.quiet_since:
            session.warned = None  # it was used since: the next idle time has a warning of its own

    def _of(self, reservation: Reservation) -> Session:
        """What is known of it since it holds what it holds: idle time, and warnings, of what was given back before say
        nothing of the GPU that it asked for since."""
        session = self._sessions.setdefault(reservation.id, Session())
        began, watched = reservation.granted_at, session.watched
        if began is not None and watched is not None and watched.since is not None and watched.since < began:
            session.watched = replace(watched, since=began, why="it had asked for its GPU")
            session.warned = None
        return session

    def _settings(self, reservation: Reservation) -> IdleSettings:
        found = self._pool.idle_rules(reservation)
        nothing_to_give = not reservation.holdings and found.then != "stop"
        return replace(found, after=0.0) if nothing_to_give else found

    def _is_parked(self, name: str) -> bool:
        return any(r.id == name and r.state is State.PARKED for r in self._pool.live())

    # --- questions

    def session(self, reservation_id: str) -> Session:
        return self._sessions.get(reservation_id) or Session()

    def idle(self, reservation_id: str) -> Idle:
        return idle(self.session(reservation_id).watched, self._pool.clock())

    def decisions(self, reservation_id: str, limit: int = 20) -> list[dict[str, object]]:
        with self._ledger.reading() as connection:
            return rows.decisions(connection, reservation_id, limit)

    def watched_sessions(self) -> list[tuple[Reservation, IdleSettings, Session]]:
        """Every session that runs, with its rules."""
        return [(r, self._settings(r), self._of(r)) for r in self._running().values()]

    def rules(self, reservation: Reservation) -> IdleSettings:
        return self._settings(reservation)

    # --- protection

    def keep(self, reservation: Reservation, key: str, seconds: float, why: str) -> None:
        """Protects the session from the idle rules for ``seconds`` from now (0: ends the protection ``key``).

        Raises PublicError beyond the budget of protected time, and beyond MOST of them at a time.
        """
        now = self._pool.clock()
        session = self._sessions.setdefault(reservation.id, Session())
        if seconds and session.keeps.is_full(key, now):
            message = f"a session has at most {MOST} protections at a time: end one (seconds 0), or renew it by its key"
            raise PublicError("too-many-protections", message, 409, {"limit": MOST})
        if not seconds and key not in session.keeps.by_key:
            return  # nothing ends, so nothing is written
        budget = self._settings(reservation).keep
        keeps = session.keeps.end(key, now) if not seconds else session.keeps.add(key, now + seconds, why, now)
        if seconds and keeps.used_s > budget:
            left = max(0.0, budget - session.keeps.used_s)
            message = (
                f"a session may be protected for {duration_text(budget)} in all, and this would make it "
                f"{duration_text(keeps.used_s)}: {duration_text(left)} are left"
            )
            raise PublicError("keep-budget", message, 409, {"seconds": seconds, "limit": budget, "left": left})
        changed = replace(session, keeps=keeps, warned=None if seconds else session.warned)
        self._write(
            reservation.id, changed, "keep" if seconds else "keep ended", why or "the protected block has ended"
        )
        self._show_warnings()

    # --- what the culler decided

    def warn(self, reservation: Reservation, warned: Warned, why: str) -> None:
        """A warning that its owner can read from now on. Raises PublicError when the session is not idle any more."""
        session = self._still_idle(reservation, warned.quiet_since)
        changed = replace(session, warned=replace(warned, at=self._pool.clock()))
        if session.warned is None:
            self._write(reservation.id, changed, "warn", why)
        self._sessions[reservation.id] = changed
        self._show_warnings()

    def check_due(self, reservation: Reservation, quiet_since: float) -> None:
        """Raises PublicError unless the session is idle since then, warned of it, and the warning's time is over."""
        session = self._still_idle(reservation, quiet_since)
        now = self._pool.clock()
        rules = self._settings(reservation)
        lead = max((lead for lead in rules.warn if lead < rules.after), default=min(60.0, rules.after))
        warned = session.warned
        early = now < quiet_since + rules.after
        if early or warned is None or warned.quiet_since != quiet_since or now < warned.at + lead:
            raise PublicError("not-warned", "its owner was not warned for the full time: nothing is done", 409)

    def decided(self, reservation_id: str, what: str, why: str) -> None:
        """Writes down what is done to it, before it is. The warning has done its part: whoever asks for the GPU again
        at once does not lose it by the same one."""
        self._write(reservation_id, replace(self.session(reservation_id), warned=None), what, why)
        self._show_warnings()

    def not_parked(self, reservation_id: str, why: str) -> None:
        """It keeps its GPU. The warning has done its part: before the next try there is a new one."""
        changed = replace(self.session(reservation_id), warned=None, refused_at=self._pool.clock())
        self._write(reservation_id, changed, "not parked", why)
        self._show_warnings()

    def _still_idle(self, reservation: Reservation, quiet_since: float) -> Session:
        session, now = self._of(reservation), self._pool.clock()
        rules = self._settings(reservation)
        found = idle(session.watched, now)
        protected = session.keeps.until(now) > now
        if reservation.state is not State.ACTIVE or found.since != quiet_since or not rules.after or protected:
            raise PublicError("not-idle", f"it is not idle since then any more: {found.why or 'it is protected'}", 409)
        return session

    def _write(self, reservation_id: str, session: Session, what: str, why: str) -> None:
        """Makes ``session`` the state of that reservation, once it is written."""
        now = self._pool.clock()
        signals = {} if session.sample is None else vars(session.sample)
        with self._ledger.transaction() as connection:
            rows.add_decision(connection, reservation_id, now, what, why, signals)
            if what in ASKED_FOR:
                rows.drop_decisions(connection, reservation_id, ASKED_FOR, MOST_ASKED_FOR)
            rows.write(connection, {reservation_id: _as_row(session)})
        self._sessions[reservation_id] = session


def _period(limits: Iterable[float]) -> float:
    shortest = min((after for after in limits if after), default=6 * SLOWEST_S)
    return min(SLOWEST_S, max(FASTEST_S, shortest / 6))


def _as_row(session: Session) -> dict[str, object]:
    return {
        "watched": None if session.watched is None else vars(session.watched),
        "keeps": session.keeps.as_json(),
        "warned": None if session.warned is None else vars(session.warned),
        "history": [list(vars(point).values()) for point in session.history],
        "refused_at": session.refused_at,
    }


def _understood(state: object) -> Session | None:
    """What is written of a session; None where that cannot be: then nothing is known, and that is never idle."""
    try:
        return _from_row(sound.table("activity", state))
    except sound.ODD:
        return None


def _from_row(state: Mapping[str, object]) -> Session:
    watched, warned = state["watched"], state["warned"]
    return Session(
        watched=Watched(**watched) if isinstance(watched, dict) else None,
        keeps=Keeps.from_json(state["keeps"]),
        warned=Warned(**warned) if isinstance(warned, dict) else None,
        history=tuple(Point(*values) for values in state["history"]),  # type: ignore[attr-defined]
        refused_at=float(state.get("refused_at", 0.0)),  # type: ignore[arg-type]
    )
