"""Values and refs that cross from node to node, and who counts them."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.dag import InputNode, MultiOutputNode
from aioray.testing import LocalCluster
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.cluster.hand_fed import HandFedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioray_node.node import Node

LARGE = 300_000  # numbers, 2.4 MB


@aioray.remote(resources={"there": 0.1})
def total(array: Any) -> float:
    return float(array.sum())


@aioray.remote(resources={"there": 0.1})
def make(value: float) -> Any:
    return np.full(LARGE, value)


@aioray.remote(resources={"there": 0.1})
def put_there(value: float) -> list[Any]:
    return [aioray.put(np.full(LARGE, value))]


@aioray.remote(resources={"there": 0.1})
def get_inside(refs: list[Any]) -> float:
    return float(aioray.get(refs[0]).sum())


@aioray.remote(resources={"there": 0.1})
def pass_on(refs: list[Any]) -> list[Any]:
    return [make.remote(3), *refs]


class Reader:
    def wait_for(self, path: str) -> None:
        while not pathlib.Path(path).exists():
            time.sleep(0.01)

    def total(self, array: Any) -> float:
        return float(array.sum())


@pytest.fixture(params=["read in place", "sent"])
async def two(request: pytest.FixtureRequest, nothing_left: None) -> AsyncIterator[HandFedCluster]:
    shares = request.param == "read in place"
    nodes: list[dict[str, Any]] = [{"num_cpus": 1}, {"num_cpus": 2, "resources": {"there": 1.0}}]
    async with HandFedCluster(*nodes, transfer_share_memory=shares) as cluster:
        yield cluster
        async with asyncio.timeout(5):  # all that was counted is let go, on both nodes
            while any(left_of(node) for node in cluster.nodes):  # noqa: ASYNC110 # counts tell nobody
                await asyncio.sleep(0.01)


def left_of(node: Node) -> list[Any]:
    """Objects that a node still counts, has copies of, or waits for."""
    state = node._desks.objects._state
    return [*node._desks.store._directory.entries, *state.held, *state.waiters, *state.asked, *state.pulling]


async def test_a_large_argument_is_read_where_the_task_runs(two: HandFedCluster) -> None:
    array = np.ones(LARGE)
    assert await total.remote(array) == LARGE
    ref = aioray.put(array)
    assert await asyncio.gather(*(total.remote(ref) for _ in range(5))) == [LARGE] * 5


async def test_a_large_result_stays_where_it_was_made_until_somebody_reads_it(two: HandFedCluster) -> None:
    ref = make.remote(2)
    assert await total.remote(ref) == 2 * LARGE
    assert two.nodes[0]._desks.store.used_nbytes == 0
    assert (await ref).sum() == 2 * LARGE
    copied_nbytes = two.nodes[0]._desks.store.used_nbytes
    assert (copied_nbytes == 0) == two.nodes[0]._config.transfer_share_memory


async def test_a_value_that_need_not_be_here_counts_where_it_lies(two: HandFedCluster) -> None:
    """
    1. it is waited for, and nothing is brought
    2. whoever wants it here waits until it is
    """
    ref = make.remote(2)
    assert await aioray.wait([ref], timeout=10, fetch_local=False) == ([ref], [])
    assert await aioray.wait([ref], timeout=0, fetch_local=False) == ([ref], [])
    assert not ref.done()
    assert two.nodes[0]._desks.store.used_nbytes == 0
    assert await aioray.wait([ref], timeout=10) == ([ref], [])
    assert ref.done()


async def test_refs_to_what_others_own_are_followed_to_their_homes(two: HandFedCluster) -> None:
    """
    1. a ref of ours inside an argument is read there
    2. a ref of theirs inside a result is read here, after its owner's call is over
    3. a ref of ours comes back beside one to what is still being made there
    """
    ours = aioray.put(np.ones(LARGE))
    assert await get_inside.remote([ours]) == LARGE
    (theirs,) = await put_there.remote(5)
    assert (await theirs).sum() == 5 * LARGE
    made, back = await pass_on.remote([ours])
    assert back is ours
    assert (await made).sum() == 3 * LARGE


async def test_what_is_looked_at_stays_when_its_node_is_killed(two: HandFedCluster) -> None:
    array = await make.remote(2)
    node = two.nodes[1]
    two.kill(node)
    two.bury(node)
    assert array.sum() == 2 * LARGE


async def test_what_nobody_has_read_is_lost_with_its_node(two: HandFedCluster) -> None:
    ref = make.remote(3)
    assert await total.remote(ref) == 3 * LARGE  # it is made, and read there
    node = two.nodes[1]
    two.kill(node)
    two.bury(node)
    with pytest.raises(aioray.exceptions.ObjectLostError, match=node.node_id):
        await ref


async def test_the_memory_of_a_neighbour_is_let_go_of_when_nothing_looks_at_it_whatever_is_held(
    two: HandFedCluster,
) -> None:
    ref = make.remote(2)
    array = await ref
    neighbours = ref._runtime.memory.neighbours
    assert neighbours.is_mapped == two.nodes[0]._config.transfer_share_memory
    del array
    async with asyncio.timeout(5):
        while neighbours.is_mapped:  # noqa: ASYNC110 # it is trimmed in a while, and tells nobody
            await asyncio.sleep(0.05)
    assert (await ref).sum() == 2 * LARGE


async def test_the_argument_of_a_call_that_waits_for_its_turn_comes_meanwhile(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    nodes: list[dict[str, Any]] = [{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1.0}}]
    async with HandFedCluster(*nodes, transfer_share_memory=False) as cluster:
        reader = aioray.remote(Reader).options(resources={"there": 0.1}).remote()
        first = reader.wait_for.remote(str(tmp_path / "go"))
        second = reader.total.remote(aioray.put(np.ones(LARGE)))
        store = cluster.nodes[1]._desks.store
        async with asyncio.timeout(10):
            while not store._directory.copies:  # noqa: ASYNC110 # copies tell nobody
                await asyncio.sleep(0.01)
        (copy,) = store._directory.copies.values()
        (tmp_path / "go").touch()
        await first
        assert await second == LARGE
        assert cluster.nodes[0].transfers.figures()["sent_nbytes"] == copy.value.nbytes


@aioray.remote
def make_here(value: float) -> Any:
    return np.full(LARGE, value)


class Keeper:
    """Has another node make an array, and an actor on a third one keep it."""

    def have_kept(self, maker: str, looker: Any) -> float:
        made = make_here.options(scheduling_strategy=NodeAffinitySchedulingStrategy(maker, soft=False)).remote(7)
        return float(aioray.get(looker.keep.remote(made)))


class Looker:
    def keep(self, array: Any) -> float:
        self.array = array
        return self.total()

    def total(self) -> float:
        return float(self.array.sum())


async def test_what_is_looked_at_stays_when_the_node_of_its_owner_is_killed(nothing_left: None) -> None:
    """What is made next on the node where it lies would else be written over it."""
    async with LocalCluster(nodes=4, resources=[{"CPU": 1}] * 4, in_process=True) as cluster:
        with cluster.use():
            _, victim, maker, _ = cluster.nodes
            at = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in cluster.nodes]
            keeper = aioray.remote(Keeper).options(num_cpus=0, scheduling_strategy=at[1]).remote()
            looker = aioray.remote(Looker).options(num_cpus=0, scheduling_strategy=at[3]).remote()
            assert await keeper.have_kept.remote(maker.node_id, looker) == 7 * LARGE
            await cluster.kill_node_async(victim)
            refs = [make_here.options(scheduling_strategy=at[2]).remote(0) for _ in range(3)]
            assert [array.sum() for array in await asyncio.gather(*refs)] == [0.0] * 3
            assert await looker.total.remote() == 7 * LARGE


class Doubler:
    def double(self, x: Any) -> Any:
        return 2 * x

    def wrap(self, x: Any) -> Any:
        return [aioray.put(x)]

    def unwrap(self, refs: list[Any]) -> Any:
        return aioray.get(refs[0])


class AsyncDoubler:
    async def double(self, x: Any) -> Any:
        return 2 * x

    async def wrap(self, x: Any) -> Any:
        return [aioray.put(x)]

    async def unwrap(self, refs: list[Any]) -> Any:
        return await refs[0]


def here_and_there(two: HandFedCluster, cls: type) -> list[Any]:
    """One on the driver's node, and one on the other."""
    made: Any = aioray.remote(num_cpus=0)(cls)
    by_node = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in two.nodes]
    return [made.options(scheduling_strategy=each).remote() for each in by_node]


@pytest.mark.parametrize("cls", [Doubler, AsyncDoubler])
async def test_large_values_of_a_compiled_graph_cross_in_both_directions(two: HandFedCluster, cls: type) -> None:
    """
    1. a large input goes there, a large value comes here and goes there again; all three are outputs
    2. what was taken from a pass is as it was when others have gone by
    """
    here, there = here_and_there(two, cls)
    with InputNode() as given:
        far = there.double.bind(given)
        near = here.double.bind(far)
        graph = MultiOutputNode([far, near, there.double.bind(near)]).experimental_compile()
    passes = [await asyncio.gather(*await graph.execute_async(np.full(LARGE, n))) for n in range(4)]
    sums = [[int(value.sum()) // LARGE for value in values] for values in passes]
    assert sums == [[2 * n, 4 * n, 8 * n] for n in range(4)]
    graph.teardown()


async def test_refs_inside_of_values_of_a_compiled_graph_cross(two: HandFedCluster) -> None:
    here, there = here_and_there(two, Doubler)
    with InputNode() as given:
        graph = here.unwrap.bind(there.wrap.bind(there.double.bind(given))).experimental_compile()
    for n in range(3):
        assert (await (await graph.execute_async(np.full(LARGE, n)))).sum() == 2 * n * LARGE
    graph.teardown()


async def test_a_graph_that_ends_while_large_values_cross_leaves_none(two: HandFedCluster) -> None:
    here, there = here_and_there(two, AsyncDoubler)
    with InputNode() as given:
        graph = here.double.bind(there.double.bind(here.double.bind(given))).experimental_compile()
    refs = [await graph.execute_async(np.full(LARGE, n)) for n in range(4)]
    assert (await refs[0]).sum() == 0
    graph.teardown()
    for ref in refs[1:]:
        with contextlib.suppress(aioray.exceptions.RayChannelError):
            await ref
