"""A worker's life, from the fork to the end."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle  # noqa: F401 # for the zygote: workers find it imported

import aioray.starting
from aioray.runtime import log_records
from aioray.runtime.connection import Connection, Listener
from aioray.runtime.dialing import TOKEN_FILE, Dialer, this_machine, tls_of
from aioray.runtime.doors import Door
from aioray.runtime.reactor import Reactor
from aioray.runtime.refusals import Refusals
from aioray.runtime_env.environment import Environment
from aioray.wire.control import ActorSpec, EndActor, Exit
from aioray.wire.framing import call_decoder
from aioray.wire.reach import host_and_port, reachable
from aioray_node.worker.executor import Executor
from aioray_node.worker.output import labelled_stream
from aioray_node.worker.runtime import Caller, WorkerRuntime

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aioray.config import Config
    from aioray.wire.control import ForkWorker


def run_worker(order: ForkWorker, config: Config) -> None:
    """Be a worker until the node is gone."""
    worker_id, session_dir = order.worker_id, order.session_dir
    random.seed()
    if "numpy.random" in sys.modules:  # numpy imports it late, and not even asking for it here saves 7 ms a worker
        sys.modules["numpy.random"].seed()  # else all workers draw the same numbers
    reactor = Reactor("aioray-worker", spin_us=config.spin_us)
    path = os.path.join(session_dir, f"w-{worker_id}.sock")
    executor: Executor

    def on_message(message: Any) -> None:
        if isinstance(message, ActorSpec):
            executor.on_actor(message)
        elif isinstance(message, EndActor):
            executor.end_actor(message)
        elif isinstance(message, Exit):
            executor.leave()

    def on_lost(_: str) -> None:
        os._exit(0)  # the node is gone, and nobody needs us

    runtime = WorkerRuntime(
        reactor,
        config,
        os.path.join(session_dir, "node.sock"),
        dialer=Dialer.of_session(session_dir, config.heartbeat_timeout_ms / 1000),
        process_id=bytes.fromhex(worker_id),
        role="worker",
        on_message=on_message,
        on_lost=on_lost,
        environment=order.environment,
        gpus=order.gpus,
    )
    executor = Executor(runtime, path)
    runtime.before_block = executor.before_block
    reactor.on_helper_leads = executor.helper_leads
    sys.stdout = labelled_stream(1, lambda: executor.label)
    sys.stderr = labelled_stream(2, lambda: executor.label)
    runtime.reactor.careful_handler = executor.main_thread.on_signal
    signal.signal(signal.SIGINT, runtime.reactor.careful_handler)
    aioray.starting.set_process_runtime(runtime)

    def accept(sock: socket.socket) -> None:
        connection = Connection(reactor, sock, call_decoder, executor.on_messages, executor.on_caller_gone)
        connection.tag = Caller()

    try:
        with reactor.lock:
            Listener(reactor, path, accept)
            address = _listen_for_others(reactor, order, path, accept) if order.host else path
        runtime.open(address)
    except OSError:
        return  # the node was closed while we started
    reactor.run_until(lambda: runtime.link.welcomed.done)
    runtime.welcome(runtime.link.welcomed.value)
    if (logging_config := Environment.of(order.environment).logging_config) is not None:
        log_records.install(runtime, logging_config)
    reactor.start_helper()
    executor.run()


def _listen_for_others(reactor: Reactor, order: ForkWorker, path: str, accept: Callable[[socket.socket], None]) -> str:
    """On TCP, too; where this worker is reached. Raises OSError."""
    token = Path(order.session_dir, TOKEN_FILE).read_text()
    refusals = Refusals(f"worker {order.worker_id}")
    door = Door(reactor, host_and_port(order.host, 0), token, accept, refusals, tls_of(os.environ))
    return reachable(path, door.address, this_machine())
