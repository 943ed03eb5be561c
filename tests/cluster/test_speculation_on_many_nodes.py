"""Results of speculative calls, whose refs are other names of what an attempt made, on their way from node to node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from tests.api.test_speculation import Stage, act
from tests.cluster.hand_fed import HandFedCluster
from tests.cluster.test_objects_on_many_nodes import LARGE, left_of

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator

run_there: Any = aioray.remote(speculative=True, resources={"there": 0.1})(act)


@aioray.remote(num_cpus=0)
class Keeper:
    def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    def total(self) -> float:
        return float(aioray.get(self.refs[0]).sum())

    def total_of(self, array: Any) -> float:
        return float(array.sum())

    def total_inside(self) -> float:
        return float(aioray.get(aioray.get(self.refs[0])[0]).sum())


@pytest.fixture(params=["read in place", "sent"])
async def two(request: pytest.FixtureRequest, nothing_left: None) -> AsyncIterator[HandFedCluster]:
    shares = request.param == "read in place"
    nodes: list[dict[str, Any]] = [
        {"num_cpus": 1, "resources": {"here": 1.0}},
        {"num_cpus": 2, "resources": {"there": 1.0}},
    ]
    async with HandFedCluster(*nodes, transfer_share_memory=shares) as cluster:
        await asyncio.gather(*(run_there.remote(None, "x", "x") for _ in range(3)))
        yield cluster
        async with asyncio.timeout(5):  # all that was counted is let go, on both nodes
            while any(left_of(node) for node in cluster.nodes):  # noqa: ASYNC110 # counts tell nobody
                await asyncio.sleep(0.01)
            while any(node._desks.store.used_nbytes for node in cluster.nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def keeper(place: str) -> Any:
    return Keeper.options(resources={place: 0.1}).remote()  # type: ignore[attr-defined]


async def test_who_has_the_ref_before_there_is_a_winner_reads_what_it_made(
    two: HandFedCluster, tmp_path: pathlib.Path
) -> None:
    """
    1. two actors, one on each node, have the ref; one of them waits for the value
    2. the copy wins, and its value stays where it was made until somebody reads it
    3. all read it: as an argument, inside of one, and here; the last who has it is an actor of the other node
    """
    here, there = keeper("here"), keeper("there")
    ref = run_there.remote(Stage(tmp_path), "wait", "large")
    await asyncio.gather(here.keep.remote([ref]), there.keep.remote([ref]))
    waits = there.total.remote()
    assert await aioray.wait([ref], timeout=10, fetch_local=False) == ([ref], [])
    assert not ref.done() or two.nodes[0]._config.transfer_share_memory
    expected = 2.0 * LARGE
    assert await waits == expected
    assert await here.total_of.remote(ref) == expected
    assert await there.total_of.remote(ref) == expected
    assert (await ref).sum() == expected
    del ref
    assert await here.total.remote() == expected
    await here.keep.remote([])
    assert await there.total.remote() == expected


async def test_refs_inside_of_the_result_are_followed_to_their_home(
    two: HandFedCluster, tmp_path: pathlib.Path
) -> None:
    here = keeper("here")
    ref = run_there.remote(Stage(tmp_path), "wait", "refs")
    await here.keep.remote([ref])
    inner, _ = await ref
    assert np.asarray(await inner).sum() == 2.0 * LARGE
    del ref, inner
    assert await here.total_inside.remote() == 2.0 * LARGE


async def test_when_the_node_of_the_straggler_dies_its_copy_goes_on(tmp_path: pathlib.Path, nothing_left: None) -> None:
    stage = Stage(tmp_path)
    nodes: list[dict[str, Any]] = [{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}]
    async with HandFedCluster(*nodes) as cluster:
        run: Any = aioray.remote(speculative=True, max_retries=0)(act)
        await asyncio.gather(*(run.remote(None, "x", "x") for _ in range(3)))
        ref = run.remote(stage, "wait", "allowed")
        while not stage.has("second"):  # noqa: ASYNC110 # another process makes it, and tells nobody
            await asyncio.sleep(0.005)
        first, copy = aioray.explain(ref).split("worker ")[1:]
        node = next(each for each in cluster.nodes if first.startswith(each.node_id[:8]))
        assert not copy.startswith(node.node_id[:8])
        cluster.kill(node)
        cluster.bury(node)
        stage.allow("second may")
        assert await ref == "second"
