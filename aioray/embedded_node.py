"""A node in the running event loop; its workers are processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from aioray.runtime.reactor import Reactor
from aioray.wire.control import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.start_options import ClusterOptions

_SHUTDOWN_TIMEOUT_S = 5.0


class EmbeddedNode:
    """Opened when it is made, in the loop that runs; what it raises leaves nothing behind."""

    def __init__(self, options: ClusterOptions, loop: asyncio.AbstractEventLoop, *, is_head: bool = True) -> None:
        from aioray_node.pool.zygote_process import ZygoteProcess

        with contextlib.ExitStack() as undo:
            zygote = ZygoteProcess.spawn(options.config)  # its imports run beside ours
            undo.callback(zygote.close, options.config.shutdown_grace_s)

            import cloudpickle  # noqa: F401 # the first function will need it; the zygote takes longer than this

            from aioray_node.node import Node
            from aioray_node.node_options import LOOPBACK, HeadOptions, NodeOptions

            ip = options.node_ip_address
            node_options = NodeOptions(
                config=options.config,
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                memory=options.memory,
                resources=options.resources,
                labels=options.labels,
                object_store_memory=options.object_store_memory,
                temp_dir=options.temp_dir,
                is_head=is_head,
                head=HeadOptions(host=ip, port=0) if ip else None,
                ip_address=ip or LOOPBACK,
            )
            self.reactor = Reactor("aioray-node")
            undo.callback(self.reactor.close)
            self.reactor.attach(loop)
            session = Node.session_for(node_options)
            undo.callback(session.close)
            if ip:
                from aioray_node.gcs.in_cluster import prepare

                prepare(session, node_options)
            self.node = Node(node_options, self.reactor, session)
            undo.callback(self.node.close)
            self.node.open(zygote)
            self._undo = undo.pop_all()
        self._options = node_options
        self._gcs = contextlib.AsyncExitStack()

    async def open_to_others(self) -> dict[str, Any]:
        """Serve the GCS, where the options name an address at which others reach it: what they need to know. `close`
        ends that. Raises OSError.
        """
        if self._options.head is None:
            return {}
        from aioray_node.gcs.in_cluster import in_cluster

        def never(reason: str) -> None:
            """A head is never told to leave its cluster."""
            raise AssertionError(reason)

        return await self._gcs.enter_async_context(in_cluster(self.node, self._options, never))

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def node_id(self) -> str:
        return self.node.node_id

    def exchange_for(self, process_id: bytes) -> Callable[[Any], Any]:
        """How a process of this loop asks what must be answered on the spot."""

        def exchange(message: Any) -> Any:
            if isinstance(message, Reserve):
                self.reactor.look()  # what we have just given back may be what is asked for
            with self.reactor.lock:
                return self.node.exchange(process_id, message)

        return exchange

    async def close(self, meanwhile: Callable[[], None] | None = None) -> None:
        """End it; the loop goes on. `meanwhile`: see Node.close. What is cut short, `close_now` does."""
        await self._gcs.aclose()
        await _until_gone(self.node.hang_up(), _SHUTDOWN_TIMEOUT_S)
        self.node.close(meanwhile)

    def close_now(self) -> None:
        """The same, blocking. Safe to call twice, and to be called after `close`, which leaves it the rest."""
        self._undo.close()


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
