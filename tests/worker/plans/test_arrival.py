"""A task that awaits an Arrival goes on inside of the callback that tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from aioray_node.worker.plans.arrival import Arrival

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_in_loop(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(story())

    return run_in_loop


def test_who_awaits_it_goes_on_at_once_as_the_task_that_it_is(run: Run) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        arrival = Arrival(loop)
        seen: list[object] = []

        async def wait_twice() -> None:
            for _ in range(2):
                await arrival
                seen.append(asyncio.current_task())
                async with asyncio.timeout(10):  # which asks for the task, and may cancel it
                    await asyncio.sleep(0)
                seen.append("slept")

        task = loop.create_task(wait_twice())
        arrival.tell()  # nobody awaits it yet
        await asyncio.sleep(0)

        def tell() -> None:
            arrival.tell()
            told.append(list(seen))

        told: list[list[object]] = []
        loop.call_soon(tell)
        await asyncio.sleep(0)
        assert told == [[task]]
        while seen != [task, "slept"]:  # noqa: ASYNC110 # the task takes a few turns
            await asyncio.sleep(0)
        loop.call_soon(tell)
        await task
        assert seen == [task, "slept"] * 2

    run(story)


def test_a_task_that_awaits_it_can_be_cancelled(run: Run) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        arrival = Arrival(loop)

        async def wait() -> str:
            try:
                await arrival
            except asyncio.CancelledError:
                await arrival  # it can be awaited again
                return "told"
            return "not cancelled"

        task = loop.create_task(wait())
        await asyncio.sleep(0)
        loop.call_soon(arrival.tell)  # comes before the task has its turn, and too late
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        await asyncio.sleep(0)
        loop.call_soon(arrival.tell)
        assert await task == "told"

    run(story)
