"""aioray's figures of light actors and concurrency groups; `ours.py` runs them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aioray
from bench.measure import Figure, rate_async
from bench.processes import pss_mb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

CREATED = 10_000
ALIVE = 100_000


class LightEchoClass:
    def __init__(self, number: int) -> None:
        self._number = number

    async def echo(self, x: int) -> int:
        return x

    async def number(self) -> int:
        return self._number


class GroupedEchoClass:
    @aioray.method(concurrency_group="io")
    async def echo(self, x: int) -> int:
        return x


LightEcho = aioray.remote(LightEchoClass).options(isolation="shared")
GroupedEcho = aioray.remote(GroupedEchoClass).options(concurrency_groups={"io": 100, "compute": 1})


async def _created(count: int) -> Sequence[Any]:
    actors = [LightEcho.remote(number) for number in range(count)]
    assert await asyncio.gather(*[actor.number.remote() for actor in actors]) == list(range(count))
    return actors


async def light_actors(_seconds: float) -> Figure:
    """Each is created, and has answered a call, by the end."""
    taken_s = []
    async with aioray.connect(num_cpus=2):
        await _created(100)  # the processes that they share are up
        for _ in range(3):
            start = time.perf_counter()
            actors = await _created(CREATED)
            taken_s.append(time.perf_counter() - start)
            del actors
    return Figure(CREATED * len(taken_s) / sum(taken_s), {"batches_s": taken_s})


async def light_actors_pss(_seconds: float) -> Figure:
    """What 100,000 that are alive take, in all processes together."""
    async with aioray.connect(num_cpus=2):
        warm = await _created(100)
        before_mb = pss_mb()
        actors = await _created(ALIVE)
        grown_mb = pss_mb() - before_mb
        assert await actors[-1].number.remote() == ALIVE - 1
        del actors, warm
    return Figure(grown_mb, {"kb_an_actor": grown_mb * 1000 / ALIVE})


async def light_call(seconds: float) -> Figure:
    """One at a time, to one of a thousand."""
    async with aioray.connect(num_cpus=2):
        actors = await _created(1000)
        return await _one_at_a_time(actors[500], seconds)


async def group_call(seconds: float) -> Figure:
    """One at a time, to a method that has a concurrency group."""
    async with aioray.connect(num_cpus=2):
        return await _one_at_a_time(GroupedEcho.remote(), seconds)


async def _one_at_a_time(actor: Any, seconds: float) -> Figure:
    async def step() -> None:
        for _ in range(20):
            await actor.echo.remote(1)

    return await rate_async(step, per_step=20, seconds=seconds)
