"""A head node as a process of its own, for a driver without an event loop.

Its argument is JSON (see `node.NodeOptions`). Its standard input is a pipe whose other end the driver holds: when that
closes, however the driver ended, the node ends. One JSON line on standard output says where it listens, or what went
wrong.

The zygote is forked off this process at once: one start of Python serves both. Then each imports what it needs, beside
the other.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, whose end we hear of
    told = json.loads(sys.argv[1])
    gc.disable()  # imports make no garbage, and looking for it takes a twentieth of their time
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_zygote(theirs, json.dumps(told["config"]))
    theirs.close()

    import asyncio

    import msgspec
    import uvloop

    from aioray.exceptions import InvalidOptionError
    from aioray.runtime.reactor import Reactor
    from aioray_node.node import Node, NodeOptions
    from aioray_node.pool.zygote_process import ZygoteProcess

    gc.freeze()
    gc.enable()
    zygote = ZygoteProcess(ours, pid)
    try:
        options = msgspec.convert(told, NodeOptions)
        session = Node.session_for(options)
    except Exception as exc:  # whatever it is, the driver must hear it
        zygote.close(1.0)
        bad_option = {"bad_option": exc.args} if isinstance(exc, InvalidOptionError) else {}
        _answer({"error": f"{type(exc).__name__}: {exc}", **bad_option})
        sys.exit(1)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        reactor = Reactor("aioray-node")
        node = Node(options, reactor, session)
        reactor.attach(loop)
        try:
            node.open(zygote)
            done = asyncio.Event()
            loop.add_reader(0, _until_closed, done)
            _answer({"address": node.address, "node_id": node.node_id, "session_dir": str(session.dir)})
            await done.wait()
        finally:
            node.close()
            reactor.close()

    uvloop.run(serve())


def _be_zygote(sock: socket.socket, config_json: str) -> None:
    """The rest of the zygote's life; never returns."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    from aioray_node.pool.zygote import serve_zygote
    from aioray_node.pool.zygote_process import single_threaded_libraries

    os.environ.update(single_threaded_libraries(dict(os.environ)))
    serve_zygote(sock, config_json)
    os._exit(0)


def _until_closed(done: object) -> None:
    import asyncio

    assert isinstance(done, asyncio.Event)
    if not os.read(0, 4096):
        done.set()


def _answer(facts: dict[str, object]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
