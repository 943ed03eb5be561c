import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioray.runtime.arena import ALIGNMENT, Arena

KIB = 1024


def alloc(arena: Arena, nbytes: int) -> int:
    offset = arena.alloc(nbytes)
    arena.check()
    assert offset is not None
    return offset


def free(arena: Arena, offset: int, nbytes: int) -> None:
    arena.free(offset, nbytes)
    arena.check()


def test_blocks_are_aligned_and_follow_each_other() -> None:
    arena = Arena(KIB)
    assert [alloc(arena, nbytes) for nbytes in (1, 64, 65, 0)] == [0, 64, 128, 256]
    assert arena.used == arena.warm_nbytes == 320


def test_a_full_arena_says_none_and_stays_as_it_was() -> None:
    arena = Arena(128)
    alloc(arena, 128)
    assert arena.alloc(1) is None
    assert (arena.used, arena.largest_free) == (128, 0)


def test_a_capacity_that_is_no_multiple_of_a_line_is_rounded_down() -> None:
    arena = Arena(100)
    assert arena.largest_free == 64
    assert arena.alloc(65) is None


def test_warm_memory_is_used_again_before_fresh_memory() -> None:
    """
    1. a is freed; b, smaller, goes where a was, though most of the arena is fresh
    2. c is too big for what a left: only now the mark moves
    """
    arena = Arena(64 * KIB)
    a = alloc(arena, 4 * KIB)
    alloc(arena, 64)
    free(arena, a, 4 * KIB)
    assert alloc(arena, KIB) == a
    assert arena.warm_nbytes == 4 * KIB + 64
    assert alloc(arena, 4 * KIB) == 4 * KIB + 64


def test_the_smallest_hole_that_fits_is_taken_and_the_lowest_of_equals() -> None:
    arena = Arena(64 * KIB)
    sizes = [512, 64, 256, 64, 256, 64]
    offsets = [alloc(arena, nbytes) for nbytes in sizes]
    for at in (4, 2, 0):
        free(arena, offsets[at], sizes[at])
    assert alloc(arena, 200) == offsets[2]
    assert alloc(arena, 200) == offsets[4]
    assert alloc(arena, 200) == offsets[0]


def test_neighbours_become_one_extent_whatever_the_order() -> None:
    arena = Arena(KIB)
    offsets = [alloc(arena, 256) for _ in range(4)]
    for at in (0, 2, 1, 3):
        free(arena, offsets[at], 256)
    assert arena.largest_free == KIB
    assert alloc(arena, KIB) == 0


def test_parts_of_a_block_can_be_freed_and_used_on_their_own() -> None:
    """A process fills a chunk by itself; its objects die one by one."""
    arena = Arena(KIB)
    chunk = alloc(arena, KIB)
    free(arena, chunk + 256, 100)  # takes up two lines
    assert (arena.used, arena.largest_free) == (KIB - 128, 128)
    assert alloc(arena, 128) == chunk + 256
    free(arena, chunk, 512)
    free(arena, chunk + 512, 512)
    assert arena.used == 0


def test_a_block_may_lie_half_in_warm_and_half_in_fresh_memory() -> None:
    arena = Arena(KIB)
    free(arena, alloc(arena, 512), 512)
    assert arena.largest_free == KIB
    assert alloc(arena, KIB) == 0
    assert arena.warm_nbytes == KIB


def test_freeing_what_is_free_is_refused_with_nothing_changed() -> None:
    arena = Arena(KIB)
    a = alloc(arena, 256)
    alloc(arena, 256)
    free(arena, a, 256)
    for offset, nbytes in ((a, 256), (a + 64, 64), (a, 512), (448, 128), (512, 64), (KIB, 64)):
        with pytest.raises(ValueError, match="free already"):
            arena.free(offset, nbytes)
    for offset, nbytes in ((300, 64), (-64, 64), (256, -1)):
        with pytest.raises(ValueError, match="is not a range of whole 64-byte lines"):
            arena.free(offset, nbytes)
    arena.check()
    assert arena.used == 256


class Model(RuleBasedStateMachine):
    """The arena against one flag a line: never a line used twice, never one lost, `largest_free` exact."""

    @initialize(lines=st.integers(0, 40))
    def start(self, lines: int) -> None:
        self.arena = Arena(lines * ALIGNMENT)
        self.taken = [False] * lines

    def longest_run(self, upto: int | None = None) -> int:
        """The longest free stretch of [0, upto), in bytes."""
        longest = run = 0
        for taken in self.taken if upto is None else self.taken[: upto // ALIGNMENT]:
            run = 0 if taken else run + 1
            longest = max(longest, run)
        return longest * ALIGNMENT

    @rule(nbytes=st.integers(0, 12 * ALIGNMENT))
    def alloc(self, nbytes: int) -> None:
        largest, warm = self.arena.largest_free, self.arena.warm_nbytes
        largest_warm = self.longest_run(upto=warm)
        offset = self.arena.alloc(nbytes)
        assert (offset is not None) == (max(nbytes, 1) <= largest)
        if offset is None:
            return
        lines = range(offset // ALIGNMENT, offset // ALIGNMENT + max(1, -(-nbytes // ALIGNMENT)))
        assert offset % ALIGNMENT == 0
        assert not any(self.taken[line] for line in lines)
        assert (self.arena.warm_nbytes > warm) == (len(lines) * ALIGNMENT > largest_warm)  # fresh memory comes last
        for line in lines:
            self.taken[line] = True

    @precondition(lambda self: any(self.taken))
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from([line for line, taken in enumerate(self.taken) if taken]))
        reach = next((n for n, taken in enumerate(self.taken[first:]) if not taken), len(self.taken) - first)
        lines = data.draw(st.integers(1, reach))
        self.arena.free(first * ALIGNMENT, lines * ALIGNMENT - data.draw(st.integers(0, ALIGNMENT - 1)))
        self.taken[first : first + lines] = [False] * lines

    @rule(first=st.integers(0, 40), lines=st.integers(1, 40))
    def free_what_is_not_taken(self, first: int, lines: int) -> None:
        if first + lines > len(self.taken) or not all(self.taken[first : first + lines]):
            with pytest.raises(ValueError, match="free already"):
                self.arena.free(first * ALIGNMENT, lines * ALIGNMENT)

    @invariant()
    def arena_is_sound(self) -> None:
        self.arena.check()
        assert self.arena.used == sum(self.taken) * ALIGNMENT
        assert self.arena.largest_free == self.longest_run()
        assert not any(self.taken[self.arena.warm_nbytes // ALIGNMENT :])


TestModel = Model.TestCase
