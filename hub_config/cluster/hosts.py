"""The list of hosts: one YAML file. What is wrong with it is told with its line."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...reservations.limits.load import LimitsError, place, read_plain, text_in
from ...reservations.limits.values import Fault, Faulty, TimeLimit, Where, Whole, near
from ...reservations.shares import MODEL_PATTERN

HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$"
"""A name of a host: it becomes a word of slurm.conf, and of ``ssh``, where it must not look like an option."""
WORD = r"^[a-z][a-z0-9-]{0,30}$"
"""A partition is also an engine's name in timeshare."""
MOST_HOSTS = 500
RESERVED = ("local", "default", "all")
"""What timeshare calls this machine, and words that Slurm keeps for itself."""


class HostsError(Exception):
    """The list cannot be used; the text says in each line where, what is written there, and what would be right."""


def _model(name: str) -> str:
    if not MODEL_PATTERN.fullmatch(name):
        raise ValueError("must be a model as timeshare calls it, such as a100-40gb")
    return name


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"is kept for something else: choose a name that is none of {', '.join(RESERVED)}")
    return name


HostName = Annotated[str, Field(pattern=HOST)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?.-]{1,64}$")]
PartitionName = Annotated[str, Field(pattern=WORD), AfterValidator(_not_reserved)]
Path_ = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/+-]{1,200}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?$")]
Model = Annotated[str, AfterValidator(_model)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Host(Section):
    """One machine that becomes a node of Slurm. ``address``: how ssh and Slurm reach it; its name by default."""

    name: HostName
    address: Address | None = None

    @property
    def reached(self) -> str:
        return self.address or self.name


class Partition(Section):
    """Hosts that are used in one way. ``hosts``: names or patterns; a host belongs to one partition alone."""

    hosts: tuple[Pattern, ...]
    title: str = Field(default="", max_length=80, pattern=r"^[A-Za-z0-9 .,:()_/+-]*$")
    max_time: TimeLimit = 2 * 86400
    default_time: TimeLimit = 3600
    default: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Partition:
        if self.default_time > self.max_time:
            raise Faulty([Fault(("default_time",), "is longer than max_time: make it at most that")])
        return self


class Hosts(Section):
    """The whole file. ``controller``: the hub's machine, where slurmctld and slurmdbd run, as its own ``hostname -s``.
    ``shards``: into how many parts a GPU of a model may be divided; models that are not named are handed out whole.
    ``timeshare``: where the command lies on every host. ``keep_memory_gib``: main memory that is left to each host."""

    cluster: PartitionName
    controller: HostName
    controller_address: Address | None = None
    public_url: str = Field(default="", pattern=r"^(https?://[A-Za-z0-9.:\[\]/_~-]{1,200})?$")
    timeshare: Path_ = "/opt/timeshare"
    ports: str = Field(default="20000-29999", pattern=r"^[0-9]{4,5}-[0-9]{4,5}$")
    keep_memory_gib: Whole = 4
    shards: dict[Model, Whole] = {}
    hosts: tuple[Host, ...]
    partitions: dict[PartitionName, Partition]

    @field_validator("ports")
    @classmethod
    def _a_span(cls, value: str) -> str:
        first, last = map(int, value.split("-"))
        if not 1024 <= first <= last <= 65535:
            raise ValueError(f"is '{value}': must be such as 20000-29999, within 1024 and 65535, the lower one first")
        return value

    @field_validator("shards")
    @classmethod
    def _few(cls, value: dict[str, int]) -> dict[str, int]:
        for model, count in value.items():
            if not 2 <= count <= 64:
                raise ValueError(f"{model} is {count}: a GPU is divided into 2 to 64 parts")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Hosts:
        return refuse_all(self)

    def partition_of(self, host: Host) -> str:
        """Return the name of the one partition that the host belongs to."""
        return next(name for name, one in self.partitions.items() if names(one, host))


def names(partition: Partition, host: Host) -> bool:
    """Whether ``host`` is of ``partition``."""
    return any(fnmatchcase(host.name, pattern) for pattern in partition.hosts)


def refuse_all(hosts: Hosts) -> Hosts:
    """Return ``hosts``. Raises Faulty with everything in it that does not fit together."""
    found = [*_host_faults(hosts), *_partition_faults(hosts)]
    if found:
        raise Faulty(found)
    return hosts


def _host_faults(hosts: Hosts) -> Iterator[Fault]:
    if not 1 <= len(hosts.hosts) <= MOST_HOSTS:
        yield Fault(("hosts",), f"has {len(hosts.hosts)} hosts: must be from 1 to {MOST_HOSTS}")
    seen: set[str] = set()
    for number, host in enumerate(hosts.hosts):
        where: Where = ("hosts", number, "name")
        if host.name.casefold() in seen:
            yield Fault(where, f"'{host.name}' stands here twice: keep one")
        seen.add(host.name.casefold())
        mine = [name for name, one in hosts.partitions.items() if names(one, host)]
        if not mine:
            yield Fault(where, f"'{host.name}' is in no partition: name it in the hosts of one of {_list(hosts)}")
        elif len(mine) > 1:
            message = f"'{host.name}' is in the partitions {' and '.join(mine)}: its GPUs would be counted twice"
            yield Fault(where, f"{message}; leave it in one")


def _list(hosts: Hosts) -> str:
    return ", ".join(hosts.partitions) or "none, so make one"


def _partition_faults(hosts: Hosts) -> Iterator[Fault]:
    known = [host.name for host in hosts.hosts]
    for name, partition in hosts.partitions.items():
        for number, pattern in enumerate(partition.hosts):
            if not any(fnmatchcase(host, pattern) for host in known):
                message = f"there is no host {pattern!r}; hosts: {', '.join(known[:12])}{near(pattern, known)}"
                yield Fault(("partitions", name, "hosts", number), message)
    defaults = [name for name, one in hosts.partitions.items() if one.default]
    for name in defaults[1:]:
        yield Fault(("partitions", name, "default"), f"{defaults[0]} is the default already: there is one")


def read_hosts(path: Path) -> Hosts:
    """Return what is written in ``path``. Raises HostsError with everything that is wrong, a line each."""
    try:
        return parse_hosts(text_in(path), str(path))
    except LimitsError as error:
        raise HostsError(str(error).replace("limits file", "list of hosts")) from None


def parse_hosts(text: str, name: str = "hosts") -> Hosts:
    """The same of a text. Raises HostsError."""
    plain = read_plain(text)
    errors = list(plain.errors)
    if not errors:
        try:
            return Hosts.model_validate(plain.data)
        except ValidationError as error:
            errors = [place(fault, plain.lines) for fault in _faults(error)]
    errors.sort(key=lambda one: one.line)
    raise HostsError("\n".join(one.text(name) for one in errors[:100]).replace("limits file", "list of hosts"))


def _faults(error: ValidationError) -> Iterator[Fault]:
    for one in error.errors():
        where, cause = tuple(one["loc"]), one.get("ctx", {}).get("error")
        if isinstance(cause, Faulty):
            yield from (Fault((*where, *fault.where), fault.message) for fault in cause.faults)
        else:
            yield Fault(where, _rule(dict(one), where))


RULES = {
    HOST: "must be a host's name: letters, digits, dots and dashes, at most 63",
    WORD: "must be up to 31 lower-case letters, digits and dashes, beginning with a letter",
}


def _rule(found: dict[str, Any], where: Where) -> str:
    shown = repr(found["input"])[:80]
    if found["type"] == "missing":
        return "is missing, and must be said"
    if found["type"] == "extra_forbidden":
        sections: dict[str, type[Section]] = {"hosts": Host, "partitions": Partition}
        section = sections.get(str(where[0]), Hosts) if len(where) > 1 else Hosts
        known = list(section.model_fields)
        return f"no such key; known keys: {', '.join(known)}{near(str(where[-1]), known)}"
    if found["type"] == "string_pattern_mismatch":
        rule = str(found.get("ctx", {}).get("pattern"))
        return f"{RULES.get(rule, f'must match {rule}')} (it is {shown})"
    return f"{str(found['msg']).removeprefix('Value error, ')} (it is {shown})"
