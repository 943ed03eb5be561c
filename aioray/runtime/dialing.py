"""The way to other processes of the cluster: Unix sockets on this machine, TCP and a proof elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from aioray.runtime.connection import Connection, dial, tune_tcp
from aioray.wire.preamble import preamble
from aioray.wire.reach import nearest

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    import msgspec

    from aioray.runtime.reactor import Reactor
    from aioray.runtime.tls import Tls

TOKEN_FILE = "token"  # in the session directory of each node that others may reach over TCP
_CONNECT_TIMEOUT_S = 5.0


def tls_of(environ: Mapping[str, str]) -> Tls | None:
    """What lines over TCP go through, if anything. Raises InvalidOptionError."""
    if not any(name.startswith("AIORAY_TLS_") for name in environ):
        return None
    from aioray.runtime.tls import Tls  # some 20 ms of imports

    return Tls.of(environ)


def this_machine() -> str:
    """Who has the same can open our Unix sockets and shared memory: same boot of a machine, same file systems.

    Containers on one machine have file systems of their own, and so are machines of their own.
    """
    boot_id = _content("/proc/sys/kernel/random/boot_id").strip()
    return f"{boot_id}-{os.stat('/proc/self/ns/mnt').st_ino}"


def _content(path: str) -> str:
    with open(path) as file:
        return file.read()


class Dialer:
    """Dials whatever address it is given, from here. `patience_s`: after which who is silent over TCP is gone.

    `token()`: of the cluster, asked for when it is first needed. Raises OSError when it is not to be had.
    """

    def __init__(self, token: Callable[[], str], patience_s: float) -> None:
        self._token = token
        self._patience_s = patience_s
        self._tls: Tls | None = None
        self._machine = ""
        self._preamble = b""

    @classmethod
    def of_session(cls, session_dir: str, patience_s: float = 10.0) -> Dialer:
        """For processes of the node that has this session: its token lies there, if it has one."""

        return cls(lambda: _content(os.path.join(session_dir, TOKEN_FILE)), patience_s)

    def from_here(self, address: str) -> str:
        """The path or host:port that leads to `address` from this machine."""
        if address.startswith("/"):
            return address
        if not self._machine:
            self._machine = this_machine()
        return nearest(address, self._machine)

    def connection(
        self,
        reactor: Reactor,
        address: str,
        decoder: msgspec.msgpack.Decoder[Any],
        on_messages: Callable[[Connection, list[Any]], None],
        on_close: Callable[[Connection, str], None],
    ) -> Connection:
        """Connect, without waiting for it over TCP: then it is `on_close` that hears that nobody is there.

        Raises OSError where that is known at once. The reactor's lock is held.
        """
        place = self.from_here(address)
        if place.startswith("/"):
            return Connection(reactor, dial(place), decoder, on_messages, on_close)
        preface = self.proof()
        sock = self.dial_tcp(place)
        return Connection(reactor, sock, decoder, on_messages, on_close, preface)

    def dial(self, address: str) -> socket.socket:
        """A blocking socket. Raises OSError."""
        place = self.from_here(address)
        if place.startswith("/"):
            return dial(place)
        preface = self.proof()
        sock = self.dial_tcp(place, wait=True)
        try:
            sock.sendall(preface)
        except BaseException:
            sock.close()
            raise
        return sock

    def dial_tcp(self, place: str, *, wait: bool = False) -> socket.socket:
        """`proof` must be sent first. Unless `wait`, it may not be connected yet. Raises OSError."""
        self.proof()
        sock = dial(place, wait=wait, timeout_s=_CONNECT_TIMEOUT_S)
        try:
            tune_tcp(sock, self._patience_s)
            return sock if self._tls is None else self._tls.outgoing(sock, place)
        except BaseException:
            sock.close()
            raise

    def proof(self) -> bytes:
        """What to send first over TCP. Raises OSError."""
        if not self._preamble:
            self._preamble = preamble(self._token())
            self._tls = tls_of(os.environ)
        return self._preamble
