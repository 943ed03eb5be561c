"""Pool in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util.multiprocessing import Pool
from tests.util.classes import Gate, pass_the_gate, power, square

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray import Cluster


async def test_results_are_awaited(cluster: Cluster) -> None:
    async with Pool(2) as pool:
        assert await pool.apply_async(power, (2, 5)) == 32
        assert await pool.map_async(square, range(5)) == [0, 1, 4, 9, 16]
        assert await asyncio.gather(*(pool.apply_async(square, (n,)) for n in range(5))) == [0, 1, 4, 9, 16]
        assert [result async for result in pool.imap(square, range(20))] == [n * n for n in range(20)]
        assert sorted([result async for result in pool.imap_unordered(square, range(9), 2)]) == [
            n * n for n in range(9)
        ]
        with pytest.raises(ValueError, match="-1 is negative"):
            await pool.apply_async(square, (-1,))


async def test_close_and_join_are_awaited(cluster: Cluster) -> None:
    pool = Pool(1)
    result = pool.map_async(square, range(10))
    pool.close()
    await pool.join_async()
    assert result.ready()


async def test_giving_up_an_await_stops_nothing(cluster: Cluster) -> None:
    gate = Gate.remote()
    async with Pool(1) as pool:
        result = pool.apply_async(pass_the_gate, (gate, 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await result
        await gate.open.remote(1)
        assert await result == 1


async def test_what_would_block_the_loop_is_refused_with_what_to_write_instead(cluster: Cluster) -> None:
    async with Pool(1) as pool:
        result = pool.apply_async(square, (1,))
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: pool.apply(square, (1,)), "await pool.apply_async(func, args)"),
            (lambda: pool.map(square, [1]), "await pool.map_async(func, values)"),
            (lambda: pool.starmap(square, [(1,)]), "await pool.starmap_async(func, values)"),
            (lambda: list(pool.imap(square, [1])), "async for result in pool.imap(...)"),
            (result.get, "await result"),
            (result.wait, "await result"),
            (pool.join, "await pool.join_async()"),
        ]
        for call, instead in calls:
            with pytest.raises(BlockingCallError) as raised:
                call()
            assert raised.value.instead == instead
