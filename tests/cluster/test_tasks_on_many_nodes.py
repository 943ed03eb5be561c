"""Tasks on clusters of two and three nodes."""

from __future__ import annotations

import asyncio
import collections
import os
import pathlib
import tempfile
import time

import pytest

import aioray
from aioray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from aioray.testing import LocalCluster
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


async def test_what_is_spread_goes_round(nothing_left: None) -> None:
    """Six that run at once, two on each of three nodes, though the first could have four."""
    many = {"num_cpus": 4}
    async with HandFedCluster(many, many, many) as cluster:
        with tempfile.TemporaryDirectory() as directory:
            at = aioray.remote(wait_for_all).options(scheduling_strategy="SPREAD")
            went = await asyncio.gather(*(at.remote(directory, str(i), 6) for i in range(6)))
        assert collections.Counter(went) == {node.node_id: 2 for node in cluster.nodes}


async def test_what_is_spread_goes_round_even_one_after_the_other(nothing_left: None) -> None:
    """The worker of the one before would be free."""
    many = {"num_cpus": 4}
    async with HandFedCluster(many, many, many) as cluster:
        at = aioray.remote(where).options(scheduling_strategy="SPREAD")
        went = [await at.remote() for _ in range(6)]
        assert collections.Counter(went) == {node.node_id: 2 for node in cluster.nodes}


async def test_what_is_spread_goes_round_though_it_is_over_before_nodes_say_so(nothing_left: None) -> None:
    """More than there are CPUs, all at once, from a node that can run none."""
    async with HandFedCluster({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        at = aioray.remote(where).options(scheduling_strategy="SPREAD")
        went = await asyncio.gather(*(at.remote() for _ in range(12)))
        counts = collections.Counter(went)
        assert set(counts) == {node.node_id for node in cluster.nodes[1:]}
        assert min(counts.values()) >= 4, counts  # what nodes say meanwhile may bring one forward


def sum_below(depth: int) -> int:
    """Each waits for its two children, on whichever node they are."""
    if not depth:
        return 1
    child = aioray.remote(sum_below)
    return sum(aioray.get([child.remote(depth - 1), child.remote(depth - 1)]))


async def test_nested_tasks_need_no_more_cpus_than_there_are(nothing_left: None) -> None:
    async with HandFedCluster({"num_cpus": 1}, {"num_cpus": 1}):
        assert await aioray.remote(sum_below).remote(3) == 8


def wait_or_return(directory: str) -> str:
    """The first time it stays; the second time somebody has been there before."""
    before = len(os.listdir(directory))
    pathlib.Path(directory, f"{before}-{os.getpid()}").touch()
    while not before:
        time.sleep(0.01)
    return where()


async def test_tasks_of_a_node_that_dies_are_tried_again_elsewhere(nothing_left: None, tmp_path: pathlib.Path) -> None:
    """
    1. two run on a node that is killed: one may be tried again, the other may not
    2. the first is answered from the third node; the second fails, for its worker died, or its node
    """
    both, one = tmp_path / "retried", tmp_path / "once"
    both.mkdir()
    one.mkdir()
    async with HandFedCluster({"num_cpus": 0}, {"num_cpus": 2}) as cluster:
        task = aioray.remote(wait_or_return)
        retried = task.options(max_retries=1).remote(str(both))
        once = task.options(max_retries=0).remote(str(one))
        while not (os.listdir(both) and os.listdir(one)):  # noqa: ASYNC110 # files tell nobody
            await asyncio.sleep(0.01)
        doomed = cluster.nodes[1]
        other = cluster.add(num_cpus=1)
        cluster.kill(doomed)
        cluster.bury(doomed)
        assert await retried == other.node_id
        with pytest.raises((NodeDiedError, WorkerCrashedError), match=f"node {doomed.node_id} died|process"):
            await once


async def test_a_node_that_has_just_joined_can_be_asked_for(nothing_left: None) -> None:
    """Before the driver's own node has heard of it; an id that nobody has is an error nevertheless."""
    async with LocalCluster(nodes=1, in_process=True, _system_config={"prestart_workers": 0}) as cluster:
        added = await cluster.add_node_async(num_cpus=1)
        at = aioray.remote(where)
        affinity = NodeAffinitySchedulingStrategy(added.node_id, soft=False)
        assert await at.options(scheduling_strategy=affinity).remote() == added.node_id
        nowhere = NodeAffinitySchedulingStrategy("ab" * 8, soft=False)
        with pytest.raises(TaskUnschedulableError, match="does not exist"):
            await at.options(scheduling_strategy=nowhere).remote()
