"""Which worker process serves which lease, and how many workers there should be.

A task's worker comes back to the pool, an actor's does not: so tasks make the pool grow only when none is idle, and
every actor makes it fork a replacement, to keep `prestart` workers warm for whoever comes next.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec


class Need(msgspec.Struct, frozen=True):
    """A lease was placed and wants a worker. `fresh`: for an actor, which keeps it for life."""

    lease_id: int
    fresh: bool


class Unneed(msgspec.Struct, frozen=True):
    """The lease wants no worker after all. If it has one already nothing happens: that is for Free to say."""

    lease_id: int


class WorkerUp(msgspec.Struct, frozen=True):
    """A forked worker has connected. One that dies before that is a ForkFailed."""

    worker_id: str


class WorkerDown(msgspec.Struct, frozen=True):
    worker_id: str


class ForkFailed(msgspec.Struct, frozen=True):
    """One Fork came to nothing."""

    reason: str


class Free(msgspec.Struct, frozen=True):
    """The lease is over, with or without a worker. `reusable`: the worker is fit for the next one.

    `gently`: if it is not, it may still do for others what it has to.
    """

    lease_id: int
    reusable: bool
    gently: bool = False


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come. The first one of all starts the prestarted workers."""


class Fork(msgspec.Struct, frozen=True):
    """Start one worker; answer with one WorkerUp or one ForkFailed."""


class Bind(msgspec.Struct, frozen=True):
    lease_id: int
    worker_id: str


class Kill(msgspec.Struct, frozen=True):
    """The pool has forgotten this worker; its WorkerDown will mean nothing."""

    worker_id: str


class Retire(msgspec.Struct, frozen=True):
    """The same for one that nobody needs: it may finish what it still does for others, and then goes by itself."""

    worker_id: str


class Lost(msgspec.Struct, frozen=True):
    """The worker died under its lease, which is over for the pool."""

    lease_id: int
    worker_id: str


class Starved(msgspec.Struct, frozen=True):
    """Forking keeps failing: the lease gets no worker and is over for the pool."""

    lease_id: int
    reason: str


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = Need | Unneed | WorkerUp | WorkerDown | ForkFailed | Free | Tick
Command = Fork | Bind | Kill | Retire | Lost | Starved | WakeAt


@dataclass(slots=True)
class State:
    prestart: int  # workers to keep warm
    max_idle: int  # more than this are retired at once; at least `prestart`
    idle_reap_s: float = 60.0
    max_fork_failures: int = 3  # rounds in a row until those who wait are told
    fork_backoff_s: float = 0.1  # after the first failure; doubles with each round
    fork_backoff_max_s: float = 10.0
    idle: OrderedDict[str, float] = field(default_factory=OrderedDict)  # worker_id -> since when (loop s), oldest first
    starting: int = 0
    needs: OrderedDict[int, None] = field(default_factory=OrderedDict)  # lease ids, oldest first
    bound: dict[int, str] = field(default_factory=dict)  # lease_id -> worker_id
    holders: dict[str, int] = field(default_factory=dict)  # `bound` the other way round
    fresh: set[int] = field(default_factory=set)  # those of `needs` and `bound` that are actors
    fork_failures: int = 0  # rounds, not forks: a batch that fails together fails once
    fork_after: float = 0.0  # loop time (s)
    wake_at: float | None = 0.0  # what the shell was last told; at first, that a Tick is due

    def __post_init__(self) -> None:
        if not 0 <= self.prestart <= self.max_idle:
            raise ValueError(f"prestart={self.prestart} must be between 0 and max_idle={self.max_idle}")


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events about leases or workers that the pool no longer knows are late, not wrong: they do nothing.
    """
    commands: list[Command] = []
    match event:
        case Need(lease_id, fresh):
            if lease_id not in state.needs and lease_id not in state.bound:
                state.needs[lease_id] = None
                if fresh:
                    state.fresh.add(lease_id)
        case Unneed(lease_id):
            _unneed(state, lease_id)
        case WorkerUp(worker_id):
            _worker_up(state, worker_id, now)
        case WorkerDown(worker_id):
            state.idle.pop(worker_id, None)
            if (held_by := state.holders.get(worker_id)) is not None:
                _unbind(state, held_by)
                commands.append(Lost(held_by, worker_id))
        case ForkFailed(reason):
            commands += _fork_failed(state, reason, now)
        case Free(lease_id, reusable, gently):
            _unneed(state, lease_id)
            if lease_id in state.bound:
                worker_id = _unbind(state, lease_id)
                if reusable:
                    state.idle[worker_id] = now
                else:
                    commands.append(Retire(worker_id) if gently else Kill(worker_id))
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
    return commands + plan(state, now)


def plan(state: State, now: float) -> list[Command]:
    """Pair those who wait with idle workers, let go of idle ones that are too many, fork those that are too few."""
    commands: list[Command] = []
    while state.needs and state.idle:
        lease_id, _ = state.needs.popitem(last=False)
        worker_id, _ = state.idle.popitem()  # newest: warm caches
        state.bound[lease_id], state.holders[worker_id] = worker_id, lease_id
        commands.append(Bind(lease_id, worker_id))
    while len(state.idle) > state.max_idle or ((due := _reap_due(state)) is not None and due <= now):
        worker_id, _ = state.idle.popitem(last=False)
        commands.append(Retire(worker_id))
    missing = max(0, _wanted(state) - state.starting)
    wake_at = _reap_due(state)
    if missing and now < state.fork_after:
        wake_at = state.fork_after if wake_at is None else min(wake_at, state.fork_after)
    else:
        state.starting += missing
        commands += [Fork()] * missing
    if wake_at is not None and wake_at != state.wake_at:
        state.wake_at = wake_at
        commands.append(WakeAt(wake_at))
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events. Looks at everything: for tests and debugging."""
    assert state.starting >= 0, state
    assert not (state.needs and state.idle), f"a lease waits beside an idle worker: {state}"
    assert not (state.idle.keys() & state.holders.keys()), f"a worker is idle and bound: {state}"
    assert len(state.bound) == len(state.holders), f"a worker is bound twice: {state}"
    assert all(state.holders[worker_id] == lease_id for lease_id, worker_id in state.bound.items()), state
    assert not (state.needs.keys() & state.bound.keys()), f"a lease waits and has a worker: {state}"
    assert state.fresh <= state.needs.keys() | state.bound.keys(), f"an actor that is gone is remembered: {state}"
    assert len(state.idle) <= state.max_idle, f"too many idle: {state}"
    since = list(state.idle.values())
    assert since == sorted(since), f"idle workers are out of order: {state}"
    assert state.starting >= _wanted(state) or state.wake_at is not None, f"too few start, nobody will fork: {state}"
    assert _reap_due(state) is None or state.wake_at is not None, f"nobody will reap: {state}"


def _wanted(state: State) -> int:
    """How many workers should be starting: one for each who waits, and what the pool lacks of warm ones.

    Workers bound to tasks count as warm, for they come back; those of actors (and for waiting actors) do not.
    """
    return max(len(state.needs), state.prestart + len(state.fresh) - len(state.idle) - len(state.bound))


def _reap_due(state: State) -> float | None:
    """When the oldest idle worker has to go (loop time, s), if there are more than are kept warm."""
    if len(state.idle) <= state.prestart:
        return None
    return next(iter(state.idle.values())) + state.idle_reap_s


def _unneed(state: State, lease_id: int) -> None:
    if lease_id in state.needs:
        del state.needs[lease_id]
        state.fresh.discard(lease_id)


def _unbind(state: State, lease_id: int) -> str:
    worker_id = state.bound.pop(lease_id)
    del state.holders[worker_id]
    state.fresh.discard(lease_id)
    return worker_id


def _worker_up(state: State, worker_id: str, now: float) -> None:
    if worker_id in state.idle or worker_id in state.holders:
        return
    # Not below zero: a worker whose zygote was given up for dead may turn up all the same, and is welcome.
    state.starting = max(0, state.starting - 1)
    state.idle[worker_id] = now
    state.fork_failures, state.fork_after = 0, 0.0


def _fork_failed(state: State, reason: str, now: float) -> list[Command]:
    state.starting = max(0, state.starting - 1)
    if now >= state.fork_after:  # else it belongs to a round that was counted
        backoff_s = state.fork_backoff_s * 2.0 ** min(state.fork_failures, 32)
        state.fork_after = now + min(backoff_s, state.fork_backoff_max_s)
        state.fork_failures += 1
    if state.fork_failures < state.max_fork_failures:
        return []
    starved: list[Command] = [Starved(lease_id, reason) for lease_id in state.needs]
    for lease_id in list(state.needs):
        _unneed(state, lease_id)
    return starved
