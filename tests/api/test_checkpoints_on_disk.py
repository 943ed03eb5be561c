"""Checkpoints in the journal of a node that is in this process, so that its store can be made to lose them."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import ActorUnavailableError, ObjectLostError
from aioray_node.objects.directory import Released
from tests.api.savers import Saver

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

MIB = 1 << 20
COUNT = MIB // 16  # of numbers in an array that goes into shared memory
PATIENCE_S = 10.0
KINDS = [{}, {"isolation": "shared"}]


def node_of(cluster: aioray.Cluster) -> Any:
    """The node in this loop."""
    assert cluster._node is not None
    return cluster._node


def journal_of(cluster: aioray.Cluster) -> pathlib.Path:
    journal: pathlib.Path = node_of(cluster).session.dir / "journal"
    return journal


def lose_checkpoint(cluster: aioray.Cluster, actor: Any) -> None:
    """Have the object store forget the newest checkpoint of an actor."""
    node = node_of(cluster)
    with node._reactor.lock:
        saved = node._desks.actors._state.actors[bytes.fromhex(actor._actor_id)].saved
        assert node._desks.store.has(saved)
        node._desks.store.feed(Released(bytes.fromhex(actor._actor_id), [saved]))
        assert not node._desks.store.has(saved)


async def until(holds: Callable[[], bool]) -> None:
    """For what happens in another thread, or process, that tells nobody: each look lets the node hear something."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            gc.collect()
            await nothing.remote()


@aioray.remote(num_cpus=0)
def nothing() -> None:
    pass


async def crash(actor: Any) -> None:
    with pytest.raises(ActorUnavailableError):
        await actor.die.remote()


@pytest.mark.parametrize("options", KINDS)
async def test_a_checkpoint_that_the_store_has_lost_comes_from_the_journal(
    cluster: aioray.Cluster, options: dict[str, Any]
) -> None:
    """
    1. an actor has a large state, with a ref; the store loses its checkpoint
    2. it dies: it has it all again, from a file
    3. once more: what was brought back is a checkpoint like any other
    4. it is killed: nothing of it stays, in memory or on disk
    """
    before = cluster.runtime.ask("store")
    actor = Saver.options(max_restarts=-1, **options).remote()
    inner = aioray.put("inner")
    await actor.keep.remote({"array": np.arange(COUNT), "inner": [inner]})
    for _ in range(2):
        lose_checkpoint(cluster, actor)
        await crash(actor)
        kept = await actor.keeps.remote()
        assert int(kept["array"].sum()) == COUNT * (COUNT - 1) // 2
        assert await kept["inner"][0] == "inner"
        del kept
    assert len(list(journal_of(cluster).glob("*.blob"))) == 1
    aioray.kill(actor)
    del actor, inner
    await until(lambda: not list(journal_of(cluster).glob("*.blob")))
    await until(lambda: cluster.runtime.ask("store")["known_objects"] <= before["known_objects"])


async def test_an_actor_whose_checkpoint_is_nowhere_is_dead_and_says_so(cluster: aioray.Cluster) -> None:
    actor = Saver.options(max_restarts=-1).remote()
    await actor.keep.remote(np.zeros(COUNT))
    for blob in journal_of(cluster).glob("*.blob"):
        blob.unlink()
    lose_checkpoint(cluster, actor)
    await crash(actor)
    with pytest.raises(ObjectLostError, match="newest checkpoint of actor PlainSaver"):
        await actor.keeps.remote()


async def test_only_the_newest_checkpoint_is_on_disk(cluster: aioray.Cluster) -> None:
    actors = [Saver.options(max_restarts=-1).remote() for _ in range(2)]
    for number in range(20):
        await asyncio.gather(*[actor.keep.remote(np.full(COUNT, number)) for actor in actors])
    assert len(list(journal_of(cluster).glob("*.blob"))) == 2


async def test_an_actor_that_will_not_be_restarted_again_has_nothing_on_disk(cluster: aioray.Cluster) -> None:
    actor = Saver.options(max_restarts=1).remote()
    await actor.keep.remote(np.zeros(COUNT))
    await crash(actor)
    assert (await actor.keeps.remote()).nbytes == 8 * COUNT
    await until(lambda: not list(journal_of(cluster).glob("*.blob")))


async def test_a_cluster_without_checkpoints_has_no_journal(cluster: aioray.Cluster) -> None:
    assert await Saver.remote().add.remote(1) == 1
    assert not journal_of(cluster).exists()


async def test_when_the_journal_cannot_be_written_calls_are_answered_and_it_is_said_once(
    cluster: aioray.Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """
    1. something is in the way of the journal: checkpoints are in memory only, which is said once
    2. it goes: they are on disk again
    """
    in_the_way = journal_of(cluster)
    in_the_way.write_text("in the way")
    actor = Saver.options(max_restarts=-1).remote()
    with caplog.at_level(logging.WARNING, logger="aioray"):
        assert [await actor.add.remote(1) for _ in range(3)] == [1, 2, 3]
        assert (
            caplog.text.count("checkpoints of actor PlainSaver are in memory only: the journal cannot be opened") == 1
        )
    await crash(actor)
    assert await actor.add.remote(1) == 4
    in_the_way.unlink()
    assert await actor.add.remote(1) == 5
    assert (in_the_way / "journal.sqlite").exists()


async def test_a_cluster_may_end_while_a_large_checkpoint_is_written(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1):
        actor = Saver.options(max_restarts=-1).remote()
        await actor.keep.remote(np.zeros(4 * MIB))
        pending = [actor.add.remote(1) for _ in range(20)]
    del pending


async def test_an_actor_that_dies_again_while_its_checkpoint_is_brought_back_has_the_next_one(
    cluster: aioray.Cluster,
) -> None:
    """
    1. its checkpoint is lost, and it dies; before the journal has answered it is killed, to be restarted again
    2. it has its arguments and its state; what was brought back in vain is let go
    3. the same, killed for good: nothing of it stays
    """
    before = cluster.runtime.ask("store")
    start = aioray.put(7)
    actor = Saver.options(max_restarts=-1).remote(start)
    del start
    await actor.keep.remote(np.ones(COUNT))
    for no_restart in (False, True):
        lose_checkpoint(cluster, actor)
        aioray.kill(actor, no_restart=False)
        aioray.kill(actor, no_restart=no_restart)
        if not no_restart:
            assert await actor.started_at.remote() == 7
            assert (await actor.keeps.remote()).sum() == COUNT
    del actor
    await until(lambda: cluster.runtime.ask("store")["known_objects"] <= before["known_objects"])
    await until(lambda: cluster.runtime.ask("store")["used_nbytes"] <= before["used_nbytes"] + 16 * MIB)
