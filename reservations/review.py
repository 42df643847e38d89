"""What is wrong with a text of limits, and what in it is probably not intended where its devices and people are known.
One way for the command, the API, the administrators' page and the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from .limits.load import Placed, read_text
from .limits.site import Site, site_cautions
from .pool import Pool

log = logging.getLogger("timeshare.service")
NAME = "limits"


@dataclass(frozen=True)
class Judged:
    """``errors`` and ``warnings``: a line each, with the line of the file. ``note``: what could not be looked at."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    note: str

    @property
    def is_valid(self) -> bool:
        return not self.errors


def judge(text: str, site: Site | None, name: str = NAME) -> Judged:
    """Everything that is to be said of ``text``, whose lines begin with ``name``. ``site`` None: nothing is known of
    devices and people."""
    found = read_text(text)
    if found.limits is None:
        return Judged(_texts(found.errors, name), (), "")
    warnings = found.placed(site_cautions(found.limits, site))
    note = "devices, nodes and people are not known: whether rules match those was not checked"
    return Judged((), _texts(warnings, name), note if site is None else site.note)


def _texts(found: Sequence[Placed], name: str) -> tuple[str, ...]:
    return tuple(one.text(name) for one in found)


class Review:
    """Judges for one pool; used in the pool's thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._judged: tuple[str, Site, Judged] | None = None
        self._by_itself: tuple[str, tuple[str, ...]] | None = None
        self._told: frozenset[str] = frozenset()

    def site(self) -> Site:
        """What is known now."""
        groups = frozenset(group for mine in self._pool.standing.known_groups().values() for group in mine)
        return Site(self._pool.slots, self._pool.unseen, groups)

    def check(self, text: str) -> Judged:
        """Judge a text that somebody asks about."""
        return judge(text, self.site())

    def in_force(self, text: str) -> Judged:
        """Judge the text in force, anew only when it, the devices or the groups have changed. Empty: there is no
        file."""
        site = self.site()
        if self._judged is not None:
            of, seen, judged = self._judged
            if of == text and seen.slots is site.slots and (seen.unseen, seen.groups) == (site.unseen, site.groups):
                return judged
        judged = judge(text, site) if text else Judged((), (), "")
        self._judged = (text, site, judged)
        return judged

    def tell(self, text: str) -> None:
        """Log the warnings about the text in force that were not logged yet: while devices are not known, those that
        the text alone gives."""
        warnings = self._alone(text) if self._pool.unseen else self.in_force(text).warnings
        for warning in warnings:
            if warning not in self._told:
                log.warning("%s", warning)
        self._told = frozenset(warnings)

    def _alone(self, text: str) -> tuple[str, ...]:
        """The warnings that need no devices, of a text that was judged so already as they were then."""
        if self._by_itself is None or self._by_itself[0] != text:
            self._by_itself = (text, judge(text, None).warnings if text else ())
        return self._by_itself[1]
