"""Passing bytes between a network socket that speaks TLS and a plain one, in a thread of its own.

TLS works on memory here, not on the socket. OpenSSL's shutdown, called on a socket, reads on, and throws away what it
finds: whoever says "no more from me" would lose what the other side still has to say.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time

_PIECE_NBYTES = 64 * 1024
_GONE = select.POLLHUP | select.POLLERR
_LAST_WORDS_MS = 10_000.0  # for the network to take some of what was written before its writer was gone


class Relay:
    """One connection: the handshake, then bytes in both directions until both have ended, or a side is gone."""

    def __init__(self, context: ssl.SSLContext, network: socket.socket, plain: socket.socket, *, server: bool) -> None:
        self._network = network
        self._plain = plain
        self._is_server = server
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=server)
        self._wire = b""  # for the network, as it is sent
        self._in = b""  # for the plain side
        self._no_more_out = self._no_more_in = False  # each side has said all
        self._is_shut = False  # we have told the network so
        self._is_alone = False  # nobody has the other end of the plain side any more

    def run(self, handshake_s: float) -> None:
        """Raises OSError when a side is gone, TimeoutError included; ssl.SSLError when the other speaks no TLS."""
        self._wait_connected(handshake_s)
        self._network.setblocking(False)
        self._plain.setblocking(False)
        self._shake_hands(handshake_s)
        while not (self._no_more_in and self._is_shut and not self._wire):
            self._wait()
            self._take_turn()

    def _wait_connected(self, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._network, select.POLLOUT)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError
        if error := self._network.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))

    def _shake_hands(self, timeout_s: float) -> None:
        poll = select.poll()
        if self._is_server:  # who dials may say all that it has to, and close, before this is done
            poll.register(self._plain, 0)  # when nobody listens at our end any more, who is sent away is gone
        until = time.monotonic() + timeout_s
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._send()  # the alert that says why
                raise
            else:
                is_done = True
            self._send()
            if is_done:
                return
            poll.register(self._network, select.POLLIN | (select.POLLOUT if self._wire else 0))
            ready = dict(poll.poll(max(0.0, 1000 * (until - time.monotonic()))))
            if not ready:
                raise TimeoutError
            if self._plain.fileno() in ready:
                raise BrokenPipeError
            if ready[self._network.fileno()] & ~select.POLLOUT:
                self._receive()

    def _wait(self) -> None:
        """Until something can be done. What is read is only as much as can be passed on."""
        poll = select.poll()
        reads_network = not self._no_more_in and not self._in
        poll.register(self._network, (select.POLLIN if reads_network else 0) | (select.POLLOUT if self._wire else 0))
        plain = (select.POLLIN if not self._no_more_out and not self._wire else 0) | (select.POLLOUT if self._in else 0)
        if plain or not self._is_alone:  # that it is gone would be told again and again
            poll.register(self._plain, plain)
        timeout_ms = 0 if reads_network and self._holds_some() else _LAST_WORDS_MS if self._is_alone else None
        ready = dict(poll.poll(timeout_ms))
        if not ready and timeout_ms:
            raise TimeoutError
        if not reads_network and ready.get(self._network.fileno(), 0) & _GONE:
            raise ConnectionResetError
        if ready.get(self._plain.fileno(), 0) & _GONE:  # nobody is there any more who could read; but what was written
            self._is_alone = self._no_more_in = True
            self._in = b""

    def _holds_some(self) -> bool:
        """Whether more can be read without the network."""
        return bool(self._received.pending or self._tls.pending())

    def _take_turn(self) -> None:
        if not self._no_more_out and not self._wire:
            self._read_plain()
        if not self._no_more_in and not self._in:
            self._read_network()
        # With bytes of the other's unread, TLS would take its end for one that came too early.
        if self._no_more_out and not self._is_shut and (self._is_alone or not self._holds_some()):
            self._is_shut = True
            with contextlib.suppress(ssl.SSLError):  # it wants the other's end, too, and need not wait for it here
                self._tls.unwrap()
        self._send()
        if self._in:
            with contextlib.suppress(BlockingIOError):
                self._in = self._in[self._plain.send(self._in) :]
        if self._no_more_in and not self._in:
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_WR)

    def _read_plain(self) -> None:
        try:
            data = self._plain.recv(_PIECE_NBYTES)
        except BlockingIOError:
            return
        if data:
            self._tls.write(data)
        else:
            self._no_more_out = True

    def _read_network(self) -> None:
        while not self._in:
            try:
                data = self._tls.read(_PIECE_NBYTES)
            except ssl.SSLWantReadError:
                if not self._receive():
                    return
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # its end, said or not
                data = b""
            if not data:
                self._no_more_in = True
                return
            self._in = data

    def _receive(self) -> bool:
        """Whether something came, be it the end."""
        try:
            data = self._network.recv(_PIECE_NBYTES)
        except BlockingIOError:
            return False
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()
        return True

    def _send(self) -> None:
        if self._to_send.pending:
            self._wire += self._to_send.read()
        if self._wire:
            with contextlib.suppress(BlockingIOError):
                self._wire = self._wire[self._network.send(self._wire) :]
