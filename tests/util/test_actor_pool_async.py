"""ActorPool in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util import ActorPool
from tests.util.classes import Doubler, Gate

if TYPE_CHECKING:
    from aioray import Cluster


def double(actor: Any, number: int) -> Any:
    return actor.double.remote(number)


async def test_in_an_event_loop_results_are_read_with_async_for(cluster: Cluster) -> None:
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    assert [result async for result in pool.map(double, range(5))] == [0, 2, 4, 6, 8]
    assert sorted([result async for result in pool.map_unordered(double, range(5))]) == [0, 2, 4, 6, 8]
    with pytest.raises(StopAsyncIteration):
        await pool.get_next_async()


async def test_several_tasks_may_share_a_pool(cluster: Cluster) -> None:
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    for number in range(4):
        pool.submit(double, number)
    results = await asyncio.gather(*(pool.get_next_unordered_async() for _ in range(4)))
    assert sorted(results) == [0, 2, 4, 6]


async def test_giving_up_an_await_drops_no_result(cluster: Cluster) -> None:
    gate = Gate.remote()
    pool = ActorPool([Doubler.remote()])
    pool.submit(lambda actor, number: actor.double_later.remote(gate, number), 3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.get_next_async()
    await gate.open.remote(3)
    assert await pool.get_next_async() == 6


async def test_what_would_block_the_loop_is_refused_with_what_to_write_instead(cluster: Cluster) -> None:
    pool = ActorPool([Doubler.remote()])
    results = pool.map(double, [1])
    with pytest.raises(BlockingCallError, match=r"await pool\.get_next_async\(\)"):
        pool.get_next()
    with pytest.raises(BlockingCallError, match=r"await pool\.get_next_unordered_async\(\)"):
        pool.get_next_unordered()
    with pytest.raises(BlockingCallError, match=r"async for result in pool\.map\("):
        list(results)
    assert [result async for result in results] == [2]
