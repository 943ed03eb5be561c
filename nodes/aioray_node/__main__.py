"""A node as a process of its own: the head of a driver without an event loop, or a node of a larger cluster.

Its argument is JSON (see `node.NodeOptions`). Its standard input is a pipe whose other end its parent
holds: when that closes, however the parent ended, the node ends. A daemon has no such pipe, and ends by SIGTERM; what
it prints goes to a file in its session. One JSON line on standard output says where it listens, or what went wrong.

The zygote is forked off this process: one start of Python, and one import of what both need, serve both. Then each
imports the rest, beside the other.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import pathlib
    from collections.abc import Callable

    from aioray_node.node import Node
    from aioray_node.node_options import NodeOptions
    from aioray_node.session import Session

_LOG_FILE = "node.log"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, whose end we hear of
    told = json.loads(sys.argv[1])
    gc.disable()  # imports make no garbage, and looking for it takes a twentieth of their time
    _import_what_both_need()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_zygote(theirs, json.dumps(told["config"]), is_quiet=told.get("daemon", False))
    theirs.close()

    import asyncio

    import msgspec
    import uvloop

    from aioray.runtime.reactor import Reactor
    from aioray_node.node import Node
    from aioray_node.node_options import NodeOptions
    from aioray_node.pool.zygote_process import ZygoteProcess

    gc.freeze()
    gc.enable()
    zygote = ZygoteProcess(ours, pid)
    try:
        options = msgspec.convert(told, NodeOptions)
        session = _session_for(options)
    except Exception as exc:  # whatever it is, the driver must hear it
        zygote.close(1.0)
        _answer_error(exc)
        sys.exit(1)

    async def serve() -> str:
        reactor = Reactor("aioray-node")
        node = Node(options, reactor, session)
        reactor.attach(asyncio.get_running_loop())
        try:
            try:
                node.open(zygote)
            except OSError as exc:  # no such address here, for example
                _answer_error(exc)
                return ""
            return await _live(node, options)
        finally:
            node.close()
            reactor.close()

    if reason := uvloop.run(serve()):
        print(f"aioray: node {session.session_id} ends: {reason}", file=sys.stderr, flush=True)
        sys.exit(1)


def _import_what_both_need() -> None:
    """What the node and the zygote, that is the workers, would import each for itself. Nothing that starts a thread."""
    import aioray_node.in_flight
    import aioray_node.pool.logs  # noqa: F401


def _session_for(options: NodeOptions) -> Session:
    """Its session, with what the node needs in it to be in a cluster."""
    from aioray.runtime.dialing import tls_of
    from aioray_node.node import Node

    if options.host:
        tls_of(os.environ)  # which raises what the node would
    session = Node.session_for(options)
    if options.head is not None or options.join is not None:
        from aioray_node.gcs.in_cluster import prepare

        try:
            prepare(session, options)
        except BaseException:
            session.close()
            raise
    return session


async def _live(node: Node, options: NodeOptions) -> str:
    """Until it is told to end, or cannot go on: why not, in that case."""
    import asyncio

    loop = asyncio.get_running_loop()
    end: asyncio.Future[str] = loop.create_future()

    def finish(reason: str) -> None:
        if not end.done():
            end.set_result(reason)

    loop.add_signal_handler(signal.SIGTERM, finish, "")
    if not options.daemon:
        loop.add_reader(0, lambda: None if os.read(0, 4096) else finish(""))
    if options.head is None and options.join is None:
        _answer({"address": node.address, "node_id": node.node_id, "session_dir": str(node.session.dir)})
        return await end
    return await _live_in_cluster(node, options, end, finish)


async def _live_in_cluster(
    node: Node, options: NodeOptions, end: asyncio.Future[str], finish: Callable[[str], None]
) -> str:
    import asyncio
    import contextlib

    from aioray_node.gcs.in_cluster import in_cluster

    async with contextlib.AsyncExitStack() as stack:
        joining = asyncio.ensure_future(stack.enter_async_context(in_cluster(node, options, finish)))
        await asyncio.wait((joining, end), return_when=asyncio.FIRST_COMPLETED)
        if not joining.done():  # nobody waits for it any more
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            return ""
        if (error := joining.exception()) is not None:
            _answer_error(error)
            return ""
        _answer(joining.result())
        if options.daemon:
            _log_to(node.session.dir)
        return await end


def _be_zygote(sock: socket.socket, config_json: str, *, is_quiet: bool) -> None:
    """The rest of the zygote's life; never returns. Quiet: who started the node may wait for the end of stderr."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2) if is_quiet else (0, 1):
        os.dup2(null, fd)
    os.close(null)
    from aioray_node.pool.zygote import serve_zygote
    from aioray_node.pool.zygote_process import single_threaded_libraries

    os.environ.update(single_threaded_libraries(dict(os.environ)))
    serve_zygote(sock, config_json)
    os._exit(0)


def _log_to(session_dir: pathlib.Path) -> None:
    """From here on, what this process prints goes to a file: who started it is about to end."""
    fd = os.open(session_dir / _LOG_FILE, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _answer(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def _answer_error(error: BaseException) -> None:
    from aioray.exceptions import InvalidOptionError, RaySystemError

    bad_option = {"bad_option": error.args} if isinstance(error, InvalidOptionError) else {}
    name = type(error).__name__
    text = str(error) if isinstance(error, RaySystemError) or name == "AuthenticationError" else f"{name}: {error}"
    _answer({"error": text, "kind": name, **bad_option})


if __name__ == "__main__":
    main()
