"""Clusters of several nodes on this machine: they come up, change, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import aioray
from aioray.embedded_node import EmbeddedNode
from aioray.exceptions import BlockingCallError, InvalidOptionError, RaySystemError
from aioray.runtime.link import ask_node
from aioray.testing import LocalCluster, LocalNode
from aioray.wire.control import Query
from tests.processes.programs import Program, wait_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("nothing_left")


@aioray.remote
def add(a: int, b: int) -> int:
    return a + b


def lives() -> dict[str, bool]:
    return {node["NodeID"]: node["Alive"] for node in aioray.nodes()}


def totals(*names: str) -> list[float]:
    amounts = aioray.cluster_resources()
    return [amounts.get(name, 0.0) for name in names]


def test_without_an_event_loop_nodes_come_and_go() -> None:
    """
    1. three nodes, each with what it was given; a task runs
    2. one is added, one leaves, one is killed: each time the head knows when the call returns
    """
    each_has = [{"CPU": 2}, {"disk": 4}, {"CPU": 0, "GPU": 1}]
    with LocalCluster(nodes=3, resources=each_has, labels=[{}, {"zone": "b"}, {}]) as cluster:
        assert aioray.get(add.remote(1, 2)) == 3
        assert totals("CPU", "GPU", "disk") == [3, 1, 4]
        assert totals("node:127.0.0.1", "node:__internal_head__") == [3, 1]
        assert [node["IsHead"] for node in aioray.nodes()].count(True) == 1
        (labelled,) = [node for node in aioray.nodes() if node["Labels"].get("zone") == "b"]
        assert labelled["NodeID"] == cluster.nodes[1].node_id
        extra = cluster.add_node(num_cpus=5)
        assert totals("CPU") == [8]
        cluster.remove_node(extra)
        assert totals("CPU") == [3]
        second = cluster.nodes[1]
        cluster.kill_node(second)
        assert lives() == {node.node_id: True for node in cluster.nodes} | {
            extra.node_id: False,
            second.node_id: False,
        }
        reasons = {node["NodeID"]: node["DeathReason"] for node in aioray.nodes()}
        assert reasons[extra.node_id] == "it was stopped"
        assert "connection was lost" in reasons[second.node_id]
        os.kill(cluster.nodes[1].pid, signal.SIGKILL)  # what a test does by itself holds nothing up
        cluster.add_node(num_cpus=1)
        with pytest.raises(ValueError, match="none of this cluster's nodes"):
            cluster.kill_node(second)
        with pytest.raises(ValueError, match="the head has the GCS"):
            cluster.remove_node(cluster.head)
    assert not aioray.is_initialized()


@pytest.fixture(params=[False, True], ids=["processes", "in_process"])
async def three(request: Any) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(nodes=3, in_process=request.param) as cluster:
        yield cluster


async def test_in_an_event_loop_nodes_come_and_go(three: LocalCluster) -> None:
    with three.use():
        assert await add.remote(1, 2) == 3
        assert totals("CPU") == [3]
        extra = await three.add_node_async(num_cpus=5, resources={"disk": 1})
        assert totals("CPU", "disk") == [8, 1]
        await three.remove_node_async(extra)
        killed = three.nodes[1]
        await three.kill_node_async(killed)
        assert totals("CPU") == [2]
        assert lives() == {node.node_id: True for node in three.nodes} | {extra.node_id: False, killed.node_id: False}
        with pytest.raises(BlockingCallError, match="add_node_async"):
            three.add_node()


class Holder:
    def ready(self) -> None: ...


async def test_what_a_node_has_to_spare_is_known_elsewhere(three: LocalCluster) -> None:
    """A task holds a CPU of the head, and another node hears of it; and again when it is free."""

    with three.use():
        assert aioray.available_resources()["CPU"] == 3
        holder = aioray.remote(num_cpus=1)(Holder).remote()
        await holder.ready.remote()
        assert aioray.available_resources()["CPU"] == 2
        await _until_elsewhere(three, 2)
        del holder
        await _until_elsewhere(three, 3)


async def _until_elsewhere(cluster: LocalCluster, cpus: float) -> None:
    """Until a node that is not the head says so of the whole cluster."""
    async with asyncio.timeout(10):
        while asked(cluster.nodes[1], "available_resources")["CPU"] != cpus:  # noqa: ASYNC110 # it tells nobody here
            await asyncio.sleep(0.005)


def asked(node: LocalNode, what: str) -> Any:
    """What a node answers that this program is not connected to."""
    if isinstance(node.part, EmbeddedNode):
        return node.part.exchange_for(b"")(Query(0, what)).data
    return ask_node(node.address, what)


def test_two_clusters_side_by_side_do_not_see_each_other() -> None:
    with LocalCluster(nodes=1) as one, LocalCluster(nodes=1) as other:
        with one.use():
            mine = set(lives())
        assert mine == {one.head.node_id}
        assert set(lives()) == {other.head.node_id}


def test_bad_options_are_named_and_nothing_is_started() -> None:
    for given, option in (
        ({"nodes": 0}, "nodes"),
        ({"nodes": 2, "resources": [{"CPU": 1}]}, "resources"),
        ({"resources": {"CPU": -1}}, "num_cpus"),
        ({"num_cpus": "two"}, "num_cpus"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"_system_config": {"no_such": 1}}, "no_such"),
    ):
        with pytest.raises(InvalidOptionError) as caught:
            LocalCluster(**given)
        assert caught.value.option == option
    with pytest.raises(InvalidOptionError, match="in_process"), LocalCluster(in_process=True):
        pass
    with pytest.raises(RaySystemError, match="not running"):
        LocalCluster().add_node()
    with LocalCluster(num_cpus=0) as cluster, pytest.raises(InvalidOptionError, match=r"num_cpu=1 .*num_cpus"):
        cluster.add_node(num_cpu=1)


async def test_the_blocking_face_says_what_to_write_in_an_event_loop() -> None:
    with pytest.raises(BlockingCallError, match="async with LocalCluster"), LocalCluster():
        pass


@pytest.mark.parametrize("in_process", [False, True])
async def test_a_start_that_is_cancelled_leaves_nothing(in_process: bool) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), LocalCluster(nodes=2, in_process=in_process):
            await asyncio.Event().wait()


PROGRAM = """
import time
from aioray.testing import LocalCluster
with LocalCluster(nodes=2) as cluster:
    print(*(node.pid for node in cluster.nodes), *(node.session_dir for node in cluster.nodes), flush=True)
    time.sleep(60)
"""


def test_a_program_that_is_killed_takes_its_local_cluster_along(tmp_path: pathlib.Path) -> None:
    with Program(tmp_path, PROGRAM) as program:
        words = program.line().split()
        directories = words[2:]
        processes = [psutil.Process(int(word)) for word in words[:2]]
        os.kill(program.pid, signal.SIGKILL)
        wait_gone(processes)
        assert not any(pathlib.Path(directory).exists() for directory in directories)
