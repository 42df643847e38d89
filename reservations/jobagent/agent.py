"""The life of one job: it says that it is there, runs what it is ordered to, and brings it to its end.

One thread owns everything here; the line and the meter have threads of their own. Nothing is kept on disk: what a
service that was restarted must know, the next report says.
"""

from __future__ import annotations

import logging
import os
import pwd
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from signal import SIGTERM, Signals

from .front import Front
from .line import Line, NoAnswer, Outcome
from .meter import Meter
from .seat import Seat
from .server import CannotStart, Command, Server, reap
from .setting import Setting
from .talk import (
    ENDED,
    LONGEST_WAIT_S,
    MOST_TOLD,
    RUNNING,
    STOPPING,
    WAITING,
    Event,
    Exit,
    Leave,
    Order,
    Report,
    Stop,
)
from .variables import server_environment, with_socket

log = logging.getLogger("timeshare.jobagent")
TICK_S = 0.1
LEAST_GAP_S = 0.2
BUSY_GAP_S = 1.0
"""Between two questions: always, and while something is being ended."""
LONGEST_BACKOFF_S = 30.0
REPLACED_GRACE_S = 3.0
"""How long an older start gets to end before a newer one takes over."""
LAST_WORD_S = 30.0
"""How long the last report is tried; after it the batch system's own record has to say how the job ended."""
OUT_OF_PATIENCE = 75
HURRY_S = 5.0
"""What is kept in hand of the time that the batch system leaves."""


@dataclass
class Leaving:
    """The agent ends when nothing runs. ``code``: its exit status where no server has one. ``tell``: a last report."""

    why: str
    code: int = 0
    tell: bool = True


@dataclass
class Contact:
    """With the service. Seconds of the monotonic clock."""

    at: float
    next_at: float = 0.0
    backoff_s: float = 0.0
    complained: bool = False


@dataclass
class Past:
    """What is told of starts that are over."""

    exits: list[Exit] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    newest: int = 0
    """The highest generation that was begun."""

    def event(self, kind: str, message: str) -> None:
        seq = self.events[-1].seq + 1 if self.events else 1
        self.events = [*self.events, Event(seq, kind, _line(message))][-MOST_TOLD:]

    def exit(self, generation: int, code: int | None, message: str) -> None:
        self.exits = [*self.exits, Exit(generation, code, _line(message))][-MOST_TOLD:]


class Agent:
    """``signals`` is filled by the signal handlers. ``environment``: the job's."""

    def __init__(self, setting: Setting, seat: Seat, line: Line, meter: Meter, environment: Mapping[str, str]) -> None:
        self._setting = setting
        self._seat = seat
        self._line = line
        self._meter = meter
        self._environment = environment
        self._server: Server | None = None
        self._front: Front | None = None
        self._ordered: Order | None = None
        self._leaving: Leaving | None = None
        self._past = Past()
        self._contact = Contact(time.monotonic())
        self.signals: list[Signals] = []

    def run(self) -> int:
        """Until the job is over; its exit status."""
        while True:
            now = time.monotonic()
            self._look(now)
            if self._leaving is not None and self._server is None:
                return self._leave(self._leaving)
            if not self._line.busy and now >= self._contact.next_at:
                self._line.start(self._report(), self._wait_s())
            outcome = self._wait()
            if outcome is not None:
                self._hear(outcome, time.monotonic())

    def _wait(self) -> Outcome | None:
        if self._line.busy:
            return self._line.wait(TICK_S)
        time.sleep(TICK_S)
        return None

    # --- what happens here

    def _look(self, now: float) -> None:
        while self.signals:
            self._signalled(self.signals.pop(0), now)
        codes, alone = reap()
        server = self._server
        if server is not None:
            self._follow(server, codes, alone, now)
        if self._server is None and self._ordered is not None and self._leaving is None:
            order, self._ordered = self._ordered, None
            self._begin(order)
        patience_s = self._setting.patience_s
        if self._leaving is None and self._server is None and 0 < patience_s < now - self._contact.at:
            why = (
                f"the service did not answer for {patience_s / 60:g} min, and no server runs: the allocation comes back"
            )
            self._leaving = Leaving(why, OUT_OF_PATIENCE, tell=False)

    def _follow(self, server: Server, codes: Mapping[int, int], alone: bool, now: float) -> None:
        for told in self._meter.told():
            self._past.event(told.kind, told.message)
            if told.pid == server.pid:
                server.note = told.message
            self._news()
        if server.pid in codes:
            server.exited(now, codes[server.pid])
        if server.code is not None and alone:
            self._over(server)
            return
        server.advance(now)
        front = self._front
        if not server.listens and server.code is None and front is not None and front.answers():
            server.listens = True
            log.info("start %d listens; it is reached by port %d", server.generation, front.port)
            self._news()

    def _over(self, server: Server) -> None:
        """Nothing of the server runs any more."""
        self._server = None
        self._meter.watch(0)
        self._past.exit(server.generation, server.code, server.message)
        log.info("start %d has ended with code %s %s", server.generation, server.code, server.message)
        if self._ordered is None and self._leaving is None:
            self._leaving = Leaving("the server has ended")
        if self._leaving is not None and server.code is not None:
            self._leaving.code = server.code if server.code >= 0 else 128 - server.code
        self._news()

    def _signalled(self, number: Signals, now: float) -> None:
        """The batch system ends the job: soon (SIGINT, SIGUSR1: there is time to save), or now (SIGTERM)."""
        graces = self._setting.graces
        save_s = graces.save_s
        if number == SIGTERM:
            save_s = max(0.0, min(save_s, graces.kill_wait_s - graces.term_s - HURRY_S))
        message = f"the batch system ends this job ({number.name}): {save_s:g} s are left to save"
        log.warning("%s", message)
        self._past.event("signal", message)
        self._end(Leaving(message), Stop(True, save_s, graces.term_s), now)

    def _end(self, leaving: Leaving, stop: Stop, now: float) -> None:
        """Ends what runs, and then leaves."""
        first = self._leaving is None
        self._leaving = self._leaving or leaving
        self._ordered = None
        if self._server is not None:
            self._server.end(now, stop.interrupt, stop.save_grace_s, stop.term_grace_s)
        if first:
            self._news()

    # --- what is wanted

    def _hear(self, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, NoAnswer):
            self._unanswered(outcome.why, now)
            return
        if self._contact.complained:
            log.info("the service answers again")
        busy = self._ordered is not None or (self._server is not None and self._server.ending is not None)
        self._contact = Contact(now, now + (BUSY_GAP_S if busy else LEAST_GAP_S))
        if isinstance(outcome, Order):
            self._take(outcome, now)
        elif isinstance(outcome, Stop):
            self._end(Leaving("the service ends this session"), outcome, now)
        elif isinstance(outcome, Leave):
            graces = self._setting.graces
            log.warning("this job is not wanted: %s", outcome.why)
            self._end(Leaving(outcome.why, tell=False), Stop(True, graces.save_s, graces.term_s), now)

    def _unanswered(self, why: str, now: float) -> None:
        if not why:
            self._contact.next_at = now  # broken off, because there is something to say
            return
        if not self._contact.complained:
            log.warning("the service does not answer (%s); it is asked again for as long as needed", why)
        self._contact.complained = True
        self._contact.backoff_s = min(LONGEST_BACKOFF_S, max(0.5, 2 * self._contact.backoff_s))
        # Not all jobs of a cluster at the same moment.
        self._contact.next_at = now + self._contact.backoff_s * (0.75 + os.getpid() % 100 / 200)

    def _take(self, order: Order, now: float) -> None:
        """Once for each generation, and never an older one."""
        if self._leaving is not None or order.generation <= self._past.newest:
            return
        if self._ordered is not None and order.generation <= self._ordered.generation:
            return
        self._ordered = order
        if self._server is not None:
            log.info("start %d takes over from %d", order.generation, self._server.generation)
            self._server.end(now, False, 0.0, REPLACED_GRACE_S)
        self._contact.next_at = now

    def _begin(self, order: Order) -> None:
        self._past.newest = order.generation
        try:
            # From the first server on the port is the job's own, as long as it lives.
            self._front = self._front or Front(self._setting.ports, self._environment)
            argv = with_socket(order.argv, self._front.lead_to(order.generation))
            account = pwd.getpwuid(os.getuid())
            env = server_environment(order, self._front.folder, self._setting, self._seat, self._environment, account)
            self._server = Server(order.generation, Command(argv, env, order.cwd or "", order.log_path))
        except (CannotStart, OSError, KeyError) as error:
            log.error("start %d failed: %s", order.generation, error)
            self._past.exit(order.generation, None, f"the server could not be started: {error}")
            self._leaving = Leaving("the server could not be started", 1)
            return
        log.info("start %d runs as process %d", order.generation, self._server.pid)
        self._meter.watch(order.generation)
        self._news()

    # --- what is said

    def _news(self) -> None:
        """There is something to say: the question that is being held back is asked anew."""
        self._line.interrupt()

    def _wait_s(self) -> float:
        ending = self._leaving is not None or self._ordered is not None
        return 0.0 if ending or (self._server is not None and self._server.ending is not None) else LONGEST_WAIT_S

    def _report(self, state: str = "") -> Report:
        server, setting = self._server, self._setting
        now_state = WAITING if server is None else STOPPING if server.ending is not None else RUNNING
        return Report(
            attempt=setting.attempt,
            job_id=setting.job_id,
            restarts=setting.restarts,
            node=setting.node,
            address=setting.address,
            port=self._front.port if self._front is not None and server is not None and server.listens else 0,
            devices=self._seat.devices,
            level=self._seat.level,
            state=state or now_state,
            generation=0 if server is None else server.generation,
            exits=tuple(self._past.exits),
            events=tuple(self._past.events),
            reading=self._meter.reading(),
        )

    def _leave(self, leaving: Leaving) -> int:
        """The last report, so that nobody has to wait for the batch system to notice."""
        log.info("leaving: %s", leaving.why)
        if self._front is not None:
            self._front.close()
        self._line.interrupt()
        until = time.monotonic() + LAST_WORD_S
        pause, told = LEAST_GAP_S, False
        while leaving.tell and time.monotonic() < until:
            if not self._line.busy:
                self._line.start(self._report(ENDED), 0.0)
                told = True
            outcome = self._line.wait(TICK_S)
            if outcome is not None and not isinstance(outcome, NoAnswer) and told:
                break
            if isinstance(outcome, NoAnswer):
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
        return leaving.code


def _line(message: str) -> str:
    """Of text that a report may hold: without control characters, and encodable."""
    text = message.encode("utf-8", "replace").decode()
    return "".join(c if ord(c) >= 32 and ord(c) != 127 else " " for c in text)[:500]
