"""The form, the waiting page, the log of limits, the dry run of a job and the decision tell the same start."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from conftest import FULL_STRESS
from pools import Lab

from timeshare.reservations.clock import rfc3339
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.service.limits_views import explanation
from timeshare.reservations.service.offers import offers_view
from timeshare.reservations.service.views import reservation_view
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission

SEEDS = 400 if FULL_STRESS else 12
STEPS = 40
OWNERS = ("ada", "ben", "cleo")
LIMITS: list[dict[str, Any]] = [
    {},
    {"defaults": {"gpus": 2}},
    {"pools": {"one": {"models": ["t4"], "gpus": 1}}},
    {
        "groups": {"cms": {"members": ["ada"], "quota": 1}},
        "pools": {"all": {"preempt": {"after": "1m", "grace": "1m"}}},
    },
    {"fair_share": {}},
    {"backfill_depth": 2},
]


@pytest.mark.parametrize("seed", sorted({*range(SEEDS), 283}))  # 283: a device came back, and nobody had decided yet
def test_what_the_form_tells_is_what_comes_of_it(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    lab = Lab(tmp_path, dice.choice(LIMITS), "a100", "a100", "t4")
    for _ in range(STEPS):
        step(lab, dice)
        owner = dice.choice(OWNERS)
        offer = dice.choice(offers_view(lab.pool, owner, True)["offers"])
        wish = Submission(owner, parse_share(offer["share"]), offer["default_time_s"], Kind.SESSION, f"s{lab.now}")
        (dry,) = lab.pool.latest_starts([wish])
        assert rfc3339(dry.latest_start) == offer["latest_start"]
        try:
            made, _ = lab.pool.submit(wish)
        except PublicError as error:
            assert not offer["possible"], (offer, error.message)
            continue
        told = reservation_view(lab.pool, made)
        ranked = lab.pool.world().policy([owner]).ranked  # then somebody who comes later may go first
        if made.state is State.GRANTED and not ranked:
            assert offer["free_now"] >= 1, offer
            assert offer["latest_start_in_s"] == 0, offer
        if made.waits and (told["firm"] or offer["firm"]):
            assert (told["firm"], told["latest_start"]) == (offer["firm"], offer["latest_start"])
        same_everywhere(lab, owner)


def same_everywhere(lab: Lab, owner: str) -> None:
    seen = {r["id"]: r["latest_start"] for r in explanation(lab.pool, owner)["waiting"]}
    told = {r.id: reservation_view(lab.pool, r)["latest_start"] for r in lab.pool.live_of(owner) if r.waits}
    assert seen == told


def step(lab: Lab, dice: random.Random) -> None:
    """Something happens that is not a request."""
    lab.now += dice.choice([1, 60, 900, 4000])
    lab.pool.tick()
    live = sorted(lab.pool.live(), key=lambda r: r.seq)
    if not live:
        return
    chosen = dice.choice(live)
    act = dice.random()
    if act < 0.4:
        lab.pool.end(chosen.id, Reason.CANCELLED, "stopped")
    if act < 0.6:
        for reservation in live:
            if lab.pool.get(reservation.id).state is State.ENDING:
                lab.pool.gone(reservation.id, Reason.CANCELLED, "gone")
    elif act < 0.8 and chosen.holds:
        try:
            lab.pool.extend(chosen.id, 1800)
        except PublicError as error:
            assert error.status in (403, 409)
    elif act < 0.9:
        lab.pool.cordon("GPU-0", dice.choice([None, "XID 79"]))
