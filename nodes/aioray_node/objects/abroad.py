"""What a node has to do with other nodes for the sake of objects: who waits, what is pulled, what is held. Pure.

Each object has a *home*: the node of the process that owns it, with which its id begins. Only the home's directory
counts holders and knows the value. To it, another node is one more process: it holds an object as long as anybody there
does, and asks for a value once, however many there want it. So counts stay as exact as those of one node.

The bytes of a value lie where it was made. A process reads only its own node's memory, so a node pulls what lies
elsewhere when one of its processes waits for it; that process holds the copy from then on, as if it had said so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from aioray.wire.values import Value, home_of


class Wanted(msgspec.Struct, frozen=True):
    """A process of this node waits for a value that is not to be had here. `value`: where it lies, if that is known."""

    process: bytes
    oid: bytes
    value: Value | None = None


class Told(msgspec.Struct, frozen=True):
    """The home's answer to FetchAtHome: the value, or where it lies, or an error."""

    oid: bytes
    value: Value


class Pulled(msgspec.Struct, frozen=True):
    """The bytes are here."""

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


class ProcessGone(msgspec.Struct, frozen=True):
    process: bytes


class NodeBack(msgspec.Struct, frozen=True):
    """The line to a node was cut, and it lives: what was said last may not have come through."""

    prefix: bytes


class NodeGone(msgspec.Struct, frozen=True):
    prefix: bytes


class FetchAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class HoldAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class ReleaseAtHome(msgspec.Struct, frozen=True):
    oid: bytes


class Pull(msgspec.Struct, frozen=True):
    """Bring its bytes here; answer with Pulled or PullFailed."""

    value: Value


class Give(msgspec.Struct, frozen=True):
    """Send a value to a process that waits; of a copy, it becomes a holder first."""

    process: bytes
    oid: bytes
    value: Value


class GiveUp(msgspec.Struct, frozen=True):
    """Tell a process that it will never come."""

    process: bytes
    oid: bytes
    reason: str


class FreeCopy(msgspec.Struct, frozen=True):
    value: Value


Event = Wanted | Told | Pulled | PullFailed | Held | Unheld | ProcessGone | NodeBack | NodeGone
Command = FetchAtHome | HoldAtHome | ReleaseAtHome | Pull | Give | GiveUp | FreeCopy


@dataclass(slots=True)
class State:
    node_id: str
    prefix: bytes
    waiters: dict[bytes, dict[bytes, None]] = field(default_factory=dict)  # oid -> processes, first come first
    asked: set[bytes] = field(default_factory=set)  # at their homes
    pulling: set[bytes] = field(default_factory=set)
    copies: dict[bytes, Value] = field(default_factory=dict)
    held: set[bytes] = field(default_factory=set)  # at their homes, in the name of this node
    dead: set[bytes] = field(default_factory=set)  # prefixes

    def is_here(self, value: Value) -> bool:
        """Whether the processes of this node can read it as it is."""
        return not value.nbytes or value.node_id in ("", self.node_id)


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Wanted(process, oid, value):
            return _want(state, process, oid, value)
        case Told(oid, value):
            state.asked.discard(oid)
            return _learn(state, oid, value) if oid in state.waiters else []
        case Pulled(oid, copy):
            return _pulled(state, oid, copy)
        case PullFailed(oid, reason):
            state.pulling.discard(oid)
            return [GiveUp(process, oid, reason) for process in state.waiters.pop(oid, {})]
        case Held(oid):
            if oid in state.held or home_of(oid) == state.prefix or home_of(oid) in state.dead:
                return []
            state.held.add(oid)
            return [HoldAtHome(oid)]
        case Unheld(oid):
            return _unheld(state, oid)
        case ProcessGone(process):
            for oid, waiters in list(state.waiters.items()):
                waiters.pop(process, None)
                if not waiters:
                    del state.waiters[oid]
            return []
        case NodeBack(prefix):
            holds: list[Command] = [HoldAtHome(oid) for oid in sorted(state.held) if home_of(oid) == prefix]
            return holds + [FetchAtHome(oid) for oid in sorted(state.asked) if home_of(oid) == prefix]
        case NodeGone(prefix):
            return _node_gone(state, prefix)


def _want(state: State, process: bytes, oid: bytes, value: Value | None) -> list[Command]:
    if oid in state.copies:
        return [Give(process, oid, state.copies[oid])]
    if value is not None and state.is_here(value):
        return [Give(process, oid, value)]
    if value is None and home_of(oid) in state.dead and oid not in state.pulling:
        return [GiveUp(process, oid, "its owner's node is gone")]
    state.waiters.setdefault(oid, {})[process] = None
    if oid in state.pulling:
        return []
    if value is not None:
        return _pull(state, value)
    if oid in state.asked:
        return []
    state.asked.add(oid)
    return [FetchAtHome(oid)]


def _learn(state: State, oid: bytes, value: Value) -> list[Command]:
    if not state.is_here(value):
        return [] if oid in state.pulling else _pull(state, value)
    return [Give(process, oid, value) for process in state.waiters.pop(oid)]


def _pull(state: State, value: Value) -> list[Command]:
    state.pulling.add(value.oid)
    return [Pull(value)]


def _pulled(state: State, oid: bytes, copy: Value) -> list[Command]:
    state.pulling.discard(oid)
    waiters = state.waiters.pop(oid, None)
    if not waiters:  # all who wanted it are gone
        return [FreeCopy(copy)]
    state.copies[oid] = copy
    return [Give(process, oid, copy) for process in waiters]


def _unheld(state: State, oid: bytes) -> list[Command]:
    commands: list[Command] = []
    if oid in state.copies:
        commands.append(FreeCopy(state.copies.pop(oid)))
    if oid in state.held:
        state.held.discard(oid)
        commands.append(ReleaseAtHome(oid))
    return commands


def _node_gone(state: State, prefix: bytes) -> list[Command]:
    state.dead.add(prefix)
    state.held -= {oid for oid in state.held if home_of(oid) == prefix}
    commands: list[Command] = []
    for oid in [oid for oid in state.asked if home_of(oid) == prefix]:
        state.asked.discard(oid)
        if oid not in state.pulling:
            commands += [GiveUp(each, oid, "its owner's node is gone") for each in state.waiters.pop(oid, {})]
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for oid, waiters in state.waiters.items():
        assert waiters, f"{oid.hex()} is awaited by nobody: {state}"
        assert oid in state.asked or oid in state.pulling, f"{oid.hex()} is awaited in vain: {state}"
        assert oid not in state.copies, f"{oid.hex()} is here, and awaited: {state}"
    assert not any(home_of(oid) == state.prefix for oid in state.held), f"held at another home, which is this: {state}"
    assert not any(home_of(oid) in state.dead for oid in state.held | state.asked), f"the dead are asked: {state}"
