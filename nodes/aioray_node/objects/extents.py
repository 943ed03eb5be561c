"""Which stretches of shared memory were handed to which process. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Extents:
    """A set of byte ranges that do not overlap. What is added does not touch what is there twice."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, as (offset, nbytes)."""
        return ((start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    @property
    def nbytes(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def add(self, offset: int, nbytes: int) -> None:
        """Add [offset, offset + nbytes)."""
        at = bisect_right(self._starts, offset)
        self._starts.insert(at, offset)
        self._ends.insert(at, offset + nbytes)

    def carve(self, offset: int, nbytes: int) -> list[tuple[int, int]]:
        """Remove what of [offset, offset + nbytes) is in the set; return it as (offset, nbytes) pairs."""
        start, end = offset, offset + nbytes
        taken = []
        at = max(0, bisect_right(self._starts, start) - 1)
        while at < len(self._starts) and self._starts[at] < end:
            low, high = max(start, self._starts[at]), min(end, self._ends[at])
            if low >= high:
                at += 1
                continue
            taken.append((low, high - low))
            was_start, was_end = self._starts[at], self._ends[at]
            left = [(was_start, low)] if was_start < low else []
            right = [(high, was_end)] if high < was_end else []
            self._starts[at : at + 1] = [part[0] for part in left + right]
            self._ends[at : at + 1] = [part[1] for part in left + right]
            at += len(left) + len(right)
        return taken
