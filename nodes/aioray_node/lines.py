"""A line between two nodes outlives its connections: what is said comes once, in order, however often they break. Pure.

Each side numbers what it says, by counting, and keeps it until the other side says that it has heard it. Who dials anew
says how much it has heard, and with which of its own words it begins: those that may not have come. The other side
skips what it has heard before, and says again what was not heard. Counts of holders depend on every single word, so
this is the one place that has to be right, and nobody above it knows that connections break.

Both sides live as long as the line: a node that is dead never comes back.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from msgspec import field

from aioray.record import Record

CONFIRM_EVERY = 64  # messages
CONFIRM_WITHIN_S = 1.0  # of a message, so that the other side need not keep it


class Say(msgspec.Struct, frozen=True):
    message: Any


class Opened(msgspec.Struct, frozen=True):
    """There is a connection. The other side begins with its word `first`, and has heard so many of ours."""

    first: int
    heard: int


class Came(msgspec.Struct, frozen=True):
    message: Any


class Confirmed(msgspec.Struct, frozen=True):
    """The other side has heard so many of our words."""

    count: int


class Cut(msgspec.Struct, frozen=True):
    """The connection is gone."""


class Tick(msgspec.Struct, frozen=True):
    pass


class Send(msgspec.Struct, frozen=True):
    message: Any


class Deliver(msgspec.Struct, frozen=True):
    message: Any


class Confirm(msgspec.Struct, frozen=True):
    """Tell the other side that we have heard so many of its words."""

    count: int


class WakeAt(msgspec.Struct, frozen=True):
    when: float


Event = Say | Opened | Came | Confirmed | Cut | Tick
Command = Send | Deliver | Confirm | WakeAt


class State(Record):
    said: int = 0
    kept: deque[Any] = field(default_factory=deque)  # the last of these: nobody has said that they were heard
    heard: int = 0
    confirmed: int = 0  # of those, so many the other side knows of
    known: int = 0  # of what comes next, so many have come before
    is_open: bool = False
    due: float | None = None  # when the rest is to be confirmed

    @property
    def first(self) -> int:
        """With which of our words we begin on a new connection."""
        return self.said - len(self.kept)


def fits(state: State, first: int, heard: int) -> bool:
    """Whether the other side can go on from there with us; else it speaks of another line, or has lost words."""
    return 0 <= first <= state.heard and state.first <= heard <= state.said


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    match event:
        case Say(message):
            state.said += 1
            state.kept.append(message)
            return [Send(message)] if state.is_open else []
        case Opened(first, heard):
            assert fits(state, first, heard), f"{event} does not fit {state.heard}, {state.first} to {state.said}"
            state.is_open = True
            state.known = state.heard - first
            _forget(state, heard)
            return [*_confirm(state), *(Send(message) for message in state.kept)]
        case Came(message):
            return _came(state, message, now)
        case Confirmed(count):
            _forget(state, count)
            return []
        case Cut():
            state.is_open, state.due = False, None
            return []
        case Tick():
            is_due = state.due is not None and state.due <= now
            return _confirm(state) if is_due else []


def _came(state: State, message: Any, now: float) -> list[Command]:
    if state.known:
        state.known -= 1
        return []
    state.heard += 1
    commands: list[Command] = [Deliver(message)]
    if state.heard - state.confirmed >= CONFIRM_EVERY:
        return _confirm(state) + commands
    if state.due is None:
        state.due = now + CONFIRM_WITHIN_S
        commands.append(WakeAt(state.due))
    return commands


def _confirm(state: State) -> list[Command]:
    state.due = None
    state.confirmed = state.heard
    return [Confirm(state.heard)]


def _forget(state: State, heard: int) -> None:
    while state.kept and state.first < heard:
        state.kept.popleft()


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert 0 <= state.confirmed <= state.heard, state
    assert 0 <= state.known <= state.heard, state
    assert len(state.kept) <= state.said, state
    assert state.due is None or state.is_open, f"it would confirm over no connection: {state}"
    assert not state.is_open or state.due is not None or state.confirmed == state.heard, f"never confirmed: {state}"
