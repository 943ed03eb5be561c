"""What a node has to do with other nodes for the sake of objects: who waits, what is pulled, what is held. Pure.

Each object has a *home*: the node of the process that owns it, with which its id begins. Only the home's directory
counts holders and knows the value. To it, another node is one more process: it holds an object as long as anybody there
does, and asks for a value once, however many there want it. So counts stay as exact as those of one node.

The bytes of a value lie where it was made. Processes read the memory of nodes of their machine in place, if those let
them: who holds an object keeps its bytes, wherever these are. What lies elsewhere their node pulls when one of them
waits for it, once for all of them. Each holds the object from then on, as if it had said so. What is only fetched for
later gives way to what somebody waits for.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.values import Value, home_of, node_prefix


class Wanted(msgspec.Struct, frozen=True):
    """A process of this node waits for a value. `value`: where it lies, if that is known. Once more to hasten it."""

    process: bytes
    oid: bytes
    value: Value | None = None
    is_urgent: bool = True  # False: it will be needed later


class Told(msgspec.Struct, frozen=True):
    """The home's answer to FetchAtHome: the value, or where it lies, or an error."""

    oid: bytes
    value: Value


class Pulled(msgspec.Struct, frozen=True):
    """The bytes are here, for as long as this is being handled and somebody given them holds them."""

    oid: bytes
    copy: Value


class PullFailed(msgspec.Struct, frozen=True):
    oid: bytes
    reason: str


class Held(msgspec.Struct, frozen=True):
    """Somebody here holds an object that is at home elsewhere."""

    oid: bytes


class Unheld(msgspec.Struct, frozen=True):
    """Nobody here holds an object any more; or it is no more."""

    oid: bytes


class Beside(msgspec.Struct, frozen=True):
    """The processes of this node can read the memory of another."""

    node_id: str


class ProcessGone(msgspec.Struct, frozen=True):
    process: bytes


class NodeGone(msgspec.Struct, frozen=True):
    prefix: bytes


class FetchAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class HoldAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class ReleaseAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class Pull(msgspec.Struct, frozen=True):
    """Bring its bytes here; answer with Pulled or PullFailed. Once more, with the same value, to hasten it."""

    value: Value
    is_urgent: bool


class StopPull(msgspec.Struct, frozen=True):
    """Nobody waits for them any more; no answer."""

    oid: bytes


class Give(msgspec.Struct, frozen=True):
    """Send a value to a process that waits; of one in shared memory, it becomes a holder first."""

    process: bytes
    oid: bytes
    value: Value


class GiveUp(msgspec.Struct, frozen=True):
    """Tell a process that it will never come. `owner_died`: and that this is why, else its bytes are lost."""

    process: bytes
    oid: bytes
    reason: str
    owner_died: bool = False


OWNERS_NODE_GONE = "its owner's node is gone"
Event = Wanted | Told | Pulled | PullFailed | Held | Unheld | Beside | ProcessGone | NodeGone
Command = FetchAtHome | HoldAtHome | ReleaseAtHome | Pull | StopPull | Give | GiveUp


class State(Record):
    node_id: str
    prefix: bytes
    waiters: dict[bytes, dict[bytes, bool]] = field(default_factory=dict)  # oid -> processes, in order: is it urgent?
    asked: set[bytes] = field(default_factory=set)  # at their homes
    pulling: dict[bytes, Pull] = field(default_factory=dict)  # as it was asked for last
    held: set[bytes] = field(default_factory=set)  # at their homes, in the name of this node
    beside: set[str] = field(default_factory=set)  # ids of nodes whose memory can be read from here
    dead: set[bytes] = field(default_factory=set)  # prefixes

    def is_here(self, value: Value) -> bool:
        """Whether the processes of this node can read it as it is."""
        return self.is_own(value) or value.node_id in self.beside

    def is_own(self, value: Value) -> bool:
        """Whether its bytes are this node's to keep."""
        return not value.nbytes or value.node_id in ("", self.node_id)


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Wanted():
            return _want(state, event)
        case Told(oid, value):
            state.asked.discard(oid)
            return _learn(state, oid, value) if oid in state.waiters else []
        case Pulled(oid, copy):
            del state.pulling[oid]
            return [Give(process, oid, copy) for process in state.waiters.pop(oid)]
        case PullFailed(oid, reason):
            del state.pulling[oid]
            return [GiveUp(process, oid, reason) for process in state.waiters.pop(oid)]
        case Held(oid):
            if oid in state.held or home_of(oid) == state.prefix or home_of(oid) in state.dead:
                return []
            state.held.add(oid)
            return [HoldAtHome(oid)]
        case Unheld(oid):
            if oid not in state.held:
                return []
            state.held.discard(oid)
            return [ReleaseAtHome(oid)]
        case Beside(node_id):
            state.beside.add(node_id)
            return []
        case ProcessGone(process):
            return _process_gone(state, process)
        case NodeGone(prefix):
            return _node_gone(state, prefix)


def _want(state: State, event: Wanted) -> list[Command]:
    process, oid, value = event.process, event.oid, event.value
    if value is None and home_of(oid) in state.dead and oid not in state.pulling:
        return [GiveUp(process, oid, OWNERS_NODE_GONE, owner_died=True)]
    waiters = state.waiters.setdefault(oid, {})
    waiters[process] = waiters.get(process, False) or event.is_urgent
    if value is not None and state.is_here(value):
        return _learn(state, oid, value)
    if oid in state.pulling:
        return _hasten(state, oid)
    if value is not None:
        return _pull(state, value)
    if oid in state.asked:
        return []
    state.asked.add(oid)
    return [FetchAtHome(oid)]


def _learn(state: State, oid: bytes, value: Value) -> list[Command]:
    if not state.is_here(value):
        return [] if oid in state.pulling else _pull(state, value)
    # Somebody may have had it pulled before it was here by another way.
    stop: list[Command] = [StopPull(oid)] if state.pulling.pop(oid, None) is not None else []
    return stop + [Give(process, oid, value) for process in state.waiters.pop(oid)]


def _pull(state: State, value: Value) -> list[Command]:
    pull = state.pulling[value.oid] = Pull(value, any(state.waiters[value.oid].values()))
    return [pull]


def _hasten(state: State, oid: bytes) -> list[Command]:
    if state.pulling[oid].is_urgent or not any(state.waiters[oid].values()):
        return []
    return _pull(state, state.pulling[oid].value)


def _process_gone(state: State, process: bytes) -> list[Command]:
    commands: list[Command] = []
    for oid, waiters in list(state.waiters.items()):
        waiters.pop(process, None)
        if not waiters:
            del state.waiters[oid]
            if state.pulling.pop(oid, None) is not None:
                commands.append(StopPull(oid))
    return commands


def _node_gone(state: State, prefix: bytes) -> list[Command]:
    state.dead.add(prefix)
    state.beside -= {node_id for node_id in state.beside if node_prefix(node_id) == prefix}
    state.held -= {oid for oid in state.held if home_of(oid) == prefix}
    commands: list[Command] = []
    for oid in [oid for oid in state.asked if home_of(oid) == prefix]:
        state.asked.discard(oid)
        if oid not in state.pulling:
            gone = state.waiters.pop(oid, {})
            commands += [GiveUp(each, oid, OWNERS_NODE_GONE, owner_died=True) for each in gone]
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for oid, waiters in state.waiters.items():
        assert waiters, f"{oid.hex()} is awaited by nobody: {state}"
        assert oid in state.asked or oid in state.pulling, f"{oid.hex()} is awaited in vain: {state}"
    assert set(state.pulling) <= set(state.waiters), f"something is pulled for nobody: {state}"
    for oid, pull in state.pulling.items():
        assert pull.is_urgent or not any(state.waiters[oid].values()), f"{pull} keeps somebody waiting"
    assert not any(home_of(oid) == state.prefix for oid in state.held), f"held at another home, which is this: {state}"
    assert not any(home_of(oid) in state.dead for oid in state.held | state.asked), f"the dead are asked: {state}"
