"""Pieces of a package on their way, a few at a time. Pure."""

from __future__ import annotations

from aioray.record import Record
from aioray.wire.state import PACKAGE_PIECE_NBYTES

_MOST = 4  # at a time: other words on the same line wait for no more than these


class Window(Record):
    pieces: int
    begun: int = 0
    done: int = 0

    def next(self) -> range:
        """The pieces to begin with now; each is begun once."""
        first = self.begun
        self.begun = min(self.pieces, self.done + _MOST)
        return range(first, self.begun)

    @property
    def is_over(self) -> bool:
        return self.done == self.pieces


def pieces_of(nbytes: int) -> int:
    """In how many pieces so many bytes go."""
    return -(-nbytes // PACKAGE_PIECE_NBYTES)
