"""What is written about scheduling in clusters, done on clusters of two to four nodes.

By what is described: where tasks go by themselves and when they are told to (000), precise control by custom resources
(001), gangs of workers and large arguments (002).
"""

from __future__ import annotations

import asyncio
import collections
import pathlib
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import GetTimeoutError
from aioray.testing import LocalCluster
from aioray.util import placement_group, placement_group_table, remove_placement_group
from aioray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

pytestmark = pytest.mark.usefixtures("nothing_left")

Array = np.ndarray[Any, Any]
GROUP_TIMEOUT_S = 20.0
NO_ROOM_S = 0.3


def cluster_of(*has: Mapping[str, float]) -> LocalCluster:
    """A node for each of these."""
    return LocalCluster(nodes=len(has), resources=has, in_process=True, _system_config={"prestart_workers": 0})


def where() -> str:
    return aioray.get_runtime_context().get_node_id()


def where_in(directory: str, count: int) -> str:
    """The same, when so many of them run at once."""
    name = f"{time.monotonic_ns()}-{aioray.get_runtime_context().get_task_id()}"
    pathlib.Path(directory, name).touch()
    while len(list(pathlib.Path(directory).iterdir())) < count:
        time.sleep(0.002)
    return where()


def total(array: Array) -> tuple[float, str]:
    return float(array.sum()), where()


class Worker:
    def where(self) -> str:
        return where()

    def echo(self, value: int) -> int:
        return value


def ids(cluster: LocalCluster) -> list[str]:
    return [node.node_id for node in cluster.nodes]


# 000: hybrid scheduling, resources, custom resources, the head that only coordinates, SPREAD, gangs, locality


async def test_what_fits_stays_on_the_drivers_node_and_what_does_not_goes_on() -> None:
    """
    1. single tasks run where they are called
    2. of six at once, four more than fit here, four run on the other nodes
    """
    async with cluster_of({"CPU": 2}, {"CPU": 2}, {"CPU": 2}) as cluster:
        at, meet = aioray.remote(where), aioray.remote(where_in)
        assert {await at.remote() for _ in range(3)} == {cluster.head.node_id}
        with tempfile.TemporaryDirectory() as directory:
            went = await asyncio.gather(*(meet.remote(directory, 6) for _ in range(6)))
        assert collections.Counter(went) == dict.fromkeys(ids(cluster), 2)


async def test_training_runs_on_the_node_with_gpus_and_more_can_be_asked_for_at_the_call() -> None:
    async with cluster_of({"CPU": 2}, {"CPU": 8, "GPU": 2}) as cluster:
        train = aioray.remote(where).options(num_cpus=4, num_gpus=1)
        assert await train.remote() == cluster.nodes[1].node_id
        assert await train.options(num_cpus=8, num_gpus=2).remote() == cluster.nodes[1].node_id


async def test_who_needs_a_gpu_waits_for_it_rather_than_run_without() -> None:
    """
    1. the only GPU is taken by an actor: a task that needs one waits, though CPUs are free
    2. the actor is gone: it runs, on the node with the GPU
    """
    async with cluster_of({"CPU": 2}, {"CPU": 1, "GPU": 1}) as cluster:
        holder = aioray.remote(Worker).options(num_gpus=1).remote()
        await holder.where.remote()
        waits = aioray.remote(where).options(num_cpus=0, num_gpus=1).remote()
        assert await aioray.wait([waits], timeout=0.05) == ([], [waits])
        aioray.kill(holder)
        assert await waits == cluster.nodes[1].node_id


async def test_a_node_with_a_fast_disk_is_found_by_a_custom_resource_and_a_region_too() -> None:
    async with cluster_of({"CPU": 1}, {"CPU": 1, "nvme": 1}, {"CPU": 1, "nvme": 1, "region:us-west": 1}) as cluster:
        at = aioray.remote(where)
        assert await at.options(resources={"nvme": 1}).remote() in ids(cluster)[1:]
        assert await at.options(resources={"region:us-west": 0.1}).remote() == ids(cluster)[2]


async def test_a_head_without_cpus_coordinates_and_workers_that_come_later_do_all() -> None:
    """
    1. the head has no CPUs, and there is nobody else: tasks wait
    2. two nodes join, as an autoscaler would have them: they run there
    """
    async with cluster_of({"CPU": 0}) as cluster:
        refs = [aioray.remote(where).remote() for _ in range(10)]
        assert await aioray.wait(refs, timeout=0.05) == ([], refs)
        added = [await cluster.add_node_async(num_cpus=1) for _ in range(2)]
        assert set(await asyncio.gather(*refs)) <= {node.node_id for node in added}


async def test_spread_tasks_survive_with_one_node_less() -> None:
    """Six tasks at once are spread two by two over three nodes, where each could have had all of them."""
    async with cluster_of({"CPU": 6}, {"CPU": 6}, {"CPU": 6}) as cluster:
        meet = aioray.remote(where_in).options(scheduling_strategy="SPREAD")
        with tempfile.TemporaryDirectory() as directory:
            went = await asyncio.gather(*(meet.remote(directory, 6) for _ in range(6)))
        assert collections.Counter(went) == dict.fromkeys(ids(cluster), 2)


async def test_four_training_workers_are_together_on_the_one_node_with_four_gpus() -> None:
    """
    1. STRICT_PACK: all four GPUs are those of one node, where the others together have as many
    2. where no node has five, the group is not there, and says so; it is not scattered
    """
    async with cluster_of({"CPU": 1, "GPU": 2}, {"CPU": 4, "GPU": 4}, {"CPU": 1, "GPU": 2}) as cluster:
        group = placement_group([{"GPU": 1}] * 4, strategy="STRICT_PACK")
        await group.ready(timeout=GROUP_TIMEOUT_S)
        worker = aioray.remote(Worker).options(num_cpus=0, num_gpus=1, scheduling_strategy=InGroup(group))
        workers = [worker.remote() for _ in range(4)]
        assert set(await asyncio.gather(*(each.where.remote() for each in workers))) == {ids(cluster)[1]}
        remove_placement_group(group)
        too_large = placement_group([{"GPU": 1}] * 5, strategy="STRICT_PACK")
        with pytest.raises(GetTimeoutError, match="5 GPU"):
            await too_large.ready(timeout=NO_ROOM_S)
        remove_placement_group(too_large)


async def test_the_computation_moves_to_the_data() -> None:
    """
    1. an array was made on the second node: what reads it runs there, though the driver's node is free
    2. with SPREAD it does not matter where the array is
    """
    async with cluster_of({"CPU": 4}, {"CPU": 4, "data": 1}) as cluster:
        array = aioray.remote(np.ones).options(resources={"data": 1}).remote(1_000_000)
        process = aioray.remote(total)
        assert await process.remote(array) == (1_000_000.0, ids(cluster)[1])
        spread = [process.options(scheduling_strategy="SPREAD").remote(array) for _ in range(2)]
        assert {node_id for _, node_id in await asyncio.gather(*spread)} == set(ids(cluster))


async def test_a_full_node_with_the_data_lets_others_have_both() -> None:
    """Locality is a preference: an actor has all CPUs where the array is, so the array goes to where CPUs are."""
    async with cluster_of({"CPU": 1}, {"CPU": 1, "data": 1}) as cluster:
        array = aioray.remote(np.ones).options(resources={"data": 1}).remote(1_000_000)
        assert await aioray.remote(total).options(resources={"data": 1}).remote(array) == (
            1_000_000.0,
            ids(cluster)[1],
        )  # it is made
        holder = aioray.remote(Worker).options(num_cpus=1, resources={"data": 1}).remote()
        await holder.where.remote()
        assert await aioray.remote(total).remote(array) == (1_000_000.0, cluster.head.node_id)


# 001: a resource of its own for each node gives full control


def test_tasks_go_round_the_nodes_by_the_name_of_each() -> None:
    """
    1. two processes, each with a resource by which tasks can name it: the cluster has both
    2. of many tasks every other one runs on each
    """
    has = [{"CPU": 1, "node0": 2}, {"CPU": 1, "node1": 2}]
    with LocalCluster(nodes=2, resources=has, _system_config={"prestart_workers": 0}) as cluster:
        resources = aioray.cluster_resources()
        assert (resources["CPU"], resources["node0"], resources["node1"]) == (2.0, 2.0, 2.0)
        named = [
            [name for name in node["Resources"] if name.startswith("node") and ":" not in name]
            for node in aioray.nodes()
        ]
        assert sorted(named) == [["node0"], ["node1"]]
        at = aioray.remote(where)
        went = aioray.get([at.options(resources={f"node{i % 2}": 1}).remote() for i in range(100)])
        assert went == [ids(cluster)[i % 2] for i in range(100)]


async def test_affinity_and_anti_affinity_by_how_much_each_takes_of_a_resource() -> None:
    """
    1. affinity: both of a group take half of one node's resource, and run on it together
    2. anti-affinity: three take the whole of a resource that each of three nodes has once, so no two meet
    """
    async with cluster_of(*[{"CPU": 2, "alone": 1, f"node{i}": 2} for i in range(3)]) as cluster:
        meet = aioray.remote(where_in)
        with tempfile.TemporaryDirectory() as directory:
            pair = [meet.options(resources={"node2": 1}).remote(directory, 2) for _ in range(2)]
            assert await asyncio.gather(*pair) == [ids(cluster)[2]] * 2
        with tempfile.TemporaryDirectory() as directory:
            apart = [meet.options(resources={"alone": 1}).remote(directory, 3) for _ in range(3)]
            assert sorted(await asyncio.gather(*apart)) == sorted(ids(cluster))


def write(path: str) -> None:
    part = pathlib.Path(path + ".part")
    part.write_text("foo")
    part.rename(path)


def read(path: str) -> tuple[str, str]:
    while not pathlib.Path(path).exists():
        time.sleep(0.002)
    return pathlib.Path(path).read_text(), where()


async def test_a_writer_and_a_reader_share_a_file_of_their_node(tmp_path: pathlib.Path) -> None:
    """Both at the same time, for the reader waits for the file; the reader is asked for first."""
    async with cluster_of({"CPU": 1}, {"CPU": 2, "node1": 2}) as cluster:
        path = str(tmp_path / "file")
        reading = aioray.remote(read).options(resources={"node1": 1}).remote(path)
        await aioray.remote(write).options(resources={"node1": 1}).remote(path)
        assert await reading == ("foo", ids(cluster)[1])


def ask(worker: Any) -> tuple[int, str]:
    return aioray.get(worker.echo.remote(1)), where()


async def test_a_task_beside_the_actor_that_it_calls() -> None:
    async with cluster_of({"CPU": 1}, {"CPU": 1, "node1": 2}) as cluster:
        worker = aioray.remote(Worker).options(resources={"node1": 1}).remote()
        caller = aioray.remote(ask).options(resources={"node1": 1})
        assert await caller.remote(worker) == (1, ids(cluster)[1])
        assert await worker.where.remote() == ids(cluster)[1]


# 002: gangs of workers, and arguments that many tasks share


@pytest.mark.parametrize(("strategy", "nodes"), [("PACK", 2), ("SPREAD", 3), ("STRICT_SPREAD", 3)])
async def test_workers_in_the_bundles_of_a_group(strategy: str, nodes: int) -> None:
    """One worker in each of three bundles: on as few nodes as possible, or on as many."""
    async with cluster_of({"CPU": 2}, {"CPU": 2}, {"CPU": 2}):
        group = placement_group([{"CPU": 1}] * 3, strategy=strategy)
        await group.ready(timeout=GROUP_TIMEOUT_S)
        workers = [
            aioray.remote(Worker)
            .options(num_cpus=1, scheduling_strategy=InGroup(group, placement_group_bundle_index=index))
            .remote()
            for index in range(3)
        ]
        went = await asyncio.gather(*(worker.where.remote() for worker in workers))
        bundles = placement_group_table(group)["bundles_to_node_id"]
        assert list(went) == [bundles[index] for index in range(3)]
        assert len(set(went)) == nodes
        remove_placement_group(group)


async def test_a_large_argument_is_stored_once_and_read_on_every_node() -> None:
    async with cluster_of(*[{"CPU": 2}] * 3) as cluster:
        array = aioray.put(np.ones(1_000_000))
        process = aioray.remote(total).options(scheduling_strategy="SPREAD")
        found: Sequence[tuple[float, str]] = await asyncio.gather(*(process.remote(array) for _ in range(30)))
        assert {each for each, _ in found} == {1_000_000.0}
        assert {node_id for _, node_id in found} == set(ids(cluster))
