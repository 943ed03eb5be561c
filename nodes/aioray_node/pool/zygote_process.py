"""A node's zygote, seen from the node: how it is started, asked, heard, and seen off."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import msgspec

from aioray.runtime import child_python
from aioray.wire.control import Exit, Exited, Forked, ForkWorker, Inherit
from aioray.wire.framing import control_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.config import Config
    from aioray.runtime.reactor import Reactor

_MAX_PACKET_NBYTES = 65536


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """(the node's end, the zygote's end)"""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class ZygoteProcess:
    """One zygote: a child of this process."""

    def __init__(self, sock: socket.socket, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.sock = sock
        self.pid = pid
        self._process = process
        self._reaped = False
        self._reactor: Reactor | None = None
        self._on_report: Callable[[Forked | Exited], None] | None = None
        self._on_death: Callable[[], None] | None = None

    @classmethod
    def spawn(cls, config: Config) -> ZygoteProcess:
        """Start one as a fresh Python."""
        ours, theirs = socket_pair()
        with theirs:
            told = [str(theirs.fileno()), msgspec.json.encode(config).decode()]
            command = child_python.command("aioray_node.pool.zygote", *told)
            process = subprocess.Popen(  # returns at once: nothing to await
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_child_environment()
            )
        return cls(ours, process.pid, process)

    def start(
        self, reactor: Reactor, on_report: Callable[[Forked | Exited], None], on_death: Callable[[], None]
    ) -> None:
        """Listen to it on `reactor`."""
        self.sock.setblocking(False)
        self._reactor, self._on_report, self._on_death = reactor, on_report, on_death
        reactor.register(self.sock.fileno(), self)

    def on_readable(self) -> None:
        assert self._on_report is not None
        assert self._on_death is not None
        while True:
            try:
                data = self.sock.recv(_MAX_PACKET_NBYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.hang_up()
                self._on_death()
                return
            report = control_decoder.decode(data)
            assert isinstance(report, Forked | Exited)
            self._on_report(report)

    def on_writable(self) -> None:
        """Never asked for: orders are small and few."""

    def inherit(self, session_dir: str) -> None:
        """Have it remove this session if its node is killed. Does nothing when the zygote is gone."""
        self._say(Inherit(session_dir))

    def _say(self, message: msgspec.Struct) -> None:
        with contextlib.suppress(OSError):  # it is gone, which we hear of by reading
            self.sock.send(msgspec.msgpack.encode(message))

    def fork_worker(self, order: ForkWorker, stdout_fd: int, stderr_fd: int) -> None:
        """Order one worker; Forked reports. Raises OSError when the zygote is gone."""
        data = msgspec.msgpack.encode(order)
        socket.send_fds(self.sock, [data], [stdout_fd, stderr_fd])

    def hang_up(self) -> None:
        """On which it kills and reaps its workers, and ends. Safe to call twice."""
        if self.sock.fileno() >= 0:
            if self._reactor is not None:
                self._reactor.unregister(self.sock.fileno())
            self._say(Exit("the node ends it"))
            self.sock.close()

    def close(self, timeout_s: float) -> None:
        """Hang up, on which it kills and reaps its workers and ends; kill it if that takes longer than `timeout_s`.

        Blocks: for a few milliseconds, as a rule. Safe to call twice.
        """
        self.hang_up()
        if self._reaped:
            return  # its pid may be somebody else's by now
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._reap()
            return
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(timeout_s * 1000):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        self._reaped = True
        if self._process is not None:
            self._process.wait()
        else:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                return


def _child_environment() -> dict[str, str]:
    """Ours, but with one thread a library: a fork would lose the others."""
    return {**os.environ, **single_threaded_libraries(dict(os.environ))}


def single_threaded_libraries(environment: dict[str, str]) -> dict[str, str]:
    """Variables that keep OpenMP and BLAS at one thread, unless the user has said otherwise."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: "1" for name in names if name not in environment}
