"""Clusters as a driver starts and ends them: embedded in its event loop, or with a head process beside it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from aioray import current
from aioray.embedded_node import EmbeddedNode
from aioray.exceptions import RaySystemError
from aioray.runtime.dialing import Dialer
from aioray.runtime.link import node_id_at
from aioray.runtime.reactor import Reactor
from aioray.runtime.runtime import Runtime
from aioray.wire.values import driver_process_id

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from aioray.config import Config
    from aioray.inline_node import InlineNode
    from aioray.node_process import NodeProcess
    from aioray.start_options import ClusterOptions
    from aioray.wire.control import LogLines

_START_TIMEOUT_S = 30.0
_SHUTDOWN_TIMEOUT_S = 5.0


def _print_lines(options: ClusterOptions) -> Any:
    """What worker processes printed, printed here."""
    in_json = options.logging_config is not None and options.logging_config.encoding == "JSON"
    has_prefix = options.config.log_prefix and not in_json

    def on_log(lines: LogLines) -> None:
        stream = sys.stdout if lines.stream == 1 else sys.stderr
        label = f"{lines.label} pid={lines.pid}" if lines.label else f"pid={lines.pid}"
        prefix = f"({label}) " if has_prefix else ""
        with contextlib.suppress(OSError, ValueError):  # the program has closed its stdout
            stream.write("".join(f"{prefix}{line}\n" for line in lines.lines))
            stream.flush()

    return on_log


def _configure_root_logger(runtime: Runtime, options: ClusterOptions) -> Callable[[], None]:
    """What the job asked for, if it did. Returns what undoes it."""
    if options.logging_config is None:
        return lambda: None
    from aioray.runtime import log_records

    return log_records.install(runtime, options.logging_config)


class Cluster:
    """A cluster in this event loop: `async with aioray.connect() as cluster`, or `cluster = await aioray.connect()`.

    The head node runs in the loop; its workers are processes. Leaving ends everything: calls under way fail with
    RaySystemError's kin, processes are gone, shared memory is unlinked. With an address, of a node on this machine, the
    cluster runs elsewhere, and leaving ends no more than what this program has in it. `host`: the same for a node that
    runs in this loop already.
    """

    def __init__(self, options: ClusterOptions, address: str = "", *, host: EmbeddedNode | None = None) -> None:
        self._options = options
        self._address = address
        self._host = host
        self._runtime: Runtime | None = None
        self._embedded: EmbeddedNode | None = None
        self._node: Any = None  # the embedded one itself
        self._undo: contextlib.ExitStack | None = None
        self._ended: asyncio.Event | None = None
        self._chosen: tuple[Runtime, Any] | None = None
        self._facts: dict[str, Any] = {}  # of a head that others may join

    async def start(self) -> Self:
        """Start the node and wait until it answers. Raises what made it fail, with nothing left behind."""
        if self._undo is not None:
            raise RaySystemError("this cluster was started already")
        current.end_orphans()
        undo = self._undo = contextlib.ExitStack()
        self._ended = asyncio.Event()
        try:
            runtime = await self._open(undo)
        except BaseException:
            await self.shutdown()
            raise
        runtime.shutdown, runtime.end = self.shutdown, self._end
        self._runtime = runtime
        current.add(runtime)
        undo.callback(current.remove, runtime)
        # For programs that forget the end. A method of ours, and so equal to no other cluster's.
        atexit.register(self._end)
        undo.callback(atexit.unregister, self._end)
        return self

    async def _open(self, undo: contextlib.ExitStack) -> Runtime:
        options = self._options
        loop = asyncio.get_running_loop()
        exchange: Callable[[Any], Any] | None = None
        dialer: Dialer | None = None
        if self._host is not None:
            process_id = driver_process_id(self._host.node_id)
            address, exchange = self._host.address, self._host.exchange_for(process_id)
        elif self._address:
            address = self._address
            dialer = _dialer_for(address, options.config)
            process_id = driver_process_id(node_id_at(dialer, address))
        else:
            embedded = self._embedded = EmbeddedNode(options, loop)
            undo.callback(embedded.close_now)
            self._node = embedded.node
            process_id = driver_process_id(embedded.node_id)
            address, exchange = embedded.address, embedded.exchange_for(process_id)
            self._facts = await embedded.open_to_others()
        reactor = Reactor("aioray", spin_us=options.config.spin_us)
        undo.callback(reactor.close)
        reactor.attach(loop)
        runtime = Runtime(
            reactor,
            options.config,
            address,
            dialer=dialer or _dialer_for(address, options.config),
            process_id=process_id,
            namespace=options.namespace,
            exchange=exchange,
            on_log=_print_lines(options),
            log_to_driver=options.log_to_driver,
        )
        undo.callback(runtime.close)
        welcomed = asyncio.Event()
        runtime.link.welcomed.then = lambda _: welcomed.set()
        runtime.open()
        await welcomed.wait()
        runtime.welcome(_admitted(runtime))
        if options.runtime_env or options.logging_config:
            with concurrent.futures.ThreadPoolExecutor(1) as copying:  # the loop's own would stay when we are gone
                adopt = runtime.adopt_environment
                await loop.run_in_executor(copying, adopt, options.runtime_env, options.logging_config)
        undo.callback(_configure_root_logger(runtime, options))
        return runtime

    async def shutdown(self) -> None:
        """End the cluster; when this returns, its processes, sockets and shared memory are gone. Safe to call twice."""
        undo, self._undo = self._undo, None
        if undo is None:
            if self._ended is not None:
                await self._ended.wait()
            return
        assert self._ended is not None
        runtime, self._runtime = self._runtime, None
        embedded, self._embedded, self._node = self._embedded, None, None
        try:
            if runtime is not None:
                current.remove(runtime)
                runtime.stop()
            if embedded is not None:
                await embedded.close(None if runtime is None else lambda: runtime.reactor.poll_once(0))
            while runtime is not None and embedded is not None and not runtime.link.lost:
                runtime.reactor.poll_once(0)  # the last that workers printed, until the node has hung up
        finally:
            undo.close()
            self._ended.set()

    def _end(self) -> None:
        """The same as `shutdown`, when the loop does not run any more."""
        undo, self._undo = self._undo, None
        self._runtime = self._embedded = self._node = None
        if undo is not None:
            undo.close()

    def __repr__(self) -> str:
        if self._runtime is None:
            return f"<aioray.Cluster, {'not started' if self._ended is None else 'ended'}>"
        return f"<aioray.Cluster, node {self._runtime.node_id} at {self._runtime.session_dir}>"

    @property
    def runtime(self) -> Runtime:
        """Raises RaySystemError before `start` and after `shutdown`."""
        if self._runtime is None:
            raise RaySystemError("this cluster is not running")
        return self._runtime

    @property
    def address_info(self) -> dict[str, Any]:
        """Where it is: node_id, session_dir, address; gcs_address and token_path where others may join it."""
        runtime = self.runtime
        own = {"node_id": runtime.node_id, "session_dir": runtime.session_dir, "address": runtime.node_address}
        return {**self._facts, **own}

    @contextlib.contextmanager
    def use(self) -> Iterator[Self]:
        """Make calls in this block (and the asyncio tasks that it starts) go to this cluster."""
        runtime = self.runtime
        token = current.choose(runtime)
        try:
            yield self
        finally:
            current.unchoose(runtime, token)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        if self._runtime is None:
            await self.start()
        self._chosen = (self.runtime, current.choose(self.runtime))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._chosen is not None:
            current.unchoose(*self._chosen)
            self._chosen = None
        await self.shutdown()


def _token_of_environment() -> str:
    from aioray_node.gcs.access import find_token

    return find_token(os.environ)


def _dialer_for(address: str, config: Config) -> Dialer:
    """For a driver whose node listens there: on this machine, or else the environment has the token."""
    if not address.startswith("/"):
        return Dialer(_token_of_environment, config.heartbeat_timeout_ms / 1000)
    return Dialer.of_session(os.path.dirname(address), config.heartbeat_timeout_ms / 1000)


def _admitted(runtime: Runtime) -> Any:
    reply = runtime.link.welcomed
    if not reply.done:
        raise RaySystemError(f"the node did not answer within {_START_TIMEOUT_S:g} s")
    if reply.error:
        raise RaySystemError(reply.error)
    return reply.value


def _head(options: ClusterOptions) -> NodeProcess | InlineNode:
    if options.inline:
        from aioray.inline_node import InlineNode

        return InlineNode(options)
    from aioray.node_process import NodeProcess  # late: what it imports is for `init` only

    ip = options.node_ip_address
    return NodeProcess(options, {"head": {"host": ip, "port": 0}, "ip_address": ip} if ip else None)


class SyncCluster:
    """A cluster of a program without an event loop: what `aioray.init` starts, or, with an address, joins."""

    def __init__(self, options: ClusterOptions, address: str = "") -> None:
        self._head = None if address else _head(options)
        self._lock = threading.Lock()
        self._closed = False
        try:
            self.facts: dict[str, Any] = {"address": address} if self._head is None else self._head.wait_ready()
            self.runtime = self._join(options, self.facts["address"])
        except BaseException:
            if self._head is not None:
                self._head.close()
            raise
        self.facts |= {"node_id": self.runtime.node_id, "session_dir": self.runtime.session_dir}
        self._restore_logging = _configure_root_logger(self.runtime, options)
        current.add(self.runtime)

    @staticmethod
    def _join(options: ClusterOptions, address: str) -> Runtime:
        with contextlib.ExitStack() as undo:
            dialer = _dialer_for(address, options.config)
            reactor = Reactor("aioray", spin_us=options.config.spin_us)
            undo.callback(reactor.close)
            runtime = Runtime(
                reactor,
                options.config,
                address,
                dialer=dialer,
                process_id=driver_process_id(node_id_at(dialer, address)),
                namespace=options.namespace,
                on_log=_print_lines(options),
                log_to_driver=options.log_to_driver,
            )
            undo.callback(runtime.close)
            runtime.open()
            reactor.run_until(lambda: runtime.link.welcomed.done, _START_TIMEOUT_S)
            runtime.welcome(_admitted(runtime))
            runtime.adopt_environment(options.runtime_env, options.logging_config)
            reactor.start_helper()
            undo.pop_all()
        return runtime

    @property
    def closed(self) -> bool:
        return self._closed

    def disown(self) -> None:
        """In a forked child: the cluster is the parent's."""
        self._closed = True
        if self._head is not None:
            self._head.disown()

    def shutdown(self) -> None:
        """End it, or leave it; all processes of ours are gone when this returns. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.ExitStack() as undo:  # whatever interrupts one of them, the others follow
            undo.callback(self._restore_logging)
            if self._head is not None:
                undo.callback(self._head.close)
            undo.callback(self.runtime.reactor.close)
            undo.callback(self.runtime.close)
            current.remove(self.runtime)
            self.runtime.stop()
            if self._head is not None:
                self._head.hang_up()
                # The head says goodbye last, when its workers are gone and all that they printed is passed on.
                self.runtime.reactor.run_until(lambda: self.runtime.link.lost, _SHUTDOWN_TIMEOUT_S)
