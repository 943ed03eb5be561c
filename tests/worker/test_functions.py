"""Which functions a worker keeps: those that were called last, and all others can be had again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray_node.worker.functions import FunctionCache

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORTS = {str(number): bytes([number]) for number in range(8)}


def loader(loaded: list[bytes]) -> Callable[[bytes], bytes]:
    def load(data: bytes) -> bytes:
        loaded.append(data)
        return data

    return load


def test_the_function_that_was_not_called_for_longest_is_let_go_and_made_again_when_it_is_called() -> None:
    """
    1. there is room for two: 0 and 1 are unpickled, and called again without that
    2. 2 comes: 1 goes, since 0 was called after it
    3. 1 is called: it is unpickled from what its caller has exported, and 0 goes
    """
    loaded: list[bytes] = []
    cache = FunctionCache(2)
    for fn_id in "0110":
        assert cache.get(fn_id, EXPORTS, loader(loaded)) == EXPORTS[fn_id]
    assert loaded == [b"\0", b"\1"]
    cache.get("2", EXPORTS, loader(loaded))
    cache.get("0", EXPORTS, loader(loaded))
    assert loaded == [b"\0", b"\1", b"\2"]
    assert cache.get("1", EXPORTS, loader(loaded)) == b"\1"
    assert loaded[3:] == [b"\1"]
    cache.get("2", EXPORTS, loader(loaded))
    assert loaded[4:] == [b"\2"]


def test_what_cannot_be_unpickled_is_tried_anew_and_takes_no_room() -> None:
    def fail(data: bytes) -> bytes:
        raise ImportError("no such module, yet")

    cache = FunctionCache(1)
    cache.get("0", EXPORTS, loader([]))
    with pytest.raises(ImportError):
        cache.get("1", EXPORTS, fail)
    assert len(cache) == 1
    assert cache.get("0", EXPORTS, fail) == b"\0"
    assert cache.get("1", EXPORTS, loader([])) == b"\1"


@given(st.integers(1, 5), st.lists(st.sampled_from(sorted(EXPORTS))))
def test_whatever_is_called_is_what_was_exported_and_the_last_ones_are_not_unpickled_again(
    limit: int, calls: list[str]
) -> None:
    loaded: list[bytes] = []
    cache = FunctionCache(limit)
    latest: list[str] = []  # the newest last
    for fn_id in calls:
        before = len(loaded)
        assert cache.get(fn_id, EXPORTS, loader(loaded)) == EXPORTS[fn_id]
        assert (len(loaded) == before) == (fn_id in latest[-limit:])
        latest = [each for each in latest if each != fn_id] + [fn_id]
        assert len(cache) <= limit
