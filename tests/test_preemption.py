"""Who goes first, who gives way, and that nobody is sent back and forth."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pools import Lab, pool

from timeshare.reservations.kind import Kind
from timeshare.reservations.outlook import forecast
from timeshare.reservations.placement import Holding
from timeshare.reservations.policy import Account, FairRules, Person, Policy, PoolRule, Preemption
from timeshare.reservations.queue import Facts, Held, Waiting
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import parse_share

HOUR = 3600
QUOTAS = {
    "groups": {"cms": {"members": ["ada", "ann"], "quota": 1}, "atlas": {"members": ["ben", "bob"], "quota": 1}},
    "pools": {"all": {"preempt": {"after": "30m", "grace": "2m"}}},
}


def test_work_within_quota_goes_first_then_sessions_then_batch(tmp_path: Path) -> None:
    lab = Lab(tmp_path, QUOTAS, "a100", "a100")
    held = [lab.ask("ada", seconds=5 * HOUR), lab.ask("ada", seconds=5 * HOUR)]
    beyond_batch, beyond_session = lab.batch("ann", HOUR), lab.ask("ann", seconds=HOUR)
    within = lab.batch("ben", HOUR)
    told = lab.pool.forecast()
    assert [told[r.id].position for r in (within, beyond_session, beyond_batch)] == [1, 2, 3]
    assert all(r.holds for r in held)


def test_a_person_who_waits_gets_the_place_of_over_quota_batch_which_is_requeued_and_finishes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, QUOTAS, "a100", "a100")
    older, newer = lab.batch("ada", 10 * HOUR), lab.batch("ada", 10 * HOUR)
    lab.run(older, newer)
    person = lab.ask("ben", seconds=HOUR)
    assert lab.state(person) == "queued"
    assert lab.later(29 * 60) == [], "it was started a short while ago"
    (victim,) = lab.later(60)
    assert victim.id == newer.id, "the last one to start gives way first"
    assert victim.reason is Reason.PREEMPTED
    assert "held more than its 1 GPUs" in victim.detail
    assert lab.pool.stop_of(victim).save_grace == 120
    assert lab.later(1) == [], "one is enough"
    lab.pool.gone(newer.id, Reason.LOST, "gone")
    assert (lab.state(person), lab.state(newer)) == ("granted", "queued")
    assert lab.pool.get(newer.id).requeues == 1
    lab.run(person)
    assert lab.later(HOUR // 2) == [], "the one within quota is never preempted, and the person never"
    lab.pool.end(person.id, Reason.CANCELLED, "done")
    lab.pool.gone(person.id, Reason.CANCELLED, "done")
    again = lab.pool.get(newer.id)
    assert again.state is State.GRANTED
    lab.run(again)
    lab.pool.gone(newer.id, Reason.COMPLETED, "finished")
    assert lab.pool.get(newer.id).reason is Reason.COMPLETED


def test_within_quota_nobody_gives_way(tmp_path: Path) -> None:
    lab = Lab(tmp_path, QUOTAS, "a100", "a100")
    lab.run(lab.batch("ada", 10 * HOUR), lab.batch("ben", 10 * HOUR))
    waits = lab.ask("ann", seconds=HOUR)
    assert lab.later(2 * HOUR) == []
    assert lab.state(waits) == "queued"


def test_preempted_work_can_be_cancelled_while_it_stops(tmp_path: Path) -> None:
    lab = Lab(tmp_path, QUOTAS, "a100", "a100")
    jobs = [lab.batch("ada", 10 * HOUR), lab.batch("ada", 10 * HOUR)]
    lab.run(*jobs)
    lab.ask("ben", seconds=HOUR)
    (victim,) = lab.later(HOUR)
    lab.pool.end(victim.id, Reason.CANCELLED, "stopped by its owner")
    gone = lab.pool.gone(victim.id, Reason.LOST, "gone")
    assert (gone.state, gone.reason) == (State.ENDED, Reason.CANCELLED)


def test_every_interval_of_a_requeued_job_is_charged(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {**QUOTAS, "defaults": {"budgets": [{"gpu_hours": 100, "every": "month"}]}}, "a100", "a100")
    jobs = [lab.batch("ada", 10 * HOUR), lab.batch("ada", 10 * HOUR)]
    lab.run(*jobs)
    lab.ask("ben", seconds=HOUR)
    (victim,) = lab.later(HOUR)
    lab.pool.gone(victim.id, Reason.LOST, "gone")
    lab.later(HOUR)
    (own, *_) = [purse for purse in lab.pool.purses("ada") if purse.whose == "user"]
    assert own.used == 3, "two jobs for an hour, one of them for a second one"


def test_who_had_less_goes_first_and_age_wins_in_the_end(tmp_path: Path) -> None:
    limits = {
        "groups": {"cms": {"members": ["ada"]}, "atlas": {"members": ["ben"]}},
        "fair_share": {"max_age": "10h"},
    }
    lab = Lab(tmp_path, limits, "a100")
    lab.run(lab.ask("ada", seconds=5 * HOUR))
    early = lab.ask("ada", seconds=HOUR)
    lab.later(HOUR)
    late = lab.ask("ben", seconds=HOUR)
    told = lab.pool.forecast()
    assert (told[late.id].position, told[early.id].position) == (1, 2)
    lab.now += 11 * HOUR
    fresh = lab.ask("ben", Kind.BATCH, HOUR)
    told = lab.pool.forecast()
    assert told[early.id].position < told[fresh.id].position


# --- for every queue

PEOPLE = {
    "ada": Person("cms", ("cms",), gpus=2.0, use=3.0),
    "ben": Person("atlas", ("atlas",), gpus=3.0, use=0.5),
    "cleo": Person("atlas", ("atlas",), use=0.1),
}
DEVICES = pool("a100", "a100", "t4", "t4")
SLOTS = frozenset((device.uuid, "") for device in DEVICES)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Facts, Policy]:
    free = list(DEVICES)
    held = []
    for number in range(draw(st.integers(0, 4))):
        device = free.pop()
        kind = draw(st.sampled_from(list(Kind)))
        holding = Holding(device.uuid, "", device.memory_mib, 1000, True)
        since = draw(st.integers(0, 4000))
        frees_at = 5000.0 + draw(st.integers(0, 9000))
        held.append(
            Held(f"h{number}", draw(st.sampled_from(list(PEOPLE))), (holding,), frees_at, kind, 1.0, since, False)
        )
    shares = st.sampled_from([{"gpus": 1}, {"gpus": 2}, {"memory_gib": 10}, {"gpus": 1, "model": "t4"}])
    waiting = tuple(
        Waiting(
            f"w{number}",
            draw(st.sampled_from(list(PEOPLE))),
            parse_share(draw(shares)),
            float(draw(st.integers(60, 9000))),
            float(draw(st.integers(0, 5000))),
            draw(st.sampled_from(list(Kind))),
        )
        for number in range(draw(st.integers(0, 8)))
    )
    quota = {name: Account(1.0, float(draw(st.integers(0, 3)))) for name in ("cms", "atlas")}
    rule = PoolRule("all", SLOTS, 4.0, kept=1.0, kept_spans=((0.0, 1e6),), preempt=Preemption(1800, 60))
    fair = draw(st.sampled_from([None, FairRules(), FairRules("classic")]))
    quotas = draw(st.booleans())
    return Facts(DEVICES, tuple(held), waiting, 5000.0), Policy(
        fair=fair, people=PEOPLE, accounts=quota, quotas=quotas, pools=(rule,)
    )


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_no_decision_exceeds_a_limit_or_preempts_what_it_must_not(world: tuple[Facts, Policy]) -> None:
    facts, policy = world
    decision = schedule(facts, policy)
    owners = {item.id: item for item in facts.waiting}
    by_owner: dict[str, float] = {}
    by_account: dict[str, float] = {}
    for held in facts.held:
        by_owner[held.owner] = by_owner.get(held.owner, 0) + held.gpus
        account = PEOPLE[held.owner].account
        by_account[account] = by_account.get(account, 0) + held.gpus
    before = dict(by_owner)
    for grant in decision.grants:
        owner = owners[grant.id].owner
        gpus = sum(h.memory_mib / 40_000 for h in grant.holdings)
        by_owner[owner] = by_owner.get(owner, 0) + gpus
        by_account[PEOPLE[owner].account] = by_account.get(PEOPLE[owner].account, 0) + gpus
        assert by_owner[owner] <= max(PEOPLE[owner].gpus, before.get(owner, 0)) + 1e-6
    jobs = {held.id: held for held in facts.held}
    assert policy.quotas or not decision.preemptions
    for preempted in decision.preemptions:
        job, winner = jobs[preempted.id], owners[preempted.winner]
        account = PEOPLE[job.owner].account
        assert job.kind is Kind.BATCH
        assert facts.now - job.since >= 1800
        by_account[account] -= job.gpus
        assert by_account[account] >= policy.accounts[account].quota - 1e-6, "nobody is brought below quota"
        assert winner.kind is Kind.SESSION or PEOPLE[winner.owner].account != account
    assert len({p.id for p in decision.preemptions}) == len(decision.preemptions)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_every_request_has_a_place_and_the_order_is_the_same_for_the_same_facts(world: tuple[Facts, Policy]) -> None:
    facts, policy = world
    told = forecast(facts, policy)
    assert sorted(f.position for f in told.values()) == list(range(1, len(facts.waiting) + 1))
    assert forecast(facts, policy) == told
    assert all(f.why for f in told.values())


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_names_do_not_matter(world: tuple[Facts, Policy]) -> None:
    facts, policy = world
    new = {"ada": "zoe", "ben": "yan", "cleo": "xia"}
    renamed = Facts(
        facts.devices,
        tuple(h.__class__(**{**vars(h), "owner": new[h.owner]}) for h in facts.held),
        tuple(w.__class__(**{**vars(w), "owner": new[w.owner]}) for w in facts.waiting),
        facts.now,
    )
    people = {new[name]: person for name, person in PEOPLE.items()}
    other = Policy(fair=policy.fair, people=people, accounts=policy.accounts, quotas=policy.quotas, pools=policy.pools)
    assert [g.id for g in schedule(facts, policy).grants] == [g.id for g in schedule(renamed, other).grants]
