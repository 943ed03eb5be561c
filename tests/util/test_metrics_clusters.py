"""Metrics in clusters of their own: several nodes, an event loop, none at all, a driver that leaves."""

from __future__ import annotations

import asyncio

import pytest

from aioray.exceptions import BlockingCallError
from aioray.testing import LocalCluster
from aioray.util.metrics import prometheus_text
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.api.support import started
from tests.util.test_metrics import QUICK, count, known


def lines() -> list[str]:
    return prometheus_text().splitlines()


async def test_nodes_tell_the_head_and_a_driver_in_a_loop_asks_its_own_cluster(nothing_left: None) -> None:
    async with LocalCluster(nodes=2, resources=[{"CPU": 0}, {"CPU": 1}], _system_config=QUICK) as cluster:
        (member,) = [node for node in cluster.nodes if node.node_id != cluster.head.node_id]
        there = NodeAffinitySchedulingStrategy(member.node_id, soft=False)
        await count.options(scheduling_strategy=there).remote(4)
        while known("test_items_total").get(("task",)) != 4:  # noqa: ASYNC110 # it tells nobody
            await asyncio.sleep(0.01)
        while len([line for line in lines() if line.startswith("aioray_node_mem_total{")]) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with pytest.raises(BlockingCallError, match=r"to_thread\(prometheus_text, ...\)"):
            prometheus_text("auto")


def test_an_interval_of_zero_turns_it_off() -> None:
    with started(num_cpus=1, _system_config={"metrics_report_interval_ms": 0}) as ray:
        ray.get(count.remote(1))
        assert {line.split("{")[0] for line in lines() if not line.startswith("#")} == {
            "aioray_metrics_left_out_total",
            "aioray_tasks",
        }
