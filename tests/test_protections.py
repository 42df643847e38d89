"""What a session's owner can write about it is bounded: protections, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pools import Lab

from timeshare.reservations.errors import PublicError
from timeshare.reservations.ledger import activity as rows
from timeshare.reservations.monitor import ASKED_FOR, MOST_ASKED_FOR, Monitor
from timeshare.reservations.protection import MOST
from timeshare.reservations.reservation import Reservation
from timeshare.reservations.service.activity_views import activity_view

WHY = "a" * 200


class Watched(Lab):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"defaults": {"idle": {"after": "1h", "keep": "8h"}}}, "a100-40gb")
        self.monitor = Monitor(self.pool, self.ledger)
        asked = self.ask("ada")
        self.run(asked)
        self.session: Reservation = self.pool.get(asked.id)

    def keep(self, key: str, seconds: float = 600.0) -> None:
        self.monitor.keep(self.session, key, seconds, WHY if seconds else "")

    def decided(self) -> list[str]:
        with self.ledger.transaction() as connection:
            return [str(row["what"]) for row in rows.decisions(connection, self.session.id, 10_000)]

    def view(self) -> int:
        """Bytes of what its owner reads."""
        return len(json.dumps(activity_view(self.pool, self.monitor, self.session)))


@pytest.fixture
def lab(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_session_has_so_many_protections_and_no_more(lab: Watched) -> None:
    for number in range(MOST):
        lab.keep(f"k{number}")
    with pytest.raises(PublicError, match=f"at most {MOST} protections at a time: end one") as caught:
        lab.keep("one-more")
    assert caught.value.status == 409
    lab.keep("k0", 700)  # renewed
    lab.keep("k1", 0)
    lab.keep("one-more")
    lab.later(800)
    lab.keep("later")  # those that are over count no more


def test_a_thousand_protections_leave_view_and_ledger_as_small_as_a_few(lab: Watched) -> None:
    with lab.ledger.transaction() as connection:
        rows.add_decision(connection, lab.session.id, lab.now, "warn", "it was idle", {})
    for number in range(MOST):
        lab.keep(f"k{number}")
    few = lab.view()
    for number in range(500):
        lab.keep(f"k{number % MOST}", 0)
        lab.keep(f"k{number % MOST}", 600)
    assert lab.view() < 2 * few
    decided = lab.decided()
    assert sum(what in ASKED_FOR for what in decided) == MOST_ASKED_FOR
    assert decided.count("warn") == 1, "what was decided about it is not flushed away by its owner"


def test_ending_a_protection_that_there_is_not_writes_nothing(lab: Watched) -> None:
    for number in range(20):
        lab.keep(f"k{number}", 0)
    assert lab.decided() == []
