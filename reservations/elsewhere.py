"""What must be known of an engine that places work itself, to say what may be asked of it. Pure answers; the engine
keeps them up to date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .kind import Kind
from .shares import ShareRequest


@dataclass(frozen=True)
class Outlook:
    """Of a share at an engine. ``free``: how many would start now, as far as is known. ``said``: what to expect
    otherwise, for people. ``expected_in_s``: until one starts, None: nobody can say. ``age_s``: how old that is.
    ``closed``: nothing of it starts at all, ``said`` why."""

    free: int
    said: str = ""
    expected_in_s: float | None = None
    age_s: float = 0.0
    closed: bool = False


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

    def outlook(self, request: ShareRequest, now: float) -> Outlook:
        """What somebody who asked for it now could expect."""

    def silence(self) -> str:
        """That it does not answer, and since when, for people; empty while it answers."""

    def cannot_extend(self) -> str:
        """Why the end of what runs there cannot be moved; empty: it can."""
