"""Objects from and to other nodes: carries out what `pulls.py` and `sources.py` decide, over `bulk.py`'s links."""

from __future__ import annotations

import collections
import functools
import hmac
import itertools
import logging
from typing import TYPE_CHECKING

import msgspec

from aioray.exceptions import InvalidOptionError
from aioray.runtime.connection import Listener, dial, place_of
from aioray.wire.transfer import (
    TRANSFER_VERSION,
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

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aioray.config import Config
    from aioray.runtime.poller import Poller, Timer
    from aioray.wire.values import Value
    from aioray_node.objects.segment import Segment
    from aioray_node.objects.store import ObjectStore

_log = logging.getLogger("aioray")
_HELLO_S = 5.0  # for a peer to say who it is
_PIN, _LINK = b"pulled\0\0", b"sending\0"  # as processes: what they hold is pinned by a ticket, or being sent


class Ticket(msgspec.Struct):
    """Somebody's wish for a copy."""

    then: Callable[[Value | None, str], None] | None  # None once it was called
    oid: bytes
    is_pinned: bool = False


class TransferDesk:
    """One node's transfers. Called with the reactor's lock held; `then`s are called so, too, and never from `pull`."""

    def __init__(
        self, poller: Poller, store: ObjectStore, segment: Segment, config: Config, *, node_id: str, token: str = ""
    ) -> None:
        self._poller = poller
        self._store = store
        self._segment = segment
        self._node_id = node_id
        self._token = token
        self._codec = codecs.find(config.transfer_codec)
        limits = pulls.Limits(
            chunk_nbytes=config.transfer_chunk_nbytes,
            window=config.transfer_window,
            active=config.transfer_active,
            full_wait_s=config.transfer_full_wait_s,
        )
        self._pulls = pulls.State(limits)
        self._sources = sources.State(fan_out=config.transfer_fan_out)
        self._news: collections.deque[pulls.Event] = collections.deque()
        self._is_deciding = False
        self._numbers = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._coming: dict[bytes, Value] = {}  # what they look like where they are
        self._rooms: dict[bytes, Value] = {}  # and where they will be here
        self._homes: dict[bytes, str] = {}  # of copies that are here
        self._outgoing: dict[str, BulkLink] = {}  # links that this node dialled, by address
        self._addresses: dict[BulkLink, str] = {}
        self._incoming: dict[int, BulkLink] = {}  # links of nodes that ask us
        self._numbers_of: dict[BulkLink, int] = {}
        self._where: dict[BulkLink, str] = {}  # where others reach the node at the other end
        self._strangers: dict[BulkLink, Timer] = {}
        self._lent: dict[bytes, int] = {}  # how many links are in the middle of sending bytes of it
        self._late: dict[bytes, list[Callable[[], None]]] = {}  # what is to be done when none is any more
        self._listeners: list[Listener] = []
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._has_complained = False
        self._closed = False
        self.sent_nbytes = 0
        store.on_forgotten = self._forgotten
        store.on_copy_freed = self._copy_freed
        store.on_freed = self._freed

    # for the rest of the node

    def listen(self, address: str) -> str:
        """Let other nodes in, at a path or host:port (0: any); returns the address. Raises OSError, ValueError.

        TCP needs a token: raises InvalidOptionError without one.
        """
        listener = Listener(self._poller, address, lambda sock: self._accept(sock, is_local=listener.is_local))
        if not listener.is_local and not self._token:
            listener.close()
            raise InvalidOptionError("token", "", "a text that all nodes of the cluster know", "TCP is open to all")
        self._listeners.append(listener)
        return listener.address

    def pull(
        self, value: Value, source: str, priority: int, then: Callable[[Value | None, str], None]
    ) -> int:
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
            self._poller.call_soon(lambda: self._tell(number, copy, ""))
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
        """What is under way; all zeros but the last when nothing is."""
        return {
            "pulls": len(self._pulls.pulls),
            "tickets": len(self._tickets),
            "rooms": len(self._rooms),
            "sending": len(self._sources.serving),
            "lent": len(self._lent),
            "sent_nbytes": self.sent_nbytes,
        }

    def check(self) -> None:
        """Assert what holds between any two events; for tests."""
        pulls.check(self._pulls)
        sources.check(self._sources)
        assert set(self._rooms) <= set(self._pulls.begun), "room that nobody fills"

    def close(self) -> None:
        """Hang up on everybody; who waits for a copy hears that."""
        if self._closed:
            return
        self._closed = True
        for listener in self._listeners:
            listener.close()
        if self._timer is not None:
            self._timer.cancel()
        for link in [*self._outgoing.values(), *self._incoming.values(), *self._strangers]:
            link.close()
        for timer in self._strangers.values():
            timer.cancel()
        for number in list(self._tickets):
            self._tell(number, None, "the node was shut down")

    # what the rest of the node does that matters here

    def _forgotten(self, oid: bytes) -> None:
        self._source(sources.Freed(oid))

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
                for command in pulls.handle(self._pulls, self._news.popleft(), self._poller.time()):
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
            self._rooms[oid] = msgspec.structs.replace(self._coming[oid], offset=offset)
            self._source(sources.Began(oid, nbytes, self._pulls.limits.chunk_nbytes))
        self._feed(pulls.Room(oid))

    def _unreserve(self, oid: bytes, reason: str) -> None:
        room = self._rooms.pop(oid, None)
        if room is None:
            return
        for link in self._outgoing.values():
            link.divert(oid)
        self._source(sources.Stopped(oid, reason))
        self._when_not_lent(oid, lambda: self._store.free(room.offset, room.nbytes))

    def _complete(self, oid: bytes, home: str) -> None:
        room = self._rooms.pop(oid)
        del self._coming[oid]
        self._homes[oid] = home
        self._store.feed(directory.Copied(room))
        self._source(sources.Finished(oid))

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
        self._timer = self._poller.call_later(max(0.0, when - self._poller.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._feed(pulls.Tick())

    # links that we dial

    def _dial(self, address: str) -> None:
        try:
            sock = dial(address, wait=False)
        except (OSError, ValueError) as exc:
            self._feed(pulls.LinkDown(address, str(exc), isinstance(exc, ValueError)))
            return
        link = BulkLink(self._poller, sock, self, connecting=True, is_local=address.startswith("/"))
        link.codec = self._codec
        self._outgoing[address] = link
        self._addresses[link] = address
        self._expect_word(link)

    def _expect_word(self, link: BulkLink) -> None:
        self._strangers[link] = self._poller.call_later(_HELLO_S, lambda: self._too_late(link))

    def _too_late(self, link: BulkLink) -> None:
        link.close()
        self.lost(link, f"the other side has not said who it is for {_HELLO_S:g} s")

    def connected(self, link: BulkLink) -> None:
        mine = next((listener.address for listener in self._listeners if listener.is_local == link.is_local), "")
        codec = self._codec.name if self._codec is not None else ""
        token = "" if link.is_local else self._token
        link.send(LinkHello(self._node_id, mine, token, codec))

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

    # links of others

    def _accept(self, sock: socket.socket, *, is_local: bool) -> None:
        link = BulkLink(self._poller, sock, self, connecting=False, is_local=is_local)
        self._expect_word(link)

    def _greeted(self, link: BulkLink, hello: LinkHello) -> None:
        """A node that wants objects of us says who it is."""
        error = ""
        if not link.is_local and not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            error = "the token is missing or wrong"
        elif hello.version != TRANSFER_VERSION:
            error = f"transfer version {hello.version} was offered, this node speaks {TRANSFER_VERSION}"
        else:
            try:
                link.codec = codecs.find(hello.codec)
            except InvalidOptionError as exc:
                error = f"node {self._node_id} cannot compress with {hello.codec!r}: {exc}"
        link.send(LinkWelcome(self._node_id, error))
        self._acquainted(link)
        if error:
            if not self._has_complained:
                self._has_complained = True
                _log.warning("aioray: a node that wanted objects was refused: %s", error)
            link.flush()
            link.close()
            return
        link.is_trusted = True
        number = self._numbers_of[link] = next(self._numbers)
        self._incoming[number] = link
        self._where[link] = hello.address

    # messages

    def message(self, link: BulkLink, message: TransferMessage) -> None:
        if link in self._addresses:
            self._answer(link, self._addresses[link], message)
        elif link in self._numbers_of:
            self._question(link, self._numbers_of[link], message)
        elif isinstance(message, LinkHello):
            self._greeted(link, message)
        else:
            self._too_soon(link)

    def _too_soon(self, link: BulkLink) -> None:
        self._acquainted(link)
        link.close()

    def _answer(self, link: BulkLink, address: str, message: TransferMessage) -> None:
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

    def _question(self, link: BulkLink, number: int, message: TransferMessage) -> None:
        match message:
            case Join(oid, without, placed):
                here = self._store.place_of(oid) is not None
                where = self._where[link]
                self._source(sources.Joined(number, oid, where, here, without, placed, link.is_local))
            case Ask(oid, start, nbytes):
                self._source(sources.Asked(number, oid, start, nbytes))
            case Leave(oid, keeps):
                self._source(sources.Left(number, oid, keeps))
            case _:
                link.give_up(f"{type(message).__name__} is no question")

    # sending

    def _source(self, event: sources.Event) -> None:
        for command in sources.handle(self._sources, event):
            link = self._incoming.get(command.link)
            match command:
                case sources.Keep(number, oid):
                    self._store.feed(directory.Held(_sender(number), [oid]))
                case sources.LetGo(number, oid):
                    if link is not None:
                        link.drop(oid)
                    self._when_not_lent(oid, functools.partial(self._release, number, oid))
                case _ if link is None:
                    continue
                case sources.Send(_, oid, start, nbytes):
                    link.send_bytes(oid, start, nbytes)
                case sources.TellServe(_, oid):
                    link.send(Serve(oid))
                case sources.TellSendOn(_, oid, address):
                    link.send(SendOn(oid, address))
                case sources.TellRefuse(_, oid, reason):
                    link.drop(oid)
                    link.send(Refuse(oid, reason))
                case sources.TellGone(_, oid):
                    link.send(Gone(oid))

    def _release(self, number: int, oid: bytes) -> None:
        if (number, oid) not in self._sources.kept:  # else it has asked again meanwhile
            self._store.feed(directory.Released(_sender(number), [oid]))

    def _when_not_lent(self, oid: bytes, then: Callable[[], None]) -> None:
        """Do this when no link is in the middle of sending bytes of it."""
        if oid in self._lent:
            self._late.setdefault(oid, []).append(then)
        else:
            then()

    def contents(self, link: BulkLink, oid: bytes, start: int, nbytes: int) -> memoryview | None:
        value = self._rooms.get(oid) or self._store.place_of(oid)
        if value is None:
            return None
        if not 0 <= start < start + nbytes <= value.nbytes:
            link.give_up(f"[{start}, +{nbytes}) is not in an object of {value.nbytes} bytes")
            return None
        self._lent[oid] = self._lent.get(oid, 0) + 1
        self.sent_nbytes += nbytes
        return self._segment.view(value.offset + start, nbytes)

    def sent(self, link: BulkLink, oid: bytes) -> None:
        self._lent[oid] -= 1
        if not self._lent[oid]:
            del self._lent[oid]
            for then in self._late.pop(oid, []):
                then()

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
        self._source(sources.Grown(oid, start))
        self._feed(pulls.Arrived(self._addresses[link], oid, start))

    def lost(self, link: BulkLink, reason: str) -> None:
        self._acquainted(link)
        if link in self._addresses:
            address = self._addresses[link]
            self._forget_outgoing(address, link)
            self._feed(pulls.LinkDown(address, reason))
        elif link in self._numbers_of:
            number = self._numbers_of.pop(link)
            del self._incoming[number], self._where[link]
            self._source(sources.LinkLost(number))


def _pin(number: int) -> bytes:
    return _PIN + number.to_bytes(8, "big")


def _sender(number: int) -> bytes:
    return _LINK + number.to_bytes(8, "big")
