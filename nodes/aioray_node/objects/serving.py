"""Objects to other nodes: carries out what `sources.py` decides, over links that they have dialled."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

from aioray.exceptions import InvalidOptionError
from aioray.runtime.connection import Listener
from aioray.runtime.doors import Door
from aioray.runtime.refusals import Refusals
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
from aioray_node.objects import codecs, directory, sources
from aioray_node.objects.bulk import BulkLink

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.runtime.tls import Tls
    from aioray.wire.values import Value
    from aioray_node.objects.segment import Segment
    from aioray_node.objects.store import ObjectStore

HELLO_S = 5.0  # for a peer to say who it is


class ServingDesk:
    """The nodes that get objects from this one. `room_of(oid)`: where an object is that is on its way here."""

    def __init__(
        self,
        reactor: Reactor,
        store: ObjectStore,
        segment: Segment,
        room_of: Callable[[bytes], Value | None],
        *,
        node_id: str,
        token: str,
        tls: Tls | None,
        fan_out: int,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._segment = segment
        self._room_of = room_of
        self._node_id = node_id
        self._token = token
        self._tls = tls
        self._sources = sources.State(fan_out=fan_out)
        self._refusals = Refusals(f"node {node_id}, which has objects,")
        self._listener: Listener | None = None  # for this machine,
        self._door: Door | None = None  # and for others
        self._numbers = itertools.count(1)
        self._strangers: dict[BulkLink, Timer] = {}
        self._incoming: dict[int, BulkLink] = {}
        self._numbers_of: dict[BulkLink, int] = {}
        self._where: dict[BulkLink, str] = {}  # where others reach the node at the other end
        self._lent: dict[bytes, int] = {}  # how many links are in the middle of sending bytes of it
        self._late: dict[bytes, list[Callable[[], None]]] = {}  # what is to be done when none is any more
        self.sent_nbytes = 0

    def listen(self, address: str) -> str:
        """Let other nodes in; see TransferDesk."""
        if address.startswith("/"):
            self._listener = Listener(self._reactor, address, lambda sock: self._accept(sock, is_local=True))
            return self._listener.address
        if not self._token:
            raise InvalidOptionError("token", "", "a text that all nodes of the cluster know", "TCP is open to all")
        accept = functools.partial(self._accept, is_local=False)
        self._door = Door(self._reactor, address, self._token, accept, self._refusals, self._tls)
        return self._door.address

    def address(self, *, is_local: bool) -> str:
        """Where nodes of this machine, or of others, reach this one; "" for nowhere."""
        way = self._listener if is_local else self._door
        return "" if way is None else way.address

    def figures(self) -> dict[str, int]:
        """What is under way."""
        return {
            "sending": len(self._sources.serving),
            "lent": len(self._lent),
            "sent_nbytes": self.sent_nbytes,
        }

    def check(self) -> None:
        """Assert what holds between any two events; for tests."""
        sources.check(self._sources)

    def close(self) -> None:
        """Hang up on everybody."""
        for way in (self._listener, self._door):
            if way is not None:
                way.close()
        for link in [*self._incoming.values(), *self._strangers]:
            link.close()
        for timer in self._strangers.values():
            timer.cancel()
        self._strangers.clear()

    def _accept(self, sock: socket.socket, *, is_local: bool) -> None:
        link = BulkLink(self._reactor, sock, self, connecting=False, is_local=is_local)
        self._strangers[link] = self._reactor.call_later(HELLO_S, lambda: self._too_late(link))

    def _too_late(self, link: BulkLink) -> None:
        del self._strangers[link]
        link.close()

    def _greeted(self, link: BulkLink, hello: LinkHello) -> None:
        """A node that wants objects of us says who it is."""
        error = ""
        if hello.version != TRANSFER_VERSION:
            error = f"transfer version {hello.version} was offered, this node speaks {TRANSFER_VERSION}"
        else:
            try:
                link.codec = codecs.find(hello.codec)
            except InvalidOptionError as exc:
                error = f"node {self._node_id} cannot compress with {hello.codec!r}: {exc}"
        link.send(LinkWelcome(self._node_id, error))
        self._acquainted(link)
        if error:
            self._refusals.note(hello.address or hello.node_id, error)
            link.flush()
            link.close()
            return
        link.is_trusted = True
        number = self._numbers_of[link] = next(self._numbers)
        self._incoming[number] = link
        self._where[link] = hello.address

    def _acquainted(self, link: BulkLink) -> None:
        timer = self._strangers.pop(link, None)
        if timer is not None:
            timer.cancel()

    def connected(self, link: BulkLink) -> None:
        """They dial, not we."""

    def message(self, link: BulkLink, message: TransferMessage) -> None:
        if link in self._numbers_of:
            self._question(link, self._numbers_of[link], message)
        elif isinstance(message, LinkHello):
            self._greeted(link, message)
        else:
            link.give_up("it has not said who it is")

    def _question(self, link: BulkLink, number: int, message: TransferMessage) -> None:
        match message:
            case Join(oid, without, placed):
                here = self._store.place_of(oid) is not None
                where = self._where[link]
                self.feed(sources.Joined(number, oid, where, here, without, placed, link.is_local))
            case Ask(oid, start, nbytes):
                self.feed(sources.Asked(number, oid, start, nbytes))
            case Leave(oid, keeps):
                self.feed(sources.Left(number, oid, keeps, self._store.place_of(oid) is not None))
            case _:
                link.give_up(f"{type(message).__name__} is no question")

    def feed(self, event: sources.Event) -> None:
        """Let the core decide, and carry it out."""
        for command in sources.handle(self._sources, event):
            link = self._incoming.get(command.link)
            match command:
                case sources.Keep(number, oid):
                    self._store.feed(directory.Held(_sender(number), [oid]))
                case sources.LetGo(number, oid):
                    if link is not None:
                        link.drop(oid)
                    self.when_not_lent(oid, functools.partial(self._release, number, oid))
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

    def when_not_lent(self, oid: bytes, then: Callable[[], None]) -> None:
        """Do this when no link is in the middle of sending bytes of it."""
        if oid in self._lent:
            self._late.setdefault(oid, []).append(then)
        else:
            then()

    def contents(self, link: BulkLink, oid: bytes, start: int, nbytes: int) -> memoryview | None:
        value = self._room_of(oid) or self._store.place_of(oid)
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

    def destination(self, link: BulkLink, header: Bytes) -> memoryview | None:
        link.give_up("it sends bytes, and nobody asked")
        return None

    def arrived(self, link: BulkLink, header: Bytes) -> None:
        raise AssertionError("nothing is received over a link that others dialled")

    def lost(self, link: BulkLink, reason: str) -> None:
        self._acquainted(link)
        number = self._numbers_of.pop(link, None)
        if number is not None:
            del self._incoming[number], self._where[link]
            self.feed(sources.LinkLost(number))


def _sender(number: int) -> bytes:
    return directory.SENDING + number.to_bytes(8, "big")
