"""Nodes that are killed as nobody would end them: what ran there goes elsewhere."""

from __future__ import annotations

import asyncio
import os
import pathlib
import time
from typing import Any

import aioray
from aioray.testing import LocalCluster


class Actor:
    def where(self) -> str:
        return aioray.get_runtime_context().get_node_id()


def come_and_wait(directory: str, count: int) -> str:
    """Where this is, when so many have come, in this life or an earlier one."""
    pathlib.Path(directory, f"{os.getpid()}").touch()
    while len(os.listdir(directory)) < count:
        time.sleep(0.01)
    return aioray.get_runtime_context().get_node_id()


async def test_actors_and_tasks_of_a_killed_node_go_on_elsewhere(nothing_left: None, tmp_path: pathlib.Path) -> None:
    """
    1. an actor lives on one of two nodes, a task runs on each
    2. the actor's node is killed: both answer from the other, though neither is called again
    """
    has = {"CPU": 2, "disk": 1}
    async with LocalCluster(nodes=3, resources=[{"CPU": 0}, has, has]) as cluster:
        options: dict[str, Any] = {"resources": {"disk": 0.5}, "num_cpus": 0, "max_restarts": 1, "max_task_retries": -1}
        actor = aioray.remote(Actor).options(**options).remote()
        home = await actor.where.remote()
        task = aioray.remote(come_and_wait).options(scheduling_strategy="SPREAD", max_retries=2)
        refs = [task.remote(str(tmp_path), 3) for _ in range(2)]  # the third to come is one that is tried again
        while len(os.listdir(tmp_path)) < 2:  # noqa: ASYNC110 # files tell nobody
            await asyncio.sleep(0.01)
        await cluster.kill_node_async(next(node for node in cluster.nodes if node.node_id == home))
        other = await actor.where.remote()
        assert other not in (home, cluster.head.node_id)
        assert await asyncio.gather(*refs) == [other, other]
