"""Which packages of files there are in a cluster, who has them, who needs them, and which lie in the GCS's store. Pure.

A package is offered by who has it, for somebody who uses it: a job, a detached actor, or a node. It is brought to the
store when a node asks for it, and, where there are several machines, at once, so that it is there when its first node
is not any more. When nobody uses it, it goes from the store.

`plan` looks at all that is known of one package after each change. So it makes no difference whether a node asks before
the package is there, meanwhile, or later, and what had it may die at any time.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.values import home_of


class Offered(msgspec.Struct, frozen=True):
    """A node has it, for a user. Safe to say twice."""

    name: str
    user: bytes
    node: bytes  # the first bytes of its id, here as elsewhere


class Used(msgspec.Struct, frozen=True):
    """There is one more user of what is known; a name that is not known says nothing."""

    name: str
    user: bytes


class UserGone(msgspec.Struct, frozen=True):
    """Safe to say twice, and of who has never used anything."""

    user: bytes


class Asked(msgspec.Struct, frozen=True):
    """A node needs it; answered by one Tell."""

    name: str
    node: bytes


class Sent(msgspec.Struct, frozen=True):
    """An upload has ended: all pieces are in the store, or `error` says why not."""

    name: str
    upload: str
    pieces: int
    error: str = ""


class NodeGone(msgspec.Struct, frozen=True):
    """A node is dead. Its jobs are told of by themselves."""

    node: bytes


class NotAlone(msgspec.Struct, frozen=True):
    """There is a node on another machine."""


class Send(msgspec.Struct, frozen=True):
    """Have this node bring it to the store; answered by Sent, unless the node dies."""

    node: bytes
    name: str
    upload: str


class Tell(msgspec.Struct, frozen=True):
    """To a node: it is in the store, or cannot be had."""

    node: bytes
    name: str
    upload: str = ""
    pieces: int = 0
    error: str = ""


class Remove(msgspec.Struct, frozen=True):
    """What the store has of an upload."""

    name: str
    upload: str


Event = Offered | Used | UserGone | Asked | Sent | NodeGone | NotAlone
Command = Send | Tell | Remove


class Package(Record):
    users: set[bytes] = field(default_factory=set)
    nodes: dict[bytes, None] = field(default_factory=dict)  # that have it, the first one first
    uploads: dict[str, bytes] = field(default_factory=dict)  # under way -> the node, or job, that sends it
    stored: tuple[str, int] | None = None  # of which upload, in how many pieces
    askers: dict[bytes, None] = field(default_factory=dict)
    error: str = ""  # why it could not be brought to the store, until somebody asks again


class State(Record):
    packages: dict[str, Package] = field(default_factory=dict)
    is_alone: bool = True  # all nodes are on one machine
    uploads: int = 0  # so many have begun


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Offered(name, user, node):
            package = state.packages.setdefault(name, Package())
            package.users.add(user)
            if node not in package.nodes:
                package.nodes[node] = None
                package.error = ""
            return plan(state, name)
        case Used(name, user):
            if (known := state.packages.get(name)) is not None:
                known.users.add(user)
            return []
        case UserGone(user):
            return _user_gone(state, user)
        case Asked(name, node):
            if (known := state.packages.get(name)) is None:
                return [Tell(node, name, error="nobody who uses it is there any more")]
            known.askers[node] = None
            known.error = ""
            return plan(state, name)
        case Sent():
            return _sent(state, event)
        case NodeGone(node):
            return _node_gone(state, node)
        case NotAlone():
            state.is_alone = False
            return [command for name in list(state.packages) for command in plan(state, name)]


def begin(state: State, name: str, user: bytes) -> str:
    """A driver that has no node is about to send a package: as which upload; "" if it is in the store already."""
    package = state.packages.setdefault(name, Package())
    package.users.add(user)
    return "" if package.stored is not None else _new_upload(state, package, user)


def takes(state: State, name: str, upload: str) -> bool:
    """Whether somebody still wants what an upload brings."""
    package = state.packages.get(name)
    return package is not None and upload in package.uploads


def plan(state: State, name: str) -> list[Command]:
    """Have it brought to the store if that is wanted; tell those who asked; forget it when nobody uses it."""
    package = state.packages[name]
    if not package.users:
        del state.packages[name]
        begun = [*package.uploads, *([package.stored[0]] if package.stored is not None else [])]
        told: list[Command] = [Tell(node, name, error="nobody uses it any more") for node in package.askers]
        return told + [Remove(name, upload) for upload in begun]
    if package.stored is not None:
        upload, pieces = package.stored
        return [Tell(node, name, upload, pieces) for node in _take_askers(package)]
    if package.uploads:
        return []
    if package.error or not package.nodes:
        error = package.error or "no node that has it is there any more"
        return [Tell(node, name, error=error) for node in _take_askers(package)]
    if state.is_alone and not package.askers:
        return []
    sender = next(iter(package.nodes))
    return [Send(sender, name, _new_upload(state, package, sender))]


def _take_askers(package: Package) -> list[bytes]:
    askers, package.askers = list(package.askers), {}
    return askers


def _new_upload(state: State, package: Package, sender: bytes) -> str:
    state.uploads += 1
    upload = str(state.uploads)
    package.uploads[upload] = sender
    return upload


def _sent(state: State, event: Sent) -> list[Command]:
    if not takes(state, event.name, event.upload):
        return []  # it was removed when it was no longer wanted
    package = state.packages[event.name]
    del package.uploads[event.upload]
    if package.stored is not None:  # another one was faster
        return [Remove(event.name, event.upload)]
    if not event.error:
        package.stored, package.error = (event.upload, event.pieces), ""
        return plan(state, event.name)
    package.error = event.error
    return [Remove(event.name, event.upload), *plan(state, event.name)]


def _user_gone(state: State, user: bytes) -> list[Command]:
    commands: list[Command] = []
    for name, package in list(state.packages.items()):
        if user in package.users:
            package.users.discard(user)
            commands += _drop_uploads(name, package, user) + plan(state, name)
    return commands


def _node_gone(state: State, node: bytes) -> list[Command]:
    commands: list[Command] = []
    for name, package in list(state.packages.items()):
        package.nodes.pop(node, None)
        package.askers.pop(node, None)
        package.users.discard(node)
        commands += _drop_uploads(name, package, node) + plan(state, name)
    return commands


def _drop_uploads(name: str, package: Package, sender: bytes) -> list[Command]:
    """Of who is gone."""
    dropped = [upload for upload, who in package.uploads.items() if who == sender]
    for upload in dropped:
        del package.uploads[upload]
    return [Remove(name, upload) for upload in dropped]


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for name, package in state.packages.items():
        assert package.users, f"nobody uses {name}: {package}"
        assert not package.askers or package.uploads, f"nobody brings {name} to who asked for it: {package}"
        assert package.stored is None or package.stored[0] not in package.uploads, f"{name}: {package}"
        wanted = not state.is_alone and package.nodes and not package.error
        assert package.stored or package.uploads or not wanted, f"{name} is not on its way: {package}"
        assert all(len(who) == len(home_of(who)) for who in package.nodes), f"no node has {name}: {package}"
