"""Which worker process serves which lease, and how many workers there should be.

A task's worker comes back to the pool, an actor's does not: so tasks make the pool grow only when none is idle, and
every actor makes it fork a replacement, to keep `prestart` workers warm for whoever comes next.

Workers are of a kind: what environment variables, directories and GPUs they were started with. A lease only ever gets
one of the kind it needs. Only the default kind is kept warm; an idle worker of another one goes after a while.
"""

from collections import OrderedDict

import msgspec
from msgspec import field

from aioray.record import Record


class Kind(msgspec.Struct, frozen=True):
    """What a worker was started with, for good."""

    environment: str = ""  # see aioray.runtime_env.environment; empty: nothing special
    gpus: tuple[str, ...] = ()  # ids of the devices that it may see


DEFAULT = Kind()


class Need(msgspec.Struct, frozen=True):
    """A lease was placed and wants a worker. `fresh`: for an actor, which keeps it for life."""

    lease_id: int
    fresh: bool
    kind: Kind = DEFAULT


class Unneed(msgspec.Struct, frozen=True):
    """The lease wants no worker after all. If it has one already nothing happens: that is for Free to say."""

    lease_id: int


class WorkerUp(msgspec.Struct, frozen=True):
    """A forked worker has connected. One that dies before that is a ForkFailed."""

    worker_id: str
    kind: Kind = DEFAULT


class WorkerDown(msgspec.Struct, frozen=True):
    worker_id: str


class ForkFailed(msgspec.Struct, frozen=True):
    """One Fork came to nothing."""

    reason: str
    kind: Kind = DEFAULT


class Free(msgspec.Struct, frozen=True):
    """The lease is over, with or without a worker. `reusable`: the worker is fit for the next one.

    One that has seen GPUs never is: its libraries keep memory of theirs until it ends.
    `gently`: one that is not may still do for others what it has to.
    """

    lease_id: int
    reusable: bool
    gently: bool = False


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come. The first one of all starts the prestarted workers."""


class Fork(msgspec.Struct, frozen=True):
    """Start one worker; answer with one WorkerUp or one ForkFailed, of the same kind."""

    kind: Kind = DEFAULT


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


class Stock(Record):
    """The workers of one kind, and who waits for one."""

    idle: OrderedDict[str, float] = field(default_factory=OrderedDict)  # worker_id -> since when (loop s), oldest first
    starting: int = 0
    needs: OrderedDict[int, None] = field(default_factory=OrderedDict)  # lease ids, oldest first
    bound: dict[int, str] = field(default_factory=dict)  # lease_id -> worker_id
    fresh: set[int] = field(default_factory=set)  # those of `needs` and `bound` that are actors
    fork_failures: int = 0  # rounds, not forks: a batch that fails together fails once
    fork_after: float = 0.0  # loop time (s)

    @property
    def is_empty(self) -> bool:
        return not (self.idle or self.starting or self.needs or self.bound or self.fork_failures)


class State(Record):
    prestart: int  # workers of the default kind to keep warm
    max_idle: int  # more than this, of all kinds together, are retired at once; at least `prestart`
    idle_reap_s: float = 60.0
    max_fork_failures: int = 3  # rounds in a row until those who wait are told
    fork_backoff_s: float = 0.1  # after the first failure; doubles with each round
    fork_backoff_max_s: float = 10.0
    stocks: dict[Kind, Stock] = field(default_factory=lambda: {DEFAULT: Stock()})  # the others: while there is anything
    kinds: dict[int, Kind] = field(default_factory=dict)  # lease_id -> of what it waits for or has
    holders: dict[str, int] = field(default_factory=dict)  # worker_id -> lease_id: `bound` the other way round
    wake_at: float | None = 0.0  # what the shell was last told; at first, that a Tick is due

    def __post_init__(self) -> None:
        if not 0 <= self.prestart <= self.max_idle:
            raise ValueError(f"prestart={self.prestart} must be between 0 and max_idle={self.max_idle}")

    @property
    def default(self) -> Stock:
        return self.stocks[DEFAULT]


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events about leases or workers that the pool no longer knows are late, not wrong: they do nothing.
    """
    commands: list[Command] = []
    match event:
        case Need(lease_id, fresh, kind):
            if lease_id not in state.kinds:
                state.kinds[lease_id] = kind
                stock = _stock(state, kind)
                stock.needs[lease_id] = None
                if fresh:
                    stock.fresh.add(lease_id)
        case Unneed(lease_id):
            _unneed(state, lease_id)
        case WorkerUp(worker_id, kind):
            _worker_up(state, worker_id, kind, now)
        case WorkerDown(worker_id):
            for stock in state.stocks.values():
                stock.idle.pop(worker_id, None)
            if (held_by := state.holders.get(worker_id)) is not None:
                _unbind(state, held_by)
                commands.append(Lost(held_by, worker_id))
        case ForkFailed(reason, kind):
            commands += _fork_failed(state, reason, kind, now)
        case Free(lease_id, reusable, gently):
            commands += _free(state, lease_id, now, reusable=reusable, gently=gently)
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
    return commands + plan(state, now)


def plan(state: State, now: float) -> list[Command]:
    """Pair those who wait with idle workers, let go of idle ones that are too many, fork those that are too few."""
    commands: list[Command] = []
    for stock in state.stocks.values():
        while stock.needs and stock.idle:
            lease_id, _ = stock.needs.popitem(last=False)
            worker_id, _ = stock.idle.popitem()  # newest: warm caches
            stock.bound[lease_id], state.holders[worker_id] = worker_id, lease_id
            commands.append(Bind(lease_id, worker_id))
    idle = sum(len(stock.idle) for stock in state.stocks.values())
    while (oldest := _oldest_spare(state)) is not None:
        since, stock = oldest
        if idle <= state.max_idle and since + state.idle_reap_s > now:
            break
        worker_id, _ = stock.idle.popitem(last=False)
        idle -= 1
        commands.append(Retire(worker_id))
    due = [] if oldest is None else [oldest[0] + state.idle_reap_s]
    for kind, stock in list(state.stocks.items()):
        missing = max(0, _wanted(state, kind) - stock.starting)
        if missing and now < stock.fork_after:
            due.append(stock.fork_after)
        else:
            stock.starting += missing
            commands += [Fork(kind)] * missing
        if kind != DEFAULT and not stock.needs and not stock.starting:
            stock.fork_failures, stock.fork_after = 0, 0.0  # nobody is left to remember it for
            if stock.is_empty:
                del state.stocks[kind]
    wake_at = min(due, default=None)
    if wake_at is not None and wake_at != state.wake_at:
        state.wake_at = wake_at
        commands.append(WakeAt(wake_at))
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events. Looks at everything: for tests and debugging."""
    held: dict[str, int] = {}
    known: dict[int, Kind] = {}
    idle: list[str] = []
    for kind, stock in state.stocks.items():
        assert kind == DEFAULT or not stock.is_empty, f"nothing is left of a kind that is remembered: {state}"
        assert stock.starting >= 0, state
        assert not (stock.needs and stock.idle), f"a lease waits beside an idle worker: {state}"
        assert not (stock.needs.keys() & stock.bound.keys()), f"a lease waits and has a worker: {state}"
        assert stock.fresh <= stock.needs.keys() | stock.bound.keys(), f"an actor is remembered that is gone: {state}"
        since = list(stock.idle.values())
        assert since == sorted(since), f"idle workers are out of order: {state}"
        assert stock.starting >= _wanted(state, kind) or state.wake_at is not None, f"nobody will fork: {state}"
        assert not (held.keys() & stock.bound.values()), f"a worker is bound twice: {state}"
        held |= {worker_id: lease_id for lease_id, worker_id in stock.bound.items()}
        known |= dict.fromkeys([*stock.needs, *stock.bound], kind)
        idle += stock.idle
    assert held == state.holders, f"bound and holders disagree: {state}"
    assert known == state.kinds, f"a lease is of two kinds: {state}"
    assert len(idle) == len(set(idle)), f"a worker is of two kinds: {state}"
    assert not (set(idle) & held.keys()), f"a worker is idle and bound: {state}"
    assert len(idle) <= state.max_idle, f"too many idle: {state}"
    assert _oldest_spare(state) is None or state.wake_at is not None, f"nobody will reap: {state}"


def _stock(state: State, kind: Kind) -> Stock:
    if kind not in state.stocks:
        state.stocks[kind] = Stock()
    return state.stocks[kind]


def _wanted(state: State, kind: Kind) -> int:
    """How many workers of a kind should be starting: one for each who waits, and what lacks of those kept warm.

    Workers bound to tasks count as warm, for they come back; those of actors (and for waiting actors) do not.
    """
    stock = state.stocks[kind]
    if kind != DEFAULT:
        return len(stock.needs)
    return max(len(stock.needs), state.prestart + len(stock.fresh) - len(stock.idle) - len(stock.bound))


def _oldest_spare(state: State) -> tuple[float, Stock] | None:
    """Since when (loop time, s) the oldest worker is idle that is not kept warm, and where it is."""
    found: tuple[float, Stock] | None = None
    for kind, stock in state.stocks.items():
        if len(stock.idle) > (state.prestart if kind == DEFAULT else 0):
            since = next(iter(stock.idle.values()))
            if found is None or since < found[0]:
                found = since, stock
    return found


def _unneed(state: State, lease_id: int) -> None:
    kind = state.kinds.get(lease_id)
    if kind is not None and lease_id in state.stocks[kind].needs:
        del state.stocks[kind].needs[lease_id], state.kinds[lease_id]
        state.stocks[kind].fresh.discard(lease_id)


def _unbind(state: State, lease_id: int) -> tuple[Kind, str]:
    kind = state.kinds.pop(lease_id)
    stock = state.stocks[kind]
    worker_id = stock.bound.pop(lease_id)
    del state.holders[worker_id]
    stock.fresh.discard(lease_id)
    return kind, worker_id


def _free(state: State, lease_id: int, now: float, *, reusable: bool, gently: bool) -> list[Command]:
    _unneed(state, lease_id)
    if lease_id not in state.kinds:
        return []
    kind, worker_id = _unbind(state, lease_id)
    if not reusable:
        return [Retire(worker_id) if gently else Kill(worker_id)]
    if kind.gpus:
        return [Retire(worker_id)]
    state.stocks[kind].idle[worker_id] = now
    return []


def _worker_up(state: State, worker_id: str, kind: Kind, now: float) -> None:
    if worker_id in state.holders or any(worker_id in stock.idle for stock in state.stocks.values()):
        return
    stock = _stock(state, kind)
    # Not below zero: a worker whose zygote was given up for dead may turn up all the same, and is welcome.
    stock.starting = max(0, stock.starting - 1)
    stock.idle[worker_id] = now
    stock.fork_failures, stock.fork_after = 0, 0.0


def _fork_failed(state: State, reason: str, kind: Kind, now: float) -> list[Command]:
    stock = _stock(state, kind)
    stock.starting = max(0, stock.starting - 1)
    if now >= stock.fork_after:  # else it belongs to a round that was counted
        backoff_s = state.fork_backoff_s * 2.0 ** min(stock.fork_failures, 32)
        stock.fork_after = now + min(backoff_s, state.fork_backoff_max_s)
        stock.fork_failures += 1
    if stock.fork_failures < state.max_fork_failures:
        return []
    starved: list[Command] = [Starved(lease_id, reason) for lease_id in stock.needs]
    for lease_id in list(stock.needs):
        _unneed(state, lease_id)
    return starved
