"""`get_runtime_context()` in drivers, tasks, and all kinds of actors; and the ids it gives."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from typing import Any

import pytest

import aioray
from aioray import ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID
from aioray.runtime_context import RuntimeContext
from tests.api.support import started

PATIENCE_S = 10.0


def facts() -> dict[str, Any]:
    context = aioray.get_runtime_context()
    names = (
        "job_id", "node_id", "worker_id", "task_id", "actor_id", "actor_name", "task_name", "task_function_name",
        "assigned_resources", "accelerator_ids", "node_labels", "placement_group_id", "session_name", "temp_dir",
        "runtime_env_string", "deadline",
    )  # fmt: skip
    found = {name: getattr(context, f"get_{name}")() for name in names}
    for name in ("namespace", "gcs_address", "runtime_env", "should_capture_child_tasks_in_placement_group"):
        found[name] = getattr(context, name)
    found["is_canceled"] = context.is_canceled()
    found["pid"] = os.getpid()
    return found


def nested() -> tuple[dict[str, Any], dict[str, Any]]:
    return facts(), aioray.get(aioray.remote(facts).remote())


class Actor:
    def __init__(self) -> None:
        self.at_first = facts()

    def facts(self) -> dict[str, Any]:
        return facts()

    def first(self) -> dict[str, Any]:
        return self.at_first

    def in_thread(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(facts()))
        thread.start()
        thread.join()
        return found[0]

    def me(self) -> Any:
        context = aioray.get_runtime_context()
        return context.current_actor, context.was_current_actor_reconstructed


class AsyncActor:
    async def facts(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        return facts()

    def sync_facts(self) -> dict[str, Any]:
        return facts()


def test_in_a_driver_there_is_no_call(ray: Any) -> None:
    found = facts()
    assert found["job_id"] == found["worker_id"] == ray.put(1).job_id().hex()
    assert NodeID.from_hex(found["node_id"]).hex() == ray.nodes()[0]["NodeID"]
    for name in (
        "task_id",
        "actor_id",
        "actor_name",
        "task_name",
        "task_function_name",
        "placement_group_id",
        "deadline",
    ):
        assert found[name] is None
    assert found["assigned_resources"] == found["runtime_env"] == {}
    assert found["is_canceled"] is False
    assert found["gcs_address"].startswith(os.path.join(found["temp_dir"], found["session_name"]))
    context = aioray.get_runtime_context()
    assert isinstance(context, RuntimeContext)
    assert aioray.runtime_context.get_runtime_context is aioray.get_runtime_context
    assert context.get() == {"job_id": context.job_id, "node_id": context.node_id, "namespace": context.namespace}
    assert context.namespace.startswith("anonymous-")
    for name in ("current_actor", "was_current_actor_reconstructed"):
        with pytest.raises(RuntimeError, match="no current actor"):
            getattr(context, name)


def test_tasks_and_nested_tasks_know_the_driver_and_themselves(ray: Any) -> None:
    driver = facts()
    ref = ray.remote(nested).options(name="outside", num_cpus=0.5).remote()
    outer, inner = ray.get(ref, timeout=PATIENCE_S)
    assert outer["task_id"] == ref.task_id().hex()
    assert (outer["task_name"], outer["task_function_name"]) == ("outside", "nested")
    assert (inner["task_name"], inner["task_function_name"]) == ("facts", "facts")
    assert (outer["assigned_resources"], inner["assigned_resources"]) == ({"CPU": 0.5}, {"CPU": 1.0})
    assert len({driver["worker_id"], outer["worker_id"], inner["worker_id"]}) == 3
    assert outer["task_id"] != inner["task_id"]
    for each in (outer, inner):
        assert [each[name] for name in ("job_id", "node_id", "session_name", "temp_dir", "gcs_address")] == [
            driver[name] for name in ("job_id", "node_id", "session_name", "temp_dir", "gcs_address")
        ]
        assert each["actor_id"] is each["actor_name"] is None


def test_actors_know_themselves_in_methods_of_all_kinds(ray: Any) -> None:
    job = facts()["job_id"]
    sync = ray.remote(Actor).options(name="named", num_cpus=1).remote()
    threaded = ray.remote(Actor).options(max_concurrency=2).remote()
    looped = ray.remote(AsyncActor).remote()
    light, other = (ray.remote(AsyncActor).options(isolation="shared").remote() for _ in range(2))
    methods = [sync.facts, threaded.facts, looped.facts, looped.sync_facts, light.facts, light.sync_facts, other.facts]
    actors = [sync, threaded, looped, looped, light, light, other]
    for actor, method in zip(actors, methods, strict=True):
        ref = method.remote()
        found = ray.get(ref, timeout=PATIENCE_S)
        assert found["actor_id"] == actor._actor_id.hex()
        assert found["task_id"] == ref.task_id().hex()
        assert found["job_id"] == job
        assert found["actor_name"] == ("named" if actor is sync else "")
        assert found["assigned_resources"] == ({"CPU": 1.0} if actor is sync else {})
        assert found["task_name"] == found["task_function_name"]
        assert found["task_name"].endswith("facts")
    first = ray.get(sync.first.remote(), timeout=PATIENCE_S)
    assert (first["actor_id"], first["task_name"]) == (sync._actor_id.hex(), "Actor.__init__")
    assert ray.get(sync.in_thread.remote(), timeout=PATIENCE_S)["actor_id"] == sync._actor_id.hex()
    assert ray.get(sync.me.remote(), timeout=PATIENCE_S) == (sync, False)


def test_the_namespace_of_the_driver_holds_in_all_it_calls() -> None:
    with started(num_cpus=2, namespace="mine") as ray:
        outer, inner = ray.get(ray.remote(nested).remote(), timeout=PATIENCE_S)
        assert outer["namespace"] == inner["namespace"] == "mine"
        kept = ray.remote(Actor).options(name="there").remote()
        elsewhere = ray.remote(Actor).options(name="elsewhere", namespace="other").remote()
        light = ray.remote(AsyncActor).options(isolation="shared", namespace="other").remote()
        assert ray.get(kept.facts.remote(), timeout=PATIENCE_S)["namespace"] == "mine"
        assert ray.get(elsewhere.facts.remote(), timeout=PATIENCE_S)["namespace"] == "other"
        assert ray.get(light.facts.remote(), timeout=PATIENCE_S)["namespace"] == "other"
        found = ray.get(ray.remote(lambda: aioray.get_actor("there")).remote(), timeout=PATIENCE_S)
        assert found == kept


IDS = [ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID]


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_values(kind: Any) -> None:
    one = kind.from_random()
    assert kind(one.binary()) == kind.from_hex(one.hex()) == one
    assert hash(kind(one.binary())) == hash(one)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != kind.from_random()
    assert one.hex() in repr(one)
    assert kind.nil().is_nil()
    assert not one.is_nil()
    assert len(one.binary()) == kind.size() == len(one.hex()) // 2
    for wrong in (b"", bytes(3), "text", None):
        with pytest.raises(ValueError, match=kind.__name__):
            kind(wrong)


def test_ids_of_different_kinds_are_never_equal() -> None:
    assert len({kind.nil() for kind in IDS}) == len(IDS)
    assert ActorID.nil() != ObjectID.nil()
