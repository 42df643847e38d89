"""What may be asked for, and what may be extended: each refusal has the limit, the numbers, and what would be granted.

What these let through may still have to wait: that is the decision's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..clock import duration_text, rfc3339
from ..errors import PublicError, invalid
from ..job import JobSpec
from ..kind import Kind
from ..live import Live
from ..placement import Slot, need
from ..policy import TINY, Policy, may_use
from ..queue import Waiting
from ..reservation import Reservation
from ..shares import Shape, ShareRequest
from ..standing import Purse
from ..submission import SHORTEST_S
from .effective import Effective
from .values import UNLIMITED, amount_text, gpus_text


@dataclass(frozen=True)
class Asking:
    """A request as the limits judge it. ``seconds``: its time limit. ``live``: everything that has not ended, of
    everybody. ``slots``: all that there are; none while nobody has seen the devices. ``spoken_for``: weighted GPU-hours
    that what runs and waits will still take from a budget."""

    owner: str
    kind: Kind
    request: ShareRequest
    seconds: int
    limits: Effective
    policy: Policy
    slots: Sequence[Slot]
    live: Live
    purses: Sequence[Purse]
    weight: float
    requests_waiting: int
    job: JobSpec | None = None
    spoken_for: Callable[[Purse], float] = lambda purse: 0.0


def check_time(limits: Effective, kind: Kind, seconds: int | None) -> int:
    """The time limit to use for what was asked (None: the default). Raises PublicError beyond the limits."""
    if seconds is None:
        return limits.default_time(kind)
    longest = limits.max_time(kind)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not SHORTEST_S <= seconds <= longest:
        most = f"{longest} seconds ({duration_text(longest)}), the longest for your {kind.plural}"
        rule = f"must be from {SHORTEST_S} to {most}"
        refused = invalid("time_limit_s", seconds, rule)
        # More than the limits allow is understood, and can never hold here: the API's description does not know them.
        is_too_long = isinstance(seconds, int) and seconds > longest
        raise replace(refused, status=422) if is_too_long else refused
    return seconds


def check_submission(asking: Asking) -> None:
    """Raises PublicError when this may not be asked for."""
    _check_queue(asking)
    _check_share(asking)
    _check_where(asking)
    _check_budgets(asking)


def _check_queue(asking: Asking) -> None:
    waiting, mine = asking.live.waiting, list(asking.live.of(asking.owner))
    if waiting >= asking.requests_waiting:
        message = f"{waiting} requests are waiting and the limit is {asking.requests_waiting}: try again later"
        details = {"waiting": waiting, "limit": asking.requests_waiting}
        raise PublicError("queue-full", message, 429, details)
    queued = [other for other in mine if other.waits]
    _check_places(asking, len(queued))
    mine = [other for other in mine if other.kind is asking.kind]
    most = asking.limits.at_once(asking.kind)
    have = _at_once(mine, one_more=False)
    if _at_once(mine, asking.job) > most:
        message = (
            f"you have {have} {asking.kind.plural} running or waiting and the limit is {amount_text(most)}: "
            "stop one, or leave the queue, and ask again"
        )
        code = "too-many-sessions" if asking.kind is Kind.SESSION else "too-many-jobs"
        raise PublicError(code, message, 429, {"have": have, "limit": most})
    most = float(asking.limits.values["waiting"])
    have = _requests(queued, one_more=False)
    if _requests(queued, asking.job) > most:
        message = (
            f"you have {have} requests waiting and the limit is {amount_text(most)}: leave the queue with one first"
        )
        raise PublicError("too-many-waiting", message, 429, {"have": have, "limit": most})


def _check_places(asking: Asking, mine: int) -> None:
    """``mine``: those of the owner that wait. Of a sweep all further points are looked at, so that one which is too
    long is refused by its first."""
    needed = 1 if asking.job is None else asking.job.of - asking.job.index
    most = part_of_queue(asking.requests_waiting, asking.live.waiting - mine)
    if mine + needed > most:
        more = f" and this asks for {needed}" if needed > 1 else ""
        message = (
            f"you have {mine} requests waiting, each point of a sweep counted{more}; the limit is {most}, half of the "
            "places that others leave: wait until some have started, or ask for less"
        )
        raise PublicError("queue-part", message, 429, {"waiting": mine, "asked": needed, "limit": most})


def part_of_queue(places: int, taken: int) -> int:
    """Return how many of the queue's ``places`` one person may take while others have ``taken``: half of those left,
    and at least one. So there is always room for somebody who comes later, without a share set aside for anybody
    (the dynamic thresholds of shared buffers, Choudhury and Hahne 1998)."""
    return max(1, (places - taken) // 2)


def _at_once(jobs: Sequence[Reservation], further: JobSpec | None = None, *, one_more: bool = True) -> int:
    """How many of ``jobs`` may run together, with one more for ``further``: of an array never more than it says."""
    arrays: dict[str, list[JobSpec]] = {}
    single = 0
    for spec in [*(job.job for job in jobs), *([further] if one_more else [])]:
        if spec is not None and spec.parallel:
            arrays.setdefault(spec.array, []).append(spec)
        else:
            single += 1
    return single + sum(min(len(tasks), tasks[0].parallel) for tasks in arrays.values())


def _requests(queued: Sequence[Reservation], further: JobSpec | None = None, *, one_more: bool = True) -> int:
    """Requests that wait, with one more for ``further``; an array is one request."""
    specs = [*(job.job for job in queued), *([further] if one_more else [])]
    arrays = {spec.array for spec in specs if spec is not None and spec.array}
    return len(arrays) + sum(1 for spec in specs if spec is None or not spec.array)


def _check_share(asking: Asking) -> None:
    shapes = asking.limits.values["shapes"]
    if asking.request.shape not in shapes:
        allowed = ", ".join(shape.value for shape in shapes) or "none"
        raise _not_allowed(asking, f"shape {asking.request.shape.value}", f"the shapes you may have are: {allowed}")
    patterns = asking.limits.values["models"]
    model = asking.request.model
    if model and not may_use(patterns, model):
        allowed = ", ".join(patterns) or "none"
        raise _not_allowed(asking, f"model {model}", f"the models you may have are: {allowed}")
    gpus = _least(asking)
    for what, most in (("largest share", asking.limits.largest), ("GPUs at once", asking.limits.gpus)):
        if gpus > most + TINY:
            text = f"counts {gpus_text(round(gpus, 3))}; your limit ({what}) is {amount_text(most)}"
            message = f"{asking.request.describe()} {text}: ask for a smaller share"
            raise PublicError("share-too-large", message, 403, {"gpus": gpus, "limit": most})
    account = asking.policy.account(asking.limits.account)
    if gpus > account.gpus + TINY:
        message = (
            f"{asking.request.describe()} counts {gpus_text(round(gpus, 3))}; all of the group "
            f"{asking.limits.account} may hold {amount_text(account.gpus)} together: ask for a smaller share"
        )
        raise PublicError("share-too-large", message, 403, {"gpus": gpus, "limit": account.gpus})


def _least(asking: Asking) -> float:
    return asking.policy.least_gpus(asking.slots, asking.request, tuple(asking.limits.values["models"]))


def _check_where(asking: Asking) -> None:
    """That some device may take it for so long. That any could take it at all was checked before."""
    if asking.request.shape is Shape.CPU or not asking.slots:
        return
    domain = asking.policy.domain(_waiting(asking, asking.seconds))
    fitting = [slot for slot in asking.slots if need(slot, asking.request) is not None]
    if any(domain.has(slot.key) for slot in fitting):
        return
    pools = {pool.name: pool for slot in fitting for pool in asking.policy.rules_of(slot.key)}
    why = [text for pool in pools.values() if (text := pool.refusal(asking.kind, asking.limits.groups, asking.seconds))]
    rule = "; ".join(why) or f"the models you may have are: {', '.join(asking.limits.values['models']) or 'none'}"
    raise _not_allowed(asking, f"{asking.request.describe()} for {duration_text(asking.seconds)}", rule)


def _waiting(asking: Asking, seconds: float) -> Waiting:
    return Waiting("", asking.owner, asking.request, seconds + asking.policy.grace_s, 0.0, asking.kind)


def _check_budgets(asking: Asking) -> None:
    rate = _least(asking) * asking.weight
    cost = rate * asking.seconds / 3600.0
    for purse in asking.purses:
        if asking.kind not in purse.budget.kinds or purse.budget.beyond != "refuse" or not rate:
            continue
        taken = asking.spoken_for(purse)
        left = max(0.0, purse.left - taken)
        if purse.empty or cost > left + TINY:
            longest = int(left * 3600.0 / rate)
            instead = f"ask for at most {duration_text(longest)}" if longest >= 60 else "wait until then"
            message = (
                f"this needs up to {amount_text(round(cost, 2))} GPU-hours and {left_text(purse, taken)}: {instead}, "
                "or ask for a smaller share"
            )
            details: dict[str, object] = {"needed": cost, "left": left, "longest_s": longest}
            details["refills_at"] = rfc3339(purse.refills_at)
            raise PublicError("budget", message, 403, details)


def left_text(purse: Purse, spoken_for: float) -> str:
    """What is left of ``purse`` beside what is ``spoken_for`` (weighted GPU-hours), in words."""
    left = amount_text(round(max(0.0, purse.left - spoken_for), 2))
    more = amount_text(round(spoken_for, 2))
    besides = f", and {more} more are set aside for what runs and waits" if spoken_for > 0.005 else ""
    return f"{left} are left ({purse.describe()}{besides})"


def _not_allowed(asking: Asking, what: str, rule: str) -> PublicError:
    return PublicError("not-allowed", f"{what} is not open to you: {rule}", 403, {"share": asking.request.as_options()})


# --- extensions


def check_extension(
    limits: Effective,
    reservation: Reservation,
    seconds: int,
    purses: Iterable[Purse],
    spoken_for: Callable[[Purse], float],
) -> None:
    """Raises PublicError when ``reservation`` may not go on for ``seconds`` more. ``spoken_for``: weighted GPU-hours
    that what runs, this one too, and what waits will still take from a budget."""
    longest = longest_extension(limits, reservation)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        raise invalid("seconds", seconds, f"must be from 1 to {longest}")
    if seconds > longest:
        rule = (
            f"one extension adds at most {duration_text(limits.values['extension.longest'])}, a session lasts at most "
            f"{duration_text(limits.values['extension.total'])}"
        )
        times = limits.values["extension.times"]
        if times != UNLIMITED:
            rule += f", and may be extended {amount_text(times)} times (this one was {reservation.extensions} times)"
        message = f"seconds is {seconds}: {rule}; this one may be extended by {longest} s"
        raise PublicError("extension-limit", message, 409, {"seconds": seconds, "longest_s": longest})
    for purse in purses:
        cost = reservation.rate * seconds / 3600.0
        if reservation.kind not in purse.budget.kinds or purse.budget.beyond != "refuse" or not cost:
            continue
        taken = spoken_for(purse)
        if cost > purse.left - taken + TINY:
            needed = f"{duration_text(seconds)} more need {amount_text(round(cost, 2))} GPU-hours"
            left = max(0.0, purse.left - taken)
            raise PublicError("budget", f"{needed} and {left_text(purse, taken)}", 403, {"needed": cost, "left": left})


def longest_extension(limits: Effective, reservation: Reservation) -> int:
    """Seconds by which the limits alone would let this session go on."""
    if reservation.extensions >= limits.values["extension.times"]:
        return 0
    left = int(limits.values["extension.total"]) - reservation.time_limit_s
    return max(0, min(int(limits.values["extension.longest"]), left))
