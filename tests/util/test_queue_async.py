"""Queue in an event loop: nothing blocks, and nothing is lost when an await is given up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import ActorDiedError, BlockingCallError
from aioray.util.queue import Empty, Full, Queue
from tests.util.classes import fill

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray import Cluster

SHORT_S = 0.01
PATIENCE_S = 10.0


async def test_items_are_put_and_got_by_awaiting(cluster: Cluster) -> None:
    items = Queue(maxsize=2)
    taken = asyncio.gather(*(items.get_async() for _ in range(5)))
    for number in range(5):
        await items.put_async(number)
    assert await taken == [0, 1, 2, 3, 4]  # who came first is served first
    await items.put_nowait_batch_async([1, 2])
    assert await items.size_async() == 2
    with pytest.raises(Full):
        await items.put_async(3, block=False)
    with pytest.raises(Full):
        await items.put_nowait_batch_async([3])
    with pytest.raises(Full):
        await items.put_async(3, timeout=SHORT_S)
    assert await items.get_nowait_batch_async(2) == [1, 2]
    with pytest.raises(Empty):
        await items.get_async(block=False)
    with pytest.raises(Empty):
        await items.get_async(timeout=SHORT_S)


async def test_a_get_that_is_given_up_while_it_waits_takes_no_item(cluster: Cluster) -> None:
    items = Queue()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await items.get_async()
    await items.put_async("kept")
    assert await items.get_async(timeout=PATIENCE_S) == "kept"


async def test_no_item_is_lost_however_close_the_cancel_comes_to_the_item(cluster: Cluster) -> None:
    """
    1. somebody waits; a task elsewhere puts ten items while, turn by turn, those who wait are cancelled
    2. what was taken and what is left are all ten, each once
    """
    items = Queue()
    taken = []
    for turns in range(40):
        waiting = asyncio.create_task(items.get_async())
        filled = fill.remote(items, [turns])
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            taken.append(await waiting)
        await filled
    left = await items.get_nowait_batch_async(await items.size_async())
    assert sorted(taken + left) == list(range(40))


async def test_a_put_that_is_given_up_while_it_waits_puts_nothing(cluster: Cluster) -> None:
    items = Queue(maxsize=1)
    await items.put_async(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await items.put_async(2)
    assert await items.get_async() == 1
    with pytest.raises(Empty):
        await items.get_async(block=False)


async def test_more_may_wait_than_an_async_actor_runs_calls_by_default(cluster: Cluster) -> None:
    items = Queue()
    waiting = [asyncio.ensure_future(items.get_async()) for _ in range(1100)]
    await items.put_nowait_batch_async(range(1100))
    assert await asyncio.gather(*waiting) == list(range(1100))


async def test_shutdown_can_be_awaited(cluster: Cluster) -> None:
    items = Queue()
    waiting = asyncio.ensure_future(items.get_async())
    await asyncio.sleep(0)
    await items.shutdown_async(grace_period_s=SHORT_S)
    with pytest.raises(ActorDiedError):
        await waiting


async def test_what_would_block_the_loop_is_refused_with_what_to_write_instead(cluster: Cluster) -> None:
    items = Queue()
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: items.put(1), "await queue.put_async(item)"),
        (items.get, "await queue.get_async()"),
        (lambda: items.put_nowait(1), "await queue.put_async(item, block=False)"),
        (items.get_nowait, "await queue.get_async(block=False)"),
        (lambda: items.put_nowait_batch([1]), "await queue.put_nowait_batch_async(items)"),
        (lambda: items.get_nowait_batch(1), "await queue.get_nowait_batch_async(n)"),
        (items.size, "await queue.size_async()"),
        (items.qsize, "await queue.size_async()"),
        (items.empty, "await queue.size_async()"),
        (items.full, "await queue.size_async()"),
        (items.shutdown, "await queue.shutdown_async()"),
    ]
    for call, instead in calls:
        with pytest.raises(BlockingCallError) as raised:
            call()
        assert raised.value.instead == instead
    assert await items.size_async() == 0
