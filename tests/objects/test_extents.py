"""Extents against a plain set of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from aioray_node.objects.extents import Extents


def test_what_is_carved_out_of_the_middle_leaves_both_ends() -> None:
    extents = Extents()
    extents.add(0, 100)
    assert extents.carve(40, 20) == [(40, 20)]
    assert list(extents) == [(0, 40), (60, 40)]
    assert extents.nbytes == 80


def test_what_is_not_in_the_set_is_not_carved() -> None:
    extents = Extents()
    extents.add(100, 50)
    assert extents.carve(0, 100) == []
    assert extents.carve(150, 10) == []
    assert extents.carve(90, 20) == [(100, 10)]
    assert list(extents) == [(110, 40)]


def test_one_carve_may_take_from_several() -> None:
    extents = Extents()
    extents.add(0, 10)
    extents.add(10, 10)
    extents.add(30, 10)
    assert extents.carve(5, 30) == [(5, 5), (10, 10), (30, 5)]
    assert list(extents) == [(0, 5), (35, 5)]


@given(
    st.sets(st.integers(0, 19)),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60))),
)
def test_extents_behave_as_a_set_of_bytes(blocks: set[int], carves: list[tuple[int, int]]) -> None:
    extents = Extents()
    model: set[int] = set()
    for block in blocks:
        extents.add(block * 10, 10)
        model |= set(range(block * 10, block * 10 + 10))
    for offset, nbytes in carves:
        wanted = set(range(offset, offset + nbytes)) & model
        taken = [byte for start, length in extents.carve(offset, nbytes) for byte in range(start, start + length)]
        assert len(taken) == len(set(taken))
        assert set(taken) == wanted
        model -= wanted
        assert {byte for start, length in extents for byte in range(start, start + length)} == model
        assert extents.nbytes == len(model)
