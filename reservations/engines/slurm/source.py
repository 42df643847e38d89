"""What a Slurm says of itself, asked once for all pools in it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Sequence

from .accounting import SlurmEnd, accounting_argv, parse_accounting
from .allowances import Book
from .cluster import ClusterFacts
from .commands import Commands, new_separator
from .errors import SchedulerRefused, SchedulerSilent
from .jobs import last_attempts
from .limits import associations_argv, parse_associations, parse_qos, qos_argv
from .nodes import (
    NODES_ARGV,
    PARTITIONS_ARGV,
    RESERVATIONS_ARGV,
    SlurmReservation,
    parse_nodes,
    parse_partitions,
    parse_reservations,
    untyped,
)
from .odd import Odd
from .pace import Pace
from .queue import NAMELESS, SlurmJob, parse_queue, parse_queue_text, queue_argv, queue_text_argv
from .settings import CONFIG_ARGV, Timing, parse_config, timing_of
from .shared import Shared, Told

log = logging.getLogger("timeshare.service")
QUEUE_PACE, CLUSTER_PACE, ACCOUNTING_PACE = Pace(1.0, 30.0), Pace(5.0, 60.0), Pace(2.0, 60.0)
CLUSTER_S = 25.0
"""An answer about nodes that another pool got so long ago will do."""
CONFIG_S = 600.0
BOOK_S, BOOK_PACE = 240.0, Pace(60.0, 1800.0)
MOST_ASKED = 200
"""Jobs that sacct is asked about at once."""


class SlurmSource:
    """``commands``: of the service's own account."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._jobs = Shared(self._ask_jobs, QUEUE_PACE)
        self._cluster = Shared(self._ask_cluster, CLUSTER_PACE)
        self._book = Shared(self._ask_book, BOOK_PACE)
        self._json = True
        self._accounting = ACCOUNTING_PACE
        self._timing, self._timing_until = Timing(), 0.0
        self._reservations: list[SlurmReservation] = []
        self._odd: dict[str, Odd] = {}
        """What was not understood of the last answer to each question."""
        self._nameless_at = -math.inf

    async def jobs(self, after: int, within_s: float) -> Told[list[SlurmJob]]:
        """All jobs that Slurm shows to this account. ``after``, ``within_s``: see ``Shared.get``. Raises
        SchedulerSilent."""
        return await self._jobs.get(after, within_s)

    async def cluster(self, after: int) -> Told[ClusterFacts]:
        """Raises SchedulerSilent."""
        return await self._cluster.get(after, CLUSTER_S)

    async def book(self, after: int) -> Told[Book]:
        """What Slurm allows whom. Raises SchedulerSilent, also where this account may not read it."""
        return await self._book.get(after, BOOK_S)

    def troubles(self) -> list[str]:
        """What of its last answers was not understood, in words."""
        return [text for odd in self._odd.values() for text in odd.texts()]

    def is_partial(self, told: Told[list[SlurmJob]]) -> bool:
        """Whether jobs may be missing in ``told``, for Slurm told some in words that are not understood."""
        return told.asked_at <= self._nameless_at

    @property
    def ends_are_partial(self) -> bool:
        """Whether the last answer of ``ends`` may lack some."""
        return bool(self._odd.get("sacct", Odd()).counts)

    def _heard(self, question: str, odd: Odd) -> None:
        """Says in the log once what is not understood."""
        known = self._odd.get(question, Odd())
        self._odd[question] = odd
        for what, first in odd.first.items():
            if what not in known.counts:
                log.warning("%d in the answer of %s left out: %s", odd.counts[what], what, first)
        for note in odd.notes:
            if note not in known.notes:
                log.warning("%s", note)

    async def ends(self, numbers: Sequence[int]) -> dict[str, SlurmEnd] | None:
        """The last attempt of each of these jobs and of their tasks, by the id that commands take; None while
        accounting does not answer."""
        found: dict[str, SlurmEnd] = {}
        for begin in range(0, len(numbers), MOST_ASKED):
            now, separator = time.monotonic(), new_separator()
            if not self._accounting.due(now) and self._accounting.failures:
                return None
            try:
                out = await self._asked(accounting_argv(separator, numbers[begin : begin + MOST_ASKED]))
                odd = Odd()
                found |= last_attempts(parse_accounting(out, separator, odd))
                self._heard("sacct", odd)
            except SchedulerSilent as error:
                log.warning("accounting did not answer: %s", error)
                self._accounting = self._accounting.silent(time.monotonic(), random.random())
                return None
            self._accounting = self._accounting.answered(time.monotonic())
        return found

    async def _ask_jobs(self) -> list[SlurmJob]:
        begun, odd = time.monotonic(), Odd()
        jobs = await self._queue(odd)
        if NAMELESS in odd.counts:
            self._nameless_at = begun
        self._heard("squeue", odd)
        return jobs

    async def _queue(self, odd: Odd) -> list[SlurmJob]:
        if self._json:
            try:
                return parse_queue((await self._commands.run(queue_argv())).out, odd)
            except SchedulerRefused as error:
                refused = error.text
        # Built without JSON, or too old for it.
        separator = new_separator()
        jobs = parse_queue_text(await self._asked(queue_text_argv(separator)), separator, odd)
        if self._json:
            log.warning("squeue has no JSON (%s): it is asked for text, without the numbers of GPUs", refused)
            self._json = False
        return jobs

    async def _ask_cluster(self) -> ClusterFacts:
        odd = Odd()
        nodes, partitions = await asyncio.gather(*(self._asked(argv) for argv in (NODES_ARGV, PARTITIONS_ARGV)))
        await self._ask_reservations(odd)
        timing = await self._settings()
        facts = ClusterFacts(parse_nodes(nodes, odd), parse_partitions(partitions, odd), self._reservations, timing)
        odd.notes += untyped(facts.nodes)
        self._heard("scontrol", odd)
        return facts

    async def _ask_reservations(self, odd: Odd) -> None:
        """As they were last told, where they are not: nodes do not depend on it."""
        try:
            self._reservations = parse_reservations(await self._asked(RESERVATIONS_ARGV), odd)
        except SchedulerSilent as error:
            odd.notes.append(f"the reservations of Slurm are as they were told before: {error}")

    async def _ask_book(self) -> Book:
        now = time.time()
        associations, qos = await asyncio.gather(self._asked(associations_argv()), self._asked(qos_argv()))
        odd = Odd()
        book = Book(parse_associations(associations, odd), {one.name: one for one in parse_qos(qos, odd)}, now)
        self._heard("sacctmgr", odd)
        return book

    async def _settings(self) -> Timing:
        """As last read; what it says changes with a restart of Slurm at most."""
        if time.monotonic() >= self._timing_until:
            try:
                self._timing = timing_of(parse_config(await self._asked(CONFIG_ARGV)))
            except SchedulerSilent as error:
                log.warning("the configuration of Slurm is not readable: %s", error)
            self._timing_until = time.monotonic() + CONFIG_S
        return self._timing

    async def _asked(self, argv: Sequence[str]) -> str:
        """Raises SchedulerSilent, also for a refusal: what was asked is not known then."""
        try:
            return (await self._commands.run(argv)).out
        except SchedulerRefused as error:
            raise SchedulerSilent(f"{argv[0]} refused to tell: {error.text}") from None


class Sources:
    """One for each Slurm."""

    def __init__(self) -> None:
        self._sources: dict[Commands, SlurmSource] = {}

    def of(self, commands: Commands) -> SlurmSource:
        """``commands``: of a pool; whose words before them do not matter for questions."""
        own = commands.without_prefix()
        return self._sources.setdefault(own, SlurmSource(own))
