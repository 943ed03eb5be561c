"""Where code runs, and for whom: `aioray.get_runtime_context()`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from aioray import current
from aioray.ids import ActorID, JobID, NodeID, TaskID, WorkerID
from aioray.runtime.calls import NO_DEADLINE
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from aioray.actors import ActorHandle
    from aioray.runtime.runtime import Runtime


def get_runtime_context() -> RuntimeContext:
    """What is known of the call that asks, and of its process and cluster; of the program itself, in a driver.

    Starts a cluster where there is none, as every call does.
    """
    return RuntimeContext(current.get())


class RuntimeContext:
    """Answers are those of the moment of asking, for whatever call asks then: keep it as long as you like.

    In a thread that user code has started there is no call: what belongs to one is None there. Ids are given in Ray's
    two forms, hexadecimal (`get_node_id()`) and as objects (`node_id`).
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _spec(self) -> Any:
        return self._runtime.actor_here()

    # the cluster

    @property
    def gcs_address(self) -> str:
        """Where the cluster is reached; of a node that no other can join, its socket."""
        address: str = self._runtime.ask("gcs_address")
        return address

    @property
    def namespace(self) -> str:
        """Where named actors are created, and looked for, unless the call says otherwise."""
        return self._runtime.namespace_here()

    def get_session_name(self) -> str:
        """The name of the session, which is that of its directory."""
        return os.path.basename(self._runtime.session_dir)

    def get_temp_dir(self) -> str:
        """The directory in which sessions are."""
        return os.path.dirname(self._runtime.session_dir)

    # who and where

    @property
    def job_id(self) -> JobID:
        """The driver at the root of the call."""
        return JobID(self._runtime.job_here())

    def get_job_id(self) -> str:
        """`job_id` as text."""
        return self.job_id.hex()

    @property
    def node_id(self) -> NodeID:
        """The node on which this process is."""
        return NodeID.from_hex(self._runtime.node_id)

    def get_node_id(self) -> str:
        """`node_id` as text."""
        return self.node_id.hex()

    @property
    def worker_id(self) -> WorkerID:
        """This process; drivers have one, too."""
        return WorkerID(self._runtime.process_id)

    def get_worker_id(self) -> str:
        """`worker_id` as text."""
        return self.worker_id.hex()

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node on which this process is."""
        nodes = self._runtime.ask("nodes")
        labels: dict[str, str] = next(each["Labels"] for each in nodes if each["NodeID"] == self._runtime.node_id)
        return labels

    # the call

    @property
    def task_id(self) -> TaskID | None:
        """The task, or call of an actor, that asks; None in a driver."""
        call = self._runtime.call_here()
        if call is None:
            return None
        if call.is_constructor:  # it has no number of its own
            return TaskID(self._spec().actor_id[: TaskID.NBYTES])
        return TaskID(object_id(call.caller_id, call.seq)[: TaskID.NBYTES])

    def get_task_id(self) -> str | None:
        """`task_id` as text; the same as `ref.task_id().hex()` of the ref that the caller has."""
        task_id = self.task_id
        return None if task_id is None else task_id.hex()

    def get_task_name(self) -> str | None:
        """The option `name` of a task, else the name of its function; class and method of a call of an actor."""
        call = self._runtime.call_here()
        return None if call is None else call.task_name

    def get_task_function_name(self) -> str | None:
        """The name of the function, as it is written in its module, whatever the task is called."""
        call = self._runtime.call_here()
        return None if call is None else call.function_name

    def is_canceled(self) -> bool:
        """Whether the call that asks was cancelled: by `cancel`, by the end of an await, or by its deadline.

        The way for what runs in threads, which nothing interrupts, to stop in time. False in a driver.
        """
        call = self._runtime.call_here()
        return call is not None and call.is_canceled

    def get_deadline(self) -> float | None:
        """(ours) Until when the call that asks may take, as of time.time(); None: as long as it likes.

        It follows from the options `timeout` and `deadline` of the call and of those around it; the earliest counts.
        """
        call = self._runtime.call_here()
        if call is None or call.deadline == NO_DEADLINE:
            return None
        return time.time() + call.deadline - self._runtime.reactor.time()

    def get_assigned_resources(self) -> dict[str, float]:
        """What the task, or the actor, that asks has to itself, such as {"CPU": 1.0}; nothing in a driver."""
        if self._runtime.role == "driver":
            return {}
        spec = self._spec()
        if spec is not None:
            return {name: units / 10_000 for name, units in spec.running.items()}
        amounts: dict[str, float] = self._runtime.ask("assigned")
        return amounts

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The GPUs, by number, that the task or actor that asks has to itself: {"GPU": []} where it has none."""
        return self._runtime.accelerator_ids()

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment of the call that asks."""
        return dict(self._runtime.runtime_env())

    def get_runtime_env_string(self) -> str:
        """`runtime_env` as JSON."""
        return msgspec.json.encode(self.runtime_env).decode()

    # the actor

    @property
    def actor_id(self) -> ActorID | None:
        """The actor of which a method, or the constructor, asks; None elsewhere."""
        spec = self._spec()
        return None if spec is None else ActorID(spec.actor_id)

    def get_actor_id(self) -> str | None:
        """`actor_id` as text."""
        actor_id = self.actor_id
        return None if actor_id is None else actor_id.hex()

    def get_actor_name(self) -> str | None:
        """The name of the actor that asks, "" if it has none; None where there is no actor."""
        spec = self._spec()
        return None if spec is None else spec.name

    @property
    def current_actor(self) -> ActorHandle:
        """A handle to the actor that asks. An actor that keeps one of itself lives until it is killed.

        Raises RuntimeError where there is no actor.
        """
        from aioray.actors import ActorHandle

        spec = self._spec()
        if spec is None:
            raise RuntimeError("there is no current actor: this is not a method of one")
        return ActorHandle(self._runtime.adopt_actor(spec.actor_id, spec.cls, spec.methods))

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor that asks was restarted. Raises RuntimeError where there is no actor."""
        if self._spec() is None:
            raise RuntimeError("there is no current actor: this is not a method of one")
        return bool(self._spec().restarts)

    # placement groups

    def get_placement_group_id(self) -> str | None:
        """The placement group of the call that asks; None when it is in none."""
        group = self._runtime.group_here()
        return None if group is None else group.group_id.hex()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether calls made here go into the placement group of the call that makes them."""
        group = self._runtime.group_here()
        return group is not None and group.captures

    def get(self) -> dict[str, Any]:
        """The ids in one dict, as old programs ask for them; those of a task or an actor only where there is one."""
        found: dict[str, Any] = {"job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace}
        if self.task_id is not None:
            found["task_id"] = self.task_id
        if self.actor_id is not None:
            found["actor_id"] = self.actor_id
        return found
