"""util.iter in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util import iter as parallel
from tests.util.classes import Gate

if TYPE_CHECKING:
    from aioray import Cluster


def double(x: int) -> int:
    return 2 * x


async def test_where_an_event_loop_runs_a_cluster_one_awaits(cluster: Cluster) -> None:
    numbers = parallel.from_range(8).for_each(double)
    assert [x async for x in numbers.gather_sync()] == [0, 8, 2, 10, 4, 12, 6, 14]
    assert sorted([x async for x in numbers.gather_async(num_async=2).filter(lambda x: x > 8)]) == [10, 12, 14]
    assert await numbers.take_async(3) == [0, 8, 2]
    reader = numbers.get_shard(0)
    assert await anext(reader) == 0
    with pytest.raises(BlockingCallError, match="async for"):
        next(reader)
    with pytest.raises(BlockingCallError, match="take_async"):
        numbers.take(2)


async def test_giving_up_an_await_loses_no_item(cluster: Cluster) -> None:
    gate = Gate.remote()

    def wait(x: int) -> int:
        import aioray

        aioray.get(gate.passed.remote(x))
        return x

    reader = parallel.from_range(2, 1).for_each(wait).gather_sync()
    waiting = asyncio.create_task(reader.take_async(1))
    await gate.here.remote(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gate.open.remote(0, 1)
    assert await reader.take_async(3) == [0, 1]
