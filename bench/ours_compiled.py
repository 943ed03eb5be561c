"""aioray's figures of compiled graphs: how many times faster a pass is than the same graph uncompiled, in one process.

A pass goes through three actors in a chain, one at a time. The two take turns of a tenth of the time each, so that both
have the same machine; the figure is the ratio of the medians, and the JSON has both in passes a second.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import aioray
from aioray.dag import InputNode
from bench.measure import Figure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLICES = 10


class StageClass:
    def step(self, x: int) -> int:
        return x


class AsyncStageClass:
    async def step(self, x: int) -> int:
        return x


Stage, AsyncStage = aioray.remote(StageClass), aioray.remote(AsyncStageClass)


def _chain(kind: Any) -> Any:
    with InputNode() as x:
        graph: Any = x
        for _ in range(3):
            graph = kind.remote().step.bind(graph)
    return graph


def _figure(rates: dict[str, list[float]]) -> Figure:
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return Figure(medians["compiled"] / medians["uncompiled"], {f"{name}_per_s": each for name, each in rates.items()})


def compiled_pass(seconds: float) -> Figure:
    """`get(execute(x))`, of actors with plain methods."""

    def rate(execute: Callable[[int], Any], most_s: float) -> float:
        start, passes = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < most_s:
            for _ in range(20):
                aioray.get(execute(1))
            passes += 20
        return passes / elapsed

    rates: dict[str, list[float]] = {"uncompiled": [], "compiled": []}
    with aioray.init(num_cpus=2):
        graph = _chain(Stage)
        compiled = graph.experimental_compile()
        for at in range(SLICES + 1):
            for name, execute in (("uncompiled", graph.execute), ("compiled", compiled.execute)):
                rates[name][:] = rates[name][at == 1 :]  # the first is for warming up
                rates[name].append(rate(execute, seconds / SLICES))
    return _figure(rates)


async def compiled_pass_async(seconds: float) -> Figure:
    """`await execute(x)`, of async actors."""

    async def rate(execute: Callable[[int], Awaitable[Any]], most_s: float) -> float:
        start, passes = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < most_s:
            for _ in range(20):
                await execute(1)
            passes += 20
        return passes / elapsed

    rates: dict[str, list[float]] = {"uncompiled": [], "compiled": []}
    async with aioray.connect(num_cpus=2):
        graph = _chain(AsyncStage)
        compiled = graph.experimental_compile()
        await compiled.execute(1)
        for at in range(SLICES + 1):
            for name, execute in (("uncompiled", graph.execute), ("compiled", compiled.execute)):
                rates[name][:] = rates[name][at == 1 :]
                rates[name].append(await rate(execute, seconds / SLICES))
    return _figure(rates)
