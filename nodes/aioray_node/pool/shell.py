"""Worker processes: the pool's decisions carried out."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from typing import TYPE_CHECKING, Protocol

from msgspec import field

from aioray.record import Record
from aioray.wire.control import Exit, Exited, Forked, ForkWorker
from aioray.wire.values import worker_process_id
from aioray_node.pool import core
from aioray_node.pool.logs import LogPipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.connection import Connection
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import LogLines
    from aioray_node.pool.zygote_process import ZygoteProcess

_SHORT_LIFE_S = 1.0


class Tenant(Protocol):
    """Who is told about the workers of leases."""

    def bound(self, lease_id: int, worker: Worker) -> None: ...
    def lost(self, lease_id: int, reason: str) -> None: ...


class Worker(Record, eq=False):
    """One worker process."""

    worker_id: str
    pid: int = 0
    address: str = ""
    connection: Connection | None = None
    lease_id: int | None = None
    pipes: list[LogPipe] = field(default_factory=list)
    why_killed: str = ""
    given_up: bool = False  # it was killed: what it still says counts no more
    kind: core.Kind = core.DEFAULT


class WorkerPool:
    """Forks, binds, frees and kills workers."""

    def __init__(
        self,
        reactor: Reactor,
        start_zygote: Callable[[], ZygoteProcess],
        tenant: Tenant,
        on_log: Callable[[LogLines], None],
        session_dir: str,
        *,
        node_id: str,
        prestart: int,
        max_idle: int,
        idle_reap_s: float,
        host: str = "",
    ) -> None:
        self._reactor = reactor
        self._start_zygote = start_zygote
        self._tenant = tenant
        self._on_log = on_log
        self._session_dir = session_dir
        self._host = host
        self._node_id = node_id
        self._numbers = itertools.count(1)  # of workers: no two, ever, have the same id
        self._state = core.State(prestart=prestart, max_idle=max_idle, idle_reap_s=idle_reap_s)
        self._workers: dict[str, Worker] = {}
        self._zygote: ZygoteProcess | None = None
        self._closed = False
        self.zygote_pid = 0
        self._zygote_since = 0.0

    def start(self) -> None:
        """Start the zygote, and the workers that are kept warm."""
        self._open_zygote()
        self.feed(core.Tick())

    def _open_zygote(self) -> None:
        self._zygote_since = self._reactor.time()
        self._zygote = self._start_zygote()
        self.zygote_pid = self._zygote.pid
        self._zygote.start(self._reactor, self._on_report, self._on_zygote_death)

    def feed(self, event: core.Event) -> None:
        """Let the pool decide, and carry it out."""
        if self._closed:
            return
        for command in core.handle(self._state, event, self._reactor.time()):
            match command:
                case core.Fork(kind):
                    self._fork(kind)
                case core.Bind(lease_id, worker_id):
                    worker = self._workers[worker_id]
                    worker.lease_id = lease_id
                    self._tenant.bound(lease_id, worker)
                case core.Kill(worker_id):
                    self._kill(worker_id, "ended by its node")
                case core.Retire(worker_id):
                    retired = self._workers[worker_id].connection
                    if retired is not None:
                        retired.send(Exit("nobody needs it"))
                case core.Lost(lease_id, worker_id):
                    self._tenant.lost(lease_id, f"worker {worker_id} died")
                case core.Starved(lease_id, reason):
                    self._tenant.lost(lease_id, f"no worker could be started: {reason}")
                case core.WakeAt(when):
                    delay_s = max(0.0, when - self._reactor.time())
                    self._reactor.call_later(delay_s, lambda: self.feed(core.Tick()))

    def _fork(self, kind: core.Kind) -> None:
        worker = Worker(worker_process_id(self._node_id, next(self._numbers)).hex(), kind=kind)
        self._workers[worker.worker_id] = worker
        ends: list[int] = []
        try:
            for stream in (1, 2):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                ends.append(write_end)
                worker.pipes.append(LogPipe(self._reactor, read_end, 0, stream, self._on_log))
            assert self._zygote is not None
            order = ForkWorker(worker.worker_id, self._session_dir, kind.environment, kind.gpus, self._host)
            self._zygote.fork_worker(order, *ends)
        except OSError as exc:
            self._drop(worker)
            reason = f"{exc.strerror}"
            self._reactor.call_soon(lambda: self.feed(core.ForkFailed(reason, kind)))
        finally:
            for fd in ends:
                os.close(fd)

    def _on_report(self, report: Forked | Exited) -> None:
        worker = self._workers.get(report.worker_id)
        if worker is None:
            return
        if isinstance(report, Exited):
            self._gone(worker, _exit_reason(report.status))
        elif report.error:
            self._drop(worker)
            self.feed(core.ForkFailed(report.error, worker.kind))
        else:
            worker.pid = report.pid
            for pipe in worker.pipes:
                pipe.pid = report.pid

    def connected(self, worker_id: str, connection: Connection, pid: int, address: str) -> Worker | None:
        """A worker has introduced itself; None when it is not one of ours."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.connection, worker.pid, worker.address = connection, pid, address  # Forked may come later
            self.feed(core.WorkerUp(worker_id, worker.kind))
        return worker

    def _gone(self, worker: Worker, reason: str) -> None:
        worker.pid = 0  # it is reaped: the number may be somebody else's by now
        if worker.connection is not None:
            worker.connection.drain()  # its last words go before the news of its end
        self._drop(worker)
        if worker.lease_id is not None and not self._closed:
            lease_id, worker.lease_id = worker.lease_id, None
            self._tenant.lost(lease_id, worker.why_killed or reason)
            self.feed(core.WorkerDown(worker.worker_id))
        elif worker.connection is None:
            self.feed(core.ForkFailed(reason, worker.kind))
        else:
            self.feed(core.WorkerDown(worker.worker_id))

    def _drop(self, worker: Worker) -> None:
        self._workers.pop(worker.worker_id, None)
        for pipe in worker.pipes:
            pipe.drain()

    def kill(self, worker: Worker, reason: str) -> None:
        """End a worker at once; whoever has a lease on it hears `reason`."""
        worker.why_killed = worker.why_killed or reason
        worker.given_up = True
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _kill(self, worker_id: str, reason: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.lease_id = None
            self.kill(worker, reason)

    def free(self, lease_id: int, *, reusable: bool, gently: bool = False) -> None:
        """A lease is over. A worker that is not `reusable` is killed; `gently`: asked to go."""
        for worker in self._workers.values():
            if worker.lease_id == lease_id:
                worker.lease_id = None
                break
        self.feed(core.Free(lease_id, reusable, gently))

    def _on_zygote_death(self) -> None:
        """Its workers died with it: start anew."""
        if self._closed:
            return
        assert self._zygote is not None
        self._zygote.close(0)
        if self._reactor.time() - self._zygote_since > _SHORT_LIFE_S:
            self._open_zygote()
        else:  # one that cannot live would have us start Pythons without end; until then forks fail, and are retried
            self._reactor.call_later(_SHORT_LIFE_S, self._reopen_zygote)
        for worker in list(self._workers.values()):
            self._gone(worker, "the zygote died, and its workers with it")

    def _reopen_zygote(self) -> None:
        if not self._closed:
            self._open_zygote()

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the zygote and all workers."""
        return [self.zygote_pid, *(worker.pid for worker in self._workers.values() if worker.pid)]

    def hang_up(self) -> None:
        """Have all workers and the zygote end; `close` waits until they have."""
        self._closed = True
        if self._zygote is not None:
            self._zygote.hang_up()

    def close(self, timeout_s: float) -> None:
        """End all workers and the zygote; they are gone when this returns. Blocks for some milliseconds."""
        self._closed = True
        if self._zygote is not None:
            self._zygote.close(timeout_s)
        for worker in list(self._workers.values()):
            self._drop(worker)


def _exit_reason(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (killed from outside, or by the kernel for lack of memory)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process exited with status {status}"
