"""A stream of tasks without an end lets others have their turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

import aioray
from aioray.util import placement_group, remove_placement_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE_S = 20.0


@aioray.remote
def small() -> None:
    time.sleep(0.002)


@aioray.remote
def large() -> str:
    return "done"


@contextlib.asynccontextmanager
async def endless_stream() -> AsyncIterator[None]:
    """Always ten of them."""

    async def one_after_the_other() -> None:
        while True:
            await small.remote()

    streams = [asyncio.create_task(one_after_the_other()) for _ in range(10)]
    try:
        await asyncio.wait([small.remote() for _ in range(10)])
        yield
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


async def test_a_placement_group_and_a_larger_task_come_through() -> None:
    async with aioray.connect(num_cpus=2), endless_stream():
        group = placement_group([{"CPU": 2}])
        await group.ready(timeout=PATIENCE_S)
        remove_placement_group(group)
        async with asyncio.timeout(PATIENCE_S):
            assert await large.options(num_cpus=2).remote() == "done"
