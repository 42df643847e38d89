"""Turns and time of the pool's thread: whatever somebody queues, another one waits for a piece of it at most."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from timeshare.reservations.service.fair_queue import ALONE_S, FairQueue, Pace
from timeshare.reservations.service.fair_thread import LANE, SUBMISSIONS, FairThread
from timeshare.reservations.service.forgetting import MOST_CALLERS, make_room

PACE = Pace(share=0.2, burst_s=1.0)
SERVICE = ""


@dataclass(frozen=True)
class Piece:
    lane: str
    seconds: float


class Worker:
    """Works on a queue by a clock of its own: as ``FairThread``, without the thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue: FairQueue[Piece] = FairQueue(PACE, lambda: self.now, (SERVICE,))
        self.begun: list[Piece] = []
        self.used: Counter[str] = Counter()

    def put(self, lane: str, seconds: float) -> None:
        self.queue.put(lane, Piece(lane, seconds))

    def step(self, until: float) -> None:
        """One piece, or idle until there is one, but not beyond ``until``."""
        piece = self.queue.take()
        if piece is None:
            self.now = min(until, self.now + max(1e-6, self.queue.due_in()))
            return
        self.begun.append(piece)
        self.now += piece.seconds
        self.used[piece.lane] += piece.seconds  # type: ignore[assignment]
        self.queue.spend(piece.lane, piece.seconds)

    def work(self, until: float) -> None:
        while self.now < until:
            self.step(until)


@pytest.mark.parametrize("seed", range(16))
def test_who_asks_for_little_waits_for_one_piece_of_each_other_one(seed: int) -> None:
    chance, worker = random.Random(seed), Worker()
    fill = lambda lane, count: [worker.put(lane, chance.uniform(0, longest)) for _ in range(count)]  # noqa: E731
    hogs = [f"hog-{number}" for number in range(chance.randint(1, 5))]
    longest, asks_at = chance.choice((0.002, 0.02, 0.2)), 0.0
    for lane in hogs:
        fill(lane, chance.randint(1, 1000))
    while worker.now < 15.0:
        fill(SERVICE, chance.choice((0, 0, 0, 1)))
        for lane in hogs:
            fill(lane, chance.choice((0, 1, 1)))
        if worker.now >= asks_at:
            before = len(worker.begun)
            worker.put("ben", 0.005)
            while not any(piece.lane == "ben" for piece in worker.begun[before:]):
                worker.step(math.inf)
                for lane in hogs:  # whatever comes meanwhile
                    fill(lane, 1)
            waited_for = Counter(piece.lane for piece in worker.begun[before:])
            assert set(waited_for.values()) == {1}, waited_for
            asks_at = worker.now + chance.uniform(0.05, 0.9)
        worker.step(asks_at)
    for lane in hogs:
        assert worker.used[lane] <= PACE.burst_s + PACE.share * worker.now + longest, "its share, however much it asks"


def test_who_asks_alone_may_have_all_of_the_time_and_no_longer_once_others_ask() -> None:
    worker = Worker()
    for _ in range(3000):
        worker.put("ada", 0.01)
    worker.work(10.0)
    assert worker.used["ada"] == pytest.approx(10.0, abs=0.02)
    for _ in range(100):
        worker.put("ben", 0.001)
        worker.put("ada", 0.01)
        worker.work(worker.now + 0.1)
    assert worker.used["ada"] - 10.0 <= PACE.share * 10 + 0.02, "what is owed is not given"
    worker.work(worker.now + ALONE_S + 0.02)
    before = worker.used["ada"]
    worker.work(worker.now + 2.0)
    assert worker.used["ada"] - before == pytest.approx(2.0, abs=0.02)


def test_what_is_owed_has_an_end_and_comes_back() -> None:
    worker = Worker()
    worker.put("ben", 0.0)
    worker.put("ada", 100.0)
    worker.work(100.0)
    worker.put("ada", 0.01)
    worker.put("ben", 0.0)
    worker.step(math.inf)
    assert worker.queue.due_in() == pytest.approx(ALONE_S), "or earlier, if nobody else asks"
    for _ in range(49):
        worker.put("ben", 0.0)
        worker.work(worker.now + 0.1)
        assert worker.begun[-1].lane == "ben"
    worker.work(worker.now + PACE.burst_s / PACE.share - 4.9 + 0.01)
    assert worker.begun[-1].lane == "ada"


def test_counting_callers_takes_no_memory_without_end() -> None:
    worker = Worker()
    for number in range(3 * MOST_CALLERS):
        worker.queue.spend(f"u{number}", 0.1)
    assert len(worker.queue._accounts) <= MOST_CALLERS


def test_forgetting_looks_at_each_caller_a_few_times_whoever_was_quiet() -> None:
    looks, kept = 0, dict[str, int]()

    def is_idle(number: int) -> bool:
        nonlocal looks
        looks += 1
        return number % 1000 == 0

    for number in range(1, 10 * MOST_CALLERS):
        make_room(kept, is_idle)
        kept[f"u{number}"] = number
    assert len(kept) <= MOST_CALLERS
    assert f"u{number}" in kept
    assert looks <= 9 * 10 * MOST_CALLERS


async def test_work_in_a_shared_lane_is_paid_for_by_those_who_ask() -> None:
    now = 0.0
    thread = FairThread("test", PACE, lambda: now)

    def long() -> None:
        nonlocal now
        now += 3.0

    LANE.set(SUBMISSIONS)
    await thread.run(long, ["ada", "ben"])
    LANE.set("cleo")
    await thread.turn()
    await thread.run(int)  # the others are not alone
    LANE.set("ada")
    turn = asyncio.create_task(thread.turn())
    LANE.set("cleo")
    for _ in range(20):
        await thread.run(int)
    assert not turn.done(), "it owes half a second"
    now += 0.5 / PACE.share + 0.1
    await thread.run(int)
    await asyncio.wait_for(turn, 60)
    thread.stop()


async def test_what_waits_for_time_is_finished_before_the_end() -> None:
    thread = FairThread("test", Pace(share=1e-6, burst_s=1e-6))
    LANE.set("ben")
    await thread.run(int)
    LANE.set("ada")
    await thread.run(lambda: sum(range(100_000)))
    waiting = [asyncio.create_task(thread.run(lambda: 7)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(thread.stop)
    assert await asyncio.gather(*waiting) == [7] * 5
