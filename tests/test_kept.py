"""What is kept of a parked session, as its node tells it now and then."""

from __future__ import annotations

from pathlib import Path

import pytest
from pools import Lab

from timeshare.reservations.parking import Parking
from timeshare.reservations.reservation import Reservation

LIMITS = {"parking": {"host_memory_gib": 8}}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, LIMITS, "a100-40gb")


@pytest.fixture
def session(lab: Lab) -> Reservation:
    """One that is just being parked."""
    asked = lab.ask("ada")
    lab.run(asked)
    return Parking(lab.pool).give_back(asked.id, "idle", park=True)


def test_less_is_kept_when_a_kernel_has_ended(lab: Lab, session: Reservation) -> None:
    parking = Parking(lab.pool)
    parking.returned(session.id, 1, 3000)
    parking.kept(parking.keeping(), session.id, 1, 1000)
    assert lab.pool.get(session.id).kept_mib == 1000


def test_an_answer_of_before_the_session_was_parked_says_nothing_of_what_is_kept(
    lab: Lab, session: Reservation
) -> None:
    parking = Parking(lab.pool)
    keeping = parking.keeping()
    parking.returned(session.id, 1, 3000)
    parking.kept(keeping, session.id, 1, 0)
    assert lab.pool.get(session.id).kept_mib == 3000
