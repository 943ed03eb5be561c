"""Whom to send which bytes, and whom to send to somebody else. Pure.

A node that asks for an object joins a tree, in which each sends to a few at most: the first ones get it from its home,
later ones from those. Who is asked for bytes that it is still getting itself keeps the question until they are there,
so an object flows through the tree a chunk at a time, and costs its home a few transfers however many nodes want it.
Only the home has the tree in its books; the others serve whom it sends.

A link is a number, and stands for the node that dialled it.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record


class Joined(msgspec.Struct, frozen=True):
    """A node asks who sends it an object. `here`: we have it; `placed`: its home has named us."""

    link: int
    oid: bytes
    address: str  # where others reach that node; "" for nowhere
    here: bool
    without: tuple[str, ...] = ()
    placed: bool = False
    is_local: bool = False  # came over a Unix socket, as must who is to reach it at that address


class Asked(msgspec.Struct, frozen=True):
    link: int
    oid: bytes
    start: int
    nbytes: int


class Left(msgspec.Struct, frozen=True):
    """`keeps`: because it has all of it, and we are its home. `here`: we have it, too."""

    link: int
    oid: bytes
    keeps: bool
    here: bool = True


class LinkLost(msgspec.Struct, frozen=True):
    link: int


class Began(msgspec.Struct, frozen=True):
    """We are getting it ourselves, in chunks of this size."""

    oid: bytes
    nbytes: int
    chunk_nbytes: int


class Grown(msgspec.Struct, frozen=True):
    oid: bytes
    start: int


class Finished(msgspec.Struct, frozen=True):
    """We have it all now."""

    oid: bytes


class Stopped(msgspec.Struct, frozen=True):
    """We are not getting it any more."""

    oid: bytes
    reason: str


class Freed(msgspec.Struct, frozen=True):
    """The object is no more: its home says so."""

    oid: bytes


class TellServe(msgspec.Struct, frozen=True):
    link: int
    oid: bytes


class TellSendOn(msgspec.Struct, frozen=True):
    link: int
    oid: bytes
    address: str


class TellRefuse(msgspec.Struct, frozen=True):
    link: int
    oid: bytes
    reason: str


class TellGone(msgspec.Struct, frozen=True):
    link: int
    oid: bytes


class Send(msgspec.Struct, frozen=True):
    """These bytes are here: send them."""

    link: int
    oid: bytes
    start: int
    nbytes: int


class Keep(msgspec.Struct, frozen=True):
    """The bytes must stay where they are, for this link, until LetGo."""

    link: int
    oid: bytes


class LetGo(msgspec.Struct, frozen=True):
    link: int
    oid: bytes


Event = Joined | Asked | Left | LinkLost | Began | Grown | Finished | Stopped | Freed
Command = TellServe | TellSendOn | TellRefuse | TellGone | Send | Keep | LetGo


class Member(Record):
    """A node that gets an object we are the home of, or has got it."""

    address: str
    parent: int  # the link of who sends to it; 0: we do
    is_local: bool
    keeps: bool = False


class Partial(Record):
    """An object on its way here."""

    nbytes: int
    chunk_nbytes: int
    have: set[int] = field(default_factory=set)  # starts of chunks

    def covers(self, start: int, nbytes: int) -> bool:
        size = self.chunk_nbytes
        return all(at in self.have for at in range(start // size * size, start + nbytes, size))


class State(Record):
    fan_out: int = 2
    trees: dict[bytes, dict[int, Member]] = field(default_factory=dict)  # of objects that we are the home of
    partial: dict[bytes, Partial] = field(default_factory=dict)
    serving: dict[int, set[bytes]] = field(default_factory=dict)  # link -> what we have said we send
    kept: set[tuple[int, bytes]] = field(default_factory=set)
    parked: dict[bytes, list[Asked]] = field(default_factory=dict)


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Joined():
            return _joined(state, event)
        case Asked():
            return _asked(state, event)
        case Left(link, oid, keeps, here):
            return _left(state, link, oid, keeps=keeps, here=here)
        case LinkLost(link):
            return _link_lost(state, link)
        case Began(oid, nbytes, chunk_nbytes):
            state.partial[oid] = Partial(nbytes, chunk_nbytes)
            return []
        case Grown(oid, start):
            return _grown(state, oid, start)
        case Finished(oid):
            return _finished(state, oid)
        case Stopped(oid, reason):
            return _stopped(state, oid, reason)
        case Freed(oid):
            return [TellGone(link, oid) for link in state.trees.pop(oid, ())]


def _joined(state: State, event: Joined) -> list[Command]:
    link, oid = event.link, event.oid
    if not event.here and oid not in state.partial:
        _drop_member(state, link, oid)
        return [TellRefuse(link, oid, "it is not here, or not any more")]
    if not event.placed and event.here:
        tree = state.trees.setdefault(oid, {})
        parent = _parent_for(state, tree, event)
        tree[link] = Member(event.address, parent, event.is_local)
        if parent:
            return [*_unserve(state, link, oid), TellSendOn(link, oid, tree[parent].address)]
    state.serving.setdefault(link, set()).add(oid)
    return [*_keep(state, link, oid, here=event.here), TellServe(link, oid)]


def _parent_for(state: State, tree: dict[int, Member], event: Joined) -> int:
    """Us while we send to few; else who has it, or gets it, and sends to fewest. Us again when there is nobody."""
    ours = [link for link, member in tree.items() if not (member.parent or member.keeps) and link != event.link]
    if len(ours) < state.fan_out:
        return 0
    best: tuple[bool, int, int] | None = None
    found = 0
    for link, member in tree.items():
        if member.is_local != event.is_local or not member.address or member.address in (event.address, *event.without):
            continue
        depth = _depth(tree, link, below=event.link)
        busy = sum(other.parent == link and not other.keeps for other in tree.values())
        if depth is None or busy >= state.fan_out:
            continue
        rank = (not member.keeps, depth + busy, link)
        if best is None or rank < best:
            best, found = rank, link
    return found


def _depth(tree: dict[int, Member], link: int, below: int) -> int | None:
    """How many steps it is from us; None when that leads, or may lead, through `below`, which must not feed itself.

    A node that has lost its link to us may go on getting the object from another: nobody knows any more from which.
    """
    depth = 0
    while link:
        member = tree.get(link)
        if member is None or link == below:
            return None
        if member.keeps:
            return depth
        link, depth = member.parent, depth + 1
    return depth


def _keep(state: State, link: int, oid: bytes, *, here: bool) -> list[Command]:
    if not here or (link, oid) in state.kept:
        return []
    state.kept.add((link, oid))
    return [Keep(link, oid)]


def _asked(state: State, event: Asked) -> list[Command]:
    link, oid, start, nbytes = event.link, event.oid, event.start, event.nbytes
    if oid not in state.serving.get(link, ()):
        return [TellRefuse(link, oid, "nobody said that it is sent from here")]
    partial = state.partial.get(oid)
    if partial is None or partial.covers(start, nbytes):
        return [Send(link, oid, start, nbytes)]
    state.parked.setdefault(oid, []).append(event)
    return []


def _grown(state: State, oid: bytes, start: int) -> list[Command]:
    partial = state.partial[oid]
    partial.have.add(start)
    parked = state.parked.get(oid)
    if not parked:
        return []
    ready = [ask for ask in parked if partial.covers(ask.start, ask.nbytes)]
    if ready:
        left = [ask for ask in parked if not partial.covers(ask.start, ask.nbytes)]
        _park(state, oid, left)
    return [Send(ask.link, oid, ask.start, ask.nbytes) for ask in ready]


def _park(state: State, oid: bytes, asks: list[Asked]) -> None:
    if asks:
        state.parked[oid] = asks
    else:
        state.parked.pop(oid, None)


def _finished(state: State, oid: bytes) -> list[Command]:
    state.partial.pop(oid, None)
    commands: list[Command] = []
    for link in sorted(link for link, oids in state.serving.items() if oid in oids):
        commands += _keep(state, link, oid, here=True)
    return commands + [Send(ask.link, oid, ask.start, ask.nbytes) for ask in state.parked.pop(oid, [])]


def _stopped(state: State, oid: bytes, reason: str) -> list[Command]:
    if state.partial.pop(oid, None) is None:
        return []
    state.parked.pop(oid, None)
    commands: list[Command] = []
    for link in sorted(link for link, oids in state.serving.items() if oid in oids):
        commands += [*_unserve(state, link, oid), TellRefuse(link, oid, reason)]
    return commands


def _unserve(state: State, link: int, oid: bytes) -> list[Command]:
    oids = state.serving.get(link)
    if oids is None or oid not in oids:
        return []
    oids.discard(oid)
    if not oids:
        del state.serving[link]
    if oid in state.parked:
        _park(state, oid, [ask for ask in state.parked[oid] if ask.link != link])
    if (link, oid) in state.kept:
        state.kept.discard((link, oid))
        return [LetGo(link, oid)]
    return []


def _left(state: State, link: int, oid: bytes, *, keeps: bool, here: bool) -> list[Command]:
    member = state.trees.get(oid, {}).get(link)
    if member is None and keeps:  # it joined over a link that was lost since, and must hear of the end all the same
        if not here:
            return [*_unserve(state, link, oid), TellGone(link, oid)]
        state.trees.setdefault(oid, {})[link] = Member("", 0, False, keeps=True)
    elif member is not None:
        if keeps:
            member.keeps = True
        else:
            _drop_member(state, link, oid)
    return _unserve(state, link, oid)


def _drop_member(state: State, link: int, oid: bytes) -> None:
    tree = state.trees.get(oid)
    if tree is not None:
        tree.pop(link, None)
        if not tree:
            del state.trees[oid]


def _link_lost(state: State, link: int) -> list[Command]:
    for oid in [oid for oid, tree in state.trees.items() if link in tree]:
        _drop_member(state, link, oid)
    commands: list[Command] = []
    for oid in sorted(state.serving.get(link, ())):
        commands += _unserve(state, link, oid)
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for link, oid in state.kept:
        assert oid in state.serving[link], f"{oid.hex()} is kept for nobody: {state}"
    for oid, tree in state.trees.items():
        assert tree, f"an empty tree of {oid.hex()}"
        for link in tree:
            seen = set()
            while link in tree and not tree[link].keeps:
                assert link not in seen, f"{oid.hex()} goes round in a circle: {tree}"
                seen.add(link)
                link = tree[link].parent
    for oid, asks in state.parked.items():
        assert asks, f"an empty list of questions for {oid.hex()}"
        assert all(oid in state.serving.get(ask.link, ()) for ask in asks), f"a question of nobody: {state}"
        assert not any(state.partial[oid].covers(ask.start, ask.nbytes) for ask in asks), f"it could be sent: {state}"
    assert all(oids for oids in state.serving.values()), f"an empty set: {state}"
