"""Calls that are like others go by a number: what is agreed on, and what becomes of old numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from aioray.runtime.patterns import Patterns
from aioray.wire.calls import MAX_PATTERNS, Call, Pattern

if TYPE_CHECKING:
    from collections.abc import Sequence


def like(kind: int) -> Call:
    return Call(0, f"f{kind}", b"")


def played(kinds: Sequence[int]) -> list[tuple[int, str | None]]:
    """Send a call of each kind in turn; which kinds the peer takes them for, None where the whole call was sent."""
    told: list[Any] = []
    patterns = Patterns(cast("Any", SimpleNamespace(send=told.append)))
    at_the_peer: dict[int, str] = {}
    arrived: list[tuple[int, str | None]] = []
    names = {kind: str(kind) for kind in set(kinds)}  # as targets are: the same object each time
    for kind in kinds:
        number = patterns.numbers.get(names[kind])
        if number is None:
            number = patterns.agree(names[kind], like, kind)
        for message in told:
            assert isinstance(message, Pattern)
            at_the_peer[message.number] = message.call.fn
        told.clear()
        arrived.append((kind, None if number is None else at_the_peer[number]))
    assert len(at_the_peer) <= MAX_PATTERNS
    return arrived


def test_a_call_is_sent_whole_until_the_like_of_it_comes_again() -> None:
    assert played([1, 1, 1, 2, 1]) == [(1, None), (1, "f1"), (1, "f1"), (2, None), (1, "f1")]


def test_calls_that_are_made_once_each_cost_no_numbers() -> None:
    assert {how for _, how in played(range(3 * MAX_PATTERNS))} == {None}


def test_a_number_that_is_used_again_stands_for_the_newer_kind() -> None:
    twice_each = [kind for kind in range(MAX_PATTERNS + 5) for _ in range(2)]
    assert played([*twice_each, MAX_PATTERNS + 1, 0])[-2:] == [(MAX_PATTERNS + 1, f"f{MAX_PATTERNS + 1}"), (0, None)]


@given(st.lists(st.integers(0, 400), max_size=300), st.integers(1, 4))
def test_the_peer_never_takes_a_call_for_another(kinds: list[int], times: int) -> None:
    for kind, how in played([kind for kind in kinds for _ in range(times)]):
        assert how in (None, f"f{kind}")
