"""Ray's figures. The programs are those of `bench/ours.py`, which is the point of sharing an API."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from bench.peer_ray_cluster import cluster_of_processes, fan_out
from bench.processes import Shutdowns, of_this_measurement, pss_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = b"x" * 100
INIT = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def echo(x: int) -> int:
    return x


def numbers(count: int) -> Iterator[int]:
    for number in range(count):  # noqa: UP028 # Ray sends into generators, which `yield from` would pass on to the range
        yield number


def last_byte(array: Any) -> int:
    return int(array[-1])


class Echo:
    def echo(self, x: int) -> int:
        return x


class AsyncEcho:
    async def echo(self, x: int) -> int:
        return x


class Programs:
    """The above as Ray's, made when Ray is there: this module has to be readable without it."""

    def __init__(self, ray: Any) -> None:
        self.echo, self.last_byte, self.Echo, self.AsyncEcho = map(ray.remote, (echo, last_byte, Echo, AsyncEcho))
        self.numbers = ray.remote(numbers)


@cache
def library() -> tuple[Any, Any]:
    ray: Any = import_module("ray")
    return ray, Programs(ray)


@contextmanager
def cluster() -> Iterator[tuple[Any, Any]]:
    ray, programs = library()
    ray.init(**INIT)
    try:
        yield ray, programs
    finally:
        ray.shutdown()


def task_sync(seconds: float) -> Figure:
    with cluster() as (ray, programs):

        def step() -> None:
            for _ in range(20):
                ray.get(programs.echo.remote(1))

        return rate(step, per_step=20, seconds=seconds)


def tasks_sync_1000(seconds: float) -> Figure:
    with cluster() as (ray, programs):
        return rate(
            lambda: ray.get([programs.echo.remote(i) for i in range(IN_FLIGHT)]),
            per_step=IN_FLIGHT,
            seconds=seconds,
        )


def actor_sync(seconds: float) -> Figure:
    with cluster() as (ray, programs):
        actor = programs.Echo.remote()

        def step() -> None:
            for _ in range(20):
                ray.get(actor.echo.remote(1))

        return rate(step, per_step=20, seconds=seconds)


async def task_async(seconds: float) -> Figure:
    with cluster() as (_, programs):

        async def step() -> None:
            for _ in range(20):
                await programs.echo.remote(1)

        return await rate_async(step, per_step=20, seconds=seconds)


async def tasks_async_1000(seconds: float) -> Figure:
    with cluster() as (_, programs):

        async def step() -> None:
            await asyncio.gather(*[programs.echo.remote(i) for i in range(IN_FLIGHT)])

        return await rate_async(step, per_step=IN_FLIGHT, seconds=seconds)


async def actor_async(seconds: float) -> Figure:
    with cluster() as (_, programs):
        actor = programs.AsyncEcho.remote()

        async def step() -> None:
            for _ in range(20):
                await actor.echo.remote(1)

        return await rate_async(step, per_step=20, seconds=seconds)


async def actor_async_1000(seconds: float) -> Figure:
    with cluster() as (_, programs):
        actor = programs.AsyncEcho.remote()

        async def step() -> None:
            await asyncio.gather(*[actor.echo.remote(i) for i in range(IN_FLIGHT)])

        return await rate_async(step, per_step=IN_FLIGHT, seconds=seconds)


def put_100b(seconds: float) -> Figure:
    with cluster() as (ray, _):

        def step() -> None:
            for _ in range(100):
                ray.put(SMALL)

        return rate(step, per_step=100, seconds=seconds)


def get_100b(seconds: float) -> Figure:
    with cluster() as (ray, _):
        ref = ray.put(SMALL)

        def step() -> None:
            for _ in range(100):
                ray.get(ref)

        return rate(step, per_step=100, seconds=seconds)


def put_100mib(_seconds: float) -> Figure:
    import numpy as np

    array = np.ones(100 * MIB, dtype=np.uint8)
    with cluster() as (ray, _):
        return put_gb_per_s(lambda: ray.put(array), nbytes=array.nbytes)


def put_get_100mib(_seconds: float) -> Figure:
    import numpy as np

    array = np.ones(100 * MIB, dtype=np.uint8)
    with cluster() as (ray, _):

        def put_get() -> None:
            assert ray.get(ray.put(array))[-1] == 1

        return put_gb_per_s(put_get, nbytes=array.nbytes)


def task_100mib_arg(seconds: float) -> Figure:
    import numpy as np

    with cluster() as (ray, programs):
        ref = ray.put(np.ones(100 * MIB, dtype=np.uint8))

        def step() -> None:
            for _ in range(20):
                assert ray.get(programs.last_byte.remote(ref)) == 1

        return rate(step, per_step=20, seconds=seconds)


def wait_sync(seconds: float) -> Figure:
    with cluster() as (ray, programs):

        def step() -> None:
            refs = [programs.echo.remote(i) for i in range(IN_FLIGHT)]
            while refs:
                _, refs = ray.wait(refs, num_returns=WAIT_AT_A_TIME)

        return rate(step, per_step=1, seconds=seconds)


def groups_sync(seconds: float) -> Figure:
    with cluster() as (ray, _):
        from ray.util.placement_group import placement_group, remove_placement_group

        def step() -> None:
            for _ in range(20):
                group = placement_group([{"CPU": 1}])
                ray.get(group.ready())
                remove_placement_group(group)

        return rate(step, per_step=20, seconds=seconds)


def stream_items(seconds: float) -> Figure:
    with cluster() as (ray, programs):

        def step() -> None:
            for ref in programs.numbers.remote(STREAM_ITEMS):
                ray.get(ref)

        return rate(step, per_step=STREAM_ITEMS, seconds=seconds)


async def stream_items_async(seconds: float) -> Figure:
    with cluster() as (_, programs):

        async def step() -> None:
            async for ref in programs.numbers.remote(STREAM_ITEMS):
                await ref

        return await rate_async(step, per_step=STREAM_ITEMS, seconds=seconds)


def actors(_seconds: float) -> Figure:
    with cluster() as (ray, programs):
        start = time.perf_counter()
        handles = [programs.Echo.remote() for _ in range(ACTORS)]
        ray.get([handle.echo.remote(1) for handle in handles])
        return Figure(ACTORS / (time.perf_counter() - start))


START = f"""
import time, ray
@ray.remote
def echo(x):
    return x
ray.init(**{INIT})
assert ray.get(echo.remote(1)) == 1
{RESULT_AT}
ray.shutdown()
"""


def start_sync(_seconds: float) -> Figure:
    return start_seconds(START, times=1, warm_up=False)


def shutdown_sync(_seconds: float) -> Figure:
    ray, programs = library()
    ray.init(**INIT)
    ray.get([programs.echo.remote(i) for i in range(20)])
    shutdowns = Shutdowns()
    shutdowns.begin()
    ray.shutdown()
    shutdowns.end()
    return shutdowns.figure()


def pss_20_actors(_seconds: float) -> Figure:
    with cluster() as (ray, programs):
        handles = [programs.Echo.remote() for _ in range(ACTORS)]
        ray.get([handle.echo.remote(1) for handle in handles])
        time.sleep(1)
        return Figure(pss_mb(), {"processes": 1 + len(of_this_measurement())})


MEASUREMENTS = {
    "task_sync": task_sync,
    "task_async": in_loop(task_async),
    "actor_sync": actor_sync,
    "actor_async": in_loop(actor_async),
    "tasks_sync_1000": tasks_sync_1000,
    "tasks_async_1000": in_loop(tasks_async_1000),
    "actor_async_1000": in_loop(actor_async_1000),
    "stream_items": stream_items,
    "stream_items_async": in_loop(stream_items_async),
    "put_100b": put_100b,
    "get_100b": get_100b,
    "put_100mib": put_100mib,
    "put_get_100mib": put_get_100mib,
    "task_100mib_arg": task_100mib_arg,
    "wait_sync": wait_sync,
    "actors": actors,
    "groups_sync": groups_sync,
    "start_sync": start_sync,
    "cluster_of_processes": cluster_of_processes,
    "fan_out": fan_out,
    "shutdown_sync": shutdown_sync,
    "pss_20_actors": pss_20_actors,
}

if __name__ == "__main__":
    main(MEASUREMENTS)
