"""What of Slurm's answers is not understood: left out, counted, and told. It says nothing about the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from .errors import Unreadable

E = TypeVar("E")
T = TypeVar("T")


@dataclass
class Odd:
    """Of the last answers. ``counts``: entries or lines by command; ``first``: one of each, in words. ``notes``: what
    is understood, and cannot be used."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, error: Unreadable) -> None:
        """One more of the answer to ``what``."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, str(error))

    def texts(self) -> list[str]:
        """In words, without what anybody wrote into their jobs."""
        found = [f"{count} in the answer of {what} not understood, and left out" for what, count in self.counts.items()]
        return [*found, *self.notes]


def each(what: str, entries: Iterable[E], read: Callable[[E], T], odd: Odd | None) -> list[T]:
    """Return what ``read`` makes of each of ``entries`` that it understands; the others are added to ``odd``. Raises
    Unreadable where it understands none: then the answer is another one."""
    found: list[T] = []
    errors: list[Unreadable] = []
    for entry in entries:
        try:
            found.append(read(entry))
        except Unreadable as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    if odd is not None:
        for wrong in errors:
            odd.add(what, wrong)
    return found
