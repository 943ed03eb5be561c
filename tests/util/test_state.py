"""The state API, and with it what is told of tasks on their way from workers to the GCS."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.util import placement_group, remove_placement_group, state
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

QUICK = {"task_events_reporting_interval_ms": 50}


@pytest.fixture(scope="module")
def quick_ray() -> Iterator[Any]:
    with started(num_cpus=2, namespace="tests", _system_config=QUICK) as ray:
        yield ray


@aioray.remote
def double(x: int) -> int:
    return 2 * x


@aioray.remote
def fail() -> None:
    raise KeyError("no such thing")


@aioray.remote
def wait_for(path: str) -> None:
    with open(path, "rb", buffering=0) as pipe:
        pipe.read()


class CounterClass:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total


class AsyncClass:
    async def wait(self) -> None:
        await asyncio.Event().wait()


Counter, Waiter = aioray.remote(CounterClass), aioray.remote(AsyncClass)


def states(name: str) -> dict[str, int]:
    """Of tasks of a name, as they are known one by one."""
    return dict(collections.Counter(task.state for task in state.list_tasks(filters=[("name", "=", name)])))


def counts(name: str) -> dict[str, int]:
    """The same, counted."""
    entry = state.summarize_tasks()["cluster"]["summary"].get(name, {"state_counts": {}})
    found: dict[str, int] = entry["state_counts"]
    return found


def until_states(name: str, wanted: dict[str, int]) -> None:
    eventually(lambda: states(name) == wanted, lambda: f"{name}: {states(name)}, not {wanted}")


def test_what_becomes_of_tasks_is_told(quick_ray: Any) -> None:
    refs = [double.options(name="plain").remote(n) for n in range(3)]
    quick_ray.get(refs)
    broken = fail.remote()
    with pytest.raises(KeyError):
        quick_ray.get(broken)
    until_states("plain", {"FINISHED": 3})
    until_states("fail", {"FAILED": 1})
    task = state.get_task(refs[0].task_id().hex())
    assert task is not None
    assert (task.name, task.type, task.state, task.error_type) == ("plain", "NORMAL_TASK", "FINISHED", None)
    assert task["job_id"] == quick_ray.get_runtime_context().get_job_id()
    assert task.node_id == quick_ray.get_runtime_context().get_node_id()
    assert task.start_time_ms is not None
    assert task.end_time_ms is not None
    assert 0 <= task.end_time_ms - task.start_time_ms < 10_000
    assert abs(task.end_time_ms / 1000 - time.time()) < 60
    failed = state.get_task(broken.task_id().hex())
    assert failed is not None
    assert (failed.state, failed.error_type) == ("FAILED", "KeyError")
    assert state.get_task("00" * 14) is None


def test_what_workers_were_busy_with_is_a_trace_of_chrome(quick_ray: Any, tmp_path: pathlib.Path) -> None:
    refs = [double.options(name="traced").remote(n) for n in range(3)]
    quick_ray.get(refs)
    until_states("traced", {"FINISHED": 3})
    spans = [event for event in quick_ray.timeline() if event["name"] == "traced"]
    assert {span["args"]["task_id"] for span in spans} == {ref.task_id().hex() for ref in refs}
    assert all(span["ph"] == "X" and abs(span["ts"] / 1e6 - time.time()) < 60 for span in spans)
    assert quick_ray.timeline(tmp_path / "trace.json") is None
    written = json.loads((tmp_path / "trace.json").read_text())
    assert [event for event in written if event["name"] == "traced"] == spans


def test_what_runs_and_what_waits_is_told_while_it_does(quick_ray: Any, tmp_path: pathlib.Path) -> None:
    """
    1. one task runs, one waits for a CPU, one for an argument
    2. the first goes on, and so do the others; one that is cancelled has failed
    """
    meeting, never = Meeting(tmp_path / "pipe"), Meeting(tmp_path / "never")
    runs = wait_for.options(name="runs", num_cpus=2).remote(meeting.path)
    waits = double.options(name="waits", num_cpus=2).remote(1)
    late = double.options(name="late").remote(waits)
    until_states("runs", {"RUNNING": 1})
    until_states("waits", {"PENDING_NODE_ASSIGNMENT": 1})
    until_states("late", {"PENDING_ARGS_AVAIL": 1})
    assert counts("runs") == {"RUNNING": 1}
    assert counts("late") == {"PENDING": 1}
    meeting.here()
    quick_ray.get([runs, late])
    for name in ("runs", "waits", "late"):
        until_states(name, {"FINISHED": 1})
    cancelled = wait_for.options(name="cancelled").remote(never.path)
    until_states("cancelled", {"RUNNING": 1})
    quick_ray.cancel(cancelled)
    until_states("cancelled", {"FAILED": 1})


def test_calls_of_actors_are_told_and_so_are_actors(quick_ray: Any) -> None:
    counter = Counter.options(name="the counter", _labels={"team": "blue"}).remote()
    quick_ray.get([counter.add.remote(n) for n in range(4)])
    until_states("CounterClass.add", {"FINISHED": 4})
    (actor,) = state.list_actors(filters=[("name", "=", "the counter")])
    assert (actor.state, actor.class_name, actor.ray_namespace) == ("ALIVE", "CounterClass", "tests")
    assert actor.labels == {"team": "blue"}
    assert actor.node_id == quick_ray.get_runtime_context().get_node_id()
    assert state.get_actor(actor.actor_id) == actor
    task = state.list_tasks(filters=[("actor_id", "=", actor.actor_id)], limit=1)[0]
    assert task.type == "ACTOR_TASK"
    waiter = Waiter.remote()
    ref = waiter.wait.remote()
    until_states("AsyncClass.wait", {"RUNNING": 1})
    quick_ray.kill(waiter)
    until_states("AsyncClass.wait", {"FAILED": 1})
    (task,) = state.list_tasks(filters=[("name", "=", "AsyncClass.wait")])
    assert task.error_type == "WorkerCrashedError"
    assert state.summarize_actors()["cluster"]["summary"]["CounterClass"]["state_counts"] == {"ALIVE": 1}
    del ref


def test_tasks_and_actors_are_found_by_their_labels(quick_ray: Any, tmp_path: pathlib.Path) -> None:
    """Those that wait, that run, that have failed and that have finished, alone and among others of their kind."""
    meeting = Meeting(tmp_path / "pipe")
    red = {"_labels": {"team": "red", "example.com/step": "1"}}
    runs = wait_for.options(name="red runs", num_cpus=2, **red).remote(meeting.path)
    waits = double.options(name="red waits", num_cpus=2, **red).remote(1)
    counter = Counter.options(_labels={"team": "red"}).remote()
    found = {("labels.team", "=", "red"), ("labels.example.com/step", "=", "1"), ("labels.other", "=", None)}

    def until_red(wanted: dict[str, str]) -> None:
        def told() -> dict[str, str]:
            return {task.name: task.state for task in state.list_tasks(filters=[*found])}

        eventually(lambda: told() == wanted, lambda: f"{told()}, not {wanted}")

    until_red({"red runs": "RUNNING", "red waits": "PENDING_NODE_ASSIGNMENT"})
    meeting.here()
    quick_ray.get([runs, waits, counter.add.remote(1), double.options(name="plain", _labels=None).remote(1)])
    often = double.options(name="red", **red)
    refs = [often.remote(n) for n in range(5)]
    quick_ray.get(refs)
    with pytest.raises(KeyError):
        quick_ray.get(fail.options(name="red fails", **red).remote())
    until_red({"red runs": "FINISHED", "red waits": "FINISHED", "red": "FINISHED", "red fails": "FAILED"})
    assert len(state.list_tasks(filters=[*found, ("name", "=", "red")])) == 5
    task = state.get_task(refs[-1].task_id().hex())
    assert task is not None
    assert task.labels == {"team": "red", "example.com/step": "1"}
    (actor,) = state.list_actors(filters=[("labels.team", "=", "red")])
    assert actor.actor_id == counter._actor_id.hex()
    (plain,) = state.list_tasks(filters=[("name", "=", "plain"), ("labels.team", "!=", "red")], limit=1)
    assert plain.labels == {}


def test_tasks_and_actors_that_are_not_to_be_told_of_are_left_out(quick_ray: Any, tmp_path: pathlib.Path) -> None:
    """enable_task_events=False"""
    meeting = Meeting(tmp_path / "pipe")
    quiet = {"enable_task_events": False}
    runs = wait_for.options(name="quiet", _labels={"found": "no"}, **quiet).remote(meeting.path)
    counter, other = Counter.options(**quiet).remote(), Counter.remote()
    quick_ray.get([counter.add.remote(1), double.options(name="quiet", **quiet).remote(1)])
    quick_ray.get([other.add.options(name="quiet", **quiet).remote(1), other.add.options(name="told").remote(1)])
    quick_ray.get(double.options(name="told").remote(1))
    until_states("told", {"FINISHED": 1})
    until_states("CounterClass.told", {"FINISHED": 1})
    meeting.here()
    quick_ray.get(runs)
    quick_ray.get(double.options(name="told at last").remote(1))
    until_states("told at last", {"FINISHED": 1})
    assert [name for name in state.summarize_tasks()["cluster"]["summary"] if "quiet" in name] == []
    assert state.list_tasks(filters=[("labels.found", "=", "no")]) == []
    assert not [task for task in state.list_tasks() if task.actor_id == counter._actor_id.hex()]


def test_nodes_jobs_and_placement_groups_are_listed(quick_ray: Any) -> None:
    (node,) = state.list_nodes()
    assert (node.state, node.is_head_node, node.resources_total["CPU"]) == ("ALIVE", True, 2)
    assert state.get_node(node.node_id) == node
    (job,) = state.list_jobs(filters=[("status", "=", "RUNNING")])
    assert (job.job_id, job.pid, job.namespace) == (quick_ray.get_runtime_context().get_job_id(), os.getpid(), "tests")
    assert job.entrypoint.split()[0] == sys.argv[0]
    group = placement_group([{"CPU": 1}], name="a group")
    quick_ray.get(group.ready())
    (found,) = state.list_placement_groups(filters=[("name", "=", "a group")])
    assert (found.state, found.bundles) == ("CREATED", {"0": {"CPU": 1.0}})
    assert state.get_placement_group(found.placement_group_id) == found
    remove_placement_group(group)


def test_entries_are_objects_and_dicts(quick_ray: Any) -> None:
    (node,) = state.list_nodes(detail=True)
    assert node["state"] == node.state == node.get("state") == dict(node)["state"]
    assert node.get("colour", "none") == "none"
    with pytest.raises(KeyError):
        node["colour"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"filters": [("colour", "=", "red")]}, "one of task_id"),
        ({"filters": [("colour.team", "=", "red")]}, "one of task_id"),
        ({"filters": [("state", "<", "RUNNING")]}, "'='"),
        ({"filters": ["state=RUNNING"]}, "tuples"),
        ({"filters": [("state", "=", [])]}, "a text, a number"),
        ({"filters": [("state", "=", "NOSUCH")]}, "RUNNING, .*FAILED"),
        ({"filters": [("type", "!=", None)]}, "one of NORMAL_TASK"),
        ({"limit": 0}, "1 or more"),
        ({"limit": 1_000_000}, "10000"),
        ({"detail": 1}, "True or False"),
        ({"raise_on_missing_output": "no"}, "True or False"),
    ],
)
def test_bad_questions_are_refused_before_they_are_asked(quick_ray: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        state.list_tasks(**given)


def test_what_is_no_id_is_refused_and_what_is_nobodys_is_not_known(quick_ray: Any) -> None:
    (node,) = state.list_nodes()
    assert state.get_node(node.node_id.upper()) == node
    assert state.get_node("ff" * 8) is None
    for get in (state.get_task, state.get_actor, state.get_node, state.get_placement_group):
        with pytest.raises(InvalidOptionError, match="hexadecimal digits"):
            get("zz")


def test_case_makes_no_difference_in_filters(quick_ray: Any) -> None:
    assert len(state.list_nodes(filters=[("state", "=", "alive")])) == 1
    assert state.list_nodes(filters=[("node_name", "!=", state.list_nodes()[0].node_name.upper())]) == []
