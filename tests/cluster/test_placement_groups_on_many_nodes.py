"""Placement groups with bundles on several nodes."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray import current
from aioray.cluster import SyncCluster
from aioray.exceptions import ActorPlacementGroupRemoved, GetTimeoutError, TaskPlacementGroupRemoved
from aioray.start_options import check_options
from aioray.testing import LocalCluster, LocalNode
from aioray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from aioray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.api.support import PATIENCE_S, Meeting

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

    from aioray.start_options import ClusterOptions
    from aioray.util.placement_group import PlacementGroup

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def three() -> AsyncIterator[LocalCluster]:
    """The second node is the only one with a disk, and the third the only one in the west."""
    has = [{"CPU": 2}, {"CPU": 2, "disk": 1}, {"CPU": 2}]
    labels: list[dict[str, str]] = [{}, {}, {"region": "west"}]
    async with LocalCluster(nodes=3, resources=has, labels=labels, in_process=True) as cluster:
        with cluster.use():
            yield cluster


@aioray.remote
def where() -> str:
    return aioray.get_runtime_context().get_node_id()


class PlaceClass:
    def where(self) -> str:
        return aioray.get_runtime_context().get_node_id()

    def child(self) -> tuple[str, str | None]:
        found: tuple[str, str | None] = aioray.get(here.remote())
        return found


Place = aioray.remote(PlaceClass)


@aioray.remote
def here() -> tuple[str, str | None]:
    """Which node this is on, and in which group."""
    group = get_current_placement_group()
    return aioray.get_runtime_context().get_node_id(), None if group is None else group.id.hex()


@aioray.remote
def stay(meeting: Meeting) -> None:
    meeting.here()
    signal.pause()


def nodes_of(group: PlacementGroup) -> list[str]:
    found: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return [found[index] for index in range(len(found))]


async def ready(bundles: list[dict[str, float]], strategy: str, **options: Any) -> PlacementGroup:
    group = placement_group(bundles, strategy, **options)
    await group.ready(timeout=PATIENCE_S)
    return group


async def until_free(cpus: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while aioray.available_resources()["CPU"] != cpus:  # noqa: ASYNC110 # it tells nobody here
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("strategy", "cpus", "count"),
    [("PACK", 3, 2), ("SPREAD", 3, 3), ("STRICT_PACK", 2, 1), ("STRICT_SPREAD", 3, 3)],
)
async def test_each_strategy_has_its_bundles_on_so_many_nodes(
    three: LocalCluster, strategy: str, cpus: int, count: int
) -> None:
    group = await ready([{"CPU": 1}] * cpus, strategy)
    assert len(set(nodes_of(group))) == count
    remove_placement_group(group)
    await until_free(6)


@pytest.mark.parametrize("kind", [{}, {"isolation": "shared"}], ids=["process", "light"])
async def test_tasks_and_actors_are_where_their_bundle_is(three: LocalCluster, kind: dict[str, Any]) -> None:
    """
    1. one bundle a node; calls that name one are on its node, as soon as the group is ready
    2. those that name none are in any of them: three at once are on three nodes
    3. what an actor calls follows it into the group, from whichever node
    """
    group = placement_group([{"CPU": 1}] * 3, "STRICT_SPREAD")
    early = where.options(scheduling_strategy=InGroup(group, 2)).remote()  # before it is there
    await group.ready(timeout=PATIENCE_S)
    nodes = nodes_of(group)
    assert sorted(nodes) == sorted(node.node_id for node in three.nodes)
    tasks = [where.options(scheduling_strategy=InGroup(group, index)).remote() for index in range(3)]
    assert await asyncio.gather(*tasks) == nodes
    assert await early == nodes[2]
    anywhere = [Place.options(scheduling_strategy=InGroup(group), num_cpus=1, **kind).remote() for _ in range(3)]
    assert sorted(await asyncio.gather(*(actor.where.remote() for actor in anywhere))) == sorted(nodes)
    del anywhere
    follows = [InGroup(group, index, placement_group_capture_child_tasks=True) for index in range(3)]
    actors = [Place.options(scheduling_strategy=each, num_cpus=0, **kind).remote() for each in follows]
    assert await asyncio.gather(*(actor.where.remote() for actor in actors)) == nodes
    children = await asyncio.gather(*(actor.child.remote() for actor in actors))
    assert {child[1] for child in children} == {group.id.hex()}


async def test_removal_ends_what_is_in_the_group_on_all_nodes(three: LocalCluster, tmp_path: pathlib.Path) -> None:
    """Tasks that run, tasks and actors that wait, actors that are up: all hear why, and the nodes are free."""
    group = await ready([{"CPU": 1}] * 3, "STRICT_SPREAD")
    meetings = [Meeting(tmp_path / str(index)) for index in range(3)]
    running = [stay.options(scheduling_strategy=InGroup(group, i)).remote(meetings[i]) for i in range(3)]
    await asyncio.gather(*(asyncio.to_thread(meeting.wait) for meeting in meetings))
    actors = [Place.options(scheduling_strategy=InGroup(group, index), num_cpus=0).remote() for index in range(3)]
    waiting = [where.options(scheduling_strategy=InGroup(group, index)).remote() for index in range(3)]
    remove_placement_group(group)
    for ref in running + waiting:
        with pytest.raises(TaskPlacementGroupRemoved):
            await ref
    for actor in actors:
        with pytest.raises(ActorPlacementGroupRemoved):
            await actor.where.remote()
    with pytest.raises(TaskPlacementGroupRemoved):
        await where.options(scheduling_strategy=InGroup(group, 1)).remote()
    await until_free(6)


async def test_bundles_move_when_their_node_dies_and_the_group_is_ready_again(three: LocalCluster) -> None:
    """
    1. of two bundles one is on the head, one elsewhere; that node dies
    2. the bundle is placed on the third node: a task that waits for it runs there, and the actor is restarted there
    """
    group = await ready([{"CPU": 2}, {"CPU": 2}], "STRICT_SPREAD")
    victim = next(node for node in three.nodes[1:] if node.node_id in nodes_of(group))
    index = nodes_of(group).index(victim.node_id)
    in_bundle = InGroup(group, index)
    actor = Place.options(scheduling_strategy=in_bundle, num_cpus=0, max_restarts=1, max_task_retries=1).remote()
    assert await actor.where.remote() == victim.node_id
    await three.kill_node_async(victim)
    await group.ready(timeout=PATIENCE_S)
    (other,) = {node.node_id for node in three.nodes} - {nodes_of(group)[1 - index]}
    assert await where.options(scheduling_strategy=in_bundle).remote() == other
    assert await actor.where.remote() == other
    assert nodes_of(group)[index] == other
    assert placement_group_table(group)["state"] == "CREATED"


async def test_a_group_that_lost_a_bundle_says_what_it_waits_for(three: LocalCluster) -> None:
    group = await ready([{"disk": 1}, {"CPU": 1}], "PACK")
    await three.kill_node_async(three.nodes[1])
    with pytest.raises(GetTimeoutError, match=r"lost with their node .* 1 disk on one node asked, best node has 0"):
        await group.ready(timeout=0.2)
    assert placement_group_table(group)["state"] == "RESCHEDULING"
    added = await three.add_node_async(resources={"disk": 1})
    await group.ready(timeout=PATIENCE_S)
    assert nodes_of(group)[0] == added.node_id


async def test_two_groups_that_each_want_more_than_half_do_not_block_one_another(three: LocalCluster) -> None:
    """Both at once, again and again: one has all of it, then the other."""
    for _ in range(5):
        groups = [placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD") for _ in range(2)]
        async for ref in aioray.as_completed([group.ready(timeout=PATIENCE_S) for group in groups]):
            remove_placement_group(await ref)
    await until_free(6)


async def test_a_bundle_goes_where_its_labels_are(three: LocalCluster) -> None:
    selectors: list[dict[str, str]] = [{"region": "west"}, {"region": "!west"}]
    group = await ready([{"CPU": 1}] * 2, "PACK", bundle_label_selector=selectors)
    west = three.nodes[2].node_id
    assert nodes_of(group)[0] == west
    assert nodes_of(group)[1] != west
    lost = placement_group([{"CPU": 1}], bundle_label_selector=[{"region": "east"}])
    with pytest.raises(GetTimeoutError, match="a node with region=east asked, there is none"):
        await lost.ready(timeout=0.05)


async def test_what_is_missing_is_said_of_all_nodes(three: LocalCluster) -> None:
    never = placement_group([{"CPU": 3}])
    with pytest.raises(GetTimeoutError, match="3 CPU on one node asked, best node has 2"):
        await never.ready(timeout=0.05)
    held = await ready([{"CPU": 2}] * 2, "STRICT_SPREAD")
    waits = placement_group([{"CPU": 1}] * 2, "STRICT_SPREAD")
    with pytest.raises(GetTimeoutError, match="2 nodes asked, one for each bundle, there are 1 that have room free"):
        await waits.ready(timeout=0.05)
    remove_placement_group(held)
    await waits.ready(timeout=PATIENCE_S)


class MakerClass:
    """Does with groups what a driver does, on a node that is not the head."""

    def make(self, name: str, **options: Any) -> PlacementGroup:
        group = placement_group([{"CPU": 1}] * 2, "STRICT_SPREAD", name=name, **options)
        assert group.wait(PATIENCE_S)
        return group

    def make_and_remove(self, count: int) -> int:
        for _ in range(count):
            group = placement_group([{"CPU": 1}] * 2, "STRICT_SPREAD")
            aioray.get(group.ready(timeout=PATIENCE_S))
            remove_placement_group(group)
        return count

    def waits(self) -> tuple[bool, str]:
        group = placement_group([{"CPU": 64}])
        try:
            aioray.get(group.ready(timeout=0.05))
        except GetTimeoutError as exc:
            return group.wait(0.05), str(exc)
        return True, ""

    def taken(self, name: str) -> str:
        try:
            placement_group([{"CPU": 1}], name=name)
        except ValueError as exc:
            return str(exc)
        return ""

    def runs_in(self, name: str) -> list[str]:
        group = get_placement_group(name)
        assert [dict(bundle) for bundle in group.bundle_specs] == [{"CPU": 1}] * 2
        at = [where.options(scheduling_strategy=InGroup(group, index)).remote() for index in range(2)]
        found: list[str] = aioray.get(at)
        assert found == nodes_of(group)
        assert placement_group_table()[group.id.hex()]["name"] == name
        return found

    def remove(self, name: str) -> str:
        group = get_placement_group(name)
        remove_placement_group(group)
        try:
            aioray.get(group.ready(timeout=PATIENCE_S))
        except TaskPlacementGroupRemoved as exc:
            return str(exc)
        return ""


async def test_groups_are_made_used_and_removed_from_any_node(three: LocalCluster) -> None:
    """
    1. an actor elsewhere makes a group and waits for it: the driver finds it
    2. it finds one of the driver's, has tasks run in it and removes it
    3. names are taken for it, too; what it waits for in vain it hears in words
    """
    there = NodeAffinitySchedulingStrategy(three.nodes[1].node_id, soft=False)
    maker = aioray.remote(MakerClass).options(num_cpus=0, scheduling_strategy=there).remote()
    made = await maker.make.remote("theirs")
    assert get_placement_group("theirs") == made
    assert pickle.loads(pickle.dumps(made)).bundle_count == 2
    tasks = [where.options(scheduling_strategy=InGroup(made, index)).remote() for index in range(2)]
    assert await asyncio.gather(*tasks) == nodes_of(made)
    assert "the name 'theirs' is taken" in await maker.taken.remote("theirs")
    mine = await ready([{"CPU": 1}] * 2, "STRICT_SPREAD", name="mine")
    assert await maker.runs_in.remote("mine") == nodes_of(mine)
    assert "removed" in await maker.remove.remote("mine")
    with pytest.raises(ValueError, match="mine"):
        get_placement_group("mine")
    in_time, words = await maker.waits.remote()
    assert not in_time
    assert "64 CPU on one node asked, best node has 2" in words


def cluster_options() -> ClusterOptions:
    names = "num_cpus num_gpus resources labels object_store_memory temp_dir runtime_env job_config system_config"
    nothing: dict[str, Any] = dict.fromkeys(names.split())
    return check_options(**nothing, namespace="shared", log_to_driver=False)


def cut_lines(cluster: LocalCluster) -> None:
    """Those between nodes: what is on its way there is lost."""
    for each in cluster.nodes:
        assert each.part is not None
        node = each.part.node
        with node.reactor.lock:
            for peer in [peer for peer in node._peers.by_id.values() if peer.role == "node"]:
                peer.connection.close()


async def test_lines_between_nodes_that_break_lose_no_group_and_no_bundle(three: LocalCluster) -> None:
    """Groups are made, awaited and removed from two nodes, and all lines are cut again and again meanwhile."""
    there = NodeAffinitySchedulingStrategy(three.nodes[1].node_id, soft=False)
    maker = aioray.remote(MakerClass).options(num_cpus=0, scheduling_strategy=there).remote()
    await maker.make_and_remove.remote(1)
    far = maker.make_and_remove.remote(10)
    for turn in range(10):
        group = placement_group([{"CPU": 1}] * (1 + turn % 3), "STRICT_SPREAD")
        given_up = placement_group([{"CPU": 2}] * 3, "STRICT_SPREAD")
        ref = group.ready(timeout=PATIENCE_S)
        if turn % 2:
            await asyncio.sleep(0)  # some words are on their way now
        cut_lines(three)
        remove_placement_group(given_up)
        await ref
        remove_placement_group(group)
    assert await far == 10
    whole = await ready([{"CPU": 2}] * 3, "STRICT_SPREAD")
    assert len(set(nodes_of(whole))) == 3
    remove_placement_group(whole)
    await until_free(6)


@contextlib.contextmanager
def another_driver(node: LocalNode) -> Iterator[None]:
    """Calls go to that node, as those of a program of its own would; at the end it disconnects."""
    driver = SyncCluster(cluster_options(), node.address)
    token = current.choose(driver.runtime)
    try:
        yield
    finally:
        current.unchoose(driver.runtime, token)
        driver.shutdown()


def test_a_detached_group_outlives_its_driver_and_another_one_uses_it() -> None:
    """
    1. a driver on a node that is not the head makes two groups, one of them detached, and ends
    2. that one is there with its bundles; the other is gone, and its CPUs are free
    """
    with LocalCluster(nodes=2, num_cpus=2, namespace="shared") as cluster:
        with another_driver(cluster.nodes[1]):
            bundles: list[dict[str, float]] = [{"CPU": 1}] * 2
            kept = placement_group(bundles, "STRICT_SPREAD", name="kept", lifetime="detached")
            mine = placement_group(bundles, "STRICT_SPREAD", name="mine")
            assert kept.wait(PATIENCE_S)
            assert mine.wait(PATIENCE_S)
            tasks = [where.options(scheduling_strategy=InGroup(mine, index)).remote() for index in range(2)]
            assert aioray.get(tasks) == nodes_of(mine)
            assert not placement_group([{"CPU": 2}]).wait(0.05)
        kept = get_placement_group("kept")
        assert kept.wait(PATIENCE_S)
        tasks = [where.options(scheduling_strategy=InGroup(kept, index)).remote() for index in range(2)]
        assert aioray.get(tasks) == nodes_of(kept)
        rest = placement_group([{"CPU": 1}] * 2, "STRICT_SPREAD", name="mine")
        assert rest.wait(PATIENCE_S)
        assert not placement_group([{"CPU": 1}]).wait(0.05)
