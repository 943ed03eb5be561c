"""Ray's Cluster: as programs that test against Ray use it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

import aioray as ray
from aioray.cluster_utils import Cluster
from aioray.exceptions import BlockingCallError, InvalidOptionError, RaySystemError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster(nothing_left: None) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2})
    yield cluster
    cluster.shutdown()


@ray.remote
def double(x: int) -> int:
    return 2 * x


def alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_nodes_are_added_and_removed_while_a_program_runs(cluster: Cluster) -> None:
    first = cluster.add_node(num_cpus=3, resources={"disk": 1}, labels={"zone": "b"}, env_vars={"SOME": "thing"})
    second = cluster.add_node(num_gpus=2)
    assert ray.cluster_resources()["CPU"] == 6
    assert ray.cluster_resources()["GPU"] == 2
    assert alive() == {node.node_id for node in cluster.list_all_nodes()}
    assert cluster.worker_nodes == {first, second}
    assert cluster.head_node not in (first, second)
    os.kill(first.pid, signal.SIGKILL)  # what the test does by itself holds nothing up
    third = cluster.add_node(num_cpus=1)
    for node in (first, third):
        cluster.remove_node(node)
    cluster.remove_node(second, allow_graceful=False)
    cluster.wait_for_nodes()
    assert ray.cluster_resources()["CPU"] == 2
    assert ray.get(double.remote(2)) == 4


def test_a_program_may_connect_by_the_address(nothing_left: None) -> None:
    cluster = Cluster()
    with pytest.raises(RaySystemError, match="add_node"):
        cluster.connect()
    cluster.add_node(num_cpus=1, wait=False)
    with ray.init(address=cluster.address, namespace="mine"):
        assert ray.get_runtime_context().namespace == "mine"
        assert ray.get_runtime_context().gcs_address == cluster.address
        assert ray.get(double.remote(3)) == 6
    with ray.init(address="auto"):  # what this process has started
        assert alive() == {node.node_id for node in cluster.list_all_nodes()}
    cluster.shutdown()
    cluster.shutdown()
    with pytest.raises(RaySystemError, match="shut down"):
        cluster.add_node()


def test_what_it_cannot_do_is_said(cluster: Cluster) -> None:
    with pytest.raises(InvalidOptionError, match="no_such"):
        cluster.add_node(no_such=1)
    with pytest.raises(InvalidOptionError, match="memory"):
        cluster.add_node(memory=-1)
    cluster.add_node()
    head = cluster.head_node
    assert head is not None
    with pytest.raises(ValueError, match="remove the other nodes first"):
        cluster.remove_node(head)
    with pytest.raises(InvalidOptionError, match="initialize_head"):
        Cluster(connect=True)


def test_in_an_event_loop_it_says_what_to_write(nothing_left: None) -> None:
    async def use() -> None:
        with pytest.raises(BlockingCallError, match="LocalCluster"):
            Cluster(initialize_head=True)

    asyncio.run(use())


class Service:
    def whose(self) -> str:
        return str(ray.get_runtime_context().namespace)


def test_programs_that_name_no_namespace_do_not_meet_the_names_of_others(nothing_left: None) -> None:
    cluster = Cluster(initialize_head=True)
    used = set()
    for _ in range(2):
        with ray.init(address=cluster.address):
            with pytest.raises(ValueError, match="no actor called 'service'"):
                ray.get_actor("service")
            ray.remote(num_cpus=0, lifetime="detached", name="service")(Service).remote()
            used.add(ray.get(ray.get_actor("service").whose.remote()))
    assert len(used) == 2
    with ray.init(address=cluster.address):
        for namespace in used:  # it can be told, and then it is found
            ray.kill(ray.get_actor("service", namespace))
    cluster.shutdown()
