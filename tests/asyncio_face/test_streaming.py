"""Generators in an event loop: `async for`, and what cancelling does to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import BlockingCallError, RaySystemError, TaskCancelledError
from tests.api.streams import (
    MIB,
    AsyncGenerating,
    arrays,
    count,
    count_async,
    endless,
    fail_after,
    notes,
    one_then_more,
)
from tests.api.support import Meeting

if TYPE_CHECKING:
    import pathlib

    from aioray import Cluster, ObjectRef, ObjectRefGenerator

PATIENCE_S = 10.0


async def values(generator: ObjectRefGenerator[Any]) -> list[Any]:
    return [await ref async for ref in generator]


async def next_of(generator: ObjectRefGenerator[Any]) -> ObjectRef[Any]:
    return await anext(generator)


async def in_thread(fn: Any) -> Any:
    """A meeting blocks until the other side has come."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(fn)


async def test_async_for_takes_values_as_they_come(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    assert await values(count.remote(1000)) == list(range(1000))
    assert await values(count_async.remote(3)) == [0, 1, 2]
    actor = AsyncGenerating.remote()
    streamed: Any = actor.count.remote(3)
    assert await values(streamed) == [0, 1, 2]
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    assert await (await anext(generator)) == "first"
    await in_thread(meeting.here)
    assert await values(generator) == ["second"]
    with pytest.raises(StopAsyncIteration):
        await anext(generator)
    assert generator.is_finished()


async def test_many_streams_come_at_once(cluster: Cluster) -> None:
    streams = await asyncio.gather(*[values(count.remote(500)) for _ in range(8)])
    assert streams == [list(range(500))] * 8


async def test_large_values_come_as_views_of_shared_memory(cluster: Cluster) -> None:
    at = 0
    async for ref in arrays.remote(5):
        array = await ref
        assert not array.flags.writeable
        assert np.array_equal(array, np.full(MIB, at, dtype=np.uint8))
        at += 1
    assert at == 5


async def test_an_error_comes_in_its_place(cluster: Cluster) -> None:
    refs = [ref async for ref in fail_after.remote(1)]
    assert await refs[0] == 0
    with pytest.raises(LookupError, match="no more"):
        await refs[1]
    assert len(refs) == 2


async def test_next_in_the_loop_says_what_to_write(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    with pytest.raises(BlockingCallError, match="async for"):
        next(generator)
    await aioray.wait([generator])
    assert await next(generator) == "first"  # what is there needs no waiting
    await in_thread(meeting.here)
    assert await values(generator) == ["second"]


async def test_a_cancelled_anext_loses_no_value_and_stops_nothing(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    assert await (await anext(generator)) == "first"
    waiting = asyncio.create_task(next_of(generator))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(generator)
    await in_thread(meeting.here)
    assert await values(generator) == ["second"]


async def test_an_anext_that_is_cancelled_as_its_value_comes_leaves_it_to_the_next(cluster: Cluster) -> None:
    """Cancelled at every moment of the stream, whatever a moment is here."""
    generator = count.options(_generator_backpressure_num_objects=1).remote(200)
    got: list[int] = []
    turns = 0
    while not generator.is_finished():
        waiting = asyncio.create_task(next_of(generator))
        for _ in range(turns % 7):
            await asyncio.sleep(0)
        turns += 1
        waiting.cancel()
        try:
            got.append(await (await waiting))
        except asyncio.CancelledError:
            continue
        except StopAsyncIteration:
            break
    assert got == sorted(set(got))
    assert got == list(range(200))


async def test_two_consumers_share_the_values_of_one_generator(cluster: Cluster) -> None:
    generator = count.remote(300)
    both = await asyncio.gather(values(generator), values(generator))
    assert sorted([*both[0], *both[1]]) == list(range(300))


async def test_a_loop_that_takes_what_is_there_lets_others_run(cluster: Cluster) -> None:
    generator = count.remote(2000)
    await generator.completed()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert await values(generator) == list(range(2000))
    assert turns > 1
    other.cancel()


async def test_an_async_generator_that_never_awaits_lets_its_actor_answer(
    cluster: Cluster, tmp_path: pathlib.Path
) -> None:
    actor = AsyncGenerating.remote()
    generator: Any = actor.endless.remote(str(tmp_path / "notes"))
    assert await (await anext(generator)) == 0
    async with asyncio.timeout(PATIENCE_S):
        assert await actor.answer.remote() == "here"
    completed = generator.completed()
    generator.close()
    await completed
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_leaving_async_for_and_dropping_the_generator_stops_it(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notes"
    generator = aioray.remote(endless).remote(str(path))
    completed = generator.completed()
    async for ref in generator:
        if await ref == 3:
            break
    del generator
    async with asyncio.timeout(PATIENCE_S):
        await completed
    assert notes(path)[-2:] == ["GeneratorExit", "finally"]


async def test_cancelling_an_await_of_completed_cancels_the_call(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    generator = aioray.remote(endless).remote(str(tmp_path / "notes"))
    assert await (await anext(generator)) == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await generator.completed()
    *_, last = [ref async for ref in generator]
    with pytest.raises(asyncio.CancelledError):
        await last


async def test_a_cancelled_generator_ends_with_that(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    generator = aioray.remote(endless).remote(str(tmp_path / "notes"))
    assert await (await anext(generator)) == 0
    aioray.cancel(generator)
    *_, last = [ref async for ref in generator]
    with pytest.raises(TaskCancelledError, match="endless"):
        await last


async def test_wait_takes_generators_and_refs(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    slow: Any = one_then_more.remote(meeting)
    fast: Any = count.remote(1)
    assert await aioray.wait([slow, fast], num_returns=2) == ([slow, fast], [])
    assert await next(slow) == "first"
    assert await aioray.wait([slow, fast], timeout=0) == ([fast], [slow])
    await in_thread(meeting.here)
    assert await aioray.wait([slow]) == ([slow], [])
    assert await values(slow) == ["second"]


async def test_who_awaits_a_value_when_the_cluster_goes_hears_it(nothing_left: None, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    async with aioray.connect(num_cpus=1):
        generator = one_then_more.remote(meeting)
        assert await (await anext(generator)) == "first"
        waiting = asyncio.create_task(next_of(generator))
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        failed = await waiting
    with pytest.raises(aioray.exceptions.RayError):
        await failed
    with pytest.raises(RaySystemError):
        count.remote(1)
