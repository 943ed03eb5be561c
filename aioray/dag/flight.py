"""Which passes of a compiled graph are under way, and whether one more may begin. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import field

from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable


class Flight(Record):
    """Passes by number, in the order in which they began; of each, the outputs that have not come."""

    limit: int
    missing: dict[int, set[int]] = field(default_factory=dict)

    def has_room(self) -> bool:
        """Whether a pass may begin."""
        return len(self.missing) < self.limit

    def begin(self, seq: int, outputs: Iterable[int]) -> None:
        """A pass begins; there is room, and its number is higher than those before."""
        self.missing[seq] = set(outputs)

    def arrived(self, seq: int, output: int) -> bool:
        """An output has come; whether that was the last of its pass. Raises ValueError for one not under way."""
        left = self.missing.get(seq)
        if left is None or output not in left:
            raise ValueError(f"output {output} of pass {seq} was not expected")
        left.discard(output)
        if left:
            return False
        del self.missing[seq]
        return True

    def withdraw(self, seq: int) -> None:
        """A pass that was never sent ends."""
        self.missing.pop(seq, None)


def check(flight: Flight) -> None:
    """Assert what holds between any two events."""
    assert len(flight.missing) <= flight.limit, f"more passes than may be: {flight}"
    assert all(flight.missing.values()), f"a pass is through and still counts: {flight}"
    assert list(flight.missing) == sorted(flight.missing), f"passes out of order: {flight}"
