"""Which objects the node answers for, who holds them, who waits for them. Pure.

A holder is a process (8 bytes) or an object that contains refs (16 bytes, the first 8 of which are its owner).
An entry may come into being by any first word about an object: the owner's Shared, a holder's Held, a reader's Wanted.
It is freed when it is *known* (its owner or maker has registered it) and nobody holds it.

Beside the entries there are *copies* of objects that are at home on other nodes. One that is held here stays; one that
nobody holds is kept for the next reader, and goes, the oldest first, when memory is short or its home has freed it.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.values import Value, owner_of


class Shared(msgspec.Struct, frozen=True):
    """The owner lets others ask the node; again with the value when it was not there yet."""

    oid: bytes
    value: Value | None = None


class Sealed(msgspec.Struct, frozen=True):
    """A worker wrote a result for the owner, who holds it from now on."""

    value: Value


class Held(msgspec.Struct, frozen=True):
    holder: bytes
    oids: list[bytes]


class Released(msgspec.Struct, frozen=True):
    """No oids: everything that `holder` held."""

    holder: bytes
    oids: list[bytes]


class Wanted(msgspec.Struct, frozen=True):
    """A process waits for the value."""

    process: bytes
    oid: bytes


class ProcessGone(msgspec.Struct, frozen=True):
    process: bytes


class Copied(msgspec.Struct, frozen=True):
    """The bytes of an object that is at home on another node are here, too."""

    value: Value


class CopyGone(msgspec.Struct, frozen=True):
    """The home of a copy says that the object is no more, or cannot tell us any more when it is."""

    oid: bytes


class Crowded(msgspec.Struct, frozen=True):
    """Memory is short: let go of the oldest copy that nobody holds."""


class Deliver(msgspec.Struct, frozen=True):
    """Send the value to a process that wanted it."""

    process: bytes
    oid: bytes
    value: Value


class OwnerLost(msgspec.Struct, frozen=True):
    """Tell a process that the value will never come."""

    process: bytes
    oid: bytes


class Forgotten(msgspec.Struct, frozen=True):
    """Nobody holds it any more; `value` is None when it never had one (an actor's id never has)."""

    oid: bytes
    value: Value | None


class Unwanted(msgspec.Struct, frozen=True):
    """Nobody looks at these bytes, or ever will: they came too late, or were made once more."""

    value: Value


class CopyFreed(msgspec.Struct, frozen=True):
    """The copy is not needed here any more."""

    value: Value


# Holders that are neither processes nor objects begin with one of these: a number follows, sixteen bytes in all.
PULLED = b"pulled\0\0"  # a ticket of somebody who wants a copy
SENDING = b"sending\0"  # a link over which it is sent
ORPHANS = b"orphans\0"  # a dead node, while others are asked who looks at what its processes owned


def is_pin(holder: bytes) -> bool:
    """Whether it only keeps bytes in their place for a while: nobody's ref."""
    return holder[:8] in (PULLED, SENDING, ORPHANS)


Event = Shared | Sealed | Held | Released | Wanted | ProcessGone | Copied | CopyGone | Crowded
Command = Deliver | OwnerLost | Forgotten | Unwanted | CopyFreed


class Entry(Record):
    known: bool = False
    value: Value | None = None
    holders: set[bytes] = field(default_factory=set)
    waiters: set[bytes] = field(default_factory=set)
    was_given: bool = False  # somebody has asked for the value and got it: they may look at its bytes, holders or not
    copies: list[Value] = field(default_factory=list)  # made again after somebody else was given the value


class Copy(Record):
    value: Value
    is_gone: bool = False  # at home: nobody new will ask for it


class State(Record):
    entries: dict[bytes, Entry] = field(default_factory=dict)
    held_by: dict[bytes, set[bytes]] = field(default_factory=dict)  # holder -> oids
    gone: set[bytes] = field(default_factory=set)  # processes that will not say anything any more
    copies: dict[bytes, Copy] = field(default_factory=dict)
    idle: dict[bytes, None] = field(default_factory=dict)  # copies that nobody holds, the oldest first


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Shared(oid, value):
            return _shared(state, oid, value)
        case Sealed(value):
            return _sealed(state, value)
        case Held(holder, oids):
            for oid in oids:
                _hold(state, holder, oid)
            return []
        case Released(holder, oids):
            return _release(state, holder, oids or list(state.held_by.get(holder, ())))
        case Wanted(process, oid):
            return _want(state, process, oid)
        case ProcessGone(process):
            return _process_gone(state, process)
        case Copied(value):
            return _copied(state, value)
        case CopyGone(oid):
            if (copy := state.copies.get(oid)) is not None:
                copy.is_gone = True
            return _settle_copy(state, oid)
        case Crowded():
            return [_drop_copy(state, next(iter(state.idle)))] if state.idle else []


def _entry(state: State, oid: bytes) -> Entry:
    entry = state.entries.get(oid)
    if entry is None:
        entry = state.entries[oid] = Entry()
    return entry


def _hold(state: State, holder: bytes, oid: bytes) -> None:
    if owner_of(holder) in state.gone and holder not in state.entries:
        return  # said in the name of a process that is gone, and will never let go
    _entry(state, oid).holders.add(holder)
    state.idle.pop(oid, None)
    state.held_by.setdefault(holder, set()).add(oid)


def _shared(state: State, oid: bytes, value: Value | None) -> list[Command]:
    entry = _entry(state, oid)
    if not entry.known:
        entry.known = True
        if owner_of(oid) not in state.gone:
            _hold(state, owner_of(oid), oid)
    commands: list[Command] = []
    if value is not None and entry.value is None:
        entry.value = value
        entry.was_given = bool(entry.waiters)
        commands += [Deliver(process, oid, value) for process in sorted(entry.waiters)]
        entry.waiters.clear()
    elif value is not None and value.nbytes and entry.value is not None and entry.value.is_error:
        commands.append(Unwanted(value))  # the owner gave it up (it was cancelled) before the worker was through
    return commands + _free(state, [oid])


def _sealed(state: State, value: Value) -> list[Command]:
    entry = state.entries.get(value.oid)
    before = entry.value if entry is not None else None
    if entry is None or before is None or before.is_error:
        return _shared(state, value.oid, value)
    # The worker that made it died before its caller heard of it, and so another has made it again.
    # Who borrows it for a call is no holder, as its caller keeps it for that long.
    if entry.holders <= {owner_of(value.oid)} and not entry.was_given:
        entry.value = value
        return [Unwanted(before)] if before.nbytes else []
    entry.copies.append(value)
    return []


def _release(state: State, holder: bytes, oids: list[bytes]) -> list[Command]:
    held = state.held_by.get(holder, set())
    for oid in oids:
        held.discard(oid)
        entry = state.entries.get(oid)
        if entry is not None:
            entry.holders.discard(holder)
    if not held:
        state.held_by.pop(holder, None)
    return _free(state, oids)


def _free(state: State, oids: list[bytes]) -> list[Command]:
    """Forget those of `oids` that nobody holds, and what only they held."""
    commands: list[Command] = []
    stack = list(oids)
    while stack:
        oid = stack.pop()
        entry = state.entries.get(oid)
        if oid in state.copies:
            commands += _settle_copy(state, oid)
        if entry is None or entry.holders:
            continue
        if not entry.known and owner_of(oid) not in state.gone:
            if not entry.waiters:
                del state.entries[oid]  # its owner has not spoken yet: when it does, it begins anew
            continue
        del state.entries[oid]
        commands += [OwnerLost(waiter, oid) for waiter in sorted(entry.waiters)]  # else they would wait for ever
        commands += [Unwanted(value) for value in entry.copies]
        if entry.known:
            commands.append(Forgotten(oid, entry.value))
        for inner in state.held_by.pop(oid, ()):
            if inner_entry := state.entries.get(inner):
                inner_entry.holders.discard(oid)
                stack.append(inner)
    return commands


def _want(state: State, process: bytes, oid: bytes) -> list[Command]:
    entry = state.entries.get(oid)
    if entry is not None and entry.value is not None:
        entry.was_given = True
        return [Deliver(process, oid, entry.value)]
    if owner_of(oid) in state.gone:
        return [OwnerLost(process, oid)]
    _entry(state, oid).waiters.add(process)
    return []


def _process_gone(state: State, process: bytes) -> list[Command]:
    state.gone.add(process)
    commands: list[Command] = []
    unwanted = []
    for oid, entry in state.entries.items():
        entry.waiters.discard(process)
        if owner_of(oid) == process and entry.value is None:
            commands += [OwnerLost(waiter, oid) for waiter in sorted(entry.waiters)]
            entry.waiters.clear()
        if not entry.waiters:
            unwanted.append(oid)
    commands += _free(state, unwanted)  # those that only a question had brought here
    commands += _release(state, process, list(state.held_by.get(process, ())))
    for holder in [holder for holder in state.held_by if owner_of(holder) == process]:
        # An object that the process owned lives on while others hold it, and so does what it contains.
        if holder not in state.entries:
            commands += _release(state, holder, list(state.held_by.get(holder, ())))
    return commands


def _copied(state: State, value: Value) -> list[Command]:
    if value.oid in state.copies:
        return [Unwanted(value)]
    state.copies[value.oid] = Copy(value)
    return _settle_copy(state, value.oid)


def _settle_copy(state: State, oid: bytes) -> list[Command]:
    """A copy may have lost its last holder, or its home."""
    copy, entry = state.copies.get(oid), state.entries.get(oid)
    if copy is None or (entry is not None and entry.holders):
        return []
    if not copy.is_gone:
        state.idle[oid] = None
        return []
    return [_drop_copy(state, oid)]


def _drop_copy(state: State, oid: bytes) -> Command:
    state.idle.pop(oid, None)
    return CopyFreed(state.copies.pop(oid).value)


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for oid, copy in state.copies.items():
        is_held = oid in state.entries and bool(state.entries[oid].holders)
        assert is_held != (oid in state.idle), f"the copy of {oid.hex()} is in the wrong list: {state}"
        assert is_held or not copy.is_gone, f"the copy of {oid.hex()} is of no use: {state}"
    assert set(state.idle) <= set(state.copies), f"a copy that is not there is idle: {state}"
    for oid, entry in state.entries.items():
        assert entry.holders or not entry.known, f"{oid.hex()} is held by nobody: {state}"
        assert entry.holders or entry.waiters or entry.known, f"{oid.hex()} is of no use: {state}"
        assert not (entry.waiters and entry.value), f"{oid.hex()} is there, and awaited: {state}"
        for holder in entry.holders:
            assert oid in state.held_by[holder], f"{holder.hex()} does not know what it holds: {state}"
    for holder, oids in state.held_by.items():
        assert oids, f"{holder.hex()} holds nothing: {state}"
        assert all(holder in state.entries[oid].holders for oid in oids), f"{holder.hex()} holds what is not there"
