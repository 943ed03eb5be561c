"""Clusters as a driver starts and ends them: embedded in its event loop, or with a head process beside it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import json
import os
import pathlib
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from aioray import current
from aioray.exceptions import InvalidOptionError, RaySystemError
from aioray.runtime import child_python
from aioray.runtime.reactor import Reactor
from aioray.runtime.runtime import Runtime
from aioray.wire.control import Reserve
from aioray.wire.values import driver_process_id

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from aioray.config import Config
    from aioray.start_options import ClusterOptions
    from aioray.wire.control import LogLines

_START_TIMEOUT_S = 30.0
_SHUTDOWN_TIMEOUT_S = 5.0
_NODES = pathlib.Path(__file__).resolve().parent.parent / "nodes"  # in a checkout; elsewhere it is installed beside us


def _print_lines(config: Config) -> Any:
    """What worker processes printed, printed here."""

    def on_log(lines: LogLines) -> None:
        stream = sys.stdout if lines.stream == 1 else sys.stderr
        label = f"{lines.label} pid={lines.pid}" if lines.label else f"pid={lines.pid}"
        prefix = f"({label}) " if config.log_prefix else ""
        with contextlib.suppress(OSError, ValueError):  # the program has closed its stdout
            stream.write("".join(f"{prefix}{line}\n" for line in lines.lines))
            stream.flush()

    return on_log


class Cluster:
    """A cluster in this event loop: `async with aioray.connect() as cluster`, or `cluster = await aioray.connect()`.

    The head node runs in the loop; its workers are processes. Leaving ends everything: calls under way fail with
    RaySystemError's kin, processes are gone, shared memory is unlinked.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._runtime: Runtime | None = None
        self._node: Any = None
        self._undo: contextlib.ExitStack | None = None
        self._ended: asyncio.Event | None = None
        self._chosen: tuple[Runtime, Any] | None = None

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
        from aioray_node.pool.zygote_process import ZygoteProcess

        options = self._options
        zygote = ZygoteProcess.spawn(options.config)  # its imports run beside ours
        undo.callback(zygote.close, options.config.shutdown_grace_s)

        import cloudpickle  # noqa: F401 # the first function will need it; the zygote takes longer than this

        from aioray_node.node import Node, NodeOptions

        loop = asyncio.get_running_loop()
        node_options = NodeOptions(
            config=options.config,
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            memory=options.memory,
            resources=options.resources,
            labels=options.labels,
            object_store_memory=options.object_store_memory,
            temp_dir=options.temp_dir,
        )
        reactors = []
        for name in ("aioray-node", "aioray"):
            reactor = Reactor(name)
            undo.callback(reactor.close)
            reactor.attach(loop)
            reactors.append(reactor)
        node_reactor, reactor = reactors
        session = Node.session_for(node_options)
        undo.callback(session.close)
        node = Node(node_options, node_reactor, session)
        undo.callback(node.close)
        self._node = node
        node.open(zygote)
        process_id = driver_process_id(node.node_id)

        def exchange(message: Any) -> Any:
            if isinstance(message, Reserve):
                node_reactor.look()  # what we have just given back may be what is asked for
            with node_reactor.lock:
                return node.exchange(process_id, message)

        runtime = Runtime(
            reactor,
            options.config,
            node.address,
            process_id=process_id,
            namespace=options.namespace,
            exchange=exchange,
            on_log=_print_lines(options.config),
            log_to_driver=options.log_to_driver,
        )
        undo.callback(runtime.close)
        welcomed = asyncio.Event()
        runtime.link.welcomed.then = lambda _: welcomed.set()
        runtime.open()
        await welcomed.wait()
        runtime.welcome(_admitted(runtime))
        if options.runtime_env:
            with concurrent.futures.ThreadPoolExecutor(1) as copying:  # the loop's own would stay when we are gone
                await loop.run_in_executor(copying, runtime.adopt_environment, options.runtime_env)
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
        node, self._node = self._node, None
        try:
            if runtime is not None:
                current.remove(runtime)
                runtime.stop()
            if node is not None:
                # Awaited, so that the loop goes on meanwhile. What is cut short here, `close` does, blocking.
                await _until_gone(node.hang_up(), _SHUTDOWN_TIMEOUT_S)
                node.close()
            if runtime is not None:
                runtime.reactor.poll_once(0)  # the last that workers printed
        finally:
            undo.close()
            self._ended.set()

    def _end(self) -> None:
        """The same as `shutdown`, when the loop does not run any more."""
        undo, self._undo = self._undo, None
        self._runtime = self._node = None
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
        """Where it is: node_id, session_dir, address."""
        runtime = self.runtime
        return {"node_id": runtime.node_id, "session_dir": runtime.session_dir, "address": self._node.address}

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


async def _until_gone(pid: int, timeout_s: float) -> None:
    """Until a child process has ended, or time is up. Does not reap it."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        loop.add_reader(fd, gone.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _admitted(runtime: Runtime) -> Any:
    reply = runtime.link.welcomed
    if not reply.done:
        raise RaySystemError(f"the node did not answer within {_START_TIMEOUT_S:g} s")
    if reply.error:
        raise RaySystemError(reply.error)
    return reply.value


class HeadProcess:
    """A head node beside a program that has no event loop. It ends when this process does, however that happens."""

    def __init__(self, options: ClusterOptions) -> None:
        nodes = str(_NODES) if _NODES.is_dir() else ""
        told = msgspec.to_builtins(options)
        del told["namespace"], told["log_to_driver"], told["runtime_env"]
        self._process = subprocess.Popen(
            child_python.command("aioray_node.__main__", json.dumps(told), also_from=nodes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the driver
        )

    def wait_ready(self) -> dict[str, str]:
        """Where it listens. Raises RaySystemError with what it said instead."""
        stdout = self._process.stdout
        assert stdout is not None
        import cloudpickle  # noqa: F401 # the first function will need it; the head takes longer than this

        line = b""
        deadline = time.monotonic() + _START_TIMEOUT_S
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise RaySystemError(f"the head node did not start within {_START_TIMEOUT_S:g} s")
            data = os.read(stdout.fileno(), 65536)
            if not data:
                break
            line += data
        facts: dict[str, Any] = json.loads(line) if line else {"error": "the head node ended while it started"}
        if "error" in facts:
            self.close()
            if "bad_option" in facts:
                raise InvalidOptionError(*facts["bad_option"])
            raise RaySystemError(facts["error"])
        return facts

    def hang_up(self) -> None:
        """Have it end. Safe to call twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def disown(self) -> None:
        """In a forked child, whose copy of the pipe would keep the head alive after its driver."""
        self.hang_up()

    def close(self) -> None:
        """Have it end, and wait until it and its workers are gone."""
        assert self._process.stdout is not None
        self.hang_up()
        try:
            self._process.wait(_SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid


class SyncCluster:
    """A cluster of a program without an event loop: what `aioray.init` starts."""

    def __init__(self, options: ClusterOptions) -> None:
        self._head = HeadProcess(options)
        self._lock = threading.Lock()
        self._closed = False
        try:
            self.facts = self._head.wait_ready()
            self.runtime = self._join(options, self.facts["address"], self.facts["node_id"])
        except BaseException:
            self._head.close()
            raise
        current.add(self.runtime)

    @staticmethod
    def _join(options: ClusterOptions, address: str, node_id: str) -> Runtime:
        with contextlib.ExitStack() as undo:
            reactor = Reactor("aioray", spin_us=options.config.spin_us)
            undo.callback(reactor.close)
            runtime = Runtime(
                reactor,
                options.config,
                address,
                process_id=driver_process_id(node_id),
                namespace=options.namespace,
                on_log=_print_lines(options.config),
                log_to_driver=options.log_to_driver,
            )
            undo.callback(runtime.close)
            runtime.open()
            reactor.run_until(lambda: runtime.link.welcomed.done, _START_TIMEOUT_S)
            runtime.welcome(_admitted(runtime))
            runtime.adopt_environment(options.runtime_env)
            reactor.start_helper()
            undo.pop_all()
        return runtime

    @property
    def closed(self) -> bool:
        return self._closed

    def disown(self) -> None:
        """In a forked child: the cluster is the parent's."""
        self._closed = True
        self._head.disown()

    def shutdown(self) -> None:
        """End it; all processes are gone when this returns. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        current.remove(self.runtime)
        self.runtime.stop()
        self._head.hang_up()
        # The head says goodbye last, when its workers are gone and all that they printed is passed on.
        self.runtime.reactor.run_until(lambda: self.runtime.link.lost, _SHUTDOWN_TIMEOUT_S)
        self.runtime.close()
        self.runtime.reactor.close()
        self._head.close()
