"""Placement groups as a process sees them: it asks for them, and waits until they are there."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from aioray.exceptions import GetTimeoutError, RaySystemError, TaskPlacementGroupRemoved
from aioray.refs import PENDING, RAISED, READY, ObjectRef
from aioray.wire.control import GroupSpec, GroupUpdate, RemoveGroup, WatchGroup
from aioray.wire.values import Value, object_id

if TYPE_CHECKING:
    from aioray.runtime.runtime import Runtime
    from aioray.wire.strategies import Selector


_MAX_KNOWN = 1000


class Wait:
    """What a ref of `ready()` waits for."""

    name = "the ready() of a placement group"
    __slots__ = ("group_id", "ref", "timed_out", "timeout_s", "what")

    def __init__(self, group_id: bytes, what: Any, ref: ObjectRef[Any], timeout_s: float | None) -> None:
        self.group_id = group_id
        self.what = what  # the value, when it is there
        self.ref = ref
        self.timeout_s = timeout_s
        self.timed_out = False  # just what is missing has yet to be said


class GroupClient:
    """The node knows of the groups; here are those who wait for them. Thread-safe by the reactor's lock."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waits: dict[bytes, list[Wait]] = {}
        self._bundles: dict[bytes, list[dict[str, float]]] = {}  # of groups that were asked about

    def create(
        self,
        bundles: list[dict[str, int]],
        strategy: str,
        *,
        name: str,
        detached: bool,
        selectors: list[Selector],
        target_node: str,
    ) -> bytes:
        """Ask for a group; its id. Raises ValueError when the name is taken."""
        runtime = self._runtime
        runtime.require_open()
        owner = runtime.owner_here()
        namespace = runtime.namespace_here()
        with runtime.reactor.lock:  # the node hears of groups in the order of their numbers
            group_id = object_id(runtime.process_id, runtime.next_seq())
            runtime.link.send(
                GroupSpec(group_id, bundles, strategy, owner, name, namespace, detached, selectors, target_node)
            )
        runtime.reactor.nudge()
        if name and (refused := runtime.ask("group_over", group_id=group_id)):
            raise ValueError(refused)
        return group_id

    def remove(self, group_id: bytes) -> None:
        """It is needed no more; whatever runs in it ends."""
        runtime = self._runtime
        runtime.require_open()
        with runtime.reactor.lock:
            runtime.link.send(RemoveGroup(group_id))
        runtime.reactor.nudge()

    def ready(self, group_id: bytes, what: Any, timeout_s: float | None) -> ObjectRef[Any]:
        """A ref that is `what` when the group is there, TaskPlacementGroupRemoved when it will not be any more.

        After `timeout_s` it is a GetTimeoutError that says what is missing.
        """
        runtime = self._runtime
        runtime.require_open()
        with runtime.reactor.lock:
            ref: ObjectRef[Any] = ObjectRef(runtime, runtime.next_seq())
            wait = ref._task = Wait(group_id, what, ref, timeout_s)
            self._waits.setdefault(group_id, []).append(wait)
            runtime.link.send(WatchGroup(group_id))
            if timeout_s is not None:
                runtime.reactor.call_later(timeout_s, lambda: self._time_is_up(wait))
        runtime.reactor.nudge()
        return ref

    def bundles_of(self, group_id: bytes) -> list[dict[str, float]]:
        """What the group was made of. Raises ValueError when there is no such group."""
        bundles = self._bundles.get(group_id)
        if bundles is None:
            bundles = self._bundles[group_id] = self._runtime.ask("group_bundles", group_id=group_id)
            while len(self._bundles) > _MAX_KNOWN:
                self._bundles.pop(next(iter(self._bundles)), None)
        return bundles

    def _time_is_up(self, wait: Wait) -> None:
        if wait.ref._status == PENDING:
            wait.timed_out = True
            self._runtime.link.send(WatchGroup(wait.group_id))

    def cancel(self, wait: Wait) -> None:
        """Nobody waits there any more. The lock is held."""
        waits = self._waits.get(wait.group_id, [])
        if wait in waits:
            waits.remove(wait)
            if not waits:
                del self._waits[wait.group_id]

    def updated(self, update: GroupUpdate) -> None:
        """The node says where a group stands. The lock is held."""
        waits = self._waits.get(update.group_id, [])
        if update.state in ("created", "removed"):
            self._waits.pop(update.group_id, None)
        else:
            waits = [wait for wait in waits if wait.timed_out]
        for wait in waits:
            if update.state == "created":
                wait.ref._complete(READY, Value(pickle.dumps(wait.what)), wait.name)
            elif update.state == "removed":
                reason = f"placement group {update.group_id.hex()}: {update.reason}"
                wait.ref._complete(RAISED, TaskPlacementGroupRemoved(reason))
            else:
                self.cancel(wait)
                error = GetTimeoutError(f"after {wait.timeout_s:g} s: {update.reason}", wait.timeout_s)
                wait.ref._complete(RAISED, error)

    def close(self, reason: str) -> None:
        """Nobody will hear anything more. The lock is held."""
        waits, self._waits = self._waits, {}
        for each in waits.values():
            for wait in each:
                wait.ref._complete(RAISED, RaySystemError(reason))
