"""Placement groups, as programs use them, on a cluster of one node."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    GetTimeoutError,
    InvalidOptionError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from aioray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from aioray.util.placement_group import PlacementGroup
from aioray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.api.classes import Counter
from tests.api.support import PATIENCE_S, Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

KINDS: list[dict[str, Any]] = [{}, {"isolation": "shared"}]


@pytest.fixture(scope="module")
def cluster_of_two() -> Iterator[Any]:
    with started(num_cpus=2, resources={"disk": 4}, labels={"region": "us"}) as ray:
        yield ray


@pytest.fixture
def ray(cluster_of_two: Any) -> Iterator[Any]:
    """Each test begins and ends with all of the node free, and no group there."""
    yield cluster_of_two
    for group_id, entry in placement_group_table().items():
        if entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(aioray.PlacementGroupID.from_hex(group_id)))
    gc.collect()
    eventually(lambda: free("CPU") == 2 and free("disk") == 4, lambda: f"left in use: {aioray.available_resources()}")
    assert not [name for name in aioray.cluster_resources() if "_group_" in name]


def free(name: str) -> float:
    return aioray.available_resources().get(name, 0.0)


def get(ref: Any) -> Any:
    return aioray.get(ref, timeout=PATIENCE_S)


@aioray.remote
def group_here() -> tuple[str | None, bool]:
    context = aioray.get_runtime_context()
    here = get_current_placement_group()
    assert (None if here is None else here.id.hex()) == context.get_placement_group_id()
    return context.get_placement_group_id(), context.should_capture_child_tasks_in_placement_group


@aioray.remote
def meet(meeting: Meeting) -> None:
    meeting.here()
    meeting.wait()


@aioray.remote
def stay() -> None:
    signal.pause()


class StaysClass:
    def stay(self) -> None:
        signal.pause()

    def pid(self) -> int:
        return os.getpid()

    def group_of_child(self) -> tuple[str | None, bool]:
        found: tuple[str | None, bool] = aioray.get(group_here.options(num_cpus=0).remote())
        return found


Stays = aioray.remote(StaysClass)


def test_what_a_group_books_is_its_own_until_it_is_removed(ray: Any) -> None:
    """
    1. a group takes both CPUs, as resources of its own
    2. what asks for a CPU outside of it waits; what is in it runs
    3. it is removed: the node has its CPUs back, and who waited runs
    """
    group = placement_group([{"CPU": 1}, {"CPU": 1, "disk": 2}])
    assert get(group.ready()) == group
    assert (free("CPU"), free("disk"), free(f"CPU_group_{group.id.hex()}")) == (0, 2, 2)
    outside = group_here.remote()
    assert get(group_here.options(scheduling_strategy=InGroup(group)).remote()) == (group.id.hex(), False)
    indexed = group_here.options(resources={"disk": 2}, placement_group=group, placement_group_bundle_index=1)
    assert get(indexed.remote()) == (group.id.hex(), False)
    assert not outside.done()
    remove_placement_group(group)
    assert get(outside) == (None, False)


def test_a_bundle_that_is_full_is_waited_for_though_another_one_is_free(ray: Any, tmp_path: pathlib.Path) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    meeting = Meeting(tmp_path / "meeting")
    first = meet.options(scheduling_strategy=InGroup(group, 0)).remote(meeting)
    meeting.wait()
    second = group_here.options(scheduling_strategy=InGroup(group, 0)).remote()
    assert get(group_here.options(scheduling_strategy=InGroup(group, 1)).remote())[0] == group.id.hex()
    assert "waits for 1 CPU in bundle 0 of its placement group; free: 0 CPU there" in aioray.explain(second)
    meeting.here()
    get([first, second])


def test_calls_may_be_made_before_the_group_is_there(ray: Any) -> None:
    first = placement_group([{"CPU": 2}])
    get(first.ready())
    second = placement_group([{"CPU": 2}])
    waiting = group_here.options(scheduling_strategy=InGroup(second)).remote()
    actor = Counter.options(scheduling_strategy=InGroup(second), num_cpus=1).remote()
    missing = "waits: 2 CPU on one node asked, best node has 0 free"
    eventually(lambda: missing in aioray.explain(waiting), lambda: aioray.explain(waiting))
    assert missing in aioray.explain(second.ready())
    remove_placement_group(first)
    assert get(waiting)[0] == second.id.hex()
    assert get(actor.add.remote(1)) == 1


def test_ready_and_wait_say_whether_the_group_is_there(ray: Any) -> None:
    never = placement_group([{"CPU": 3}], strategy="STRICT_PACK")
    assert never.wait(timeout_seconds=0.05) is False
    with pytest.raises(GetTimeoutError, match=r"fits on no nodes .*: 3 CPU on one node asked, best node has 2"):
        get(never.ready(timeout=0.05))
    assert placement_group_table(never)["state"] == "PENDING"
    waiting = never.ready()
    remove_placement_group(never)
    with pytest.raises(TaskPlacementGroupRemoved, match="it was removed"):
        get(waiting)
    assert never.wait(1) is False
    there = placement_group([{"CPU": 1}])
    assert there.wait(PATIENCE_S) is True
    assert get(len_of.remote([there.ready()])) == 1


@aioray.remote
def len_of(refs: list[Any]) -> int:
    (found,) = aioray.get(refs)
    assert isinstance(found, PlacementGroup)
    return found.bundle_count


def test_a_group_is_sent_anywhere_and_used_there(ray: Any) -> None:
    @aioray.remote(num_cpus=0)
    def use(group: PlacementGroup) -> Any:
        assert group.bundle_specs == [{"CPU": 1.0}]
        assert group.wait(PATIENCE_S)
        return aioray.get(group_here.options(placement_group=group).remote())

    group = placement_group([{"CPU": 1}])
    assert get(use.remote(group)) == (group.id.hex(), False)
    copy = pickle.loads(pickle.dumps(group))
    assert (copy, hash(copy), copy.bundle_specs) == (group, hash(group), group.bundle_specs)


def test_children_follow_into_the_group_if_it_captures_and_they_do_not_object(ray: Any) -> None:
    @aioray.remote
    def children() -> list[Any]:
        light = group_here.options(num_cpus=0)
        actor = Stays.options(num_cpus=0).remote()
        return aioray.get(
            [
                light.remote(),
                light.options(placement_group=None).remote(),
                light.options(scheduling_strategy="DEFAULT").remote(),
                light.options(scheduling_strategy=InGroup(None)).remote(),
                light.options(placement_group_capture_child_tasks=False).remote(),
                actor.group_of_child.remote(),
            ]
        )

    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    inside, outside = (group.id.hex(), True), (None, False)
    capturing = InGroup(group, placement_group_capture_child_tasks=True)
    assert get(children.options(scheduling_strategy=capturing).remote()) == [
        inside, outside, outside, outside, outside, inside
    ]  # fmt: skip
    assert get(children.options(scheduling_strategy=InGroup(group)).remote()) == [outside] * 6


def test_a_child_that_fits_in_no_bundle_of_the_group_it_follows_into_is_refused(ray: Any) -> None:
    @aioray.remote
    def parent() -> str:
        with pytest.raises(InvalidOptionError) as caught:
            group_here.options(num_cpus=2).remote()
        return caught.value.option

    group = placement_group([{"CPU": 1}])
    capturing = InGroup(group, placement_group_capture_child_tasks=True)
    assert get(parent.options(scheduling_strategy=capturing).remote()) == "placement_group"


def test_tasks_in_a_group_that_is_removed_fail_and_are_not_tried_again(ray: Any, tmp_path: pathlib.Path) -> None:
    group = placement_group([{"CPU": 1}])
    meeting = Meeting(tmp_path / "meeting")
    runs = meet.options(scheduling_strategy=InGroup(group)).remote(meeting)
    meeting.wait()
    waits = [stay.options(scheduling_strategy=InGroup(group)).remote() for _ in range(3)]
    remove_placement_group(group)
    for ref in (runs, *waits, stay.options(scheduling_strategy=InGroup(group)).remote()):
        with pytest.raises(TaskPlacementGroupRemoved, match=r"(meet|stay)\(\): ") as caught:
            get(ref)
        assert isinstance(caught.value, WorkerCrashedError)  # as in Ray
    remove_placement_group(group)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_cpus", [None, 1])
def test_actors_in_a_group_that_is_removed_die_and_stay_dead(ray: Any, kind: dict[str, Any], num_cpus: Any) -> None:
    group = placement_group([{"CPU": 1}])
    options = {**kind, "max_restarts": -1, "num_cpus": num_cpus, "scheduling_strategy": InGroup(group)}
    actor = Stays.options(**options).remote()
    pid = get(actor.pid.remote())
    stays = actor.stay.remote()
    remove_placement_group(group)
    for ref in (stays, actor.pid.remote(), Stays.options(**options).remote().pid.remote()):
        with pytest.raises(ActorPlacementGroupRemoved, match="placement group") as caught:
            get(ref)
        assert isinstance(caught.value, ActorDiedError)  # as in Ray
    if not kind:
        eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_an_actor_without_handles_ends_with_its_group(ray: Any) -> None:
    group = placement_group([{"CPU": 1}])
    actor = Stays.options(scheduling_strategy=InGroup(group)).remote()
    pid = get(actor.pid.remote())
    stays = actor.stay.remote()
    del actor
    gc.collect()
    remove_placement_group(group)
    with pytest.raises(ActorPlacementGroupRemoved):
        get(stays)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    leaving = Stays.options(scheduling_strategy=InGroup(again := placement_group([{"CPU": 1}]))).remote()
    pid = get(leaving.pid.remote())
    del leaving  # it has finished all, and is on its way out
    gc.collect()
    remove_placement_group(again)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_groups_have_names_of_which_each_is_there_once(ray: Any) -> None:
    group = placement_group([{"CPU": 1}], name="mine")
    found = get_placement_group("mine")
    assert (found, found.bundle_specs) == (group, [{"CPU": 1.0}])
    with pytest.raises(ValueError, match="the name 'mine' is taken by another placement group"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(group)
    with pytest.raises(ValueError, match="no placement group called 'mine' is there in namespace"):
        get_placement_group("mine")
    assert placement_group([{"CPU": 1}], name="mine").wait(PATIENCE_S)


def test_the_table_says_where_each_group_stands(ray: Any) -> None:
    node_id = aioray.nodes()[0]["NodeID"]
    group = placement_group([{"CPU": 1}, {"disk": 0.5}], strategy="SPREAD", name="shown")
    get(group.ready())
    entry = placement_group_table(group)
    assert entry["stats"]["scheduling_attempt"] == 1
    assert {name: entry[name] for name in entry if name != "stats"} == {
        "placement_group_id": group.id.hex(),
        "name": "shown",
        "bundles": {0: {"CPU": 1.0}, 1: {"disk": 0.5}},
        "bundles_to_node_id": {0: node_id, 1: node_id},
        "strategy": "SPREAD",
        "state": "CREATED",
    }
    assert placement_group_table()[group.id.hex()]["state"] == "CREATED"
    remove_placement_group(group)
    assert placement_group_table(group)["state"] == "REMOVED"


def test_a_bundle_goes_where_its_labels_are(ray: Any) -> None:
    assert placement_group([{"CPU": 1}], bundle_label_selector=[{"region": "us"}]).wait(PATIENCE_S)
    nowhere = placement_group([{"CPU": 1}], bundle_label_selector=[{"region": "eu"}])
    with pytest.raises(GetTimeoutError, match="a node with region=eu asked, there is none"):
        get(nowhere.ready(timeout=0.05))


def test_strict_spread_needs_as_many_nodes_as_it_has_bundles(ray: Any) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    with pytest.raises(GetTimeoutError, match="2 nodes asked, one for each bundle, there are 1"):
        get(group.ready(timeout=0.05))


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("bundles", []),
        ("bundles", {"CPU": 1}),
        ("bundles", [{}]),
        ("bundles", [{"CPU": 0}]),
        ("bundles", [{"CPU": -1}]),
        ("bundles", [{"CPU": "1"}]),
        ("bundles", [{"GPU": 1.5}]),
        ("strategy", "pack"),
        ("name", 1),
        ("lifetime", "forever"),
        ("bundle_label_selector", [{"a": "b"}, {}]),
        ("_soft_target_node_id", "ab"),
    ],
)
def test_what_cannot_be_a_group_is_refused_at_the_call(ray: Any, option: str, given: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        placement_group(**{"bundles": [{"CPU": 1}], option: given})
    assert caught.value.option == option
    assert caught.value.allowed


def test_what_cannot_be_in_a_group_is_refused_at_the_call(ray: Any) -> None:
    group = placement_group([{"CPU": 1}, {"disk": 1}])
    refused: list[tuple[str, dict[str, Any]]] = [
        ("placement_group", {"placement_group": "mine"}),
        ("placement_group", {"placement_group": group, "num_cpus": 2}),
        ("placement_group", {"placement_group": group, "placement_group_bundle_index": 1}),
        ("placement_group", {"placement_group": group, "scheduling_strategy": "SPREAD"}),
        ("placement_group_bundle_index", {"placement_group": group, "placement_group_bundle_index": 2}),
        ("placement_group_bundle_index", {"placement_group": None, "placement_group_bundle_index": 0}),
        ("placement_group_capture_child_tasks", {"placement_group_capture_child_tasks": 1}),
    ]
    for option, options in refused:
        for target in (group_here, Counter):
            with pytest.raises(InvalidOptionError) as caught:
                target.options(**options)
            assert caught.value.option == option
    with pytest.raises(InvalidOptionError, match="placement_group_bundle_index"):
        group_here.options(placement_group_bundle_index=0).remote()
    for group_given, index, captures in (("mine", -1, None), (group, 2, None), (group, "0", None), (group, 0, 1)):
        with pytest.raises(InvalidOptionError):
            InGroup(group_given, index, captures)  # type: ignore[arg-type]


def test_groups_go_with_their_driver_but_detached_ones_do_not(ray: Any) -> None:
    """Here a worker makes them: they are its driver's, and not its own."""

    @aioray.remote(num_cpus=0, max_calls=1)
    def make() -> tuple[PlacementGroup, PlacementGroup]:
        return placement_group([{"CPU": 1}]), placement_group([{"disk": 1}], name="kept", lifetime="detached")

    mine, kept = get(make.remote())
    get([mine.ready(), kept.ready()])
    assert get_placement_group("kept") == kept


def test_a_thousand_groups_are_there_at_once(ray: Any) -> None:
    groups = [placement_group([{"disk": 0.001}, {"CPU": 0.001}]) for _ in range(1000)]
    assert len(get([group.ready() for group in groups])) == 1000
    assert free("disk") == 3
    for group in groups:
        remove_placement_group(group)


async def test_in_an_event_loop_it_is_awaited(cluster: aioray.Cluster) -> None:
    group = placement_group([{"CPU": 2}], name="awaited")
    assert await group.ready(timeout=PATIENCE_S) == group
    with pytest.raises(aioray.exceptions.BlockingCallError, match=r"await pg\.ready"):
        group.wait(1)
    assert await group_here.options(scheduling_strategy=InGroup(group)).remote() == (group.id.hex(), False)
    other = placement_group([{"CPU": 1}])
    with pytest.raises(TimeoutError, match="1 CPU on one node asked, best node has 0 free"):
        await other.ready(timeout=0.05)
    waiting = other.ready()
    assert waiting.cancel()
    stays = stay.options(scheduling_strategy=InGroup(group)).remote()
    remove_placement_group(group)
    with pytest.raises(TaskPlacementGroupRemoved):
        await stays
    assert await other.ready() == other
    assert get_placement_group_or_none("awaited") is None


def get_placement_group_or_none(name: str) -> PlacementGroup | None:
    try:
        return get_placement_group(name)
    except ValueError:
        return None


def test_the_function_is_there_whichever_way_its_module_was_imported() -> None:
    for imports in (
        "import aioray.util.placement_group",
        "from aioray.util.placement_group import PlacementGroup",
        "import aioray.util.scheduling_strategies",
    ):
        program = f"{imports}\nimport aioray\nassert callable(aioray.util.placement_group), aioray.util.placement_group"
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
