"""In which process each light actor lives (`isolation="shared"`). Pure.

One process serves until it has `FILL` actors; then there may be one for each CPU, so that all of them are used, and a
new actor goes where the fewest are. A process that has none left is let go. Actors of different runtime environments
share none: what is said here goes for each environment.

A process that crashes takes all its actors along. Those that were busy then are *suspects*: they come back in processes
of suspects, the first few of them each in one of its own, so that one that crashes again and again soon does it alone.
Of suspects that share a process, those that were busy when it crashed are suspects still, and are spread over others.
"""

from __future__ import annotations

import itertools

import msgspec
from msgspec import field

from aioray.record import Record

FILL = 1000
SUSPECT_HOSTS = 8  # at most, of each environment


class Wanted(msgspec.Struct, frozen=True):
    """An actor needs a process."""

    actor_id: bytes
    environment: str = ""
    is_suspect: bool = False


class Over(msgspec.Struct, frozen=True):
    """An actor needs none any more. Late or repeated news do nothing."""

    actor_id: bytes


class HostUp(msgspec.Struct, frozen=True):
    host: bytes


class HostDown(msgspec.Struct, frozen=True):
    host: bytes
    reason: str
    busy: frozenset[bytes] = frozenset()  # actors that were, when it crashed


class StartHost(msgspec.Struct, frozen=True):
    """Start a process; answer with HostUp or HostDown."""

    host: bytes
    environment: str = ""


class Settle(msgspec.Struct, frozen=True):
    """Have the process construct the actor, under that number."""

    actor_id: bytes
    host: bytes
    slot: int


class Lost(msgspec.Struct, frozen=True):
    """The actor died with its process, or before that was up."""

    actor_id: bytes
    reason: str
    is_suspect: bool = False


class EndHost(msgspec.Struct, frozen=True):
    """Nobody lives there any more."""

    host: bytes


Event = Wanted | Over | HostUp | HostDown
Command = StartHost | Settle | Lost | EndHost


class Host(Record):
    environment: str = ""
    of_suspects: bool = False
    up: bool = False
    actors: dict[bytes, int] = field(default_factory=dict)  # -> slot, in the order in which they came


class State(Record):
    max_hosts: int  # of each environment
    hosts: dict[bytes, Host] = field(default_factory=dict)
    where: dict[bytes, bytes] = field(default_factory=dict)  # actor_id -> host
    host_numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    slots: itertools.count[int] = field(default_factory=lambda: itertools.count(1))  # never used twice


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Wanted(actor_id):
            return _settle(state, event) if actor_id not in state.where else []
        case Over(actor_id):
            host_id = state.where.pop(actor_id, None)
            if host_id is None:
                return []
            host = state.hosts[host_id]
            del host.actors[actor_id]
            if host.actors:
                return []
            del state.hosts[host_id]
            return [EndHost(host_id)]
        case HostUp(host_id):
            host_up = state.hosts.get(host_id)
            if host_up is None:
                return []
            host_up.up = True
            return [Settle(actor_id, host_id, slot) for actor_id, slot in host_up.actors.items()]
        case HostDown(host_id, reason, busy):
            down = state.hosts.pop(host_id, None)
            if down is None:
                return []
            for actor_id in down.actors:
                del state.where[actor_id]
            alone = down.up and len(down.actors) == 1  # who else could it have been
            return [Lost(actor_id, reason, alone or actor_id in busy) for actor_id in down.actors]


def _settle(state: State, wanted: Wanted) -> list[Command]:
    commands: list[Command] = []
    actor_id, slot = wanted.actor_id, next(state.slots)
    host_id = _host_of_suspects(state, wanted, slot) if wanted.is_suspect else _emptiest_host(state, wanted)
    if host_id is None:
        host_id = b"host" + next(state.host_numbers).to_bytes(4, "big")
        state.hosts[host_id] = Host(wanted.environment, wanted.is_suspect)
        commands.append(StartHost(host_id, wanted.environment))
    host = state.hosts[host_id]
    host.actors[actor_id] = slot
    state.where[actor_id] = host_id
    if host.up:
        commands.append(Settle(actor_id, host_id, slot))
    return commands


def _alike(state: State, wanted: Wanted) -> list[bytes]:
    """The processes that would do."""
    kind = wanted.environment, wanted.is_suspect
    return [host_id for host_id, host in state.hosts.items() if (host.environment, host.of_suspects) == kind]


def _emptiest_host(state: State, wanted: Wanted) -> bytes | None:
    """None: a new one."""
    alike = _alike(state, wanted)
    host_id = min(alike, key=lambda each: len(state.hosts[each].actors), default=None)
    if host_id is not None and len(state.hosts[host_id].actors) >= FILL and len(alike) < state.max_hosts:
        return None
    return host_id


def _host_of_suspects(state: State, wanted: Wanted, slot: int) -> bytes | None:
    """None: a new one. Those who were in one process come one after the other, and so to different ones."""
    alike = _alike(state, wanted)
    return alike[slot % len(alike)] if len(alike) >= SUSPECT_HOSTS else None


def slot_of(state: State, actor_id: bytes) -> tuple[bytes, int] | None:
    """Where an actor lives: its process, and its number there."""
    host_id = state.where.get(actor_id)
    return None if host_id is None else (host_id, state.hosts[host_id].actors[actor_id])


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for environment in {host.environment for host in state.hosts.values()}:
        alike = [host.of_suspects for host in state.hosts.values() if host.environment == environment]
        assert alike.count(False) <= state.max_hosts, state
        assert alike.count(True) <= SUSPECT_HOSTS, state
    for host_id, host in state.hosts.items():
        assert host.actors, f"{host_id!r} stands empty: {state}"
        assert all(state.where.get(actor_id) == host_id for actor_id in host.actors), state
    assert sum(len(host.actors) for host in state.hosts.values()) == len(state.where), state
    slots = [slot for host in state.hosts.values() for slot in host.actors.values()]
    assert len(set(slots)) == len(slots), f"a slot is used twice: {state}"
