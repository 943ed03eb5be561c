"""The actor directory: what exists, by id and by name, where it lives, and why it does not any more. Pure.

An actor that dies while it may be restarted is constructed again, with what it was made of. The first time at once; one
that dies again less than `STEADY_S` after it was up waits longer each time, so that a crash loop does not spin.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.control import ActorSpec, ActorUpdate
from aioray.wire.values import Value, owner_of

ActorState = Literal["pending", "alive", "restarting", "dead"]

STEADY_S = 1.0  # one that was up for so long has not died at once
_FIRST_WAIT_S = 0.1  # before the second restart of one that dies at once; doubles with each
_LONGEST_WAIT_S = 10.0

# Each edge says why it exists. A missing one raises IllegalMove: our bug, never the user's.
MOVES: dict[tuple[ActorState, str], ActorState] = {
    ("pending", "constructed"): "alive",
    ("pending", "init_raised"): "dead",  # user code failed: doing it again would fail again
    ("pending", "ended"): "dead",  # killed, or its worker died before it was up
    ("alive", "ended"): "dead",
    ("pending", "unheld"): "dead",  # nobody can call it any more
    ("alive", "unheld"): "dead",
    ("pending", "died"): "restarting",  # what killed the constructor may not kill it again, and restarts are counted
    ("alive", "died"): "restarting",  # a crash, or a kill that asked for it, and it may be restarted
    ("restarting", "died"): "restarting",  # while it was constructed again: counts like any other
    ("restarting", "constructed"): "alive",
    ("restarting", "init_raised"): "dead",  # as the first time
    ("restarting", "ended"): "dead",  # killed for good, or it has no restart left
    ("restarting", "unheld"): "dead",
}


class IllegalMove(AssertionError):
    """An actor was told to do what it cannot do in its state."""


class Created(msgspec.Struct, frozen=True):
    spec: ActorSpec


class Constructed(msgspec.Struct, frozen=True):
    """Its constructor is through; `restarts` says in which of its lives. Late words of an earlier one do nothing."""

    actor_id: bytes
    address: str
    restarts: int = 0


class InitRaised(msgspec.Struct, frozen=True):
    actor_id: bytes
    error: Value
    restarts: int = 0


class Killed(msgspec.Struct, frozen=True):
    """Somebody wants it dead, or restarted if it may be. May overtake the word of its creation."""

    actor_id: bytes
    reason: str
    no_restart: bool = True


class Ended(msgspec.Struct, frozen=True):
    """It goes on purpose, or what it needs is gone: no restart. Late or repeated news do nothing."""

    actor_id: bytes
    reason: str
    leaving: bool = False  # its process goes by itself
    call: bytes = b""  # of its own that wanted that
    error: Value | None = None  # what its callers get, if not that it died


class Died(msgspec.Struct, frozen=True):
    """It crashed, or its process did. Who tells this knows that it is about the life that counts."""

    actor_id: bytes
    reason: str


class RestartDue(msgspec.Struct, frozen=True):
    """The time of a StartLater has come."""

    actor_id: bytes
    restarts: int


class Saved(msgspec.Struct, frozen=True):
    """It has a checkpoint, in that life."""

    actor_id: bytes
    oid: bytes
    value: Value
    restarts: int


class Unheld(msgspec.Struct, frozen=True):
    """No handle to it is left anywhere: it may finish what it does, and nobody will ask about it again."""

    actor_id: bytes


class Watched(msgspec.Struct, frozen=True):
    """A process wants to hear what becomes of an actor, perhaps before it exists."""

    process: bytes
    actor_id: bytes


class ProcessGone(msgspec.Struct, frozen=True):
    """With a driver go all actors that it created, but detached ones; those of a worker end with their handles."""

    process: bytes
    driver: bool = False


class Tell(msgspec.Struct, frozen=True):
    process: bytes
    update: ActorUpdate


class StartActor(msgspec.Struct, frozen=True):
    """Find a worker for it."""

    actor_id: bytes


class VacateActor(msgspec.Struct, frozen=True):
    """End its worker, or its search for one, at once: it will want another one."""

    actor_id: bytes


class StartLater(msgspec.Struct, frozen=True):
    """Feed RestartDue in `after_s` seconds."""

    actor_id: bytes
    restarts: int
    after_s: float


class SwapCheckpoint(msgspec.Struct, frozen=True):
    """The actor's id holds `oid` from now on, and no longer `before` (b"": none)."""

    actor_id: bytes
    oid: bytes
    before: bytes


class DropArguments(msgspec.Struct, frozen=True):
    """Nobody will construct it again: what it was made of is nobody's but its own to hold."""

    actor_id: bytes


class StopActor(msgspec.Struct, frozen=True):
    """End its worker, or its search for one, at once."""

    actor_id: bytes


class DismissActor(msgspec.Struct, frozen=True):
    """Have its worker finish and go; end its search for one."""

    actor_id: bytes


Event = Created | Constructed | InitRaised | Killed | Ended | Died | RestartDue | Saved | Unheld | Watched | ProcessGone
Command = Tell | StartActor | VacateActor | StartLater | SwapCheckpoint | DropArguments | StopActor | DismissActor


class Actor(Record):
    spec: ActorSpec
    state: ActorState = "pending"
    address: str = ""
    reason: str = ""
    error: Value | None = None
    up_since: float | None = None  # (s); None: it is being constructed, or was never up
    quick_deaths: int = 0  # in a row, each less than STEADY_S after it was up
    starting: bool = True  # False: it waits before its next restart
    saved: bytes = b""  # id of its newest checkpoint
    ended_by: bytes = b""  # the call that wanted it to end

    @property
    def may_restart(self) -> bool:
        return self.spec.max_restarts < 0 or self.spec.restarts < self.spec.max_restarts

    def update(self) -> ActorUpdate:
        spec = self.spec
        return ActorUpdate(spec.actor_id, self.state, self.address, self.reason, self.error, spec.slot, self.ended_by)


class Name(msgspec.Struct, frozen=True):
    """Whose name it is. As much as a handle needs, since that may be asked for before the actor is created."""

    actor_id: bytes
    cls: str
    methods: dict[str, str]


class State(Record):
    actors: dict[bytes, Actor] = field(default_factory=dict)  # dead ones stay until nobody has a handle
    names: dict[tuple[str, str], Name] = field(default_factory=dict)  # (namespace, name); never of a dead actor
    named: dict[bytes, set[tuple[str, str]]] = field(default_factory=dict)  # `names` the other way round
    watchers: dict[bytes, set[bytes]] = field(default_factory=dict)  # actor_id -> processes
    doomed: dict[bytes, Killed] = field(default_factory=dict)  # killed before it was created
    gone: set[bytes] = field(default_factory=set)  # processes that will create nothing any more


_NEVER_CREATED = "the process that was to create it is gone"


def reserve_name(state: State, namespace: str, name: str, reserved: Name) -> Name:
    """Take a name for an actor to come; returns whose name it is now (somebody else's, if it was taken)."""
    owner = state.names.setdefault((namespace, name), reserved)
    if owner is reserved:
        state.named.setdefault(reserved.actor_id, set()).add((namespace, name))
    return owner


def release_name(state: State, actor_id: bytes) -> None:
    """The actor is dead, or will never be: its name is free at once."""
    for key in state.named.pop(actor_id, ()):
        del state.names[key]


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at time `now` (s); return what the shell must do, in that order."""
    match event:
        case Created(spec):
            return _create(state, spec, now)
        case Constructed(actor_id, address, restarts):
            return _constructed(state, actor_id, address, restarts, now)
        case InitRaised(actor_id, error, restarts):
            actor = state.actors.get(actor_id)
            if actor is None or actor.spec.restarts != restarts:
                return []
            return _end(state, actor_id, "init_raised", "its constructor raised", error)
        case Killed():
            return _killed(state, event, now)
        case Ended(actor_id, reason, leaving, call, error):
            return _end(state, actor_id, "ended", reason, error, DismissActor if leaving else StopActor, call)
        case Died(actor_id, reason):
            return _died(state, actor_id, reason, now)
        case RestartDue(actor_id, restarts):
            actor = state.actors.get(actor_id)
            if actor is None or actor.state != "restarting" or actor.spec.restarts != restarts or actor.starting:
                return []
            actor.starting = True
            return [StartActor(actor_id)]
        case Saved(actor_id, oid, value, restarts):
            return _saved(state, actor_id, oid, value, restarts)
        case Unheld(actor_id):
            return _unheld(state, actor_id)
        case Watched(process, actor_id):
            return _watch(state, process, actor_id)
        case ProcessGone(process, driver):
            return _process_gone(state, process, driver=driver)


def _create(state: State, spec: ActorSpec, now: float) -> list[Command]:
    actor_id = spec.actor_id
    if actor_id in state.actors:
        return []  # sent twice
    state.actors[actor_id] = Actor(spec)
    doom = state.doomed.pop(actor_id, None)
    if spec.error is not None:
        return _end(state, actor_id, "init_raised", "an argument of its constructor failed", spec.error)
    if doom is not None and (doom.no_restart or not spec.max_restarts):
        return _end(state, actor_id, "ended", doom.reason, None)
    if doom is not None:
        spec.restarts = 1  # there is nothing to end: its first life is its second
    return [StartActor(actor_id)]


def _constructed(state: State, actor_id: bytes, address: str, restarts: int, now: float) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None or actor.state == "dead" or actor.spec.restarts != restarts:
        return []  # killed meanwhile
    _move(actor, "constructed")
    actor.address, actor.up_since = address, now
    return [*([] if actor.may_restart else [DropArguments(actor_id)]), *_tell(state, actor)]


def _killed(state: State, event: Killed, now: float) -> list[Command]:
    actor_id = event.actor_id
    if actor_id in state.actors:
        if event.no_restart:
            return _end(state, actor_id, "ended", event.reason, None)
        return _died(state, actor_id, event.reason, now, wanted=True)
    if owner_of(actor_id) not in state.gone:
        before = state.doomed.get(actor_id)
        if before is None or (event.no_restart and not before.no_restart):
            state.doomed[actor_id] = event
        if event.no_restart:
            release_name(state, actor_id)
    return []


def _died(state: State, actor_id: bytes, reason: str, now: float, *, wanted: bool = False) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None or actor.state == "dead":
        return []
    if not actor.may_restart:
        return _end(state, actor_id, "ended", reason, None)
    quick = actor.up_since is None or now - actor.up_since < STEADY_S
    _move(actor, "died")
    actor.quick_deaths = actor.quick_deaths + 1 if quick and not wanted else 0
    actor.address, actor.reason, actor.up_since = "", reason, None
    spec = actor.spec
    spec.restarts += 1
    told = _tell(state, actor)
    if actor.quick_deaths <= 1:
        actor.starting = True
        return [VacateActor(actor_id), StartActor(actor_id), *told]
    actor.starting = False
    after_s = min(_FIRST_WAIT_S * 2.0 ** min(actor.quick_deaths - 2, 32), _LONGEST_WAIT_S)
    return [VacateActor(actor_id), StartLater(actor_id, spec.restarts, after_s), *told]


def _saved(state: State, actor_id: bytes, oid: bytes, value: Value, restarts: int) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None or actor.state == "dead" or actor.spec.restarts != restarts or not actor.may_restart:
        return []  # nobody will ever go on from it
    before, actor.saved, actor.spec.checkpoint = actor.saved, oid, value
    return [SwapCheckpoint(actor_id, oid, before)]


def _move(actor: Actor, why: str) -> None:
    try:
        actor.state = MOVES[actor.state, why]
    except KeyError:
        raise IllegalMove(f"actor {actor.spec.actor_id.hex()} is {actor.state}: {why}") from None


def _tell(state: State, actor: Actor) -> list[Command]:
    return [Tell(process, actor.update()) for process in sorted(state.watchers.get(actor.spec.actor_id, ()))]


def _end(
    state: State,
    actor_id: bytes,
    why: str,
    reason: str,
    error: Value | None,
    how: type[StopActor | DismissActor] = StopActor,
    ended_by: bytes = b"",
) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None or actor.state == "dead":
        return []
    _move(actor, why)
    actor.reason, actor.error, actor.ended_by = reason, error, ended_by
    release_name(state, actor_id)
    return [how(actor_id), *_tell(state, actor)]


def _unheld(state: State, actor_id: bytes) -> list[Command]:
    actor = state.actors.pop(actor_id, None)
    if actor is None or actor.state == "dead":
        state.watchers.pop(actor_id, None)
        return []
    _move(actor, "unheld")
    actor.reason = "all handles to it are gone"
    release_name(state, actor_id)
    commands = [DismissActor(actor_id), *_tell(state, actor)]
    state.watchers.pop(actor_id, None)
    return commands


def _watch(state: State, process: bytes, actor_id: bytes) -> list[Command]:
    actor = state.actors.get(actor_id)
    if actor is None and owner_of(actor_id) in state.gone:
        return [Tell(process, ActorUpdate(actor_id, "dead", reason=_NEVER_CREATED))]
    state.watchers.setdefault(actor_id, set()).add(process)
    return [] if actor is None or actor.state == "pending" else [Tell(process, actor.update())]


def _process_gone(state: State, process: bytes, *, driver: bool) -> list[Command]:
    state.gone.add(process)
    for actor_id, watchers in list(state.watchers.items()):
        watchers.discard(process)
        if not watchers:
            del state.watchers[actor_id]
    for actor_id in [actor_id for actor_id in state.doomed if owner_of(actor_id) == process]:
        del state.doomed[actor_id]
    for actor_id in [each for each in state.named if owner_of(each) == process and each not in state.actors]:
        release_name(state, actor_id)
    commands: list[Command] = []
    for actor_id in [each for each in state.watchers if owner_of(each) == process and each not in state.actors]:
        update = ActorUpdate(actor_id, "dead", reason=_NEVER_CREATED)
        commands += [Tell(watcher, update) for watcher in sorted(state.watchers.pop(actor_id))]
    if driver:
        for actor in list(state.actors.values()):
            if actor.spec.creator == process and not actor.spec.detached:
                commands += _end(state, actor.spec.actor_id, "ended", "the driver that created it is gone", None)
    return commands


def unwatch(state: State, process: bytes, actor_id: bytes) -> None:
    """The process has let go of its last handle."""
    watchers = state.watchers.get(actor_id)
    if watchers is not None:
        watchers.discard(process)
        if not watchers:
            del state.watchers[actor_id]


def find(state: State, namespace: str, name: str) -> Name | None:
    """Who has the name, alive or on its way."""
    return state.names.get((namespace, name))


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert {key for keys in state.named.values() for key in keys} == state.names.keys(), state
    for key, name in state.names.items():
        assert key in state.named[name.actor_id], state
        actor = state.actors.get(name.actor_id)
        assert actor is None or actor.state != "dead", f"{key} names a dead actor: {state}"
        doom = state.doomed.get(name.actor_id)
        assert doom is None or not doom.no_restart, f"{key} names an actor that will never be: {state}"
        assert actor is not None or owner_of(name.actor_id) not in state.gone, f"{key} is taken for ever: {state}"
    for actor in state.actors.values():
        assert (actor.state == "alive") <= bool(actor.address), actor
        assert (actor.state == "alive") <= (actor.up_since is not None), actor
        assert actor.spec.max_restarts < 0 or actor.spec.restarts <= actor.spec.max_restarts, f"one too many: {actor}"
        assert actor.starting or actor.state in ("restarting", "dead"), f"nobody will start it: {actor}"
        assert bool(actor.saved) == (actor.spec.checkpoint is not None), actor
    for actor_id, watchers in state.watchers.items():
        assert watchers, f"{actor_id.hex()} is watched by nobody: {state}"
        assert not (watchers & state.gone), f"a process that is gone watches {actor_id.hex()}: {state}"
        assert actor_id in state.actors or owner_of(actor_id) not in state.gone, f"watched in vain: {state}"
    assert not (state.doomed.keys() & state.actors.keys()), f"an actor lives that was killed before: {state}"
    assert not any(owner_of(actor_id) in state.gone for actor_id in state.doomed), f"doomed in vain: {state}"
