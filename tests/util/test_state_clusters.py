"""Task events in clusters of their own: too many tasks, none at all, an event loop, several nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import aioray
from aioray.exceptions import BlockingCallError, RaySystemError
from aioray.testing import LocalCluster
from aioray.util import state
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.api.support import Meeting, eventually, started
from tests.util.test_state import QUICK, Counter, counts, double, fail, wait_for

if TYPE_CHECKING:
    import pathlib


def test_many_tasks_are_counted_and_some_of_them_told() -> None:
    """
    1. more than a node tells one by one: all are counted, what was left out is said
    2. failures have room of their own
    """
    with started(num_cpus=1, _system_config={**QUICK, "task_events_report_max": 20}) as ray:
        ray.get([double.remote(n) for n in range(2000)])
        broken = fail.remote()
        with pytest.raises(KeyError):
            ray.get(broken)
        eventually(lambda: counts("double") == {"FINISHED": 2000}, lambda: str(counts("double")))
        eventually(lambda: counts("fail") == {"FAILED": 1})
        tasks = state.list_tasks(limit=10_000)
        assert 20 <= len(tasks) < 2000
        assert tasks.left_out + len(tasks) == 2001
        with pytest.raises(RaySystemError, match="were only counted"):
            state.list_tasks(raise_on_missing_output=True)


def test_an_interval_of_zero_turns_it_off() -> None:
    with started(num_cpus=1, _system_config={"task_events_reporting_interval_ms": 0}) as ray:
        ray.get([double.remote(n) for n in range(10)])
        counter = Counter.remote()
        ray.get(counter.add.remote(1))
        assert state.list_tasks() == []
        assert [actor.class_name for actor in state.list_actors()] == ["CounterClass"]


async def test_in_an_event_loop_the_own_cluster_answers_and_another_one_would_block(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1, _system_config=QUICK):
        await double.remote(1)
        while not state.list_tasks(filters=[("state", "=", "FINISHED")]):  # noqa: ASYNC110 # it tells nobody
            await asyncio.sleep(0.01)
        with pytest.raises(BlockingCallError, match="to_thread"):
            state.list_tasks(address="auto")


async def test_nodes_tell_the_head_and_one_that_is_killed_has_failed_what_it_ran(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    meeting = Meeting(tmp_path / "pipe")
    async with LocalCluster(nodes=2, resources=[{"CPU": 0}, {"CPU": 2}], _system_config=QUICK) as cluster:
        (member,) = [node for node in cluster.nodes if node.node_id != cluster.head.node_id]
        there = NodeAffinitySchedulingStrategy(member.node_id, soft=False)
        assert await double.options(scheduling_strategy=there).remote(2) == 4
        ref = wait_for.options(scheduling_strategy=there, max_retries=0).remote(meeting.path)
        wanted = {"double": "FINISHED", "wait_for": "RUNNING"}
        while {task.name: task.state for task in state.list_tasks()} != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert {task.node_id for task in state.list_tasks()} == {member.node_id}
        await cluster.kill_node_async(member)
        with pytest.raises(aioray.exceptions.NodeDiedError):
            await ref
        task = state.get_task(ref.task_id().hex())
        assert task is not None
        assert (task.state, task.error_type) == ("FAILED", "NodeDiedError")
        assert [node.state for node in state.list_nodes(filters=[("node_id", "=", member.node_id)])] == ["DEAD"]
