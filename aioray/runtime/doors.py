"""Listening on TCP: who connects is let in when its first bytes show that it belongs to the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.runtime.connection import Listener, tune_tcp
from aioray.wire.preamble import PREAMBLE_NBYTES, what_is_wrong

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.runtime.refusals import Refusals
    from aioray.runtime.tls import Tls

_PATIENCE_S = 5.0  # with who has not shown yet that it belongs to us
_MAX_STRANGERS = 256  # one more, and the one that has waited longest must go


class _Stranger:
    """A connection of which too little has come yet."""

    __slots__ = ("_door", "_received", "peer", "sock", "timer")

    def __init__(self, door: Door, sock: socket.socket, peer: str) -> None:
        self._door = door
        self._received = b""
        self.sock = sock
        self.peer = peer
        self.timer: Timer

    def on_readable(self) -> None:
        try:
            data = self.sock.recv(PREAMBLE_NBYTES - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data:
            self._door.gone(self)
        elif reason := what_is_wrong(self._received, self._door.token):
            self._door.refuse(self, reason)
        elif len(self._received) == PREAMBLE_NBYTES:
            self._door.let_in(self)

    def on_writable(self) -> None:
        """Never asked for."""


class Door:
    """Called with the reactor's lock held. `on_accept(sock)` gets those that have shown what they must.

    `address`: host:port; port 0 becomes one that is free. Raises OSError, and ValueError for what is no such address.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        token: str,
        on_accept: Callable[[socket.socket], None],
        refusals: Refusals,
        tls: Tls | None = None,
    ) -> None:
        assert token, "who has no token must not listen where everybody can connect"
        self.token = token
        self._reactor = reactor
        self._on_accept = on_accept
        self._refusals = refusals
        self._tls = tls
        self._strangers: dict[_Stranger, None] = {}  # in the order in which they came
        self._listener = Listener(reactor, address, self._accept)

    @property
    def address(self) -> str:
        return self._listener.address

    def _accept(self, sock: socket.socket) -> None:
        tune_tcp(sock)
        sock.setblocking(False)
        try:
            peer = str(sock.getpeername()[0])
        except OSError:  # gone already
            sock.close()
            return
        if self._tls is not None:
            sock = self._tls.incoming(sock, lambda why: self._refusals.note(peer, f"there is no TLS with it: {why}"))
            sock.setblocking(False)
        stranger = _Stranger(self, sock, peer)
        stranger.timer = self._reactor.call_later(_PATIENCE_S, lambda: self._too_late(stranger))
        self._strangers[stranger] = None
        self._reactor.register(sock.fileno(), stranger)
        if len(self._strangers) > _MAX_STRANGERS:
            self.refuse(next(iter(self._strangers)), "too many connect, and do not say who they are")

    def _too_late(self, stranger: _Stranger) -> None:
        self.refuse(stranger, f"it has not said who it is for {_PATIENCE_S:g} s")

    def refuse(self, stranger: _Stranger, reason: str) -> None:
        """It is none of ours."""
        self._refusals.note(stranger.peer, reason)
        self.gone(stranger)

    def gone(self, stranger: _Stranger) -> None:
        """It has hung up, or is to go."""
        self._forget(stranger)
        stranger.sock.close()

    def let_in(self, stranger: _Stranger) -> None:
        """It is one of ours."""
        self._forget(stranger)
        self._on_accept(stranger.sock)

    def _forget(self, stranger: _Stranger) -> None:
        stranger.timer.cancel()
        del self._strangers[stranger]
        self._reactor.unregister(stranger.sock.fileno())

    def close(self) -> None:
        """Listen no more. Those that were let in are not ours any more."""
        self._listener.close()
        for stranger in list(self._strangers):
            self.gone(stranger)
