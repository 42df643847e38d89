"""Long random histories over pool and ledger, with crashes in the middle of commits: what must hold, always holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import FULL_STRESS, fresh_schema
from databases import postgres, postgres_bin
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pools import mig_device, pool

from timeshare.reservations.devices.model import Device, Inventory
from timeshare.reservations.errors import PublicError
from timeshare.reservations.ledger import Ledger, LedgerLost
from timeshare.reservations.ledger.policy import charges_since
from timeshare.reservations.limits.effective import BUILT_IN
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.opening import open_pool
from timeshare.reservations.placement import slots_of
from timeshare.reservations.reservation import ORDER, Reason, Reservation, State
from timeshare.reservations.shares import FULL_COMPUTE, parse_share
from timeshare.reservations.submission import Submission

pytestmark = [pytest.mark.stress, pytest.mark.timeout(5400)]

SEQUENCES = 2000 if FULL_STRESS else 12
STEPS = 30
PLAIN = pool("a100-40gb", "a100-40gb", "t4", memory_mib=40_000)
DEVICES: tuple[Device, ...] = (*PLAIN, mig_device("3g.20gb", "1g.5gb", order=7))
WITHOUT_ONE = DEVICES[1:]
OWNERS = ("ada", "ben", "cleo")
SHARES: list[dict[str, Any]] = [
    {"gpus": 1},
    {"gpus": 2, "model": "a100-40gb"},
    {"memory_gib": 10},
    {"memory_gib": 20, "compute_percent": 10},
    {"memory_gib": 19.5, "model": "t4"},
    {"mig_profile": "1g.5gb"},
    {"mig_profile": "3g.20gb"},
    {"cpu_only": True},
]
LIMITS = Limits.model_validate({"defaults": {"sessions": {"at_once": 30, "default_time": 3600, "max_time": 7200}}})


class Crash(Exception):
    """The process is killed here."""


class Histories(RuleBasedStateMachine):
    """``url`` gives a fresh ledger for every history."""

    url: Iterator[str]

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.place = next(self.url)
        self.seen: dict[str, State] = {}
        self.told: dict[str, float] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.number = 0
        self.open(DEVICES)

    def open(self, devices: tuple[Device, ...] | None) -> None:
        """A new process on the same ledger."""
        self.ledger = Ledger.open(self.place)
        self.pool = open_pool(self.ledger, LimitsFile(LIMITS, ""), lambda: self.now)
        if devices is not None:
            self.pool.set_inventory(Inventory(devices))

    def teardown(self) -> None:
        self.ledger.close()

    def pick(self, index: int, *states: State) -> Reservation | None:
        found = [r for r in self.pool.live() if r.state in states]
        return found[index % len(found)] if found else None

    # --- what people and engines do

    @rule(
        owner=st.sampled_from(OWNERS),
        share=st.sampled_from(SHARES),
        seconds=st.sampled_from([60, 600, 3600, 7200]),
        queue=st.booleans(),
        key=st.sampled_from([None, None, "k1", "k2"]),
    )
    def submit(self, owner: str, share: dict[str, Any], seconds: int, queue: bool, key: str | None) -> None:
        self.number += 1
        wish = Submission(
            owner, parse_share(share), seconds, server_name=f"s{self.number}", client_key=key, queue=queue
        )
        known = self.keys.get((owner, key)) if key else None
        before = {r.id for r in self.pool.live()}
        try:
            made, new = self.pool.submit(wish)
        except PublicError as error:
            assert error.status < 500
            assert {r.id for r in self.pool.live()} == before
            return
        assert new == (known is None)
        if key:
            assert known in (None, made.id)
            self.keys[owner, key] = made.id

    @rule(asked=st.lists(st.tuples(st.sampled_from(OWNERS), st.sampled_from(SHARES), st.booleans()), max_size=5))
    def submit_several_together(self, asked: list[tuple[str, dict[str, Any], bool]]) -> None:
        """Exactly what they would get one after the other, seen from the queue: order kept, nobody skipped."""
        wishes = []
        for owner, share, queue in asked:
            self.number += 1
            wishes.append(Submission(owner, parse_share(share), 600, server_name=f"s{self.number}", queue=queue))
        answers = self.pool.submit_many(wishes)
        made = [answer[0] for answer in answers if not isinstance(answer, PublicError)]
        assert [r.seq for r in made] == sorted({r.seq for r in made})
        assert all(r.state is not State.QUEUED or wish.queue for r, wish in self.paired(answers, wishes))

    def paired(self, answers: list[Any], wishes: list[Submission]) -> list[tuple[Reservation, Submission]]:
        return [(a[0], w) for a, w in zip(answers, wishes, strict=True) if not isinstance(a, PublicError)]

    @rule(index=st.integers(0, 50))
    def start(self, index: int) -> None:
        found = self.pick(index, State.GRANTED, State.STARTING)
        if found:
            assert self.pool.starting(found.id).generation == found.generation + 1

    @rule(index=st.integers(0, 50), late=st.booleans())
    def report_active(self, index: int, late: bool) -> None:
        found = self.pick(index, State.STARTING)
        if not found:
            return
        if late and found.generation > 1:
            with pytest.raises(PublicError, match="was started again"):
                self.pool.active(found.id, found.generation - 1, "watchdog")
        else:
            self.pool.active(found.id, found.generation, "watchdog")

    @rule(index=st.integers(0, 50), seconds=st.sampled_from([60, 1800, 7200, 90_000]))
    def extend(self, index: int, seconds: int) -> None:
        found = self.pick(index, State.GRANTED, State.STARTING, State.ACTIVE)
        if not found:
            return
        before = {name: told.latest_start for name, told in self.pool.forecast().items()}
        try:
            self.pool.extend(found.id, seconds)
        except PublicError as error:
            assert error.status == 409
            return
        for name, told in self.pool.forecast().items():
            was = before[name]
            assert was is None or (told.latest_start is not None and told.latest_start <= was + 0.5)

    @rule(index=st.integers(0, 50), reason=st.sampled_from([Reason.CANCELLED, Reason.IDLE, Reason.FAILED]))
    def end(self, index: int, reason: Reason) -> None:
        found = self.pick(index, *State)
        if found:
            ended = self.pool.end(found.id, reason, "asked")
            assert self.pool.end(found.id, Reason.LOST, "again") == ended

    @rule(index=st.integers(0, 50))
    def gone(self, index: int) -> None:
        found = self.pick(index, State.ENDING, State.ACTIVE)
        if found:
            self.pool.gone(found.id, Reason.COMPLETED, "gone")
            assert self.pool.gone(found.id, Reason.LOST, "again").state is State.ENDED

    @rule(seconds=st.sampled_from([1, 59, 700, 4000]))
    def time_passes(self, seconds: int) -> None:
        """The service is there whenever time alone does something."""
        until = self.now + seconds
        while self.now < until:
            due = [m for r in self.pool.live() for m in self.moments(r) if self.now < m]
            self.now = min([until, *due])
            self.pool.tick()

    @rule(seconds=st.sampled_from([59, 700, 4000]))
    def the_service_is_away(self, seconds: int) -> None:
        """What it would have ended meanwhile goes on past its end, which no promise can foresee."""
        self.told = {}
        self.now += seconds
        self.pool.tick()

    @rule(why=st.sampled_from([None, "XID 79"]))
    def cordon(self, why: str | None) -> None:
        self.told = {}
        self.pool.cordon(DEVICES[0].uuid, why)
        self.pool.tick()

    @rule(devices=st.sampled_from([DEVICES, WITHOUT_ONE]))
    def devices_change(self, devices: tuple[Device, ...]) -> None:
        self.told = {}
        self.pool.set_inventory(Inventory(devices))
        self.pool.tick()

    # --- crashes

    @rule(devices=st.sampled_from([DEVICES, None]))
    def killed_and_started_again(self, devices: tuple[Device, ...] | None) -> None:
        before = {r.id: r for r in self.pool.live()}
        self.ledger.close()
        self.open(devices)
        assert {r.id: r for r in self.pool.live()} == before
        self.pool.set_inventory(Inventory(DEVICES))

    @rule(
        share=st.sampled_from(SHARES),
        moment=st.sampled_from(["before_cursor_execute", "commit", "after_commit"]),
        nth=st.integers(1, 5),
    )
    def killed_inside_a_submission(self, share: dict[str, Any], moment: str, nth: int) -> None:
        self.number += 1
        wish = Submission("dora", parse_share(share), 600, server_name=f"s{self.number}", client_key=f"c{self.number}")
        self.crash(lambda: self.pool.submit(wish), moment, nth)
        again, _ = self.pool.submit(wish) if self.fits(wish) else (None, None)
        if again is not None:
            assert self.pool.submit(wish)[0].id == again.id

    def fits(self, wish: Submission) -> bool:
        dora = [r for r in self.pool.live() if r.owner == "dora"]
        return len(dora) < 30

    @rule(index=st.integers(0, 50), moment=st.sampled_from(["before_cursor_execute", "commit", "after_commit"]))
    def killed_inside_an_end(self, index: int, moment: str) -> None:
        found = self.pick(index, *State)
        if found:
            self.crash(lambda: self.pool.gone(found.id, Reason.LOST, "gone"), moment, 1 + index % 4)
            granted = (State.GRANTED,) if found.state is State.QUEUED else ()  # by then all devices are there again
            assert self.pool.get(found.id).state in (found.state, State.ENDED, *granted)

    def crash(self, act: Any, moment: str, nth: int) -> None:
        """Does ``act`` and dies at the ``nth`` statement, at the commit, or when it was written and nobody heard."""
        count = 0

        def hit(*_: Any) -> None:
            nonlocal count
            count += 1
            if moment != "before_cursor_execute" or count == nth:
                raise Crash

        engine = self.ledger._engine
        written = moment == "after_commit"
        if not written:
            sa.event.listen(engine, moment, hit)
        try:
            act()
        except (Crash, PublicError):
            pass
        finally:
            if not written:
                sa.event.remove(engine, moment, hit)
        self.ledger.close()
        self.open(DEVICES)

    @rule(owner=st.sampled_from(OWNERS))
    def a_second_service_takes_over(self, owner: str) -> None:
        """The first one learns of it at its next write, and changes nothing."""
        old_pool, old_ledger = self.pool, self.ledger
        self.open(DEVICES)
        live = {r.id: r for r in self.pool.live()}
        self.number += 1
        wish = Submission(owner, parse_share({"cpu_only": True}), 600, server_name=f"s{self.number}")
        with pytest.raises((LedgerLost, PublicError)):  # refused by its limits before it comes to write
            old_pool.submit(wish)
        old_ledger.close()
        assert {r.id: r for r in self.pool.live()} == live

    # --- what must hold

    @invariant()
    def no_slot_is_given_out_twice(self) -> None:
        sizes = {slot.key: slot for slot in slots_of(DEVICES, include_cordoned=True)}
        memory: dict[tuple[str, str], int] = {}
        compute: dict[tuple[str, str], int] = {}
        holders: dict[tuple[str, str], int] = {}
        exclusive: set[tuple[str, str]] = set()
        for row in self.ledger.holdings():
            key = (row["device_uuid"], row["instance_uuid"])
            memory[key] = memory.get(key, 0) + row["memory_mib"]
            compute[key] = compute.get(key, 0) + row["compute"]
            holders[key] = holders.get(key, 0) + 1
            if row["whole"] or row["instance_uuid"]:
                exclusive.add(key)
        for key in memory:
            assert memory[key] <= sizes[key].memory_mib
            assert compute[key] <= FULL_COMPUTE
        assert all(holders[key] == 1 for key in exclusive)

    @invariant()
    def only_those_hold_who_were_granted_and_have_not_ended(self) -> None:
        held = {row["reservation_id"] for row in self.ledger.holdings()}
        assert held == {r.id for r in self.pool.live() if r.holds and r.holdings}

    @invariant()
    def memory_and_ledger_tell_the_same(self) -> None:
        assert {r.id: r for r in self.ledger.live()} == {r.id: r for r in self.pool.live()}

    @invariant()
    def what_was_held_is_charged_exactly_once(self) -> None:
        with self.ledger.transaction() as connection:
            charged = {c.reservation_id: (c.began, c.ended, c.gpus) for c in charges_since(connection, 0.0)}
            count = connection.scalar(sa.text("select count(*) from charges"))
        ended = [r for r in self.ledger.find(None, [State.ENDED], 500) if r.granted_at is not None]
        assert charged == {r.id: (r.granted_at, r.ended_at, r.terms.gpus) for r in ended}
        assert count == len(ended)

    @invariant()
    def states_never_go_back(self) -> None:
        for reservation in self.ledger.find(None, (), 500):
            before = self.seen.get(reservation.id, State.QUEUED)
            assert ORDER[reservation.state] >= ORDER[before]
            assert (reservation.reason is not None) == (reservation.state in (State.ENDING, State.ENDED))
            self.seen[reservation.id] = reservation.state

    @invariant()
    def positions_are_dense_and_in_order(self) -> None:
        told = self.pool.forecast()
        waiting = [r.id for r in self.pool.live() if r.state is State.QUEUED]
        assert [told[name].position for name in waiting] == list(range(1, len(waiting) + 1))

    @invariant()
    def nobody_exceeds_the_limits(self) -> None:
        for reservation in self.pool.live():
            longest = max(7200, BUILT_IN["extension.total"])
            assert reservation.time_limit_s <= longest

    @invariant()
    def what_was_promised_only_comes_earlier(self) -> None:
        """But where a device went out of service, or what holds one does not end in time."""
        told = self.pool.forecast()
        for name, before in list(self.told.items()):
            after = told.get(name)
            if after is not None and (after.firm or before >= self.now):
                assert after.latest_start is not None, name
                assert after.latest_start <= max(before, self.now), (name, before, after)
        self.told = {name: t.latest_start for name, t in told.items() if t.firm and t.latest_start is not None}

    @precondition(lambda self: any(r.state is State.QUEUED for r in self.pool.live()))
    @rule()
    def the_head_of_the_queue_starts_no_later_than_it_was_told(self) -> None:
        """Nobody extends, nothing breaks: until its latest start, only ends happen, and the head is granted by then."""
        self.devices_change(DEVICES)
        self.cordon(None)
        told = self.pool.forecast()
        head = next((r for r in self.pool.live() if r.state is State.QUEUED), None)
        if head is None or (latest := told[head.id].latest_start) is None:
            return
        while self.pool.get(head.id).state is State.QUEUED:
            assert self.now <= latest, (head, self.now, latest)
            moments = [m for r in self.pool.live() for m in self.moments(r) if m > self.now]
            self.now = min([latest + 1, *moments])
            for reservation in list(self.pool.live()):
                # Sessions take all of their time, and all of their grace.
                if reservation.state is State.ENDING and self.now >= self.moments(reservation)[0]:
                    self.pool.gone(reservation.id, Reason.COMPLETED, "gone")
            self.pool.tick()

    def moments(self, reservation: Reservation) -> list[float]:
        """When time alone does something to it."""
        if reservation.state is State.ENDING:
            return [(reservation.ending_at or self.now) + LIMITS.stop.longest_s]
        starts = [(reservation.granted_at, LIMITS.start_within), (reservation.starting_at, LIMITS.start_timeout)]
        return [*(at + wait for at, wait in starts if at is not None), *filter(None, [reservation.ends_at])]


def run_histories(urls: Iterator[str]) -> None:
    machine = type("Histories", (Histories,), {"url": urls})
    checks = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=checks)


def test_invariants_hold_in_every_history_on_sqlite() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        run_histories(f"sqlite:///{folder}/{number}.sqlite" for number in range(10**9))


def test_invariants_hold_in_every_history_on_postgresql() -> None:
    if postgres_bin() is None:
        pytest.skip("no PostgreSQL server is installed: run `make system`, or install the package postgresql")
    with postgres() as url:
        run_histories(fresh_schema(url) for _ in range(10**9))
