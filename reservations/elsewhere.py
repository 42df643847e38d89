"""What must be known of an engine that places work itself, to say what may be asked of it. Pure answers; the engine
keeps them up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .kind import Kind
from .shares import ShareRequest


@dataclass(frozen=True)
class Outlook:
    """Of a share at an engine. ``free``: how many would start now, as far as is known. ``said``: what to expect
    otherwise, for people. ``expected_in_s``: until one starts, None: nobody can say. ``age_s``: how old that is.
    ``closed``: nothing of it starts at all, ``said`` why. ``free_for_s``: what starts now has no more time than that,
    and ``said`` why; who asks for more starts in ``expected_in_s``. None: there is no such end."""

    free: int
    said: str = ""
    expected_in_s: float | None = None
    age_s: float = 0.0
    closed: bool = False
    free_for_s: float | None = None

    def start_in_s(self, seconds: float) -> float | None:
        """Until something starts that may take so long; None: nobody can say."""
        now = self.free and (self.free_for_s is None or seconds <= self.free_for_s)
        return 0.0 if now else self.expected_in_s


@dataclass(frozen=True)
class OwnLimit:
    """A limit that an engine keeps itself. ``of``: whom it holds for; ``what`` is limited to ``value``, and ``name`` is
    the engine's own word for that."""

    of: str
    what: str
    value: str
    name: str


@dataclass(frozen=True)
class OwnLimits:
    """``seen_at``: when, seconds since the epoch."""

    limits: Sequence[OwnLimit]
    seen_at: float


class Elsewhere(Protocol):
    """An engine, as far as decisions ask it."""

    name: str
    title: str
    """For people, such as ``Slurm, partition gpu``."""

    nodes_environment: Mapping[str, str]
    """Variables of a server that are other on its nodes than on the hub's machine, such as addresses."""

    def check(self, request: ShareRequest, seconds: int, kind: Kind) -> None:
        """Raises PublicError for what it could never start: such a job would wait there for ever."""

    def enforcement(self, request: ShareRequest) -> str:
        """What holds the share to its size there."""

    def outlook(self, request: ShareRequest, seconds: int, owner: str) -> Outlook:
        """What ``owner`` could expect who asked for it now, for so long."""

    def own_limits(self, owner: str) -> OwnLimits | None:
        """What it allows ``owner`` (empty: everybody, one by one) besides the limits of this site; None: not readable,
        or not read yet."""

    def announced(self) -> list[str]:
        """When parts of it are set aside in the next two weeks, in words."""

    def silence(self) -> str:
        """That it does not answer, and since when, for people; empty while it answers."""

    def troubles(self) -> list[str]:
        """What of its answers is missing, old or not understood, for administrators; empty: nothing."""

    def cannot_extend(self) -> str:
        """Why the end of what runs there cannot be moved; empty: it can."""
