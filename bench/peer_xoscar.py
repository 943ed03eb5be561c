"""xoscar's figures: actors in a pool of two processes beside the caller's; many actors share one process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.measure import ACTORS, IN_FLIGHT, RESULT_AT, Figure, in_loop, main, rate_async, start_seconds
from bench.processes import Shutdowns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@cache
def library() -> tuple[Any, Any]:
    """xoscar and a class of actor, made when xoscar is there: this module has to be readable without it."""
    xoscar: Any = import_module("xoscar")

    class Echo(xoscar.Actor):  # type: ignore[misc]
        async def echo(self, x: int) -> int:
            return x

    return xoscar, Echo


@asynccontextmanager
async def pool() -> AsyncIterator[str]:
    """The address of a pool with two processes for actors."""
    xoscar, _ = library()
    async with await xoscar.create_actor_pool("127.0.0.1:0", n_process=2) as pool:
        yield pool.external_address


async def create(address: str, process: int) -> Any:
    xoscar, echo = library()
    strategy = xoscar.allocate_strategy.ProcessIndex(process)
    return await xoscar.create_actor(echo, address=address, allocate_strategy=strategy)


async def actor_async(seconds: float) -> Figure:
    async with pool() as address:
        actor = await create(address, 1)

        async def step() -> None:
            for _ in range(20):
                await actor.echo(1)

        return await rate_async(step, per_step=20, seconds=seconds)


async def actor_async_1000(seconds: float) -> Figure:
    async with pool() as address:
        actor = await create(address, 1)

        async def step() -> None:
            await asyncio.gather(*[actor.echo(i) for i in range(IN_FLIGHT)])

        return await rate_async(step, per_step=IN_FLIGHT, seconds=seconds)


async def actors(seconds: float) -> Figure:
    async with pool() as address:

        async def step() -> None:
            made = await asyncio.gather(*[create(address, 1 + i % 2) for i in range(ACTORS)])
            await asyncio.gather(*[actor.echo(1) for actor in made])

        return await rate_async(step, per_step=ACTORS, seconds=seconds)


START = f"""
import asyncio, time, xoscar
class Echo(xoscar.Actor):
    async def echo(self, x):
        return x
async def main():
    async with await xoscar.create_actor_pool("127.0.0.1:0", n_process=2) as pool:
        strategy = xoscar.allocate_strategy.ProcessIndex(1)
        actor = await xoscar.create_actor(Echo, address=pool.external_address, allocate_strategy=strategy)
        assert await actor.echo(1) == 1
        {RESULT_AT}
if __name__ == "__main__":
    asyncio.run(main())
"""


def start_async(_seconds: float) -> Figure:
    return start_seconds(START, times=3)


async def shutdown_async(_seconds: float) -> Figure:
    shutdowns = Shutdowns()
    async with pool() as address:
        await (await create(address, 1)).echo(1)
        shutdowns.begin()
    shutdowns.end()
    return shutdowns.figure()


MEASUREMENTS = {
    "actor_async": in_loop(actor_async),
    "actor_async_1000": in_loop(actor_async_1000),
    "actors": in_loop(actors),
    "start_async": start_async,
    "shutdown_async": in_loop(shutdown_async),
}

if __name__ == "__main__":
    main(MEASUREMENTS)
