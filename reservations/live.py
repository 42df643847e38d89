"""Everything that has not ended, kept by what is asked of it all the time: who holds devices, who does not, whose it
is. So a request costs what its owner has, not what all others have in the queue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from .reservation import Reservation


class Live(Mapping[str, Reservation]):
    """Reservations by id."""

    def __init__(self, reservations: Iterable[Reservation] = ()) -> None:
        self._all: dict[str, Reservation] = {}
        self._holding: dict[str, Reservation] = {}
        self._owners: dict[str, dict[str, Reservation]] = {}
        self._in_order: tuple[Sequence[Reservation], Sequence[Reservation]] | None = None
        self.waiting = 0
        """How many wait."""
        for reservation in reservations:
            self.put(reservation)

    def __getitem__(self, reservation_id: str) -> Reservation:
        return self._all[reservation_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def of(self, owner: str) -> Collection[Reservation]:
        """Return what is ``owner``'s."""
        return self._owners.get(owner, {}).values()

    @property
    def owners(self) -> Collection[str]:
        """Everybody who has one."""
        return self._owners.keys()

    @property
    def holding(self) -> Sequence[Reservation]:
        """Those that hold devices, in the order in which they were asked for."""
        return self._ordered()[0]

    @property
    def others(self) -> Sequence[Reservation]:
        """The rest, in the same order: nearly all of them wait."""
        return self._ordered()[1]

    def _ordered(self) -> tuple[Sequence[Reservation], Sequence[Reservation]]:
        if self._in_order is None:
            by_place = attrgetter("seq")
            others = (r for name, r in self._all.items() if name not in self._holding)
            self._in_order = sorted(self._holding.values(), key=by_place), sorted(others, key=by_place)
        return self._in_order

    def put(self, reservation: Reservation) -> None:
        """Add ``reservation``, or take it as it is now."""
        before = self._all.get(reservation.id)
        self.waiting += reservation.waits - (before is not None and before.waits)
        self._all[reservation.id] = reservation
        self._owners.setdefault(reservation.owner, {})[reservation.id] = reservation
        if reservation.holds:
            self._holding[reservation.id] = reservation
        else:
            self._holding.pop(reservation.id, None)
        self._in_order = None

    def drop(self, reservation_id: str) -> None:
        """Forget what has ended; nothing if it is not there."""
        before = self._all.pop(reservation_id, None)
        if before is None:
            return
        self.waiting -= before.waits
        self._holding.pop(reservation_id, None)
        mine = self._owners[before.owner]
        del mine[reservation_id]
        if not mine:
            del self._owners[before.owner]
        self._in_order = None

    def with_changes(self, reservations: Collection[Reservation]) -> Live:
        """Return a copy with ``reservations`` in it, or as they are now."""
        if not reservations:
            return self
        other = Live()
        other._all, other._holding, other.waiting = dict(self._all), dict(self._holding), self.waiting
        changing = {reservation.owner for reservation in reservations}
        other._owners = {owner: dict(of) if owner in changing else of for owner, of in self._owners.items()}
        for reservation in reservations:
            other.put(reservation)
        return other
