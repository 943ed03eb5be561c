"""Actors: the directory's decisions carried out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import ObjectLostError
from aioray.runtime.errors import error_value
from aioray.runtime_env.environment import Environment
from aioray.wire.control import (
    Ack,
    ActorReport,
    ActorSpec,
    Checkpoint,
    HostActor,
    LeaveActor,
    Notice,
    Unheld,
    Unwatched,
    WatchActor,
)
from aioray.wire.values import home_of, owner_of, process_id_of_node
from aioray_node.gcs import actors
from aioray_node.gcs.packages import UserGone
from aioray_node.objects.directory import Released

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.values import Value
    from aioray_node.gcs.checkpoints import CheckpointKeeper
    from aioray_node.gcs.groups import GroupDesk
    from aioray_node.gcs.hosting import ActorHosting
    from aioray_node.gcs.package_desk import PackageDesk
    from aioray_node.objects.routing import ObjectRouter
    from aioray_node.objects.store import ObjectStore


class ActorDesk:
    """Creates, finds and ends actors."""

    def __init__(
        self,
        reactor: Reactor,
        node_id: str,
        store: ObjectStore,
        objects: ObjectRouter,
        send: Callable[[bytes, msgspec.Struct], None],
        *,
        is_alive: Callable[[str], bool],
        checkpoints: CheckpointKeeper,
    ) -> None:
        self._reactor = reactor
        self._node_id = node_id
        self._is_alive = is_alive
        self._state = actors.State()
        self._where: dict[bytes, str] = {}  # actor_id -> node, of those that are not on this one
        self._objects = objects
        self._store = store
        self._checkpoints = checkpoints
        self._unsaved: set[bytes] = set()  # actors whose creator was told that the journal fails
        self._send = send
        self.hosting: ActorHosting
        self.groups: GroupDesk
        self.packages: PackageDesk

    def feed(self, event: actors.Event) -> None:
        """Let the directory decide, and carry it out."""
        for command in actors.handle(self._state, event, self._reactor.time()):
            match command:
                case actors.Tell(process, update):
                    self._send(process, update)
                case actors.StartActor(actor_id):
                    self._start(self._state.actors[actor_id].spec)
                case actors.VacateActor(actor_id):
                    self._leave(actor_id, now=True)
                case actors.StartLater(actor_id, restarts, after_s):
                    due = actors.RestartDue(actor_id, restarts)
                    self._reactor.call_later(after_s, functools.partial(self.feed, due))
                case actors.SwapCheckpoint(actor_id, oid, before):
                    self._objects.hold_for(actor_id, [oid])
                    if before:
                        self._objects.release_for(actor_id, [before])
                case actors.DropArguments(actor_id):
                    self._objects.release_for(actor_id, [])
                    self._checkpoints.forget(actor_id)
                case actors.StopActor(actor_id):
                    self._leave(actor_id, now=True)
                    self._let_go(actor_id)
                case actors.DismissActor(actor_id):
                    self._leave(actor_id, now=False)
                    self._let_go(actor_id)

    def _let_go(self, actor_id: bytes) -> None:
        """It is dead: nobody will construct it again, or go on from its checkpoint."""
        actor = self._state.actors.get(actor_id)  # which may be the last that is known of it: perhaps nobody holds it
        self._objects.release_for(actor_id, [])
        self._objects.release_detached(actor_id)
        if actor is not None and actor.spec.detached:
            self.groups.actor_gone(actor_id)
            self.packages.feed(UserGone(actor_id))
        self._checkpoints.forget(actor_id)
        self._unsaved.discard(actor_id)

    def _start(self, spec: ActorSpec) -> None:
        if spec.checkpoint is not None and spec.checkpoint.nbytes and not self._objects.can_bring(spec.checkpoint):
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
        spec.slot = 0
        self.hosting.place(spec)

    def _leave(self, actor_id: bytes, *, now: bool) -> None:
        """It is not to live where it does any more."""
        node_id = self._where.pop(actor_id, "")
        if node_id:
            self._send(process_id_of_node(node_id), LeaveActor(actor_id, now))
        else:
            self.hosting.leave(actor_id, now=now)

    def reported(self, report: ActorReport, node_id: str = "") -> None:
        """What has become of an actor, as the node that hosts it says; "": this one."""
        actor_id, restarts = report.actor_id, report.restarts
        actor = self._state.actors.get(actor_id)
        if actor is None or actor.spec.restarts != restarts or self._where.get(actor_id, "") != node_id:
            return  # of an earlier life, or where it should not be any more
        match report.what:
            case "up":
                actor.spec.slot = report.number
                self.feed(actors.Constructed(actor_id, report.address, restarts))
            case "failed":
                assert report.error is not None, report
                self.feed(actors.InitRaised(actor_id, report.error, restarts))
            case "died":
                actor.spec.is_suspect = bool(report.number)
                self.feed(actors.Died(actor_id, report.reason))
            case "left":
                self.feed(actors.Ended(actor_id, report.reason, leaving=True, call=report.call))
            case "group removed":
                self.feed(actors.Ended(actor_id, report.reason, error=report.error))
            case "moved":
                self._move(actor.spec, report.address, report.number)

    def _move(self, spec: ActorSpec, node_id: str, hops: int) -> None:
        if node_id == self._node_id or not self._is_alive(node_id):  # who sends it to a dead one has not heard yet
            self._where.pop(spec.actor_id, None)
            self.hosting.place(spec, hops)
        else:
            self._where[spec.actor_id] = node_id
            self._send(process_id_of_node(node_id), HostActor(spec, hops))

    def node_gone(self, node_id: str, prefix: bytes) -> None:
        """What it hosted has died; what its processes made, and nobody is to keep, ends, for nobody counts it now."""
        for actor_id in [actor_id for actor_id, where in self._where.items() if where == node_id]:
            del self._where[actor_id]
            self.feed(actors.Died(actor_id, f"node {node_id}, on which it was, died"))
        state = self._state
        known = [*state.actors, *state.named, *state.doomed, *state.watchers]
        for owner in {owner_of(actor_id) for actor_id in known if home_of(actor_id) == prefix}:
            self.feed(actors.ProcessGone(owner, driver=True))
        self.feed(actors.ProcessGone(prefix + bytes(4)))

    def create(self, spec: ActorSpec) -> None:
        """A caller wants an actor."""
        if spec.name and spec.actor_id not in self._state.doomed:  # else its name may be somebody else's by now
            name = actors.Name(spec.actor_id, spec.cls, spec.methods)
            if actors.reserve_name(self._state, spec.namespace, spec.name, name).actor_id != spec.actor_id:
                return  # the caller was told when it asked for the name
        if not spec.detached or not spec.environment:
            self.feed(actors.Created(spec))
            return
        self.packages.used_by_actor(spec.actor_id, Environment.of(spec.environment).packages)
        self.feed(actors.Created(spec))
        actor = self._state.actors.get(spec.actor_id)
        if actor is None or actor.state == "dead":
            self.packages.feed(UserGone(spec.actor_id))

    def saved(self, process: bytes, message: Checkpoint) -> None:
        """An actor has a new checkpoint. Acknowledged when it is in the journal, or when nobody will go on from it."""
        actor_id, oid, value, restarts = message.actor_id, message.oid, message.value, message.restarts
        self.feed(actors.Saved(actor_id, oid, value, restarts))
        actor = self._state.actors.get(actor_id)
        if actor is not None and actor.saved == oid:
            self._objects.borrow(value, functools.partial(self._keep, process, message))
        else:
            self._send(process, Ack(message.req))

    def _keep(
        self, process: bytes, message: Checkpoint, value: Value | None, why_not: str, over: Callable[[], None]
    ) -> None:
        """Write it down, now that its bytes are here; `over` is called when they may go."""

        def written(error: str) -> None:
            over()
            self._written(process, message, error)

        if value is None:
            written(why_not)
        else:
            self._checkpoints.keep(message.actor_id, message.restarts, message.oid, value, written)

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

    def watch(self, process: bytes, actor_id: bytes) -> None:
        """A process, or a node for its processes, wants to hear what becomes of an actor."""
        self.feed(actors.Watched(process, actor_id))

    def heard(self, process: bytes, node_id: str, message: msgspec.Struct) -> bool:
        """A node has said something; whether it was about actors. `process`: the id that it has as a process."""
        match message:
            case ActorSpec():
                self.create(message)
            case ActorReport():
                self.reported(message, node_id)
            case WatchActor(actor_id):
                self.watch(process, actor_id)
            case Unwatched(actor_id):
                self.released(process, [actor_id])
            case Unheld(actor_id):
                self.unheld(actor_id)
            case Checkpoint():
                self.saved(process, message)
            case _:
                return False
        return True

    def where(self, actor_id: bytes) -> str:
        """Which other node hosts it, or is to; "" when none does."""
        return self._where.get(actor_id, "")

    @property
    def table(self) -> actors.State:
        """To look at."""
        return self._state

    def node_of(self, actor_id: bytes) -> str:
        """Which node hosts it, or is to."""
        return self._where.get(actor_id, self._node_id)

    def unheld(self, actor_id: bytes) -> None:
        """The last handle is gone."""
        self.feed(actors.Unheld(actor_id))

    def kill(self, actor_id: bytes, reason: str, *, no_restart: bool) -> None:
        """Somebody wants it dead, or restarted if it may be: it is not alive any more when this returns."""
        self.feed(actors.Killed(actor_id, reason, no_restart))

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
        self._objects.hold_for(process, [owner.actor_id])
        taken: dict[str, Any] = msgspec.to_builtins(owner, builtin_types=(bytes,))
        return taken

    def find(self, process: bytes, namespace: str, name: str) -> dict[str, Any]:
        """What a handle is made of; the asker holds the actor from now on. Raises LookupError."""
        owner = actors.find(self._state, namespace, name)
        if owner is None:
            raise LookupError(f"no actor called {name!r} is alive in namespace {namespace!r}")
        self._objects.hold_for(process, [owner.actor_id])
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
