"""aioray's figures, through its public API only, as a user would write it."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aioray
from bench.measure import (
    ACTORS,
    IN_FLIGHT,
    MIB,
    RESULT_AT,
    STREAM_ITEMS,
    WAIT_AT_A_TIME,
    Figure,
    in_loop,
    main,
    put_gb_per_s,
    rate,
    rate_async,
    start_seconds,
)
from bench.ours_cluster import cluster_in_loop, cluster_of_processes, fan_out
from bench.ours_compiled import compiled_pass, compiled_pass_async
from bench.ours_groups import groups_async, groups_at_once, groups_at_once_on_nodes, groups_on_nodes, groups_sync
from bench.ours_light import group_call, light_actors, light_actors_pss, light_call
from bench.ours_transfer import broadcast_8, transfer_tcp
from bench.processes import Shutdowns, of_this_measurement, pss_mb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = b"x" * 100


@aioray.remote
def echo(x: int) -> int:
    return x


@aioray.remote
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@aioray.remote
def last_byte(array: Any) -> int:
    return int(array[-1])


class EchoClass:
    def echo(self, x: int) -> int:
        return x


class AsyncEchoClass:
    async def echo(self, x: int) -> int:
        return x


# What `@aioray.remote` above the class would do, written so that mypy sees it: it ignores class decorators.
Echo, AsyncEcho = aioray.remote(EchoClass), aioray.remote(AsyncEchoClass)


@contextmanager
def cluster(*, inline: bool = False) -> Iterator[None]:
    aioray.init(num_cpus=2, inline=inline)
    try:
        yield
    finally:
        aioray.shutdown()


def big_array(nbytes: int = 100 * MIB) -> Any:
    import numpy as np  # not at the top: it is no part of the memory of a small cluster

    return np.ones(nbytes, dtype=np.uint8)


# -- calls


def task_sync(seconds: float) -> Figure:
    def step() -> None:
        for _ in range(20):
            aioray.get(echo.remote(1))

    with cluster():
        return rate(step, per_step=20, seconds=seconds)


def tasks_sync_1000(seconds: float) -> Figure:
    with cluster():
        return rate(
            lambda: aioray.get([echo.remote(i) for i in range(IN_FLIGHT)]),
            per_step=IN_FLIGHT,
            seconds=seconds,
        )


def actor_sync(seconds: float) -> Figure:
    with cluster():
        actor = Echo.remote()

        def step() -> None:
            for _ in range(20):
                aioray.get(actor.echo.remote(1))

        return rate(step, per_step=20, seconds=seconds)


async def task_async(seconds: float) -> Figure:
    async def step() -> None:
        for _ in range(20):
            await echo.remote(1)

    async with aioray.connect(num_cpus=2):
        return await rate_async(step, per_step=20, seconds=seconds)


async def tasks_async_1000(seconds: float) -> Figure:
    async def step() -> None:
        await asyncio.gather(*[echo.remote(i) for i in range(IN_FLIGHT)])

    async with aioray.connect(num_cpus=2):
        return await rate_async(step, per_step=IN_FLIGHT, seconds=seconds)


async def actor_async(seconds: float) -> Figure:
    async with aioray.connect(num_cpus=2):
        actor = AsyncEcho.remote()

        async def step() -> None:
            for _ in range(20):
                await actor.echo.remote(1)

        return await rate_async(step, per_step=20, seconds=seconds)


async def actor_async_1000(seconds: float) -> Figure:
    async with aioray.connect(num_cpus=2):
        actor = AsyncEcho.remote()

        async def step() -> None:
            await asyncio.gather(*[actor.echo.remote(i) for i in range(IN_FLIGHT)])

        return await rate_async(step, per_step=IN_FLIGHT, seconds=seconds)


# -- objects


def put_100b(seconds: float) -> Figure:
    def step() -> None:
        for _ in range(IN_FLIGHT):
            aioray.put(SMALL)

    with cluster():
        return rate(step, per_step=IN_FLIGHT, seconds=seconds)


def get_100b(seconds: float) -> Figure:
    with cluster():
        ref = aioray.put(SMALL)

        def step() -> None:
            for _ in range(IN_FLIGHT):
                aioray.get(ref)

        return rate(step, per_step=IN_FLIGHT, seconds=seconds)


def put_100mib(_seconds: float) -> Figure:
    array = big_array()
    with cluster():
        return put_gb_per_s(lambda: aioray.put(array), nbytes=array.nbytes)


def put_get_100mib(_seconds: float) -> Figure:
    array = big_array()

    def put_get() -> None:
        assert aioray.get(aioray.put(array))[-1] == 1

    with cluster():
        return put_gb_per_s(put_get, nbytes=array.nbytes)


def task_100mib_arg(seconds: float) -> Figure:
    with cluster():
        ref = aioray.put(big_array())

        def step() -> None:
            for _ in range(20):
                assert aioray.get(last_byte.remote(ref)) == 1

        return rate(step, per_step=20, seconds=seconds)


def wait_sync(seconds: float) -> Figure:
    def step() -> None:
        refs = [echo.remote(i) for i in range(IN_FLIGHT)]
        while refs:
            _, refs = aioray.wait(refs, num_returns=WAIT_AT_A_TIME)

    with cluster():
        return rate(step, per_step=1, seconds=seconds)


async def wait_async(seconds: float) -> Figure:
    async def step() -> None:
        refs = [echo.remote(i) for i in range(IN_FLIGHT)]
        while refs:
            _, refs = await aioray.wait(refs, num_returns=WAIT_AT_A_TIME)

    async with aioray.connect(num_cpus=2):
        return await rate_async(step, per_step=1, seconds=seconds)


# -- streams


def stream_items(seconds: float) -> Figure:
    def step() -> None:
        for ref in numbers.remote(STREAM_ITEMS):
            aioray.get(ref)

    with cluster():
        return rate(step, per_step=STREAM_ITEMS, seconds=seconds)


async def stream_items_async(seconds: float) -> Figure:
    async def step() -> None:
        async for ref in numbers.remote(STREAM_ITEMS):
            await ref

    async with aioray.connect(num_cpus=2):
        return await rate_async(step, per_step=STREAM_ITEMS, seconds=seconds)


# -- lives


def actors(seconds: float) -> Figure:
    """ACTORS at a time; ending them is not timed."""
    taken_s: list[float] = []
    with cluster():
        deadline = time.perf_counter() + 3 * seconds
        while not taken_s or time.perf_counter() < deadline:
            start = time.perf_counter()
            handles = [Echo.remote() for _ in range(ACTORS)]
            aioray.get([handle.echo.remote(1) for handle in handles])
            taken_s.append(time.perf_counter() - start)
            for handle in handles:
                aioray.kill(handle)
            time.sleep(0.3)
    return Figure(ACTORS * len(taken_s) / sum(taken_s), {"batches_s": taken_s})


START_SYNC = f"""
import time, asyncio, uvloop, msgspec, cloudpickle, aioray
@aioray.remote
def echo(x):
    return x
aioray.init(num_cpus=2)
assert aioray.get(echo.remote(1)) == 1
{RESULT_AT}
aioray.shutdown()
"""

START_INLINE = START_SYNC.replace("num_cpus=2", "num_cpus=2, inline=True")

START_ASYNC = f"""
import time, asyncio, uvloop, msgspec, cloudpickle, aioray
@aioray.remote
def echo(x):
    return x
async def main():
    async with aioray.connect(num_cpus=2):
        assert await echo.remote(1) == 1
        {RESULT_AT}
uvloop.run(main())
"""


def start_sync(_seconds: float) -> Figure:
    return start_seconds(START_SYNC, times=5)


def start_inline(_seconds: float) -> Figure:
    return start_seconds(START_INLINE, times=5)


def start_async(_seconds: float) -> Figure:
    return start_seconds(START_ASYNC, times=5)


def shutdown_sync(_seconds: float) -> Figure:
    shutdowns = Shutdowns()
    for _ in range(3):
        aioray.init(num_cpus=2)
        aioray.get([echo.remote(i) for i in range(20)])
        shutdowns.begin()
        aioray.shutdown()
        shutdowns.end()
    return shutdowns.figure()


async def shutdown_async(_seconds: float) -> Figure:
    shutdowns = Shutdowns()
    for _ in range(3):
        async with aioray.connect(num_cpus=2):
            await asyncio.gather(*[echo.remote(i) for i in range(20)])
            shutdowns.begin()
        shutdowns.end()
    return shutdowns.figure()


# -- memory


def pss_20_actors(_seconds: float, *, inline: bool = False) -> Figure:
    with cluster(inline=inline):
        handles = [Echo.remote() for _ in range(ACTORS)]
        aioray.get([handle.echo.remote(1) for handle in handles])
        time.sleep(1)  # let what starts in the background come up and be counted
        return Figure(pss_mb(), {"processes": 1 + len(of_this_measurement())})


def pss_20_actors_inline(seconds: float) -> Figure:
    return pss_20_actors(seconds, inline=True)


def flat_tasks(_seconds: float) -> Figure:
    """Growth from the 50,000th task to the 1,050,000th."""
    with cluster():
        _run_tasks(50_000)
        curve_mb = [pss_mb()]
        for _ in range(10):
            _run_tasks(100_000)
            curve_mb.append(pss_mb())
    return Figure(curve_mb[-1] - curve_mb[0], {"pss_mb_every_100_000": curve_mb})


def _run_tasks(count: int) -> None:
    for _ in range(count // IN_FLIGHT):
        aioray.get([echo.remote(i) for i in range(IN_FLIGHT)])


def flat_puts(_seconds: float) -> Figure:
    """Each ref is dropped before the next put."""
    array = big_array(MIB)
    return _growth(lambda: aioray.put(array))


def flat_gets(_seconds: float) -> Figure:
    """Each array that was read is dropped, with its ref, before the next put."""
    array = big_array(MIB)
    return _growth(lambda: aioray.get(aioray.put(array))[-1])


def _growth(put: Callable[[], object]) -> Figure:
    """Growth of the whole cluster from the 1,000th put to the 11,000th."""
    with cluster():
        for _ in range(1_000):
            put()
        time.sleep(1)  # warming shared memory in idle time is no leak
        curve_mb = [pss_mb()]
        for _ in range(10):
            for _ in range(1_000):
                put()
            curve_mb.append(pss_mb())
    return Figure(curve_mb[-1] - curve_mb[0], {"pss_mb_every_1_000": curve_mb})


MEASUREMENTS = {
    "task_sync": task_sync,
    "task_async": in_loop(task_async),
    "actor_sync": actor_sync,
    "actor_async": in_loop(actor_async),
    "tasks_sync_1000": tasks_sync_1000,
    "tasks_async_1000": in_loop(tasks_async_1000),
    "actor_async_1000": in_loop(actor_async_1000),
    "light_call": in_loop(light_call),
    "group_call": in_loop(group_call),
    "compiled_pass": compiled_pass,
    "compiled_pass_async": in_loop(compiled_pass_async),
    "stream_items": stream_items,
    "stream_items_async": in_loop(stream_items_async),
    "put_100b": put_100b,
    "get_100b": get_100b,
    "put_100mib": put_100mib,
    "put_get_100mib": put_get_100mib,
    "task_100mib_arg": task_100mib_arg,
    "transfer_tcp": transfer_tcp,
    "broadcast_8": broadcast_8,
    "wait_sync": wait_sync,
    "wait_async": in_loop(wait_async),
    "actors": actors,
    "light_actors": in_loop(light_actors),
    "light_actors_pss": in_loop(light_actors_pss),
    "groups_sync": groups_sync,
    "groups_async": in_loop(groups_async),
    "groups_at_once": in_loop(groups_at_once),
    "groups_on_nodes": in_loop(groups_on_nodes),
    "groups_at_once_on_nodes": in_loop(groups_at_once_on_nodes),
    "start_sync": start_sync,
    "start_inline": start_inline,
    "start_async": start_async,
    "cluster_in_loop": in_loop(cluster_in_loop),
    "cluster_of_processes": in_loop(cluster_of_processes),
    "fan_out": in_loop(fan_out),
    "shutdown_sync": shutdown_sync,
    "shutdown_async": in_loop(shutdown_async),
    "pss_20_actors": pss_20_actors,
    "pss_20_actors_inline": pss_20_actors_inline,
    "flat_puts": flat_puts,
    "flat_gets": flat_gets,
    "flat_tasks": flat_tasks,
}

if __name__ == "__main__":
    main(MEASUREMENTS)
