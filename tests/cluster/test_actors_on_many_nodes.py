"""Actors that live on other nodes than those who call them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import ActorDiedError
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from aioray_node.gcs.shell import ActorDesk
from tests.cluster.hand_fed import HandFedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Counter:
    def __init__(self, array: Any = None) -> None:
        self._count = 0 if array is None else int(array.sum())

    def add(self, amount: int = 1) -> int:
        self._count += amount
        return self._count

    def where(self) -> str:
        return aioray.get_runtime_context().get_node_id()

    def ask(self, name: str) -> int:
        """Of an actor that is found by its name."""
        return int(aioray.get(aioray.get_actor(name).add.remote(10)))

    def make(self, name: str) -> Any:
        return aioray.remote(Counter).options(name=name, num_cpus=0).remote()


class AsyncCounter(Counter):
    async def total(self, array: Any) -> float:
        return float(array.sum())


@pytest.fixture
async def two(nothing_left: None) -> AsyncIterator[HandFedCluster]:
    async with HandFedCluster({"num_cpus": 1}, {"num_cpus": 2, "resources": {"there": 2.0}}) as cluster:
        yield cluster


THERE: dict[str, Any] = {"resources": {"there": 1}}


async def test_an_actor_lives_where_its_resource_is_and_answers_in_order(two: HandFedCluster) -> None:
    head, there = two.nodes
    actor = aioray.remote(Counter).options(**THERE).remote(np.ones(200_000))
    assert await actor.where.remote() == there.node_id != head.node_id
    assert await asyncio.gather(*(actor.add.remote() for _ in range(5))) == [200_001 + n for n in range(5)]
    awaits = aioray.remote(AsyncCounter).options(**THERE).remote()
    assert await awaits.total.remote(np.ones(200_000)) == 200_000


async def test_a_name_is_known_on_all_nodes(two: HandFedCluster) -> None:
    """
    1. one that lives there finds one that lives here
    2. one that it makes is found here, lives on as long as there is a handle, and its name is free after a kill
    """
    here = aioray.remote(Counter).options(name="here", num_cpus=0).remote()
    there = aioray.remote(Counter).options(**THERE).remote()
    assert await there.ask.remote("here") == 10
    made = await there.make.remote("made")
    assert await aioray.get_actor("made").add.remote() == 1
    aioray.kill(made)
    with pytest.raises(ActorDiedError):
        await made.add.remote()
    with pytest.raises(ValueError, match="made"):
        aioray.get_actor("made")
    assert await here.add.remote() == 11


async def test_an_actor_is_gone_when_its_last_handle_is(two: HandFedCluster) -> None:
    actor = aioray.remote(Counter).options(num_cpus=0, **THERE).remote()
    await actor.add.remote()
    del actor
    desk = two.nodes[0]._desks.actors
    assert isinstance(desk, ActorDesk)
    async with asyncio.timeout(5):
        while desk._state.actors or two.nodes[1]._desks.hosting._specs:  # noqa: ASYNC110 # it tells nobody
            await asyncio.sleep(0.01)


async def test_an_actor_whose_node_dies_is_constructed_again_elsewhere(nothing_left: None) -> None:
    """
    1. it lives on one of two nodes that could have it, and that one is killed
    2. a call that may be sent again is answered by its next life, on the other
    """
    spare = {"num_cpus": 1, "resources": {"there": 1.0}}
    async with HandFedCluster({"num_cpus": 0}, spare, spare) as cluster:
        options: dict[str, Any] = {"max_restarts": 1, "max_task_retries": 1, **THERE}
        actor = aioray.remote(Counter).options(**options).remote()
        first = await actor.where.remote()
        node = next(node for node in cluster.nodes if node.node_id == first)
        cluster.kill(node)
        call = actor.where.remote()
        cluster.bury(node)
        second = await call
        assert second not in (first, cluster.nodes[0].node_id)


async def test_a_full_node_that_has_not_heard_yet_may_send_an_actor_to_the_dead(nothing_left: None) -> None:
    """
    1. an actor would rather be on a node, which dies; the head hears of it, the other node does not, and is full
    2. the head has the other one take the actor, which sends it to the dead: there it was to be
    3. it comes back, and is constructed as soon as there is room
    """
    async with HandFedCluster({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        head, other, liked = cluster.nodes
        there = [NodeAffinitySchedulingStrategy(node.node_id, soft=True) for node in (other, liked)]
        counter = aioray.remote(Counter)
        in_the_way = counter.options(num_cpus=1, scheduling_strategy=there[0]).remote()
        actor = counter.options(max_restarts=1, max_task_retries=1, scheduling_strategy=there[1]).remote()
        assert await in_the_way.where.remote() == other.node_id
        assert await actor.where.remote() == liked.node_id
        cluster.kill(liked)
        cluster.bury_for(head, liked)
        aioray.kill(in_the_way)  # which the other node hears after that it is to have the actor
        async with asyncio.timeout(10):
            assert await actor.where.remote() == other.node_id
