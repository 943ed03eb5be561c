"""as_completed and map_unordered in an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util import as_completed, map_unordered
from tests.util.classes import Gate, double_task, pass_gate

if TYPE_CHECKING:
    from aioray import Cluster


async def test_values_come_in_the_order_in_which_they_are_done(cluster: Cluster) -> None:
    gate = Gate.remote()
    refs = [pass_gate.remote(gate, name) for name in "abc"]
    order = iter("bca")
    await gate.open.remote(next(order))
    seen = []
    async for name in as_completed(refs, chunk_size=1):
        seen.append(name)
        for following in order:
            await gate.open.remote(following)
            break
    assert seen == ["b", "c", "a"]


async def test_everything_comes_whatever_the_size_of_the_chunks(cluster: Cluster) -> None:
    for chunk_size in (1, 3, 10):
        refs = [double_task.remote(number) for number in range(7)]
        assert sorted([value async for value in as_completed(refs, chunk_size=chunk_size)]) == [0, 2, 4, 6, 8, 10, 12]
        values = [value async for value in map_unordered(double_task, range(7), chunk_size=chunk_size)]
        assert sorted(values) == [0, 2, 4, 6, 8, 10, 12]


async def test_what_would_block_the_loop_is_refused_with_what_to_write_instead(cluster: Cluster) -> None:
    with pytest.raises(BlockingCallError, match=r"async for value in util\.as_completed"):
        list(as_completed([double_task.remote(1)]))
    with pytest.raises(BlockingCallError, match=r"async for value in util\.map_unordered"):
        list(map_unordered(double_task, [1]))
