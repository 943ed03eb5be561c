"""Where objects lie in a node's shared memory: offsets and lengths, no memory.

Memory that was touched before is ten times faster to fill than fresh memory. So the arena knows how far it was ever
used (`warm_nbytes`), looks for the best fit below that mark first, and moves the mark only when nothing there fits.
What lies above the mark is one free stretch and needs no bookkeeping.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

ALIGNMENT = 64  # one cache line: two blocks never share one


class Arena:
    """Allocator of [0, capacity). Lengths are rounded up to 64 bytes, in `alloc` and in `free` alike."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"capacity={capacity} must not be negative")
        self.capacity = capacity // ALIGNMENT * ALIGNMENT
        self.warm_nbytes = 0  # [0, warm_nbytes) was handed out or touched at least once
        self.used = 0
        self._starts: list[int] = []  # of the free extents below the mark, sorted; no two of them touch
        self._sizes: dict[int, int] = {}  # start -> nbytes
        self._by_size: list[tuple[int, int]] = []  # (nbytes, start), sorted

    @classmethod
    def without_memory(cls, capacity: int) -> Arena:
        """An arena in which nothing is free until it is given with `free`: a process's share of its node's."""
        arena = cls(capacity)
        arena.warm_nbytes = arena.used = arena.capacity
        return arena

    def take_above(self, keep_nbytes: int) -> list[tuple[int, int]]:
        """Take free extents out, largest first, until at most `keep_nbytes` are free; they are (offset, nbytes)."""
        taken = []
        while self._by_size and self.warm_nbytes - self.used > keep_nbytes:
            size, start = self._by_size[-1]
            self._remove(start)
            self.used += size
            taken.append((start, size))
        return taken

    def __repr__(self) -> str:
        holes = len(self._starts)
        return f"<Arena used={self.used} of {self.capacity}, warm={self.warm_nbytes}, {holes} holes>"

    @property
    def largest_free(self) -> int:
        """The largest `nbytes` for which `alloc` succeeds now; 0 when there is none."""
        largest_hole = self._by_size[-1][0] if self._by_size else 0
        return max(largest_hole, self.capacity - self._tail_start())

    def alloc(self, nbytes: int) -> int | None:
        """The offset of a free extent of at least `nbytes` (0 takes 64 bytes too), now used; None when none is left."""
        if nbytes < 0:
            raise ValueError(f"nbytes={nbytes} must not be negative")
        nbytes = _aligned(nbytes) or ALIGNMENT
        at = bisect_left(self._by_size, (nbytes, 0))
        if at < len(self._by_size):
            size, offset = self._by_size[at]
            self._remove(offset)
            if size > nbytes:
                self._add(offset + nbytes, size - nbytes)
        else:
            offset = self._tail_start()
            if offset + nbytes > self.capacity:
                return None
            if offset < self.warm_nbytes:
                self._remove(offset)
            self.warm_nbytes = offset + nbytes
        self.used += nbytes
        return offset

    def free(self, offset: int, nbytes: int) -> None:
        """Give back [offset, offset + nbytes): one allocation, or any part of one or of several that touch.

        Raises ValueError, with nothing changed, when some of that is free already or `offset` is not aligned.
        """
        if offset < 0 or offset % ALIGNMENT or nbytes < 0:
            raise ValueError(f"[{offset}, +{nbytes}) is not a range of whole {ALIGNMENT}-byte lines")
        nbytes = _aligned(nbytes) or ALIGNMENT
        start, end = offset, offset + nbytes
        at = bisect_right(self._starts, start)
        before = self._starts[at - 1] if at else None
        after = self._starts[at] if at < len(self._starts) else None
        before_end = 0 if before is None else before + self._sizes[before]
        if before_end > start or (after is not None and after < end) or end > self.warm_nbytes:
            raise ValueError(f"[{offset}, +{nbytes}) is free already, all or in part: {self!r}")
        self.used -= nbytes
        if after == end:
            end += self._sizes[after]
            self._remove(after)
        if before is not None and before_end == start:
            self._remove(before)
            start = before
        self._add(start, end - start)

    def check(self) -> None:
        """Assert what holds between any two calls. Looks at everything: for tests and debugging."""
        assert self._starts == sorted(self._sizes), f"starts and sizes disagree: {self!r}"
        assert self._by_size == sorted((size, start) for start, size in self._sizes.items()), f"by size: {self!r}"
        end = -1
        for start in self._starts:
            assert start > end, f"free extents overlap or touch at {start}: {self!r}"
            size = self._sizes[start]
            assert size > 0, f"an empty free extent at {start}: {self!r}"
            assert start % ALIGNMENT == size % ALIGNMENT == 0, f"a crooked free extent at {start}: {self!r}"
            end = start + size
        assert end <= self.warm_nbytes <= self.capacity, f"beyond the mark: {self!r}"
        assert self.used == self.warm_nbytes - sum(self._sizes.values()), f"bytes leaked: {self!r}"

    def _tail_start(self) -> int:
        """Where the free stretch begins that reaches to the end of the arena, warm part included."""
        if self._starts:
            last = self._starts[-1]
            if last + self._sizes[last] == self.warm_nbytes:
                return last
        return self.warm_nbytes

    def _add(self, start: int, size: int) -> None:
        # Sorted lists, not trees: moving some thousand pointers is faster than walking a tree in Python.
        insort(self._starts, start)
        insort(self._by_size, (size, start))
        self._sizes[start] = size

    def _remove(self, start: int) -> None:
        size = self._sizes.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        del self._by_size[bisect_left(self._by_size, (size, start))]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
