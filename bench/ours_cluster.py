"""aioray's figures of clusters of several nodes on this machine; `ours.py` runs them."""

from __future__ import annotations

import asyncio
import statistics
import time

import aioray
from aioray.testing import LocalCluster
from bench.measure import FAN_OUT, FAN_OUT_NODES, Figure

_STARTS = 3


def where() -> str:
    return aioray.get_runtime_context().get_node_id()


def nothing() -> None:
    """What it takes to be scheduled, sent and answered is the rest."""


async def cluster_in_loop(_seconds: float) -> Figure:
    """Three nodes in this loop, from nothing to an answer of each."""
    taken_s = []
    for _ in range(_STARTS):
        start = time.perf_counter()
        async with LocalCluster(nodes=3, in_process=True) as cluster:
            await _answers(cluster)
            taken_s.append(time.perf_counter() - start)
    return Figure(statistics.median(taken_s), {"taken_s": taken_s})


async def cluster_of_processes(_seconds: float) -> Figure:
    """The same with a process for each node."""
    taken_s = []
    for _ in range(_STARTS):
        start = time.perf_counter()
        async with LocalCluster(nodes=3) as cluster:
            await _answers(cluster)
            taken_s.append(time.perf_counter() - start)
    return Figure(statistics.median(taken_s), {"taken_s": taken_s})


async def _answers(cluster: LocalCluster) -> None:
    affinity = aioray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    at = aioray.remote(where)
    ids = [node.node_id for node in cluster.nodes]
    found = await asyncio.gather(
        *(at.options(scheduling_strategy=affinity(node_id, soft=False)).remote() for node_id in ids)
    )
    assert list(found) == ids, found


async def fan_out(_seconds: float) -> Figure:
    """A batch of small tasks from one caller, over ten nodes of one CPU each."""
    async with LocalCluster(nodes=FAN_OUT_NODES, num_cpus=1, in_process=True):
        call = aioray.remote(nothing)
        went = await asyncio.gather(*(aioray.remote(where).remote() for _ in range(FAN_OUT)))
        await asyncio.gather(*(call.remote() for _ in range(FAN_OUT)))
        taken_s, cpu_s = [], []
        for _ in range(_STARTS):
            start, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(call.remote() for _ in range(FAN_OUT)))
            taken_s.append(time.perf_counter() - start)
            cpu_s.append(time.process_time() - cpu)
    detail = {"taken_s": taken_s, "cpu_s_of_caller_and_nodes": cpu_s, "nodes_with_a_part": len(set(went))}
    return Figure(FAN_OUT / statistics.median(taken_s), detail)
