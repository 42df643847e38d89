"""Requests that come in: checked one by one, decided and written together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .admission import Desk, accept
from .errors import PublicError
from .ledger import Change, Ledger
from .placement import Slot
from .reservation import Reservation, State
from .shares import ShareRequest
from .submission import Answer, Submission, check_kind, check_same_wish, check_server_free, no_capacity, one_per_owner
from .usage import Charges
from .world import Decided, World

if TYPE_CHECKING:
    from .pool import Pool


class Intake:
    """Of ``pool``. Disks are slow, queues are not: what comes at the same time shares a decision and a commit."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._pool, self._ledger = pool, ledger
        self._seq = ledger.last_seq()

    def refusal(self, wish: Submission) -> PublicError | None:
        """Why the limits would refuse ``wish`` now; None when they would not."""
        try:
            accept(self._desk(wish.owner, wish.request, self._pool.world(), self._seq), wish)
        except PublicError as error:
            return error
        return None

    def submit_many(self, wishes: Sequence[Submission]) -> list[Answer]:
        """The reservation for each of ``wishes``, in their order, and whether it is new; or why it may not be."""
        return [answer for group in one_per_owner(wishes) for answer in self._submit_group(group)]

    def _submit_group(self, wishes: Sequence[Submission]) -> list[Answer]:
        """``wishes`` of different owners, so none of them bears on what another may ask for."""
        answers: list[Answer | Reservation] = []
        made: list[Reservation] = []
        for wish in wishes:
            try:
                known = self._by_client_key(wish)
                if known is not None:
                    answers.append((known, False))
                    continue
                made.append(self._accepted(wish, made))
                answers.append(made[-1])
            except PublicError as error:
                answers.append(error)
        impatient = {
            r.id for r, wish in zip(answers, wishes, strict=True) if isinstance(r, Reservation) and not wish.queue
        }
        decided, refused = self._decide_new(made, impatient)
        if decided:
            self._pool.commit(decided)
            self._seq += len(made)
        written = {change.after.id: change.after for change in decided.changes}
        return [
            (refused.get(answer.id) or (written[answer.id], True)) if isinstance(answer, Reservation) else answer
            for answer in answers
        ]

    def _by_client_key(self, wish: Submission) -> Reservation | None:
        """Raises PublicError when the key belongs to something else."""
        known = None if wish.client_key is None else self._ledger.by_client_key(wish.owner, wish.client_key)
        if known is not None:
            check_same_wish(wish, known)
        return known

    def _accepted(self, wish: Submission, before: Sequence[Reservation]) -> Reservation:
        """The new reservation, queued. ``before``: those accepted with it. Raises PublicError when it may not be."""
        check_kind(wish)
        world = self._pool.world().with_changes(before)
        check_server_free(wish, world.live.of(wish.owner))
        return accept(self._desk(wish.owner, wish.request, world, self._seq + len(before)), wish)

    def _seen(self, request: ShareRequest) -> tuple[Slot, ...]:
        """The slots that could take ``request``; none while nobody has seen the devices of its engine."""
        slots = tuple(slot for slot in self._pool.slots if slot.engine == request.engine)
        return slots if request.engine or self._pool.inventory is not None else ()

    def _desk(self, owner: str, request: ShareRequest, world: World, seq: int) -> Desk:
        return Desk(
            standing=self._pool.standing,
            policy=world.policy([owner]),
            slots=self._seen(request),
            live=world.live,
            running=Charges(world.running()),
            seq=seq,
            now=world.now,
            engines=self._pool.engines,
            local=self._pool.local,
            host=self._pool.host,
        )

    def _decide_new(self, made: Sequence[Reservation], impatient: set[str]) -> tuple[Decided, dict[str, PublicError]]:
        """What follows from ``made``; an impatient one that would have to wait is refused, and was never there."""
        refused: dict[str, PublicError] = {}
        while True:
            decided = self._pool.decide([Change(r, None) for r in made if r.id not in refused])
            waiting = (c.after for c in decided.changes if c.after.id in impatient and c.after.state is State.QUEUED)
            stuck = next((after for after in waiting if after.external is None), None)
            if stuck is None:
                return decided, refused
            seconds = stuck.time_limit_s
            (told,) = self._pool.latest_starts([Submission(stuck.owner, stuck.request, seconds, stuck.kind)])
            refused[stuck.id] = no_capacity(stuck, told)
