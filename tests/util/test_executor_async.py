"""Executor in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util import Executor
from tests.util.classes import Gate, interrupted_at_the_gate, pass_the_gate, square

if TYPE_CHECKING:
    from aioray import Cluster


async def test_run_in_executor_runs_on_the_cluster(cluster: Cluster) -> None:
    loop = asyncio.get_running_loop()
    async with Executor() as executor:
        assert await asyncio.gather(*(loop.run_in_executor(executor, square, n) for n in range(5))) == [0, 1, 4, 9, 16]
        assert await asyncio.wrap_future(executor.submit(square, 3)) == 9
        with pytest.raises(ValueError, match="-1 is negative"):
            await loop.run_in_executor(executor, square, -1)


async def test_a_cancelled_await_cancels_the_call(cluster: Cluster) -> None:
    gate = Gate.remote()
    async with Executor() as executor:
        waiting = asyncio.get_running_loop().run_in_executor(executor, interrupted_at_the_gate, gate)
        await gate.here.remote(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(10):
            assert await gate.passed.remote("stopped") == "stopped"


async def test_what_would_block_the_loop_is_refused_with_what_to_write_instead(cluster: Cluster) -> None:
    gate = Gate.remote()
    executor = Executor()
    future = executor.submit(pass_the_gate, gate, 1)
    with pytest.raises(BlockingCallError, match=r"await asyncio\.wrap_future\(future\)"):
        future.result()
    with pytest.raises(BlockingCallError, match=r"await asyncio\.gather"):
        next(executor.map(square, [1]))
    with pytest.raises(BlockingCallError, match=r"await executor\.shutdown_async\(\)"):
        executor.shutdown()
    await gate.open.remote(1)
    assert await asyncio.wrap_future(future) == 1
    assert future.result() == 1  # it is there: nothing to wait for
    await executor.shutdown_async()
