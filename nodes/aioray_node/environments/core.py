"""Who waits for which environment, and which are there. Pure.

An environment that could not be set up is forgotten: whoever asks for it next has it tried again.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record


class Wanted(msgspec.Struct, frozen=True):
    """A lease needs an environment before it may ask for anything else. A lease id is never used twice."""

    lease_id: int
    environment: str


class Unwanted(msgspec.Struct, frozen=True):
    """The lease is over. Late or repeated news do nothing."""

    lease_id: int


class Ready(msgspec.Struct, frozen=True):
    environment: str


class Gone(msgspec.Struct, frozen=True):
    """What was ready is so no longer: the session of another node in which it lay was removed, say."""

    environment: str


class Failed(msgspec.Struct, frozen=True):
    environment: str
    reason: str


class SetUp(msgspec.Struct, frozen=True):
    """Make it ready; answer with one Ready or one Failed."""

    environment: str


class GoOn(msgspec.Struct, frozen=True):
    """The lease has its environment."""

    lease_id: int


class Refuse(msgspec.Struct, frozen=True):
    """The lease is over: its environment cannot be had."""

    lease_id: int
    reason: str


Event = Wanted | Unwanted | Ready | Gone | Failed
Command = SetUp | GoOn | Refuse


class State(Record):
    ready: set[str] = field(default_factory=set)
    waiting: dict[str, dict[int, None]] = field(default_factory=dict)  # being set up -> lease ids, oldest first
    where: dict[int, str] = field(default_factory=dict)  # `waiting` the other way round


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Wanted(lease_id, environment):
            if environment in state.ready:
                return [GoOn(lease_id)]
            is_new = environment not in state.waiting
            state.waiting.setdefault(environment, {})[lease_id] = None
            state.where[lease_id] = environment
            return [SetUp(environment)] if is_new else []
        case Unwanted(lease_id):
            left = state.where.pop(lease_id, None)
            if left is not None:
                del state.waiting[left][lease_id]
            return []
        case Ready(environment):
            state.ready.add(environment)
            return [GoOn(lease_id) for lease_id in _take(state, environment)]
        case Gone(environment):
            state.ready.discard(environment)
            return []
        case Failed(environment, reason):
            return [Refuse(lease_id, reason) for lease_id in _take(state, environment)]


def _take(state: State, environment: str) -> list[int]:
    lease_ids = list(state.waiting.pop(environment, ()))
    for lease_id in lease_ids:
        del state.where[lease_id]
    return lease_ids


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert not (state.ready & state.waiting.keys()), f"an environment is there and still awaited: {state}"
    pairs = {lease_id: environment for environment, leases in state.waiting.items() for lease_id in leases}
    assert pairs == state.where, f"a lease waits in two places: {state}"
