"""TLS for lines over TCP, where AIORAY_TLS_* name certificates: beside the sockets, not in them.

A thread for each connection passes bytes between the network and a plain pair of sockets, whose other end is what the
rest of the process reads and writes as ever. It costs a copy and a thread, and only where TLS is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

from aioray.exceptions import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger("aioray")
CERT_VARIABLE, KEY_VARIABLE, CA_VARIABLE = "AIORAY_TLS_SERVER_CERT", "AIORAY_TLS_SERVER_KEY", "AIORAY_TLS_CA_CERT"
_HANDSHAKE_S = 10.0
_PIECE_NBYTES = 64 * 1024


def server_tls(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """For who listens. With a CA, who connects must have a certificate of it, too. None: no TLS was asked for."""
    return _tls(environ, ssl.PROTOCOL_TLS_SERVER)


def client_tls(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """For who connects: it shows our certificate, and wants one of the CA. None: no TLS was asked for."""
    context = _tls(environ, ssl.PROTOCOL_TLS_CLIENT)
    if context is not None:
        context.check_hostname = False  # nodes are known by address; what counts is who has signed
    return context


def _tls(environ: Mapping[str, str], protocol: int) -> ssl.SSLContext | None:
    given = {name: environ.get(name, "") for name in (CERT_VARIABLE, KEY_VARIABLE, CA_VARIABLE)}
    if not any(given.values()):
        return None
    for name, path in given.items():
        if not path or not os.path.isfile(path):
            allowed = f"a file, as each of {', '.join(given)}: they are given together"
            raise InvalidOptionError(name, path or None, allowed)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(given[CERT_VARIABLE], given[KEY_VARIABLE])
        context.load_verify_locations(given[CA_VARIABLE])
    except (ssl.SSLError, OSError) as exc:
        raise InvalidOptionError(
            "AIORAY_TLS_*", list(given.values()), "PEM files that belong together", str(exc)
        ) from exc
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Tls:
    """What both sides need."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self._server = server
        self._client = client

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Tls | None:
        """None: it was not asked for. Raises InvalidOptionError."""
        server, client = server_tls(environ), client_tls(environ)
        return None if server is None or client is None else cls(server, client)

    def outgoing(self, sock: socket.socket, address: str) -> socket.socket:
        """What to use in place of a socket that was dialled, and may not be connected yet."""

        def failed(why: str) -> None:
            _log.warning("aioray: no TLS with %s: %s", address, why)

        return _through(sock, lambda: self._client.wrap_socket(sock, do_handshake_on_connect=False), failed)

    def incoming(self, sock: socket.socket, on_failure: Callable[[str], None]) -> socket.socket:
        """The same of one that was accepted. `on_failure(why)` is called in another thread."""
        return _through(
            sock, lambda: self._server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), on_failure
        )


def _through(
    sock: socket.socket, wrap: Callable[[], ssl.SSLSocket], on_failure: Callable[[str], None]
) -> socket.socket:
    ours, theirs = socket.socketpair()

    def live() -> None:
        with contextlib.closing(theirs):
            try:
                _wait_connected(sock)
                with wrap() as network:
                    network.setblocking(False)
                    theirs.setblocking(False)
                    _shake_hands(network, theirs)
                    _Relay(network, theirs).run()
            except ssl.SSLError as exc:
                on_failure(f"{exc.reason or exc}")
            except OSError:  # the other side is gone, and who holds our end of the pair finds that
                return
            finally:
                sock.close()

    threading.Thread(target=live, name="aioray-tls", daemon=True).start()
    return ours


def _wait_connected(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(_HANDSHAKE_S * 1000):
        raise TimeoutError
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))


def _shake_hands(network: ssl.SSLSocket, plain: socket.socket) -> None:
    """Raises OSError: TimeoutError, too, and when nobody listens at our end any more, so who is sent away is gone."""
    poll = select.poll()
    if network.server_side:  # who dials may say all that it has to, and close, before this is done
        poll.register(plain, 0)
    until = time.monotonic() + _HANDSHAKE_S
    while True:
        try:
            network.do_handshake()
        except ssl.SSLWantReadError:
            poll.register(network, select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(network, select.POLLOUT)
        else:
            return
        ready = dict(poll.poll(max(0.0, 1000 * (until - time.monotonic()))))
        if not ready:
            raise TimeoutError
        if plain.fileno() in ready:
            raise BrokenPipeError


class _Relay:
    """Passes bytes on until both sides have ended, or one is gone."""

    def __init__(self, network: ssl.SSLSocket, plain: socket.socket) -> None:
        self._network = network
        self._plain = plain
        self._out = b""  # for the network
        self._in = b""  # from it
        self._no_more_out = self._no_more_in = False

    def run(self) -> None:
        """Raises OSError when a side is gone."""
        poll = select.poll()
        while not (self._no_more_out and self._no_more_in):
            poll.register(self._plain, self._events(self._out, self._in, self._no_more_out))
            poll.register(self._network, self._events(self._in, self._out, self._no_more_in))
            ready = dict(poll.poll(0 if self._network.pending() and not self._in else None))
            if not self._no_more_out and not self._out and ready.get(self._plain.fileno(), 0) & ~select.POLLOUT:
                self._read_plain()
            elif ready.get(self._plain.fileno(), 0) & select.POLLHUP:
                return  # nobody is there any more who could read
            if not self._no_more_in and not self._in:
                self._read_network()
            if self._out:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    self._out = self._out[self._network.send(self._out) :]
            if self._in:
                with contextlib.suppress(BlockingIOError):
                    self._in = self._in[self._plain.send(self._in) :]
            if self._no_more_in and not self._in:
                with contextlib.suppress(OSError):
                    self._plain.shutdown(socket.SHUT_WR)

    @staticmethod
    def _events(read: bytes, written: bytes, is_over: bool) -> int:
        """To look for: what is read only while nothing of it waits to be passed on."""
        return (0 if read or is_over else select.POLLIN) | (select.POLLOUT if written else 0)

    def _read_plain(self) -> None:
        try:
            self._out = self._plain.recv(_PIECE_NBYTES)
        except BlockingIOError:
            return
        if not self._out:
            self._no_more_out = True
            with contextlib.suppress(ssl.SSLError, OSError):  # it says so, and need not wait for the answer
                self._network.unwrap()

    def _read_network(self) -> None:
        try:
            self._in = self._network.recv(_PIECE_NBYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not self._in:
            self._no_more_in = True
