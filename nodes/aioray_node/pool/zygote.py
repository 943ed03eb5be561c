"""The zygote: a small single-threaded process that has the imports done and forks workers.

It talks to its node over a SOCK_SEQPACKET pair, one message a packet: ForkWorker (with the write ends of the worker's
stdout and stderr) comes in, Forked and Exited go out. It ends when the node's end is closed; its workers end with it.
A node that was killed has not said Exit before: then the zygote, the last to go, removes the session.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.config import Config
from aioray.wire.control import Exit, Exited, Forked, ForkWorker, Inherit
from aioray.wire.framing import control_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_MAX_PACKET_NBYTES = 65536
_QUIET_MS = 100  # nobody wanted a worker for so long: import what workers are likely to want
_LAST_WAIT_S = 10  # for workers to be gone, and for the lock of a node that is gone
_FOR_GROUPS = (signal.SIGQUIT, signal.SIGHUP)  # what a terminal sends to the driver, and to us, besides SIGINT
_encode = msgspec.msgpack.encode


def hear_of_parents_end(number: int) -> None:
    """Have the kernel send this process a signal when its parent is gone, however that happens."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, number)


class _NodeGone(BaseException):
    """Raised in the middle of an import, which may never come back."""


class Zygote:
    """Forks on demand, reaps, reports."""

    def __init__(self, sock: socket.socket, run_worker: Callable[[ForkWorker], None], preload: Sequence[str]) -> None:
        self._sock = sock
        self._run_worker = run_worker
        self._preload = ["aioray_node.session", *preload]
        self._children: dict[int, str] = {}
        self._session_dir = ""  # to be removed in the end, unless the node says Exit
        self._for_workers: dict[signal.Signals, Any] = {}  # how they treat signals that we ignore
        self._node_pid = 0
        self._importing = False

    def serve(self) -> None:
        """Serve until the node hangs up, or is gone."""
        self._node_pid = os.getppid()
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Who ends a program ends its process group, as a rule, but we go last, to clean up. SIGTERM comes from the
        # kernel, too: some process that was forked off the node may have a copy of its end of the socket.
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._for_workers = {number: signal.signal(number, signal.SIG_IGN) for number in _FOR_GROUPS}
        signal.set_wakeup_fd(waker)
        hear_of_parents_end(signal.SIGTERM)
        with contextlib.suppress(_NodeGone):
            self._take_orders(woken, waker)
        self._end_after(_LAST_WAIT_S)
        self._end_workers()
        if self._session_dir:
            from aioray_node.session import remove_after_death

            remove_after_death(Path(self._session_dir))

    def _take_orders(self, woken: int, waker: int) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            ready = dict(poll.poll(_QUIET_MS if self._preload and self._children else None))
            if not ready:
                self._import_preload()
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._reap()
            if self._sock.fileno() in ready and not self._take_order([woken, waker]):
                break
            if self._is_orphaned():
                break

    def _is_orphaned(self) -> bool:
        return os.getppid() != self._node_pid

    def _on_sigterm(self, *_: Any) -> None:
        if self._importing and self._is_orphaned():
            self._importing = False
            self._end_after(_LAST_WAIT_S)  # what is imported may swallow anything
            raise _NodeGone

    @staticmethod
    def _end_after(seconds: int) -> None:
        """End this process then, whatever holds it up."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)

    def _end_workers(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _import_preload(self) -> None:
        name = self._preload.pop(0)
        self._importing = True
        try:
            if not self._is_orphaned():  # else it was told before, and will not be told again
                importlib.import_module(name)
        except Exception as exc:  # a module that is not there, or broken, is not our business
            print(f"aioray: zygote_preload: {name} cannot be imported: {exc!r}", file=sys.stderr)
        finally:
            self._importing = False
        gc.freeze()

    def _receive(self) -> tuple[bytes, list[int], int, Any]:
        try:
            return socket.recv_fds(self._sock, _MAX_PACKET_NBYTES, 2)
        except ConnectionError:
            # Said once, when the node has gone with a report of ours unread. Its last words are still to come.
            return socket.recv_fds(self._sock, _MAX_PACKET_NBYTES, 2)

    def _take_order(self, close_in_child: Sequence[int]) -> bool:
        try:
            data, fds, _, _ = self._receive()
        except ConnectionError:
            return False
        if not data:
            return False
        order = control_decoder.decode(data)
        if isinstance(order, Inherit):
            self._session_dir = order.session_dir
            return True
        if isinstance(order, Exit):
            self._session_dir = ""
            return False
        assert isinstance(order, ForkWorker)
        try:
            if len(fds) < 2:  # the kernel drops what there is no room for
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as exc:
            self._tell(Forked(order.worker_id, 0, f"fork failed: {exc.strerror}"))
        else:
            if pid == 0:
                self._be_worker(order, fds, close_in_child)
            self._children[pid] = order.worker_id
            self._tell(Forked(order.worker_id, pid))
        for fd in fds:
            os.close(fd)
        return True

    def _be_worker(self, order: ForkWorker, fds: Sequence[int], close: Sequence[int]) -> None:
        """The rest of a worker's life; never returns."""

        def live() -> None:
            parent = os.getppid()
            hear_of_parents_end(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for number, handler in self._for_workers.items():
                signal.signal(number, handler)
            self._sock.close()
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, standard in ((null, 0), (fds[0], 1), (fds[1], 2)):
                os.dup2(fd, standard)
            for fd in (null, *fds, *close):
                os.close(fd)
            self._run_worker(order)

        end_with(live)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker_id = self._children.pop(pid, None)
            if worker_id is not None:
                self._tell(Exited(worker_id, os.waitstatus_to_exitcode(status)))

    def _tell(self, message: Forked | Exited) -> None:
        with contextlib.suppress(OSError):  # the node is gone: so are we, in the next round
            self._sock.send(_encode(message))


def end_with(live: Callable[[], None]) -> NoReturn:
    """Run a worker's life, and end the process with what became of it."""
    status = 1
    try:
        live()
        status = 0
    except SystemExit as exc:
        status = _exit_status(exc)
    except BaseException:  # the last line: it goes to the driver's log
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _exit_status(exc: SystemExit) -> int:
    """As Python's own end has it: a text is said, and means failure."""
    if exc.code is None:
        return 0
    if isinstance(exc.code, int):
        return exc.code & 0xFF
    print(exc.code, file=sys.stderr)
    return 1


def serve_zygote(sock: socket.socket, config_json: str) -> None:
    """Be the zygote of the node at the other end of `sock`."""
    from aioray_node.worker.main import run_worker
    from aioray_node.worker.surroundings import live

    config = msgspec.json.decode(config_json, type=Config)
    # What we were started with is no business of user code. Not the driver's, either: a worker may serve several.
    sys.argv = [""]
    preload = [name for name in config.zygote_preload.split(",") if name]
    gc.freeze()  # what is there now is never collected, so its pages stay shared with the workers
    gc.enable()
    Zygote(sock, lambda order: live(order, config, run_worker), preload).serve()


def main() -> None:
    """`python -m aioray_node.pool.zygote FD CONFIG`, as an embedded node starts it."""
    fd, config_json = sys.argv[1:]
    sock = socket.socket(fileno=int(fd))
    os.set_inheritable(sock.fileno(), False)
    serve_zygote(sock, config_json)


if __name__ == "__main__":
    main()
