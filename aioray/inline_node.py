"""A node in a thread of this process, in an event loop of its own: what `init(inline=True)` starts."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from aioray.embedded_node import EmbeddedNode
from aioray.exceptions import AuthenticationError, InvalidOptionError, RaySystemError

if TYPE_CHECKING:
    from aioray.start_options import ClusterOptions

_START_TIMEOUT_S = 30.0


class InlineNode:
    """Started when it is made, and used as a NodeProcess is. Ctrl-C is for the main thread, so the node never has it.

    All that the node does is done in its thread, the start of processes, too: the kernel takes the end of the thread
    that started a process for the end of its parent.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        # Not the one of the program's policy, which is made for the program; and uvloop would be one more import, and
        # leaves a pipe when its last loop is closed, for a node that has nothing to do with calls.
        self._loop = asyncio.SelectorEventLoop()
        self._end = asyncio.Event()
        self._started: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        # A daemon: Python waits for all others before it calls what is to be called at its end, which ends this one.
        self._thread = threading.Thread(target=self._run, name="aioray-node", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads for this process
            self._loop.close()
            raise
        # Beside the `shutdown` of the cluster: that may have been interrupted, and then the thread is still at it.
        atexit.register(self.close)

    def _run(self) -> None:
        # PYTHONASYNCIODEBUG is meant for loops of the program.
        with asyncio.Runner(debug=False, loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        """From the start to the end. A start that fails is told, and leaves nothing."""
        with contextlib.ExitStack() as undo:
            try:
                node = EmbeddedNode(self._options, self._loop)
                undo.callback(node.close_now)
                facts = await node.open_to_others()
            except Exception as exc:  # whatever it is, who waits must hear it
                self._started.set_exception(exc)
                return
            session_dir = str(node.node.session.dir)
            own = {"address": node.address, "node_id": node.node_id, "session_dir": session_dir}
            self._started.set_result({**facts, **own})
            await self._end.wait()
            await node.close()

    def wait_ready(self) -> dict[str, Any]:
        """Where it listens. Raises InvalidOptionError, AuthenticationError, RaySystemError."""
        if not concurrent.futures.wait([self._started], _START_TIMEOUT_S).done:
            raise RaySystemError(f"the node did not start within {_START_TIMEOUT_S:g} s")
        try:
            return self._started.result()
        except (InvalidOptionError, AuthenticationError, RaySystemError):
            raise
        except Exception as exc:
            raise RaySystemError(f"{type(exc).__name__}: {exc}") from exc

    def hang_up(self) -> None:
        """Have it end. Safe to call twice."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop was closed just now
                self._loop.call_soon_threadsafe(self._end.set)

    def disown(self) -> None:
        """In a forked child there is no thread, so all other calls do nothing; what the node has open, it lets go."""

    def close(self) -> None:
        """Have it end, and wait until it and its workers are gone. Safe to call twice."""
        self.hang_up()
        self._thread.join()
        atexit.unregister(self.close)
