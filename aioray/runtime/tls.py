"""TLS for lines over TCP, where AIORAY_TLS_* name certificates: beside the sockets, not in them.

A thread for each connection passes bytes between the network and a plain pair of sockets, whose other end is what the
rest of the process reads and writes as ever. It costs a copy and a thread, and only where TLS is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from aioray.exceptions import InvalidOptionError
from aioray.runtime.tls_relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger("aioray")
CERT_VARIABLE, KEY_VARIABLE, CA_VARIABLE = "AIORAY_TLS_SERVER_CERT", "AIORAY_TLS_SERVER_KEY", "AIORAY_TLS_CA_CERT"
_HANDSHAKE_S = 10.0


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

        return _through(sock, self._client, failed, server=False)

    def incoming(self, sock: socket.socket, on_failure: Callable[[str], None]) -> socket.socket:
        """The same of one that was accepted. `on_failure(why)` is called in another thread."""
        return _through(sock, self._server, on_failure, server=True)


def _through(
    sock: socket.socket, context: ssl.SSLContext, on_failure: Callable[[str], None], *, server: bool
) -> socket.socket:
    ours, theirs = socket.socketpair()

    def live() -> None:
        with contextlib.closing(sock), contextlib.closing(theirs):
            try:
                Relay(context, sock, theirs, server=server).run(_HANDSHAKE_S)
            except ssl.SSLError as exc:
                on_failure(f"{exc.reason or exc}")
            except OSError:  # the other side is gone, and who holds our end of the pair finds that
                return

    threading.Thread(target=live, name="aioray-tls", daemon=True).start()
    return ours
