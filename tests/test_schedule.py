"""Who starts now, who waits and until when at the latest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pools import mig_device, pool

from timeshare.reservations.outlook import forecast, latest_for_new
from timeshare.reservations.policy import Policy
from timeshare.reservations.queue import Facts, Held, Waiting
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import Shape, ShareRequest, parse_share

RULES = Policy()


def waits(name: str, seconds: float = 3600, **fields: object) -> Waiting:
    return Waiting(name, f"owner-{name}", parse_share(fields), seconds, 0.0)


def after(facts: Facts, rules: Policy = RULES) -> Facts:
    """The facts once the grants of one pass are held."""
    decision = schedule(facts, rules)
    granted = {grant.id: grant.holdings for grant in decision.grants}
    done = set(granted) | {refusal.id for refusal in decision.refusals}
    held = tuple(
        Held(item.id, item.owner, granted[item.id], facts.now + item.seconds)
        for item in facts.waiting
        if item.id in granted
    )
    return Facts(facts.devices, facts.held + held, tuple(w for w in facts.waiting if w.id not in done), facts.now)


def granted(facts: Facts, rules: Policy = RULES) -> list[str]:
    return [grant.id for grant in schedule(facts, rules).grants]


def test_requests_are_served_in_order() -> None:
    facts = Facts(pool("a100"), (), (waits("first", gpus=1), waits("second", gpus=1)), 0.0)
    assert granted(facts) == ["first"]


def test_a_later_request_that_ends_in_time_may_overtake_and_one_that_does_not_may_not() -> None:
    devices = pool("a100", "a100")
    busy = after(Facts(devices, (), (waits("running", 1000, gpus=1),), 0.0))
    head = waits("head", 3600, gpus=2)
    assert granted(Facts(devices, busy.held, (head, waits("short", 1000, gpus=1)), 0.0)) == ["short"]
    assert granted(Facts(devices, busy.held, (head, waits("long", 1001, gpus=1)), 0.0)) == []


def test_without_backfill_nobody_overtakes() -> None:
    devices = pool("a100", "a100")
    busy = after(Facts(devices, (), (waits("running", 1000, gpus=1),), 0.0))
    facts = Facts(devices, busy.held, (waits("head", gpus=2), waits("short", 10, gpus=1)), 0.0)
    assert granted(facts, Policy(backfill_depth=0)) == []


def test_what_can_never_run_is_refused_and_does_not_block_the_rest() -> None:
    facts = Facts(pool("a100"), (), (waits("absurd", gpus=9), waits("fine", gpus=1)), 0.0)
    decision = schedule(facts, RULES)
    assert [refusal.id for refusal in decision.refusals] == ["absurd"]
    assert [grant.id for grant in decision.grants] == ["fine"]


def test_a_request_for_a_cordoned_device_waits_instead_of_being_refused() -> None:
    device = pool("a100")[0]
    cordoned = type(device)(**{**device.__dict__, "cordoned": "XID 79"})
    facts = Facts((cordoned,), (), (waits("patient", gpus=1),), 0.0)
    decision = schedule(facts, RULES)
    assert decision.grants == decision.refusals == []
    assert forecast(facts, RULES)["patient"].latest_start is None


def test_the_forecast_tells_position_and_latest_start_from_running_end_times() -> None:
    devices = pool("a100")
    busy = after(Facts(devices, (), (waits("running", 1000, gpus=1),), 0.0))
    facts = Facts(devices, busy.held, (waits("a", 500, gpus=1), waits("b", 500, memory_gib=1)), 10.0)
    told = forecast(facts, RULES)
    assert (told["a"].position, told["a"].latest_start) == (1, 1000)
    assert (told["b"].position, told["b"].latest_start) == (2, 1500)
    (new,) = latest_for_new(facts, RULES, [waits("new", 60, gpus=1)])
    assert new.latest_start == 2000


def test_one_past_its_end_still_holds_its_device_until_it_is_seen_gone() -> None:
    devices = pool("a100")
    busy = after(Facts(devices, (), (waits("overdue", 100, gpus=1),), 0.0))
    assert granted(Facts(devices, busy.held, (waits("next", gpus=1),), 500.0)) == []


def test_a_cpu_session_never_waits() -> None:
    facts = Facts((), (), (waits("cpu", cpu_only=True),), 0.0)
    assert granted(facts) == ["cpu"]


wishes = st.one_of(
    st.builds(lambda n: ShareRequest(Shape.WHOLE, count=n), st.integers(1, 3)),
    st.builds(lambda m: ShareRequest(Shape.FRACTION, memory_mib=m), st.integers(1, 40_000)),
    st.just(ShareRequest(Shape.MIG, profile="1g.5gb")),
)
queues = st.lists(st.tuples(wishes, st.integers(1, 500)), max_size=12)


def world(running: list[tuple[ShareRequest, int]], queue: list[tuple[ShareRequest, int]]) -> Facts:
    devices = (*pool("a100", "a100", "a100"), mig_device("1g.5gb", "1g.5gb", order=3))
    first = tuple(Waiting(f"r{i}", "x", wish, s, 0.0) for i, (wish, s) in enumerate(running))
    busy = after(Facts(devices, (), first, 0.0))
    later = tuple(Waiting(f"w{i}", "x", wish, s, 0.0) for i, (wish, s) in enumerate(queue))
    return Facts(devices, busy.held, later, 0.0)


def starts_when_everything_takes_its_full_time(facts: Facts, rules: Policy) -> dict[str, float]:
    """Plays the queue forward through the real decision; every reservation ends exactly at its limit."""
    starts: dict[str, float] = {}
    while facts.waiting:
        before = {item.id for item in facts.waiting}
        facts = after(facts, rules)
        for gone in before - {item.id for item in facts.waiting}:
            starts[gone] = facts.now
        ends = [held.frees_at for held in facts.held if held.holdings]
        if not facts.waiting or not ends:
            break
        now = min(ends)
        held = tuple(item for item in facts.held if item.frees_at > now)
        facts = Facts(facts.devices, held, facts.waiting, now)
    return starts


@given(queues, queues)
def test_backfill_never_delays_the_head_of_the_queue(running, queue) -> None:  # type: ignore[no-untyped-def]
    facts = world(running, queue)
    head = next((w.id for w in after(facts).waiting), None)
    if head is None:
        return
    with_backfill = starts_when_everything_takes_its_full_time(facts, RULES)
    without = starts_when_everything_takes_its_full_time(facts, Policy(backfill_depth=0))
    assert with_backfill[head] <= without[head]


@given(queues, queues)
def test_nobody_starts_later_than_the_latest_start_that_was_told(running, queue) -> None:  # type: ignore[no-untyped-def]
    facts = after(world(running, queue))
    told = forecast(facts, RULES)
    for name, start in starts_when_everything_takes_its_full_time(facts, RULES).items():
        assert start <= told[name].latest_start


@given(queues, queues)
def test_a_grant_never_overfills_and_never_refers_to_a_request_twice(running, queue) -> None:  # type: ignore[no-untyped-def]
    facts = after(world(running, queue))
    used: dict[tuple[str, str], int] = {}
    for held in facts.held:
        for holding in held.holdings:
            used[holding.key] = used.get(holding.key, 0) + holding.memory_mib
    assert all(memory <= 40_000 for memory in used.values())
    assert len({held.id for held in facts.held}) == len(facts.held)


def test_a_long_queue_for_one_model_never_keeps_another_one_idle() -> None:
    queue = tuple(waits(f"w{i}", gpus=1, model="a100") for i in range(50))
    facts = Facts(pool("a100", "t4"), (), (*queue, waits("other", gpus=1, model="t4")), 0.0)
    assert granted(facts, Policy(backfill_depth=5)) == ["w0", "other"]


def test_beyond_the_depth_nobody_takes_what_somebody_ahead_could_use() -> None:
    devices = pool("a100", "a100")
    busy = after(Facts(devices, (), (waits("running", 1000, gpus=1),), 0.0))
    queue = tuple(waits(f"w{i}", gpus=2) for i in range(10))
    facts = Facts(devices, busy.held, (*queue, waits("last", 10, gpus=1)), 0.0)
    assert granted(facts, Policy(backfill_depth=5)) == []
