"""What a Slurm says of itself, asked once for all pools in it."""

from __future__ import annotations

import asyncio
import logging
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
    parse_nodes,
    parse_partitions,
    parse_reservations,
)
from .pace import Pace
from .queue import SlurmJob, parse_queue, parse_queue_text, queue_argv, queue_text_argv
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
                found |= last_attempts(parse_accounting(out, separator))
            except SchedulerSilent as error:
                log.warning("accounting did not answer: %s", error)
                self._accounting = self._accounting.silent(time.monotonic(), random.random())
                return None
            self._accounting = self._accounting.answered(time.monotonic())
        return found

    async def _ask_jobs(self) -> list[SlurmJob]:
        if self._json:
            try:
                return parse_queue((await self._commands.run(queue_argv())).out)
            except SchedulerRefused as error:
                refused = error.text
        # Built without JSON, or too old for it.
        separator = new_separator()
        jobs = parse_queue_text(await self._asked(queue_text_argv(separator)), separator)
        if self._json:
            log.warning("squeue has no JSON (%s): it is asked for text, without the numbers of GPUs", refused)
            self._json = False
        return jobs

    async def _ask_cluster(self) -> ClusterFacts:
        nodes, partitions, reservations = await asyncio.gather(
            *(self._asked(argv) for argv in (NODES_ARGV, PARTITIONS_ARGV, RESERVATIONS_ARGV))
        )
        timing = await self._settings()
        return ClusterFacts(parse_nodes(nodes), parse_partitions(partitions), parse_reservations(reservations), timing)

    async def _ask_book(self) -> Book:
        now = time.time()
        associations, qos = await asyncio.gather(self._asked(associations_argv()), self._asked(qos_argv()))
        return Book(parse_associations(associations), {one.name: one for one in parse_qos(qos)}, now)

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
