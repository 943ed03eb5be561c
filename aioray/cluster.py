"""Clusters as a driver starts and ends them: embedded in its event loop, or with a head process beside it."""

from __future__ import annotations

import asyncio
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

import aioray.config
from aioray import current
from aioray.config import Config  # msgspec looks it up
from aioray.exceptions import InvalidOptionError, RaySystemError
from aioray.runtime.reactor import Reactor
from aioray.runtime.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from aioray.wire.control import LogLines

_START_TIMEOUT_S = 30.0
_NODES = pathlib.Path(__file__).resolve().parent.parent / "nodes"  # in a checkout; elsewhere it is installed beside us


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` and `connect` were told, checked."""

    config: Config
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: dict[str, float] = {}
    object_store_memory: int | None = None
    temp_dir: str | None = None
    namespace: str = ""
    log_to_driver: bool = True


def check_options(
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    object_store_memory: int | None,
    temp_dir: str | None,
    namespace: str | None,
    log_to_driver: bool,
    system_config: Mapping[str, Any] | None,
) -> ClusterOptions:
    """Raises InvalidOptionError that names the option, its value, and what is allowed."""
    for name, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if amount is not None and (isinstance(amount, bool) or not isinstance(amount, (int, float)) or not amount >= 0):
            raise InvalidOptionError(name, amount, "a number, 0 or more")
    for name, amount in (resources or {}).items():
        if name in ("CPU", "GPU", "memory"):
            raise InvalidOptionError("resources", resources, f"names other than {name}: that has an option of its own")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not amount >= 0:
            raise InvalidOptionError("resources", resources, "a dict from names to numbers, 0 or more")
    if object_store_memory is not None and (not isinstance(object_store_memory, int) or object_store_memory < 1 << 20):
        raise InvalidOptionError("object_store_memory", object_store_memory, "a whole number of bytes, 1 MiB or more")
    if object_store_memory is not None:
        free = os.statvfs("/dev/shm")
        room = free.f_bavail * free.f_frsize
        if object_store_memory > room:
            raise InvalidOptionError(
                "object_store_memory", object_store_memory, f"at most {room}, what /dev/shm has free"
            )
    return ClusterOptions(
        config=aioray.config.load(system_config, os.environ),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources={name: float(amount) for name, amount in (resources or {}).items()},
        object_store_memory=object_store_memory,
        temp_dir=temp_dir,
        namespace=namespace or "",
        log_to_driver=log_to_driver,
    )


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
        self._undo: contextlib.AsyncExitStack | None = None
        self._token: Any = None

    async def start(self) -> Self:
        """Start the node and wait until it answers. Raises what made it fail, with nothing left behind."""
        from aioray_node.node import Node, NodeOptions

        options = self._options
        if self._undo is not None:
            raise RaySystemError("this cluster was started already")
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as undo:
            node_options = NodeOptions(
                config=options.config,
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                memory=options.memory,
                resources=options.resources,
                object_store_memory=options.object_store_memory,
                temp_dir=options.temp_dir,
            )
            node_reactor, reactor = Reactor("aioray-node"), Reactor("aioray")
            for each in (node_reactor, reactor):
                each.attach(loop)
                undo.callback(each.close)
            node = Node(node_options, node_reactor, Node.session_for(node_options))
            undo.callback(node.close)
            node.open()
            process_id = os.urandom(8)

            def exchange(message: Any) -> Any:
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
            runtime.shutdown = self.shutdown
            current.add(runtime)
            undo.callback(current.remove, runtime)
            self._runtime, self._node = runtime, node
            self._undo = undo.pop_all()
        return self

    async def shutdown(self) -> None:
        """End the cluster. Safe to call twice."""
        undo, self._undo = self._undo, None
        if undo is not None:
            await undo.aclose()

    @property
    def runtime(self) -> Runtime:
        """Raises RaySystemError before `start` and after `shutdown`."""
        if self._runtime is None or self._undo is None:
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
        token = current.choose(self.runtime)
        try:
            yield self
        finally:
            current.unchoose(token)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        if self._undo is None:
            await self.start()
        self._token = current.choose(self.runtime)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        current.unchoose(self._token)
        await self.shutdown()


def _admitted(runtime: Runtime) -> Any:
    reply = runtime.link.welcomed
    if reply.error:
        raise RaySystemError(reply.error)
    return reply.value


class HeadProcess:
    """A head node beside a program that has no event loop. It ends when this process does, however that happens."""

    def __init__(self, options: ClusterOptions) -> None:
        environment = dict(os.environ)
        paths = [*sys.path, str(_NODES)] if _NODES.is_dir() else sys.path
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        told = msgspec.to_builtins(options)
        del told["namespace"], told["log_to_driver"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aioray_node", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the driver
        )

    def wait_ready(self) -> dict[str, str]:
        """Where it listens. Raises RaySystemError with what it said instead."""
        stdout = self._process.stdout
        assert stdout is not None
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
        facts: dict[str, str] = json.loads(line) if line else {"error": "the head node ended while it started"}
        if "error" in facts:
            self.close()
            raise RaySystemError(facts["error"])
        return facts

    def close(self) -> None:
        """Have it end, and wait until it and its workers are gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
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
            self.runtime = self._join(options, self.facts["address"])
        except BaseException:
            self._head.close()
            raise
        current.add(self.runtime)

    @staticmethod
    def _join(options: ClusterOptions, address: str) -> Runtime:
        reactor = Reactor("aioray")
        try:
            runtime = Runtime(
                reactor,
                options.config,
                address,
                process_id=os.urandom(8),
                namespace=options.namespace,
                on_log=_print_lines(options.config),
                log_to_driver=options.log_to_driver,
            )
            runtime.open()
            reactor.run_until(lambda: runtime.link.welcomed.done, _START_TIMEOUT_S)
            runtime.welcome(_admitted(runtime))
            reactor.start_helper()
        except BaseException:
            reactor.close()
            raise
        return runtime

    def shutdown(self) -> None:
        """End it; all processes are gone when this returns. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        current.remove(self.runtime)
        self.runtime.drain_log()
        self.runtime.close()
        self.runtime.reactor.close()
        self._head.close()
