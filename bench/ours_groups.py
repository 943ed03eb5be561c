"""aioray's figures of placement groups; `ours.py` runs them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import aioray
from aioray.testing import LocalCluster
from aioray.util import placement_group, remove_placement_group
from bench.measure import Figure, rate, rate_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT_ONCE = 1000
NODES = 10


def groups_sync(seconds: float) -> Figure:
    """One at a time: created, ready, removed."""

    def step() -> None:
        for _ in range(20):
            group = placement_group([{"CPU": 1}])
            aioray.get(group.ready())
            remove_placement_group(group)

    aioray.init(num_cpus=2)
    try:
        return rate(step, per_step=20, seconds=seconds)
    finally:
        aioray.shutdown()


async def groups_async(seconds: float) -> Figure:
    """The same, awaited."""

    async def step() -> None:
        for _ in range(20):
            group = placement_group([{"CPU": 1}])
            await group.ready()
            remove_placement_group(group)

    async with aioray.connect(num_cpus=2):
        return await rate_async(step, per_step=20, seconds=seconds)


async def groups_at_once(_seconds: float) -> Figure:
    """A thousand of two bundles each are there at the same time, before the first of them is removed."""
    async with aioray.connect(num_cpus=2 * AT_ONCE, _system_config={"prestart_workers": 0}):
        return await _at_once("PACK")


async def groups_at_once_on_nodes(_seconds: float) -> Figure:
    """The same on ten nodes, which have room for twice as many, with each of the two bundles on another node."""
    async with _ten_nodes():
        return await _at_once("STRICT_SPREAD")


async def groups_on_nodes(seconds: float) -> Figure:
    """One at a time, created, ready, removed, with each of the two bundles on another node."""

    async def step() -> None:
        for _ in range(20):
            group = placement_group([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD")
            await group.ready()
            remove_placement_group(group)

    async with _ten_nodes():
        return await rate_async(step, per_step=20, seconds=seconds)


@contextlib.asynccontextmanager
async def _ten_nodes() -> AsyncIterator[None]:
    """Lines between them are open, and their processes have had the time of a batch to import what they will need."""
    cpus = 4 * AT_ONCE // NODES
    config = {"prestart_workers": 0}
    async with LocalCluster(nodes=NODES, num_cpus=cpus, in_process=True, _system_config=config) as cluster:
        with cluster.use():
            await _batch("STRICT_SPREAD")
            yield


async def _at_once(strategy: str) -> Figure:
    taken_s = [await _batch(strategy) for _ in range(3)]
    return Figure(AT_ONCE * len(taken_s) / sum(taken_s), {"batches_s": taken_s})


async def _batch(strategy: str) -> float:
    """How long until all are ready (s); then they are removed."""
    start = time.perf_counter()
    groups = [placement_group([{"CPU": 1}, {"CPU": 1}], strategy) for _ in range(AT_ONCE)]
    await asyncio.gather(*[group.ready() for group in groups])
    taken_s = time.perf_counter() - start
    for group in groups:
        remove_placement_group(group)
    return taken_s
