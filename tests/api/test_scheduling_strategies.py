"""Labels, selectors and strategies, as programs give them, on a cluster of one node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import ActorUnschedulableError, InvalidOptionError, TaskUnschedulableError
from aioray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from tests.api.classes import Counter
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

LABELS = {"region": "us", "tier": "slow"}
NOWHERE = "0123456789abcdef"
KINDS = [{}, {"isolation": "shared"}]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, labels=LABELS) as ray:
        yield ray


@aioray.remote
def where() -> tuple[str, dict[str, str]]:
    context = aioray.get_runtime_context()
    return context.get_node_id(), context.get_node_labels()


@aioray.remote
def stay(meeting: Meeting) -> None:
    meeting.here()
    meeting.wait()


def here() -> str:
    node_id: str = aioray.nodes()[0]["NodeID"]
    return node_id


def test_a_node_has_the_labels_that_it_was_given_and_its_own(ray: Any) -> None:
    labels = {**LABELS, "ray.io/node-id": here()}
    assert ray.nodes()[0]["Labels"] == labels
    assert ray.get(where.remote()) == (here(), labels)
    assert ray.get_runtime_context().get_node_labels() == labels


@pytest.mark.parametrize("labels", [{"ray.io/x": "1"}, {"a": 1}, ["a"], {"a b": "1"}])
def test_labels_that_cannot_be_are_refused_before_anything_starts(nothing_left: None, labels: Any) -> None:
    for start in (aioray.init, aioray.connect):
        with pytest.raises(InvalidOptionError) as caught:
            start(labels=labels)
        assert caught.value.option == "labels"


def suitable() -> list[dict[str, Any]]:
    """What this node will do for."""
    affinity, labels = NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy
    return [
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": affinity(here(), soft=False)},
        {"scheduling_strategy": affinity(NOWHERE, soft=True)},
        {"scheduling_strategy": affinity(NOWHERE, soft=True, _spill_on_unavailable=True)},
        {"scheduling_strategy": labels({"region": In("us", "eu"), "tier": NotIn("fast"), "spot": DoesNotExist()})},
        {"scheduling_strategy": labels({"region": Exists()}, soft={"tier": In("fast")})},
        {"label_selector": {"region": "us"}},
        {"label_selector": {"region": "in(us,eu)", "tier": "!fast", "spot": "!in(yes)"}},
        {"label_selector": {"ray.io/node-id": here()}},
        {"label_selector": {"region": "eu"}, "fallback_strategy": [{"label_selector": {"region": "us"}}]},
        {"fallback_strategy": [{"label_selector": {"region": "us"}}]},
        {"label_selector": {"tier": "slow"}, "scheduling_strategy": affinity(here(), soft=False)},
    ]


def test_tasks_and_actors_run_where_their_conditions_hold(ray: Any) -> None:
    refs = [where.options(**options).remote() for options in suitable()]
    assert {node_id for node_id, _ in ray.get(refs)} == {here()}
    for kind in KINDS:
        actors = [Counter.options(**options, **kind, num_cpus=0).remote(1) for options in suitable()]
        assert ray.get([actor.add.remote(1) for actor in actors]) == [2] * len(actors)


def test_the_options_work_in_the_decorator_too(ray: Any) -> None:
    @aioray.remote(label_selector={"region": "us"}, scheduling_strategy="SPREAD")
    def f() -> int:
        return 1

    @aioray.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(here(), soft=False))
    class A:
        def f(self) -> int:
            return 2

    actor_class: Any = A
    assert ray.get([f.remote(), actor_class.remote().f.remote()]) == [1, 2]


def test_a_task_bound_to_a_node_that_does_not_exist_fails_and_so_do_all_of_its_kind(ray: Any) -> None:
    bound = where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(NOWHERE, soft=False))
    refs = [bound.remote() for _ in range(100)]
    for ref in refs:
        with pytest.raises(
            TaskUnschedulableError, match=rf"where\(\) was to run on node {NOWHERE}, which does not exist"
        ):
            ray.get(ref)
    assert ray.get(where.remote())[0] == here()


@pytest.mark.parametrize("kind", KINDS)
def test_an_actor_bound_to_a_node_that_does_not_exist_is_dead_before_it_was_alive(
    ray: Any, kind: dict[str, Any]
) -> None:
    affinity = NodeAffinitySchedulingStrategy(NOWHERE, soft=False)
    actor = Counter.options(scheduling_strategy=affinity, name="bound", max_restarts=-1, **kind).remote()
    with pytest.raises(ActorUnschedulableError, match=f"Counter was to run on node {NOWHERE}"):
        ray.get(actor.add.remote(1))
    with pytest.raises(ValueError, match="bound"):
        ray.get_actor("bound")


def test_a_task_that_is_larger_than_the_node_it_is_bound_to_fails(ray: Any) -> None:
    affinity = NodeAffinitySchedulingStrategy(here(), soft=False)
    with pytest.raises(TaskUnschedulableError, match="needs 100 CPU, this node has 2"):
        ray.get(where.options(scheduling_strategy=affinity, num_cpus=100).remote())


def test_a_task_that_is_not_to_wait_fails_while_the_node_is_busy(ray: Any, tmp_path: pathlib.Path) -> None:
    """
    1. both CPUs are in use
    2. one task is to run on this node, now or never: never
    3. another one is to run here, and waits until they are free
    """
    meeting = Meeting(tmp_path / "busy")
    busy = stay.options(num_cpus=2).remote(meeting)
    meeting.wait()
    at_once = NodeAffinitySchedulingStrategy(here(), soft=False, _fail_on_unavailable=True)
    with pytest.raises(TaskUnschedulableError, match="was not to wait"):
        ray.get(where.options(scheduling_strategy=at_once).remote())
    later = where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here(), soft=False)).remote()
    eventually(lambda: f"waits for 1 CPU on node {here()}; free: 0 CPU" in ray.explain(later))
    meeting.here()
    assert ray.get([busy, later])[1][0] == here()
    assert ray.get(where.options(scheduling_strategy=at_once).remote())[0] == here()


def test_what_no_node_matches_is_said_at_once_and_waits(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    """
    1. tasks and an actor select labels that no node has: a warning for each kind says what is asked, and what there is
    2. explain says why they wait
    3. cancelled, they are gone
    """
    with caplog.at_level(logging.WARNING, logger="aioray"):
        refs = [where.options(label_selector={"region": "eu", "zone": "!in(a,b)"}).remote() for _ in range(3)]
        eventually(
            lambda: "where needs a node with region=eu, zone not in (a, b), this node has region=us" in caplog.text
        )
        actor = Counter.options(scheduling_strategy=NodeLabelSchedulingStrategy({"gpu": Exists()})).remote()
        eventually(lambda: "Counter needs a node with gpu, this node has no gpu" in caplog.text)
    call = actor.add.remote(1)
    eventually(lambda: "(pending): PlainCounter can never run here: needs a node with gpu" in ray.explain(call))
    assert caplog.text.count("where needs") == 1
    eventually(lambda: "can never run here: needs a node with region=eu" in ray.explain(refs[0]))
    done, waiting = ray.wait(refs, num_returns=3, timeout=0)
    assert (done, waiting) == ([], refs)
    for ref in refs:
        ray.cancel(ref)
        with pytest.raises(aioray.exceptions.TaskCancelledError):
            ray.get(ref)
    ray.kill(actor)


def test_a_selector_that_makes_no_sense_is_refused_at_the_call(ray: Any) -> None:
    for options_of in (where.options, Counter.options):
        with pytest.raises(InvalidOptionError) as caught:
            options_of(label_selector={"region": "in(us"})
        assert caught.value.option == "label_selector"
        assert "in(us" in str(caught.value)
        assert "'!in(a,b)'" in caught.value.allowed


async def test_an_actor_that_is_restarted_is_placed_by_its_strategy_again(cluster: aioray.Cluster) -> None:
    node_id = aioray.nodes()[0]["NodeID"]
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = Counter.options(scheduling_strategy=strategy, max_restarts=1, max_task_retries=1).remote(5)
    assert await actor.add.remote(1) == 6
    aioray.kill(actor, no_restart=False)
    assert await actor.add.remote(1) == 6
