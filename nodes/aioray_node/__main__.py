"""`python -m aioray_node OPTIONS`: a head node as a process of its own, for a driver without an event loop.

OPTIONS is JSON (see `node.NodeOptions`). Its standard input is a pipe whose other end the driver holds: when that
closes, however the driver ended, the node ends. One JSON line on standard output says where it listens, or what went
wrong.

The zygote is forked off this process before anything else is imported that it does not need: one start of Python
serves both, and their memory is shared.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    # Imports in this order on purpose: what workers need, the fork, then what only a node needs.
    import msgspec

    from aioray_node.pool.zygote_process import single_threaded_libraries, socket_pair

    ours, theirs = socket_pair()
    requested = msgspec.json.decode(sys.argv[1])
    from aioray_node.session import Session, default_store_nbytes

    config = requested["config"]
    try:
        capacity = requested.get("object_store_memory") or default_store_nbytes(config["object_store_fraction"])
        session = Session(requested.get("temp_dir"), capacity)
    except Exception as exc:  # whatever it is, the driver must hear it
        _answer({"error": f"{type(exc).__name__}: {exc}"})
        sys.exit(1)

    import aioray_node.worker.main  # noqa: F401 # for the zygote

    pid = os.fork()
    if pid == 0:
        os.environ.update(single_threaded_libraries(dict(os.environ)))
        ours.close()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        from aioray_node.pool.zygote import serve_zygote

        preload = [name for name in config["zygote_preload"].split(",") if name]
        serve_zygote(theirs, str(session.dir), preload, msgspec.json.encode(config).decode())
        os._exit(0)
    theirs.close()

    import asyncio

    import uvloop

    from aioray.config import Config
    from aioray.runtime.reactor import Reactor
    from aioray_node.node import Node, NodeOptions
    from aioray_node.pool.zygote_process import ZygoteProcess

    options = msgspec.convert({**requested, "config": msgspec.convert(config, Config)}, NodeOptions)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        reactor = Reactor("aioray-node")
        node = Node(options, reactor, session)
        reactor.attach(loop)
        try:
            node.open(ZygoteProcess(ours, pid))
            done = asyncio.Event()
            loop.add_reader(0, _until_closed, done)
            _answer({"address": node.address, "node_id": node.node_id, "session_dir": str(session.dir)})
            await done.wait()
        finally:
            node.close()
            reactor.close()

    uvloop.run(serve())


def _until_closed(done: object) -> None:
    import asyncio

    assert isinstance(done, asyncio.Event)
    if not os.read(0, 4096):
        done.set()


def _answer(facts: dict[str, str]) -> None:
    import json

    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, whose end we hear of
    main()
