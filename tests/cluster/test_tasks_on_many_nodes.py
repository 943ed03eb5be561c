"""Tasks on clusters of two and three nodes."""

from __future__ import annotations

import asyncio
import os
import pathlib
import time

import aioray
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.cluster.hand_fed import HandFedCluster


def where() -> str:
    return aioray.get_runtime_context().get_node_id()


async def test_tasks_go_elsewhere_when_the_drivers_node_is_full(nothing_left: None, tmp_path: pathlib.Path) -> None:
    """Each waits for all the others, which no single node could run at once."""
    async with HandFedCluster({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}):
        at = aioray.remote(wait_for_all)
        refs = [at.remote(str(tmp_path), str(i), 3) for i in range(3)]
        assert len(set(await asyncio.gather(*refs))) == 3


def wait_for_all(directory: str, name: str, count: int) -> str:
    """Which node this is on, when so many have come."""
    pathlib.Path(directory, name).touch()
    while len(os.listdir(directory)) < count:
        time.sleep(0.005)
    return where()


async def test_a_custom_resource_an_affinity_and_a_head_without_cpus(nothing_left: None) -> None:
    async with HandFedCluster({"num_cpus": 0}, {"num_cpus": 2, "resources": {"cat": 1.0}}, {"num_cpus": 1}) as cluster:
        _, cat, other = (node.node_id for node in cluster.nodes)
        at = aioray.remote(where)
        assert await at.options(resources={"cat": 1}).remote() == cat
        affinity = NodeAffinitySchedulingStrategy(other, soft=False)
        assert await at.options(scheduling_strategy=affinity).remote() == other
        assert set(await asyncio.gather(*(at.remote() for _ in range(20)))) <= {cat, other}
