"""The index of what has not ended, beside a plain list of it."""

from __future__ import annotations

import random

import pytest
from conftest import FULL_STRESS

from timeshare.reservations.kind import Kind
from timeshare.reservations.live import Live
from timeshare.reservations.placement import Holding
from timeshare.reservations.reservation import Reason, Reservation, State
from timeshare.reservations.shares import parse_share

PEOPLE = ("ada", "ben", "cleo")
HOLDINGS = (Holding("GPU-0", "", 40_000, 100, True),)


def asked(seq: int, owner: str) -> Reservation:
    kind = Kind.BATCH if seq % 3 else Kind.SESSION
    return Reservation(f"r{seq}", seq, owner, "", kind, parse_share({"gpus": 1}), 600, float(seq))


def next_of(one: Reservation, chance: random.Random) -> Reservation | None:
    """``one`` a step further; None: it has ended."""
    if one.state is State.QUEUED:
        return one.granted(HOLDINGS, 1.0) if chance.random() < 0.8 else None
    if one.state is State.GRANTED:
        return one.starting(2.0)
    if one.state is State.STARTING:
        return one.active("simulated", 3.0)
    if one.state is State.ACTIVE and one.kind is Kind.BATCH:
        return one.ending(Reason.PREEMPTED, "", 4.0)
    if one.state is State.ACTIVE:
        return one.parked("idle")
    return one.requeued() if one.goes_back and chance.random() < 0.7 else None


def same(live: Live, known: dict[str, Reservation]) -> None:
    in_order = sorted(known.values(), key=lambda r: r.seq)
    assert dict(live) == known
    assert list(live.holding) == [r for r in in_order if r.holds]
    assert list(live.others) == [r for r in in_order if not r.holds]
    assert live.waiting == sum(r.waits for r in in_order)
    assert set(live.owners) == {r.owner for r in in_order}
    for person in PEOPLE:
        assert sorted(live.of(person), key=lambda r: r.seq) == [r for r in in_order if r.owner == person]


@pytest.mark.parametrize("seed", range(400 if FULL_STRESS else 20))
def test_the_index_is_what_a_list_would_be_also_after_changes_that_were_only_thought_of(seed: int) -> None:
    chance, live, known = random.Random(seed), Live(), dict[str, Reservation]()
    for seq in range(1, 60):
        changes = [asked(seq, chance.choice(PEOPLE))]
        for one in chance.sample(sorted(known.values(), key=lambda r: r.seq), min(len(known), 4)):
            after = next_of(one, chance)
            if after is not None:
                changes.append(after)
            else:
                live.drop(one.id)
                del known[one.id]
        thought = live.with_changes(changes)
        same(thought, {**known, **{r.id: r for r in changes}})
        same(live, known)
        for one in changes:
            live.put(one)
            known[one.id] = one
        same(live, known)
    live.drop("never there")
    same(live, known)
    assert live.with_changes([]) is live
