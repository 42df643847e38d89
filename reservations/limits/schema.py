"""The schema of the limits file. Every key may be left out; unknown keys are errors.

What a *person* may have is said for everyone (``defaults``), for the members of a group (``groups.NAME.each``) and for
one user (``users.NAME``); what a group may have *together* stands at the group itself. ``effective.py`` says how these
come together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..calendar import WeekTimes, parse_moment
from ..kind import Kind
from ..shares import Shape
from .consistency import file_faults, kind_faults
from .values import (
    Amount,
    Count,
    Cpus,
    Duration,
    Fault,
    Faulty,
    Flag,
    HostMemory,
    MostCpus,
    Name,
    Number,
    Pattern,
    Seen,
    TimeLimit,
    Whole,
)

DAY_S = 86400
IdleAction = Literal["give_back", "park", "stop"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Section)


def refuse(section: S, faults: Iterable[Fault]) -> S:
    """Return ``section``. Raises Faulty with everything that is wrong with it."""
    found = list(faults)
    if found:
        raise Faulty(found)
    return section


class Extension(Section):
    """How far a person may move the end of what runs herself, while that makes nobody wait longer."""

    longest: Duration | None = Field(
        default=None, description="Most time that one extension adds. Default 2h. 0: none."
    )
    total: Duration | None = Field(default=None, description="Longest in all, extensions included. Default 24h.")
    times: Count | None = Field(default=None, description="How often without asking an admin. Default unlimited.")


class KindLimits(Section):
    """What holds for sessions, or for batch jobs."""

    at_once: Count | None = Field(
        default=None, description="Running and waiting at once. Default 4 sessions, 100 jobs."
    )
    default_time: TimeLimit | None = Field(
        default=None, description="Time limit when none is asked for. Default 2h; jobs 8h."
    )
    max_time: TimeLimit | None = Field(default=None, description="Longest time limit to ask for. Default 12h; jobs 3d.")
    default_cpus: Cpus | None = Field(
        default=None,
        description="Cores when none are asked for: how CPU time is divided while all cores are busy. Default 2.",
    )
    max_cpus: MostCpus | None = Field(
        default=None, description="Most cores to ask for, such as 16. Default 8. unlimited: all that the machine has."
    )
    default_host_memory_gib: HostMemory | None = Field(
        default=None,
        description="GiB of main memory (not that of a GPU) when none is asked for, such as 32. Default unlimited: "
        "what host_memory_fraction leaves.",
    )
    max_host_memory_gib: HostMemory | None = Field(
        default=None,
        description="Most GiB of main memory to ask for, such as 256. Default unlimited: what host_memory_fraction "
        "leaves.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> KindLimits:
        return refuse(self, kind_faults(self))


class Budget(Section):
    """GPU-hours in a window of the calendar. A device counts by the weight of its model, a part of it by the part."""

    gpu_hours: Amount = Field(description="Weighted GPU-hours in one window. 0: none at all.")
    every: Literal["day", "week", "month"] = Field(default="week", description="The window: it refills at its end.")
    beyond: Literal["refuse", "later"] = Field(
        default="refuse",
        description="refuse: nothing new, and what runs is warned and ended. later: behind everyone else.",
    )
    kinds: tuple[Kind, ...] = Field(default=tuple(Kind), description="What counts. Default [session, batch].")


class IdleRules(Section):
    """When a session counts as idle, and what follows. What a pool says of its devices holds before what is said of
    people; exceptions of people hold before both."""

    after: Duration | None = Field(default=None, description="Idle for so long: its GPU goes back. Default 0: never.")
    per_gpu: Flag | None = Field(
        default=None, description="after is shared by the GPUs held: of eight, an eighth of the time. Default false."
    )
    grace: Duration | None = Field(default=None, description="After the start nothing counts as idle. Default 15m.")
    gpu_below: Number | None = Field(default=None, description="GPU use in percent below which it is idle. Default 5.")
    cpu_below: Number | None = Field(default=None, description="CPU use, in percent of one core. Default 10.")
    busy_cap: Duration | None = Field(
        default=None,
        description="A kernel that is busy counts as work for so long without any CPU or GPU. 0 (default): always.",
    )
    warn: tuple[Duration, ...] | None = Field(default=None, description="Told so long before. Default [10m, 2m].")
    then: IdleAction | None = Field(
        default=None,
        description="give_back (default): the GPU goes back, server and kernels stay, but those that hold GPU memory. "
        "park (experimental): those stay too, what they hold is kept in the node's memory. stop: the session ends.",
    )
    keep: Duration | None = Field(
        default=None, description="How long in all a person may protect a session. Default 8h. 0: not at all."
    )


class PersonLimits(Section):
    """What one person may have. A key that is not said here is said by a wider scope."""

    shapes: tuple[Shape, ...] | None = Field(default=None, description="Shapes that may be asked for. Default: all.")
    models: tuple[Pattern, ...] | None = Field(
        default=None, description="Models, such as [t4, 'a100-*']. Default ['*']."
    )
    largest: Amount | None = Field(
        default=None, description="Largest share, in GPUs; parts count as parts. Default unlimited."
    )
    gpus: Amount | None = Field(default=None, description="GPUs held at once, parts as parts. Default unlimited.")
    waiting: Count | None = Field(default=None, description="Requests waiting at once. Default unlimited.")
    sessions: KindLimits = KindLimits()
    jobs: KindLimits = KindLimits()
    extension: Extension = Extension()
    budgets: tuple[Budget, ...] | None = Field(default=None, description="Default []: none.")
    shares: Number | None = Field(default=None, description="Weight among the members of her group. Default 1.")
    idle: IdleRules = IdleRules()


class GroupLimits(Section):
    """What a group has together, and each of its members. ``members`` adds to those that JupyterHub knows."""

    members: tuple[Name, ...] = Field(default=(), description="Members by name, beside those that JupyterHub knows.")
    inherits: Name | None = Field(default=None, description="A group whose `each` holds where this one says nothing.")
    shares: Number = Field(default=1.0, description="Weight among the groups, for fair share. Default 1.")
    quota: Amount | None = Field(
        default=None,
        description="GPUs guaranteed: within it the group goes first, beyond it its batch may be preempted.",
    )
    gpus: Amount | None = Field(default=None, description="GPUs that all members hold at once. Default unlimited.")
    budgets: tuple[Budget, ...] = Field(default=(), description="GPU-hours of all members together. Default []: none.")
    each: PersonLimits = PersonLimits()


class KeepForSessions(Section):
    """GPUs of a pool on which batch may only run if it can be preempted."""

    gpus: Amount
    when: str = Field(default="always", max_length=500, description='Such as "Mon-Fri 08:00-18:00". Default always.')

    @field_validator("when")
    @classmethod
    def _times(cls, value: str) -> str:
        WeekTimes.parse(value)
        return value


class Preempt(Section):
    """Over-quota batch gives way to a person who waits, and to work within quota. It is requeued, not lost."""

    when: str = Field(
        default="always", max_length=500, description='Such as "Mon-Fri 08:00-18:00"; never. Default always.'
    )
    after: Duration = Field(default=1800, description="A job that was started runs at least so long. Default 30m.")
    grace: Duration = Field(default=60, description="From the signal to the stop, for a checkpoint. Default 60s.")

    @field_validator("when")
    @classmethod
    def _times(cls, value: str) -> str:
        WeekTimes.parse(value)
        return value


class PoolLimits(Section):
    """Devices that share rules. A device belongs to the first pool that names it."""

    models: tuple[Pattern, ...] = Field(default=("*",), description="Models that belong. Default ['*'].")
    nodes: tuple[Pattern, ...] = Field(
        default=("*",),
        description="Nodes that belong, by their names in Slurm; this machine is one node. Default ['*'].",
    )
    engines: tuple[Pattern, ...] = Field(
        default=("*",), description="Engines that belong, such as [slurm]; local: this machine. Default ['*']."
    )
    groups: tuple[Name, ...] | None = Field(
        default=None, description="Only members of these may use it. Default: everyone."
    )
    kinds: tuple[Kind, ...] = Field(default=tuple(Kind), description="What may run here. Default [session, batch].")
    max_time: TimeLimit | None = Field(
        default=None, description="Longest time limit here. Default: that of the person."
    )
    gpus: Amount | None = Field(
        default=None, description="GPUs of this pool that a person holds at once. Default unlimited."
    )
    keep_for_sessions: KeepForSessions | None = None
    preempt: Preempt | None = Field(default=None, description="Default: nothing is preempted.")
    idle: IdleRules = IdleRules()


class HalfLife(Section):
    session: Duration = Field(default=86400, description="Default 1d. 0: the past does not count.")
    batch: Duration = Field(default=604800, description="Default 7d. 0: the past does not count.")


class FairShare(Section):
    """Who had less than her share goes first; whoever waits long enough goes first anyhow."""

    method: Literal["fair_tree", "classic"] = Field(default="fair_tree", description="As in Slurm. Default fair_tree.")
    half_life: HalfLife = HalfLife()
    weight: Number = Field(default=1.0, description="Weight of fair share in the priority. Default 1.")
    age_weight: Number = Field(default=1.0, description="Weight of the waiting time. Default 1.")
    max_age: Duration = Field(default=86400, ge=60, description="Waiting time that counts in full. Default 1d.")


class CalendarEntry(Section):
    """A span of time on some devices: of ``pool`` (None: of all), on nodes that match."""

    name: Name
    begins: str = Field(description='Such as "2026-12-01 09:00", in the time zone of the file.')
    ends: str
    pool: Name | None = None
    nodes: tuple[Pattern, ...] = ("*",)


class Event(CalendarEntry):
    """Devices that are kept for a class or a tutorial."""

    gpus: Count = Field(description="Whole devices that are kept.")
    groups: tuple[Name, ...] = ()
    users: tuple[Name, ...] = ()


class Maintenance(CalendarEntry):
    """Nothing runs on these devices then: what is offered before ends before."""

    why: Seen = Field(default="maintenance", max_length=200)


class Stop(Section):
    """How a session is stopped at its end."""

    save_grace: Duration = Field(default=30, description="After the interrupt, time to save. Default 30s.")
    term_grace: Duration = Field(default=10, description="After SIGTERM, before SIGKILL. Default 10s.")

    @property
    def longest_s(self) -> int:
        """What a stop may take in all: both graces, and 5 s for the devices to be seen free."""
        return self.save_grace + self.term_grace + 5


class JobFiles(Section):
    """Of jobs: outputs, variables and results, among the files of whoever submitted them."""

    keep: Duration = Field(
        default=14 * 86400, description="After its end a job's files are kept this long. Default 14d."
    )
    space_gib: Amount = Field(
        default=100, description="What somebody's jobs may take in all before a new one is refused. Default 100."
    )


class Parking(Section):
    """Experimental: GPU state of idle sessions that is kept in the memory of the node."""

    host_memory_gib: Amount = Field(
        default=0,
        description="GiB of the node's memory for all that is kept at a time, such as 64. 0 (default): nothing.",
    )

    @property
    def host_memory_mib(self) -> int:
        """What ``unlimited`` means, the node's own memory bounds."""
        return int(min(self.host_memory_gib, 1e9) * 1024)


class Retention(Section):
    """How long what is over is kept, counted from its end. 0 keeps it for ever."""

    reservations: Duration = Field(
        default=400 * DAY_S, description="Ended sessions and jobs, and what happened to them. Default 400d."
    )
    decisions: Duration = Field(default=90 * DAY_S, description="What was decided about idle sessions. Default 90d.")
    charges: Duration = Field(
        default=730 * DAY_S,
        description="What was held, for `timeshare usage`. Default 730d. Kept for longer where fair share needs it.",
    )
    changes: Duration = Field(
        default=1825 * DAY_S, description="What admins changed, exceptions and limits that are over. Default 1825d."
    )
    session_logs: Duration = Field(default=30 * DAY_S, description="Logs of sessions that have ended. Default 30d.")
    session_logs_gib: Amount = Field(
        default=10, description="GiB of all session logs; beyond, the oldest go first. Default 10. 0: none is kept."
    )

    @field_validator("reservations", "decisions", "charges", "changes", "session_logs")
    @classmethod
    def _a_day_at_least(cls, value: int) -> int:
        if 0 < value < DAY_S:
            raise ValueError(f"must be at least 1d, or 0 to keep it for ever, not {value} s")
        return value


class Limits(Section):
    """The whole file."""

    timezone: str = Field(default="UTC", description="Of all times in this file, such as Europe/Zurich. Default UTC.")
    weights: dict[Pattern, Number] = Field(default={}, description="By model: what one GPU counts. Default 1.")
    defaults: PersonLimits = PersonLimits()
    groups: dict[Name, GroupLimits] = {}
    users: dict[Name, PersonLimits] = {}
    pools: dict[Name, PoolLimits] = {}
    fair_share: FairShare | None = Field(default=None, description="Default: first come, first served.")
    events: tuple[Event, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    requests_waiting: Whole = Field(
        default=2000,
        ge=1,
        description="Requests that may wait in all, each point of a sweep counted. Default 2000. One person may have "
        "half of the places that others leave.",
    )
    start_within: Duration = Field(
        default=600, ge=10, description="A granted session that is not started is given up after this. Default 10m."
    )
    start_timeout: Duration = Field(
        default=180, ge=10, description="A start that is not running after this is ended. Default 3m."
    )
    notices: tuple[Duration, ...] = Field(
        default=(1800, 600, 120), description="When to tell people before the end. Default [30m, 10m, 2m]."
    )
    fractions: tuple[Number, ...] = Field(
        default=(0.25, 0.5), description="Parts of a device that the form offers. Default [0.25, 0.5]. []: none."
    )
    backfill_depth: Whole = Field(
        default=100,
        description="How many waiting requests are planned for, and so promised a start, such as 50. Those behind them "
        "start only on devices that nobody ahead could use. Default 100. 0: nobody overtakes.",
    )
    host_memory_fraction: Number = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Part of this machine's main memory that one session or job may use at most, whatever limits of "
        "people say, such as 0.5. Default 0.8. 1: all of it.",
    )
    stop: Stop = Stop()
    job_files: JobFiles = JobFiles()
    parking: Parking = Parking()
    retention: Retention = Retention()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be a time zone such as Europe/Zurich or UTC") from None
        return value

    @field_validator("fractions")
    @classmethod
    def _parts(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < fraction < 1 for fraction in value):
            raise ValueError(f"fractions must lie between 0 and 1, not {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Limits:
        return refuse(self, file_faults(self))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def span(self, entry: CalendarEntry) -> tuple[float, float]:
        """When ``entry`` begins and ends, in seconds since the epoch."""
        return parse_moment(entry.begins, self.zone), parse_moment(entry.ends, self.zone)
