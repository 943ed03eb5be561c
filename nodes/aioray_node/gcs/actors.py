"""The actor directory: what exists, by id and by name, where it lives, and why it does not any more. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from aioray.wire.control import ActorSpec, ActorUpdate
from aioray.wire.values import Value

ActorState = Literal["pending", "alive", "dead"]

# Each edge says why it exists. A missing one raises IllegalMove: our bug, never the user's.
MOVES: dict[tuple[ActorState, str], ActorState] = {
    ("pending", "constructed"): "alive",
    ("pending", "init_raised"): "dead",  # user code failed: doing it again would fail again
    ("pending", "ended"): "dead",  # killed, unheld, or its worker died before it was up
    ("alive", "ended"): "dead",
}


class IllegalMove(AssertionError):
    """An actor was told to do what it cannot do in its state."""


class Created(msgspec.Struct, frozen=True):
    spec: ActorSpec


class Constructed(msgspec.Struct, frozen=True):
    actor_id: bytes
    address: str


class InitRaised(msgspec.Struct, frozen=True):
    actor_id: bytes
    error: Value


class Ended(msgspec.Struct, frozen=True):
    """Killed, out of scope, or its process died. Late or repeated news do nothing."""

    actor_id: bytes
    reason: str


class Watched(msgspec.Struct, frozen=True):
    """A process wants to hear what becomes of an actor, perhaps before it exists."""

    process: bytes
    actor_id: bytes


class ProcessGone(msgspec.Struct, frozen=True):
    process: bytes


class Tell(msgspec.Struct, frozen=True):
    process: bytes
    update: ActorUpdate


class StartActor(msgspec.Struct, frozen=True):
    """Find a worker for it."""

    actor_id: bytes


class StopActor(msgspec.Struct, frozen=True):
    """End its worker, or its search for one."""

    actor_id: bytes


Event = Created | Constructed | InitRaised | Ended | Watched | ProcessGone
Command = Tell | StartActor | StopActor


@dataclass(slots=True)
class Actor:
    spec: ActorSpec
    state: ActorState = "pending"
    address: str = ""
    reason: str = ""
    error: Value | None = None

    def update(self) -> ActorUpdate:
        return ActorUpdate(self.spec.actor_id, self.state, self.address, self.reason, self.error)


@dataclass(slots=True)
class State:
    actors: dict[bytes, Actor] = field(default_factory=dict)  # dead ones stay while somebody watches
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)  # (namespace, name) -> actor_id, not of dead ones
    watchers: dict[bytes, set[bytes]] = field(default_factory=dict)  # actor_id -> processes


def reserve_name(state: State, namespace: str, name: str, actor_id: bytes) -> bytes:
    """Take a name for an actor to come; returns whose name it is now (somebody else's, if it was taken)."""
    return state.names.setdefault((namespace, name), actor_id)


def release_name(state: State, actor_id: bytes) -> None:
    """The actor is dead, or will never be: its name is free at once."""
    for key in [key for key, owner in state.names.items() if owner == actor_id]:
        del state.names[key]


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Created(spec):
            if spec.actor_id in state.actors:
                return []  # sent twice
            state.actors[spec.actor_id] = Actor(spec)
            return [StartActor(spec.actor_id)]
        case Constructed(actor_id, address):
            actor = state.actors.get(actor_id)
            if actor is None or actor.state == "dead":
                return []  # killed meanwhile
            _move(actor, "constructed")
            actor.address = address
            return _tell(state, actor)
        case InitRaised(actor_id, error):
            return _end(state, actor_id, "init_raised", "its constructor raised", error)
        case Ended(actor_id, reason):
            return _end(state, actor_id, "ended", reason, None)
        case Watched(process, actor_id):
            state.watchers.setdefault(actor_id, set()).add(process)
            actor = state.actors.get(actor_id)
            return [] if actor is None or actor.state == "pending" else [Tell(process, actor.update())]
        case ProcessGone(process):
            return _process_gone(state, process)


def _move(actor: Actor, why: str) -> None:
    try:
        actor.state = MOVES[actor.state, why]
    except KeyError:
        raise IllegalMove(f"actor {actor.spec.actor_id.hex()} is {actor.state}: {why}") from None


def _tell(state: State, actor: Actor) -> list[Command]:
    return [Tell(process, actor.update()) for process in sorted(state.watchers.get(actor.spec.actor_id, ()))]


def _end(state: State, actor_id: bytes, why: str, reason: str, error: Value | None) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None or actor.state == "dead":
        return []
    _move(actor, why)
    actor.reason, actor.error = reason, error
    release_name(state, actor_id)
    commands: list[Command] = [StopActor(actor_id), *_tell(state, actor)]
    _forget_if_unwatched(state, actor_id)
    return commands


def _process_gone(state: State, process: bytes) -> list[Command]:
    commands: list[Command] = []
    for actor_id, watchers in list(state.watchers.items()):
        watchers.discard(process)
        if not watchers:
            del state.watchers[actor_id]
            _forget_if_unwatched(state, actor_id)
    for actor in list(state.actors.values()):
        if actor.spec.creator == process and not actor.spec.detached:
            commands += _end(state, actor.spec.actor_id, "ended", "the process that created it is gone", None)
    return commands


def _forget_if_unwatched(state: State, actor_id: bytes) -> None:
    """The dead need no memory once nobody can ask why they died."""
    actor = state.actors.get(actor_id)
    if actor is not None and actor.state == "dead" and not state.watchers.get(actor_id):
        del state.actors[actor_id]


def unwatch(state: State, process: bytes, actor_id: bytes) -> None:
    """The process has let go of its last handle."""
    watchers = state.watchers.get(actor_id)
    if watchers is not None:
        watchers.discard(process)
        if not watchers:
            del state.watchers[actor_id]
            _forget_if_unwatched(state, actor_id)


def find(state: State, namespace: str, name: str) -> Actor | None:
    """The living actor of that name."""
    actor_id = state.names.get((namespace, name))
    return None if actor_id is None else state.actors.get(actor_id)


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for key, actor_id in state.names.items():
        actor = state.actors.get(actor_id)
        assert actor is None or actor.state != "dead", f"{key} names a dead actor: {state}"
    for actor_id, actor in state.actors.items():
        assert actor.state != "dead" or state.watchers.get(actor_id), f"a dead actor is remembered in vain: {state}"
        assert (actor.state == "alive") <= bool(actor.address), actor
