"""Objects from other nodes: carries out what `pulls.py` decides, over links that this node dials.

`serving.py` is the other side; both are one desk to the rest of the node.
"""

from __future__ import annotations

import collections
import itertools
import logging
from typing import TYPE_CHECKING

import msgspec

from aioray.record import Record
from aioray.runtime.connection import dial, place_of
from aioray.runtime.dialing import Dialer
from aioray.wire.transfer import (
    Ask,
    Bytes,
    Gone,
    Join,
    Leave,
    LinkHello,
    LinkWelcome,
    Refuse,
    SendOn,
    Serve,
    TransferMessage,
)
from aioray_node.objects import codecs, directory, pulls, sources
from aioray_node.objects.bulk import BulkLink
from aioray_node.objects.serving import HELLO_S, ServingDesk

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.config import Config
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.runtime.tls import Tls
    from aioray.wire.values import Value
    from aioray_node.objects.segment import Segment
    from aioray_node.objects.store import ObjectStore

_log = logging.getLogger("aioray")


class Ticket(Record):
    """Somebody's wish for a copy."""

    then: Callable[[Value | None, str], None] | None  # None once it was called
    oid: bytes
    is_pinned: bool = False


class TransferDesk:
    """One node's transfers. Called with the reactor's lock held; `then`s are called so, too, and never from `pull`."""

    def __init__(
        self,
        reactor: Reactor,
        store: ObjectStore,
        segment: Segment,
        config: Config,
        *,
        node_id: str,
        token: str = "",
        dialer: Dialer | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._segment = segment
        self._node_id = node_id
        self._dialer = dialer or Dialer(lambda: token, config.heartbeat_timeout_ms / 1000)
        self._codec = codecs.find(config.transfer_codec)
        limits = pulls.Limits(
            chunk_nbytes=config.transfer_chunk_nbytes,
            window=config.transfer_window,
            active=config.transfer_active,
            full_wait_s=config.transfer_full_wait_s,
        )
        self._pulls = pulls.State(limits)
        self._news: collections.deque[pulls.Event] = collections.deque()
        self._is_deciding = False
        self._numbers = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._coming: dict[bytes, Value] = {}  # what they look like where they are
        self._rooms: dict[bytes, Value] = {}  # and where they will be here
        self._homes: dict[bytes, str] = {}  # of copies that are here
        self._outgoing: dict[str, BulkLink] = {}  # links that this node dialled, by address
        self._addresses: dict[BulkLink, str] = {}
        self._strangers: dict[BulkLink, Timer] = {}
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._closed = False
        self.serving = ServingDesk(
            reactor,
            store,
            segment,
            self._rooms.get,
            node_id=node_id,
            token=token,
            tls=tls,
            fan_out=config.transfer_fan_out,
        )
        store.on_forgotten = self._forgotten
        store.on_copy_freed = self._copy_freed
        store.on_freed = self._freed

    # for the rest of the node

    def listen(self, address: str) -> str:
        """Let other nodes in, at a path or host:port (0: any); returns the address. Raises OSError, ValueError.

        TCP needs a token: raises InvalidOptionError without one.
        """
        return self.serving.listen(address)

    def pull(self, value: Value, source: str, priority: int, then: Callable[[Value | None, str], None]) -> int:
        """Have a copy of `value`, which lies in the memory of the node at `source`; the smallest priority goes first.

        `then(copy, "")` or `then(None, why_not)` is called once, later. The copy stays until `let_go` of the ticket
        that is returned, and as long as somebody else holds it (`directory.Held`). Raises ValueError for a value that
        is not in shared memory, and for an address that is none.
        """
        if not value.nbytes or not value.oid:
            raise ValueError(f"{value!r:.200} lies in no node's shared memory")
        place_of(source)
        number = next(self._numbers)
        ticket = self._tickets[number] = Ticket(then, value.oid)
        copy = self._store.copy_of(value.oid)
        if copy is not None:
            self._pin(number, ticket)
            self._reactor.call_soon(lambda: self._tell(number, copy, ""))
        else:
            self._coming.setdefault(value.oid, value)
            self._feed(pulls.Wanted(number, value.oid, value.nbytes, source, priority))
        return number

    def let_go(self, number: int) -> None:
        """The copy is not needed any more, or not at all: then `then` will not be called. Safe to call twice."""
        ticket = self._tickets.pop(number, None)
        if ticket is None:
            return
        ticket.then = None
        if ticket.is_pinned:
            self._store.feed(directory.Released(_pin(number), []))
        else:
            self._feed(pulls.Unwanted(number))

    def node_dead(self, address: str) -> None:
        """The node at this address will not answer any more: nobody need try."""
        link = self._outgoing.get(address)
        if link is not None:
            self._forget_outgoing(address, link)
        self._feed(pulls.LinkDown(address, "the node is dead", True))

    def figures(self) -> dict[str, int]:
        """What is under way; all zeros but the last one when nothing is."""
        return {
            "pulls": len(self._pulls.pulls),
            "tickets": len(self._tickets),
            "rooms": len(self._rooms),
            **self.serving.figures(),
        }

    def check(self) -> None:
        """Assert what holds between any two events; for tests."""
        pulls.check(self._pulls)
        self.serving.check()
        assert set(self._rooms) <= set(self._pulls.begun), "room that nobody fills"

    def close(self) -> None:
        """Hang up on everybody; who waits for a copy hears that."""
        if self._closed:
            return
        self._closed = True
        self.serving.close()
        if self._timer is not None:
            self._timer.cancel()
        for link in self._outgoing.values():
            link.close()
        for timer in self._strangers.values():
            timer.cancel()
        for number in list(self._tickets):
            self._tell(number, None, "the node was shut down")

    # what the rest of the node does that matters here

    def _forgotten(self, oid: bytes) -> None:
        self.serving.feed(sources.Freed(oid))

    def _copy_freed(self, oid: bytes) -> None:
        home = self._homes.pop(oid, "")
        link = self._outgoing.get(home)
        if link is not None:
            link.send(Leave(oid))

    def _freed(self) -> None:
        if self._pulls.full_for is not None:  # else nobody waits for room
            self._feed(pulls.RoomFreed())

    # pulling

    def _feed(self, event: pulls.Event) -> None:
        """Let the core decide. What that brings about at once is decided after it."""
        self._news.append(event)
        if self._is_deciding:
            return
        self._is_deciding = True
        try:
            while self._news and not self._closed:
                for command in pulls.handle(self._pulls, self._news.popleft(), self._reactor.time()):
                    self._carry_out(command)
        finally:
            self._is_deciding = False

    def _carry_out(self, command: pulls.Command) -> None:
        match command:
            case pulls.AskBytes(address, oid, start, nbytes):
                self._outgoing[address].send(Ask(oid, start, nbytes))
            case pulls.Reserve(oid, nbytes):
                self._reserve(oid, nbytes)
            case pulls.Unreserve(oid, reason):
                self._unreserve(oid, reason)
            case pulls.Dial(address):
                self._dial(address)
            case pulls.HangUp(address):
                self._hang_up(address)
            case pulls.AskWhere(address, oid, without, placed):
                self._outgoing[address].send(Join(oid, without, placed))
            case pulls.Quit(address, oid, keeps):
                self._outgoing[address].send(Leave(oid, keeps))
            case pulls.Complete(oid, home):
                self._complete(oid, home)
            case pulls.Deliver(waiter, oid):
                self._pin(waiter, self._tickets[waiter])
                self._tell(waiter, self._store.copy_of(oid), "")
            case pulls.Fail(waiter, oid, reason):
                if oid not in self._pulls.pulls:
                    self._coming.pop(oid, None)
                self._tell(waiter, None, reason)
            case pulls.WakeAt(when):
                self._wake_at(when)

    def _reserve(self, oid: bytes, nbytes: int) -> None:
        if oid not in self._rooms:
            if nbytes > self._store.capacity_nbytes:
                why = f"its {nbytes} bytes are more than this node's object store has ({self._store.capacity_nbytes})"
                self._feed(pulls.NoRoom(oid, why))
                return
            offset = self._store.allocate(nbytes)
            if offset is None:
                self._feed(pulls.NoRoom(oid))
                return
            self._rooms[oid] = msgspec.structs.replace(self._coming[oid], offset=offset, node_id=self._node_id)
            self.serving.feed(sources.Began(oid, nbytes, self._pulls.limits.chunk_nbytes))
        self._feed(pulls.Room(oid))

    def _unreserve(self, oid: bytes, reason: str) -> None:
        room = self._rooms.pop(oid, None)
        if room is None:
            return
        for link in self._outgoing.values():
            link.divert(oid)
        self.serving.feed(sources.Stopped(oid, reason))
        self.serving.when_not_lent(oid, lambda: self._store.free(room.offset, room.nbytes))

    def _complete(self, oid: bytes, home: str) -> None:
        room = self._rooms.pop(oid)
        del self._coming[oid]
        self._store.feed(directory.Copied(room))
        if home in self._outgoing:
            self._homes[oid] = home
        else:  # it will not tell us when the object is no more: the copy goes with those who hold it from now on
            self._reactor.call_soon(lambda: self._store.feed(directory.CopyGone(oid)))
        self.serving.feed(sources.Finished(oid))

    def _pin(self, number: int, ticket: Ticket) -> None:
        ticket.is_pinned = True
        self._store.feed(directory.Held(_pin(number), [ticket.oid]))

    def _tell(self, number: int, value: Value | None, reason: str) -> None:
        ticket = self._tickets.get(number)
        if ticket is None or ticket.then is None:
            return
        then, ticket.then = ticket.then, None
        if value is None:
            del self._tickets[number]
        try:
            then(value, reason)
        except Exception:  # that of somebody else must not cost others their copies
            _log.exception("aioray: an error in aioray itself, in %r; please report it", then)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._reactor.call_later(max(0.0, when - self._reactor.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._feed(pulls.Tick())

    # links that we dial

    def _dial(self, address: str) -> None:
        is_local = address.startswith("/")
        try:
            preface = b"" if is_local else self._dialer.proof()
            sock = dial(address, wait=False) if is_local else self._dialer.dial_tcp(address)
        except OSError as exc:
            self._feed(pulls.LinkDown(address, str(exc)))
            return
        link = BulkLink(self._reactor, sock, self, connecting=True, is_local=is_local, preface=preface)
        link.codec = self._codec
        self._outgoing[address] = link
        self._addresses[link] = address
        self._expect_word(link)

    def _expect_word(self, link: BulkLink) -> None:
        self._strangers[link] = self._reactor.call_later(HELLO_S, lambda: self._too_late(link))

    def _too_late(self, link: BulkLink) -> None:
        link.close()
        self.lost(link, f"the other side has not said who it is for {HELLO_S:g} s")

    def connected(self, link: BulkLink) -> None:
        mine = self.serving.address(is_local=link.is_local)
        codec = self._codec.name if self._codec is not None else ""
        link.send(LinkHello(self._node_id, mine, codec=codec))

    def _hang_up(self, address: str) -> None:
        link = self._outgoing.get(address)
        if link is not None and address not in self._homes.values():  # it tells when these are no more
            self._forget_outgoing(address, link)
            self._feed(pulls.LinkDown(address, "it was idle"))

    def _forget_outgoing(self, address: str, link: BulkLink) -> None:
        link.close()
        self._acquainted(link)
        del self._outgoing[address], self._addresses[link]
        for oid in [oid for oid, home in self._homes.items() if home == address]:
            del self._homes[oid]
            self._store.feed(directory.CopyGone(oid))  # else nobody would tell us when it is

    def _acquainted(self, link: BulkLink) -> None:
        timer = self._strangers.pop(link, None)
        if timer is not None:
            timer.cancel()

    # messages

    def message(self, link: BulkLink, message: TransferMessage) -> None:
        address = self._addresses[link]
        match message:
            case LinkWelcome(_, error):
                self._acquainted(link)
                if error:
                    self._forget_outgoing(address, link)
                    self._feed(pulls.LinkDown(address, error, True))
                    return
                link.is_trusted = True
                self._feed(pulls.LinkUp(address))
            case Serve(oid):
                self._feed(pulls.Served(address, oid))
            case SendOn(oid, to):
                self._feed(pulls.SentOn(address, oid, to))
            case Refuse(oid, reason):
                self._feed(pulls.Refused(address, oid, reason))
            case Gone(oid):
                if self._homes.get(oid) == address:
                    self._store.feed(directory.CopyGone(oid))
                else:
                    self._feed(pulls.NoMore(oid))
            case _:
                link.give_up(f"{type(message).__name__} is no answer")

    # receiving

    def destination(self, link: BulkLink, header: Bytes) -> memoryview | None:
        room = self._rooms.get(header.oid)
        address = self._addresses.get(link, "")
        if room is None or not pulls.wants(self._pulls, address, header.oid, header.start):
            return None
        if header.nbytes != min(self._pulls.limits.chunk_nbytes, room.nbytes - header.start):
            link.give_up(f"{header.nbytes} bytes came for another number that was asked for")
            return None
        return self._segment.view(room.offset + header.start, header.nbytes)

    def arrived(self, link: BulkLink, header: Bytes) -> None:
        oid, start = header.oid, header.start
        self.serving.feed(sources.Grown(oid, start))
        self._feed(pulls.Arrived(self._addresses[link], oid, start))

    def lost(self, link: BulkLink, reason: str) -> None:
        address = self._addresses[link]
        self._forget_outgoing(address, link)
        self._feed(pulls.LinkDown(address, reason))

    def contents(self, link: BulkLink, oid: bytes, start: int, nbytes: int) -> memoryview | None:
        raise AssertionError("nothing is sent over a link that this node dialled")

    def sent(self, link: BulkLink, oid: bytes) -> None:
        raise AssertionError("nothing is sent over a link that this node dialled")


def _pin(number: int) -> bytes:
    return directory.PULLED + number.to_bytes(8, "big")
