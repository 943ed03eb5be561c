"""Which bytes of which objects to ask whom for. Pure.

A pull is one object on its way to this node, however many wait for it. It begins when there is room for all of it, with
the question to the object's own node (its *home*) who is to send it: the home itself, or a node that has it or is
getting it. It is cut into chunks; as many are asked for at once as the window of a link allows, those of what `get`
waits for first. What was asked of a link that is lost is asked for again, of the same node or of another: nothing that
has come is asked for twice.

A priority is a number, the smallest goes first. Addresses are opaque.
"""

from __future__ import annotations

import heapq
from collections import deque

import msgspec
from msgspec import field

from aioray.record import Record


class Wanted(msgspec.Struct, frozen=True):
    """Somebody here wants a copy; told once by Deliver or Fail with its number, unless Unwanted comes first."""

    waiter: int
    oid: bytes
    nbytes: int
    home: str
    priority: int = 0


class Unwanted(msgspec.Struct, frozen=True):
    waiter: int


class Room(msgspec.Struct, frozen=True):
    """What Reserve asked for is there."""

    oid: bytes


class NoRoom(msgspec.Struct, frozen=True):
    """It is not; RoomFreed says when to ask again. `why_never`: no use to ask again."""

    oid: bytes
    why_never: str = ""


class RoomFreed(msgspec.Struct, frozen=True):
    pass


class LinkUp(msgspec.Struct, frozen=True):
    address: str


class LinkDown(msgspec.Struct, frozen=True):
    """Lost, or could not be had. `final`: it makes no sense to try again (refused; the node is dead)."""

    address: str
    reason: str
    final: bool = False


class Served(msgspec.Struct, frozen=True):
    """The node at this address will send the object."""

    address: str
    oid: bytes


class SentOn(msgspec.Struct, frozen=True):
    """The home says that the node at `to` will."""

    address: str
    oid: bytes
    to: str


class Refused(msgspec.Struct, frozen=True):
    """It does not have the object, or not any more."""

    address: str
    oid: bytes
    reason: str


class NoMore(msgspec.Struct, frozen=True):
    """The home has freed the object."""

    oid: bytes


class Arrived(msgspec.Struct, frozen=True):
    address: str
    oid: bytes
    start: int


class Tick(msgspec.Struct, frozen=True):
    pass


class Reserve(msgspec.Struct, frozen=True):
    """Answered by Room or NoRoom."""

    oid: bytes
    nbytes: int


class Unreserve(msgspec.Struct, frozen=True):
    """Take the room back: the pull is given up, or put off."""

    oid: bytes
    reason: str


class Dial(msgspec.Struct, frozen=True):
    """Answered by LinkUp or LinkDown."""

    address: str


class HangUp(msgspec.Struct, frozen=True):
    """No pull has needed the link for a while. It may stay for other reasons; a LinkDown follows when it does not."""

    address: str


class AskWhere(msgspec.Struct, frozen=True):
    """Answered by Served, SentOn (if not `placed`) or Refused."""

    address: str
    oid: bytes
    without: tuple[str, ...]
    placed: bool


class AskBytes(msgspec.Struct, frozen=True):
    address: str
    oid: bytes
    start: int
    nbytes: int


class Quit(msgspec.Struct, frozen=True):
    """Tell a node that we ask for no more of this object. `keeps`, to its home only: because we have it."""

    address: str
    oid: bytes
    keeps: bool


class Complete(msgspec.Struct, frozen=True):
    """All bytes are here. Comes before the Delivers."""

    oid: bytes
    home: str


class Deliver(msgspec.Struct, frozen=True):
    waiter: int
    oid: bytes


class Fail(msgspec.Struct, frozen=True):
    waiter: int
    oid: bytes
    reason: str


class WakeAt(msgspec.Struct, frozen=True):
    """Feed a Tick then (loop time, s)."""

    when: float


Event = (
    Wanted | Unwanted | Room | NoRoom | RoomFreed | LinkUp | LinkDown | Served | SentOn | Refused | NoMore | Arrived
    | Tick
)  # fmt: skip
Command = (
    Reserve | Unreserve | Dial | HangUp | AskWhere | AskBytes | Quit | Complete | Deliver | Fail | WakeAt
)  # fmt: skip


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    chunk_nbytes: int = 1 << 20
    window: int = 8  # chunks in flight from one source
    active: int = 16  # pulls that have room, of one priority and those that go before it
    attempts: int = 4  # to reach a home, in a row
    retry_s: float = 0.05  # after the first failure; twice as long after each further one
    full_wait_s: float = 60.0  # for room
    link_idle_s: float = 30.0


class Pull(Record, eq=False):
    oid: bytes
    nbytes: int
    home: str
    order: int  # first come, first served
    waiters: dict[int, int]  # -> priority
    since: float  # when it began to wait for room
    phase: str = "waiting"  # for room; then "reserving", "pausing", "dialling", "asking", "flowing"
    asked: str = ""  # the node that it talks to
    missing: deque[int] = field(default_factory=deque)  # starts of chunks, in order
    in_flight: set[int] = field(default_factory=set)  # asked for at `asked`
    lost: tuple[str, ...] = ()  # sources that the home named in vain
    failures: int = 0  # to reach the home, in a row
    reasons: list[str] = field(default_factory=list)

    @property
    def priority(self) -> int:
        return min(self.waiters.values())


class Link(Record):
    up: bool = False
    pulls: set[bytes] = field(default_factory=set)
    in_flight: int = 0
    idle_since: float = 0.0


class State(Record):
    limits: Limits = field(default_factory=Limits)
    pulls: dict[bytes, Pull] = field(default_factory=dict)
    waiters: dict[int, bytes] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    begun: dict[bytes, Pull] = field(default_factory=dict)  # those that have room
    queue: list[tuple[int, int, bytes]] = field(default_factory=list)  # heap of those without; may be out of date
    paused: dict[bytes, float] = field(default_factory=dict)  # until when
    full_for: int | None = None  # room was refused to this priority, and nothing was freed since
    retrying: bytes = b""  # another made way for it: nobody else may take that room
    orders: int = 0


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    out: list[Command] = []
    match event:
        case Wanted():
            _wanted(state, event, now)
        case Unwanted(waiter):
            _unwanted(state, waiter, out, now)
        case Room(oid):
            if (pull := state.pulls.get(oid)) is not None and pull.phase == "reserving":
                _begin(state, pull, out, now)
        case NoRoom(oid, why_never):
            _no_room(state, oid, why_never, out, now)
        case RoomFreed():
            state.full_for = None
        case LinkUp(address):
            _link_up(state, address, out)
        case LinkDown(address, reason, final):
            _link_down(state, address, reason, final, out, now)
        case Served(address, oid):
            if (pull := _talking(state, address, oid)) is not None and pull.phase == "asking":
                pull.phase = "flowing"
                pull.failures = 0
                _fill(state, address, out)
        case SentOn(address, oid, to):
            if (pull := _talking(state, address, oid)) is not None and pull.phase == "asking":
                _talk_to(state, pull, to, out, now)
        case Refused(address, oid, reason):
            _refused(state, address, oid, reason, out, now)
        case NoMore(oid):
            if (pull := state.pulls.get(oid)) is not None:
                _give_up(state, pull, "its node has freed it", out, now)
        case Arrived(address, oid, start):
            _arrived(state, address, oid, start, out, now)
        case Tick():
            _tick(state, out, now)
    _admit(state, out)
    if not (isinstance(event, Arrived) and state.begun):  # one after another, and nothing else changes
        _plan_tick(state, out, now)
    return out


def wants(state: State, address: str, oid: bytes, start: int) -> bool:
    """Whether these bytes were asked of that node, and are still to come."""
    pull = state.begun.get(oid)
    return pull is not None and pull.asked == address and start in pull.in_flight


def _wanted(state: State, event: Wanted, now: float) -> None:
    pull = state.pulls.get(event.oid)
    if pull is None:
        state.orders += 1
        pull = Pull(event.oid, event.nbytes, event.home, state.orders, {event.waiter: event.priority}, now)
        state.pulls[event.oid] = pull
    pull.waiters[event.waiter] = event.priority
    state.waiters[event.waiter] = event.oid
    if pull.phase == "waiting":
        heapq.heappush(state.queue, (pull.priority, pull.order, pull.oid))


def _unwanted(state: State, waiter: int, out: list[Command], now: float) -> None:
    oid = state.waiters.pop(waiter, None)
    if oid is None:
        return
    pull = state.pulls[oid]
    del pull.waiters[waiter]
    if not pull.waiters:
        _give_up(state, pull, "nobody waits for it any more", out, now)
    elif pull.phase == "waiting":
        heapq.heappush(state.queue, (pull.priority, pull.order, pull.oid))


# room


def _admit(state: State, out: list[Command]) -> None:
    """Ask for room for those that are next. What `get` waits for is not held up by what is only prefetched."""
    while state.queue and not state.retrying:
        priority, order, oid = state.queue[0]
        pull = state.pulls.get(oid)
        if pull is None or pull.phase != "waiting" or pull.order != order or pull.priority != priority:
            heapq.heappop(state.queue)
            continue
        if state.full_for is not None and priority >= state.full_for:
            return
        if sum(other.priority <= priority for other in state.begun.values()) >= state.limits.active:
            return
        heapq.heappop(state.queue)
        pull.phase = "reserving"
        state.begun[oid] = pull
        out.append(Reserve(oid, pull.nbytes))


def _no_room(state: State, oid: bytes, why_never: str, out: list[Command], now: float) -> None:
    pull = state.pulls.get(oid)
    if pull is None or pull.phase != "reserving":
        return
    state.retrying = b""
    lesser = [other for other in state.begun.values() if other.priority > pull.priority and other.phase != "reserving"]
    if lesser and not why_never:
        _put_off(state, max(lesser, key=lambda other: (other.priority, other.order)), out, now)
        state.retrying = oid
        out.append(Reserve(oid, pull.nbytes))
        return
    del state.begun[oid]
    if why_never:
        _fail(state, pull, why_never, out)
        return
    pull.phase = "waiting"
    heapq.heappush(state.queue, (pull.priority, pull.order, oid))
    state.full_for = pull.priority


def _put_off(state: State, pull: Pull, out: list[Command], now: float) -> None:
    """Its room is needed for what goes before it: it begins anew later."""
    _end(state, pull, "its room was needed for what goes before it", out, now)
    pull.phase, pull.lost, pull.since = "waiting", (), now
    heapq.heappush(state.queue, (pull.priority, pull.order, pull.oid))


def _begin(state: State, pull: Pull, out: list[Command], now: float) -> None:
    state.retrying = b""
    pull.missing = deque(range(0, pull.nbytes, state.limits.chunk_nbytes))
    pull.failures = 0
    _talk_to(state, pull, pull.home, out, now)


# whom to talk to


def _talking(state: State, address: str, oid: bytes) -> Pull | None:
    pull = state.begun.get(oid)
    return pull if pull is not None and pull.asked == address else None


def _talk_to(state: State, pull: Pull, address: str, out: list[Command], now: float) -> None:
    _leave_link(state, pull, now)
    state.paused.pop(pull.oid, None)
    pull.asked = address
    link = state.links.get(address)
    if link is None:
        link = state.links[address] = Link()
        out.append(Dial(address))
    link.pulls.add(pull.oid)
    pull.phase = "dialling"
    if link.up:
        _ask_where(pull, out)


def _ask_where(pull: Pull, out: list[Command]) -> None:
    pull.phase = "asking"
    at_home = pull.asked == pull.home
    out.append(AskWhere(pull.asked, pull.oid, pull.lost if at_home else (), not at_home))


def _leave_link(state: State, pull: Pull, now: float) -> None:
    """What is in flight there is missing again."""
    link = state.links.get(pull.asked)
    if link is not None:
        link.pulls.discard(pull.oid)
        link.in_flight -= len(pull.in_flight)
        link.idle_since = now
    pull.missing.extendleft(sorted(pull.in_flight, reverse=True))
    pull.in_flight.clear()
    pull.asked = ""


def _link_up(state: State, address: str, out: list[Command]) -> None:
    link = state.links.get(address)
    if link is None or link.up:
        return
    link.up = True
    for oid in sorted(link.pulls):
        _ask_where(state.begun[oid], out)


def _link_down(state: State, address: str, reason: str, final: bool, out: list[Command], now: float) -> None:
    link = state.links.pop(address, None)
    if link is None:
        return
    for oid in sorted(link.pulls):
        pull = state.begun[oid]
        _leave_link(state, pull, now)
        _lost_source(state, pull, address, reason, final, out, now)


def _refused(state: State, address: str, oid: bytes, reason: str, out: list[Command], now: float) -> None:
    pull = _talking(state, address, oid)
    if pull is None:
        return
    _leave_link(state, pull, now)
    _lost_source(state, pull, address, reason, True, out, now)
    _fill(state, address, out)


def _lost_source(
    state: State, pull: Pull, address: str, reason: str, final: bool, out: list[Command], now: float
) -> None:
    """Ask the home for another one; or the home again, for as long as that makes sense."""
    pull.reasons = [*pull.reasons[-3:], f"{address}: {reason}"]
    if address != pull.home:
        pull.lost = (*pull.lost, address)
        _talk_to(state, pull, pull.home, out, now)
        return
    pull.failures += 1
    if final or pull.failures >= state.limits.attempts:
        _give_up(state, pull, f"no node sends it ({'; '.join(dict.fromkeys(pull.reasons))})", out, now)
        return
    pull.phase = "pausing"
    state.paused[pull.oid] = now + state.limits.retry_s * 2 ** (pull.failures - 1)


# bytes


def _fill(state: State, address: str, out: list[Command]) -> None:
    """Ask for as many chunks as may be in flight, of what goes first."""
    link = state.links[address]
    room = state.limits.window - link.in_flight
    if room <= 0:
        return
    flowing = [state.begun[oid] for oid in link.pulls]
    flowing = [pull for pull in flowing if pull.phase == "flowing" and pull.missing]
    if len(flowing) > 1:
        flowing.sort(key=lambda pull: (pull.priority, pull.order))
    for pull in flowing:
        while pull.missing and room > 0:
            start = pull.missing.popleft()
            pull.in_flight.add(start)
            link.in_flight += 1
            room -= 1
            out.append(AskBytes(address, pull.oid, start, min(state.limits.chunk_nbytes, pull.nbytes - start)))


def _arrived(state: State, address: str, oid: bytes, start: int, out: list[Command], now: float) -> None:
    pull = _talking(state, address, oid)
    if pull is None or start not in pull.in_flight:
        return
    pull.in_flight.discard(start)
    state.links[address].in_flight -= 1
    if not pull.missing and not pull.in_flight:
        _completed(state, pull, out, now)
    _fill(state, address, out)


def _completed(state: State, pull: Pull, out: list[Command], now: float) -> None:
    _quit(state, pull, out, keeps=True)
    _leave_link(state, pull, now)
    del state.begun[pull.oid], state.pulls[pull.oid]
    out.append(Complete(pull.oid, pull.home))
    for waiter in pull.waiters:
        del state.waiters[waiter]
        out.append(Deliver(waiter, pull.oid))


def _quit(state: State, pull: Pull, out: list[Command], *, keeps: bool = False) -> None:
    """Say so to who sends it, and to the home, which has it in its books."""
    told = {pull.asked: None, pull.home: None} if pull.asked else {pull.home: None}
    for address in told:
        link = state.links.get(address)
        if link is not None and link.up:
            out.append(Quit(address, pull.oid, keeps and address == pull.home))


# the end


def _give_up(state: State, pull: Pull, reason: str, out: list[Command], now: float) -> None:
    if pull.oid in state.begun:
        _end(state, pull, reason, out, now)
    _fail(state, pull, reason, out)


def _end(state: State, pull: Pull, reason: str, out: list[Command], now: float) -> None:
    """It has no room any more. An answer to Reserve that is still to come finds no pull that waits for it."""
    address = pull.asked
    _quit(state, pull, out)
    _leave_link(state, pull, now)
    del state.begun[pull.oid]
    state.paused.pop(pull.oid, None)
    if state.retrying == pull.oid:
        state.retrying = b""
    out.append(Unreserve(pull.oid, reason))
    if address in state.links:
        _fill(state, address, out)


def _fail(state: State, pull: Pull, reason: str, out: list[Command]) -> None:
    state.pulls.pop(pull.oid, None)
    state.full_for = None  # who was behind it may need less
    for waiter in pull.waiters:
        del state.waiters[waiter]
        out.append(Fail(waiter, pull.oid, reason))


# time


def _tick(state: State, out: list[Command], now: float) -> None:
    for oid in [oid for oid, when in state.paused.items() if when <= now]:
        pull = state.begun[oid]
        _talk_to(state, pull, pull.home, out, now)
    limits = state.limits
    late = [p for p in state.pulls.values() if p.phase == "waiting" and p.since + limits.full_wait_s <= now]
    if state.full_for is not None:
        for pull in late:
            reason = f"the object store had no room for its {pull.nbytes} bytes for {limits.full_wait_s:g} s"
            _fail(state, pull, reason, out)
    for address, link in list(state.links.items()):
        if link.up and not link.pulls and link.idle_since + limits.link_idle_s <= now:
            link.idle_since = now
            out.append(HangUp(address))


def _plan_tick(state: State, out: list[Command], now: float) -> None:
    due = list(state.paused.values())
    if state.full_for is not None:
        due += [p.since + state.limits.full_wait_s for p in state.pulls.values() if p.phase == "waiting"]
    due += [link.idle_since + state.limits.link_idle_s for link in state.links.values() if not link.pulls]
    if due:
        out.append(WakeAt(max(now, min(due))))


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for oid, pull in state.pulls.items():
        assert pull.oid == oid, f"{pull} is filed under {oid.hex()}"
        assert pull.waiters, f"nobody waits for {pull}"
        assert (pull.phase != "waiting") == (oid in state.begun), f"{pull} is in the wrong list"
        assert (pull.phase == "pausing") == (oid in state.paused), f"{pull} sleeps for ever, or does not"
        assert all(state.waiters[waiter] == oid for waiter in pull.waiters), f"a waiter of {pull} is lost"
        assert not pull.in_flight or pull.phase == "flowing", f"{pull} asked nobody"
        assert not set(pull.missing) & pull.in_flight, f"{pull} asks twice"
        if pull.phase == "flowing":
            link = state.links[pull.asked]
            assert link.up, f"{pull} waits for a link that is down"
            assert pull.in_flight or link.in_flight >= state.limits.window, f"{pull} stands still"
    assert not state.retrying or state.pulls[state.retrying].phase == "reserving", "nobody takes the room that was made"
    assert set(state.begun) <= set(state.pulls), "room is kept for nobody"
    assert sum(len(pull.waiters) for pull in state.pulls.values()) == len(state.waiters), "a waiter of nothing"
    for address, link in state.links.items():
        flying = sum(len(state.begun[oid].in_flight) for oid in link.pulls)
        assert link.in_flight == flying <= state.limits.window, f"{address}: {link}, but {flying} chunks"
        assert all(state.begun[oid].asked == address for oid in link.pulls), f"{address}: {link}"
