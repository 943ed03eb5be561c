"""Actors: the directory's decisions carried out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import ActorPlacementGroupRemoved, ActorUnschedulableError, ObjectLostError, RuntimeEnvSetupError
from aioray.runtime.errors import error_value
from aioray.wire.control import Ack, Notice
from aioray_node.gcs import actors
from aioray_node.gcs.light import LightActors
from aioray_node.objects.directory import Held, Released, Shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import ActorExit, ActorSpec, ActorStarted, Checkpoint, Exit
    from aioray.wire.values import Value
    from aioray_node.gcs.checkpoints import CheckpointKeeper
    from aioray_node.gcs.groups import GroupDesk
    from aioray_node.objects.store import ObjectStore
    from aioray_node.pool.shell import Worker, WorkerPool
    from aioray_node.scheduling.shell import LeaseDesk

_DETACHED_HOLDER = b"detached"  # eight bytes, as a process id has: holds what outlives its makers


class ActorDesk:
    """Creates, finds and ends actors."""

    def __init__(
        self,
        reactor: Reactor,
        leases: LeaseDesk,
        store: ObjectStore,
        send: Callable[[bytes, msgspec.Struct], None],
        *,
        exit_grace_s: float,
        checkpoints: CheckpointKeeper,
        max_light_hosts: int = 1,
    ) -> None:
        self._reactor = reactor
        self._exit_grace_s = exit_grace_s
        self._state = actors.State()
        self._leases = leases
        self._light = LightActors(
            leases, lambda actor_id: self._state.actors[actor_id].spec, self._lost, max_hosts=max_light_hosts
        )
        self._store = store
        self._checkpoints = checkpoints
        self._unsaved: set[bytes] = set()  # actors whose creator was told that the journal fails
        self._send = send
        self._workers: dict[bytes, Worker] = {}
        self.pool: WorkerPool
        self.groups: GroupDesk

    def feed(self, event: actors.Event) -> None:
        """Let the directory decide, and carry it out."""
        for command in actors.handle(self._state, event, self._reactor.time()):
            match command:
                case actors.Tell(process, update):
                    self._send(process, update)
                case actors.StartActor(actor_id):
                    self._start(self._state.actors[actor_id].spec)
                case actors.VacateActor(actor_id):
                    self._workers.pop(actor_id, None)
                    self._light.leave(actor_id, now=True)
                    self._leases.end_actor(actor_id)
                case actors.StartLater(actor_id, restarts, after_s):
                    due = actors.RestartDue(actor_id, restarts)
                    self._reactor.call_later(after_s, functools.partial(self.feed, due))
                case actors.SwapCheckpoint(actor_id, oid, before):
                    self._store.feed(Held(actor_id, [oid]))
                    if before:
                        self._store.feed(Released(actor_id, [before]))
                case actors.DropArguments(actor_id):
                    self._store.feed(Released(actor_id, []))
                    self._checkpoints.forget(actor_id)
                case actors.StopActor(actor_id):
                    self._workers.pop(actor_id, None)
                    self._light.leave(actor_id, now=True)
                    self._leases.end_actor(actor_id)
                    self._let_go(actor_id)
                case actors.DismissActor(actor_id):
                    self._workers.pop(actor_id, None)
                    self._light.leave(actor_id, now=False)
                    self._leases.dismiss_actor(actor_id)
                    self._let_go(actor_id)

    def _let_go(self, actor_id: bytes) -> None:
        """It is dead: nobody will construct it again, or go on from its checkpoint."""
        self._store.feed(Released(actor_id, []))
        self._store.feed(Released(_DETACHED_HOLDER, [actor_id]))
        actor = self._state.actors.get(actor_id)
        if actor is not None and actor.spec.detached:
            self.groups.actor_gone(actor_id)
        self._checkpoints.forget(actor_id)
        self._unsaved.discard(actor_id)

    def _start(self, spec: ActorSpec) -> None:
        saved = self._state.actors[spec.actor_id].saved
        if spec.checkpoint is not None and spec.checkpoint.nbytes and not self._store.has(saved):
            self._checkpoints.recover(spec.actor_id, functools.partial(self._recovered, spec, spec.restarts))
        else:
            self._place(spec)

    def _recovered(self, spec: ActorSpec, restarts: int, oid: bytes, value: Value | None, why_not: str) -> None:
        """Its checkpoint is back from the journal, or lost."""
        actor_id = spec.actor_id
        actor = self._state.actors.get(actor_id)
        if actor is None or actor.state == "dead" or spec.restarts != restarts:
            if oid:  # it has ended, or died again, meanwhile
                self._store.feed(Released(actor_id, [oid]))
        elif value is None:
            lost = ObjectLostError(actor.saved.hex(), f"the newest checkpoint of actor {spec.cls}: {why_not}")
            self.feed(actors.InitRaised(actor_id, error_value(lost), restarts))
        else:
            self.feed(actors.Saved(actor_id, oid, value, restarts))
            self._place(spec)

    def _place(self, spec: ActorSpec) -> None:
        is_light = spec.isolation == "shared"
        if is_light and not spec.placement and spec.strategy is None:
            self._light.settle(spec.actor_id)
        else:
            self._leases.place_actor(
                spec.actor_id,
                spec.creator,
                spec.cls,
                spec.placement,
                spec.running,
                wants_worker=not is_light,
                environment="" if is_light else spec.environment,  # its host has it
                strategy=spec.strategy,
            )

    def create(self, spec: ActorSpec) -> None:
        """A caller wants an actor."""
        if spec.name and spec.actor_id not in self._state.doomed:  # else its name may be somebody else's by now
            name = actors.Name(spec.actor_id, spec.cls, spec.methods)
            if actors.reserve_name(self._state, spec.namespace, spec.name, name).actor_id != spec.actor_id:
                return  # the caller was told when it asked for the name
        self._store.feed(Shared(spec.actor_id))
        if spec.detached:
            self._store.feed(Held(_DETACHED_HOLDER, [spec.actor_id]))
        self.feed(actors.Created(spec))

    def admitted(self, actor_id: bytes) -> None:
        """A light actor has the resources that it asked for."""
        self._light.settle(actor_id)

    def placed(self, actor_id: bytes, worker: Worker) -> None:
        if self._light.is_host(actor_id):
            self._light.placed(actor_id, worker)
            return
        spec = self._state.actors[actor_id].spec
        self._workers[actor_id] = worker
        for pipe in worker.pipes:
            pipe.relabel(spec.cls)
        if worker.connection is not None:
            worker.connection.send(spec)

    def worker_lost(self, actor_id: bytes, reason: str) -> None:
        if self._light.is_host(actor_id):
            self._light.worker_lost(actor_id, reason)
            return
        worker = self._workers.get(actor_id)
        if worker is not None and worker.connection is not None:
            worker.connection.drain()  # its last words may lie there unread: a checkpoint, or that it goes on purpose
        self._workers.pop(actor_id, None)
        self._lost(actor_id, reason)

    def setup_failed(self, actor_id: bytes, reason: str) -> None:
        """The environment of an actor, or of a process for light ones, cannot be had."""
        for each in self._light.residents(actor_id) if self._light.is_host(actor_id) else [actor_id]:
            actor = self._state.actors.get(each)
            if actor is not None:
                error = error_value(RuntimeEnvSetupError(f"actor {actor.spec.cls}: {reason}"))
                self.feed(actors.InitRaised(each, error, actor.spec.restarts))

    def unschedulable(self, actor_id: bytes, reason: str) -> None:
        """It is not to wait for a node that could have it."""
        spec = self._state.actors[actor_id].spec
        error = error_value(ActorUnschedulableError(f"actor {spec.cls} {reason}"))
        self.feed(actors.InitRaised(actor_id, error, spec.restarts))

    def group_removed(self, actor_id: bytes, reason: str) -> None:
        """The placement group that it was in, or was to be in, is gone."""
        actor = self._state.actors.get(actor_id)
        if actor is None:
            return  # nobody has a handle: it was just finishing what it did
        error = error_value(ActorPlacementGroupRemoved(actor_id.hex(), reason, actor.spec.cls))
        self.feed(actors.Ended(actor_id, reason, error=error))

    def _lost(self, actor_id: bytes, reason: str) -> None:
        self.feed(actors.Died(actor_id, reason))

    def started(self, worker: Worker, message: ActorStarted) -> None:
        """The worker has run the constructor."""
        if message.error is not None:
            self.feed(actors.InitRaised(message.actor_id, message.error, message.restarts))
        else:
            self.feed(actors.Constructed(message.actor_id, worker.address, message.restarts))

    def saved(self, process: bytes, message: Checkpoint) -> None:
        """An actor has a new checkpoint. Acknowledged when it is in the journal, or when nobody will go on from it."""
        actor_id, oid, value, restarts = message.actor_id, message.oid, message.value, message.restarts
        self.feed(actors.Saved(actor_id, oid, value, restarts))
        actor = self._state.actors.get(actor_id)
        if actor is not None and actor.saved == oid:
            written = functools.partial(self._written, process, message)
            self._checkpoints.keep(actor_id, restarts, oid, value, written)
        else:
            self._send(process, Ack(message.req))

    def _written(self, process: bytes, message: Checkpoint, error: str) -> None:
        """It is in the journal, or cannot be written there: calls must not wait for ever for a disk that is full."""
        actor = self._state.actors.get(message.actor_id)
        if not error:
            self._unsaved.discard(message.actor_id)
        elif actor is not None and message.actor_id not in self._unsaved:
            self._unsaved.add(message.actor_id)
            text = f"checkpoints of actor {actor.spec.cls} are in memory only: {error}"
            self._send(actor.spec.creator, Notice(text))
        self._send(process, Ack(message.req))

    def unheld(self, actor_id: bytes) -> None:
        """The last handle is gone."""
        self.feed(actors.Unheld(actor_id))

    def kill(self, actor_id: bytes, reason: str, *, no_restart: bool) -> None:
        """Somebody wants it dead, or restarted if it may be: it is not alive any more when this returns."""
        self.feed(actors.Killed(actor_id, reason, no_restart))

    def exiting(self, worker: Worker, message: Exit) -> None:
        """An actor's worker says that it goes."""
        for actor_id, its_worker in list(self._workers.items()):
            if its_worker is not worker:
                continue
            if message.crashed and self._state.actors[actor_id].may_restart:
                # It leaves in peace, and is constructed again when it has left: two of it would be one too many.
                ending = functools.partial(self._end_slow_leaver, actor_id, worker)
                self._reactor.call_later(self._exit_grace_s, ending)
            else:
                self.feed(actors.Ended(actor_id, message.reason, leaving=True, call=message.call))

    def _end_slow_leaver(self, actor_id: bytes, worker: Worker) -> None:
        if self._workers.get(actor_id) is worker:
            self.pool.kill(worker, "")

    def light_exit(self, message: ActorExit) -> None:
        """A light actor says that it goes."""
        actor = self._state.actors.get(message.actor_id)
        if actor is None or actor.spec.restarts != message.restarts:
            return
        if message.crashed:
            self.feed(actors.Died(message.actor_id, message.reason))
        else:
            self.feed(actors.Ended(message.actor_id, message.reason, leaving=True, call=message.call))

    def released(self, process: bytes, actor_ids: list[bytes]) -> None:
        """A process let go of handles."""
        for actor_id in actor_ids:
            actors.unwatch(self._state, process, actor_id)

    def reserve_name(
        self, process: bytes, namespace: str, name: str, actor_id: bytes, cls: str, methods: dict[str, str]
    ) -> dict[str, Any] | None:
        """Take a name. If it is taken: what a handle to its owner is made of, and the asker holds that from now on."""
        wanted = actors.Name(actor_id, cls, methods)
        owner = actors.reserve_name(self._state, namespace, name, wanted)
        if owner.actor_id == actor_id:
            return None
        self._store.feed(Held(process, [owner.actor_id]))
        taken: dict[str, Any] = msgspec.to_builtins(owner, builtin_types=(bytes,))
        return taken

    def find(self, process: bytes, namespace: str, name: str) -> dict[str, Any]:
        """What a handle is made of; the asker holds the actor from now on. Raises LookupError."""
        owner = actors.find(self._state, namespace, name)
        if owner is None:
            raise LookupError(f"no actor called {name!r} is alive in namespace {namespace!r}")
        self._store.feed(Held(process, [owner.actor_id]))
        found: dict[str, Any] = msgspec.to_builtins(owner, builtin_types=(bytes,))
        return found

    def names(self, namespace: str | None) -> list[dict[str, str]]:
        """Named actors that are alive or on their way; of all namespaces when it is None."""
        return [
            {"name": name, "namespace": space}
            for space, name in self._state.names
            if namespace is None or space == namespace
        ]

    def process_gone(self, process: bytes, *, driver: bool) -> None:
        self.feed(actors.ProcessGone(process, driver))
