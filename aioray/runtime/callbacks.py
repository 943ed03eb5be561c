"""Where callbacks of concurrent.futures.Futures run: in a thread of their own, as with an executor.

They are the user's, and may wait: for a lock, say, that is held by somebody who waits for the cluster. So no thread
that does I/O, or that waits for it, may run them.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LAST_CALLBACK_S = 1.0  # how long the end of a cluster waits for one that runs


class CallbackThread:
    """Calls what it is given, in that order. The thread starts with the first call."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, fn: Callable[[], object]) -> None:
        """Call `fn`, which does not raise, soon. From any thread, under any lock."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="aioray-callbacks", daemon=True)
                self._thread.start()
        self._calls.put(fn)

    def _run(self) -> None:
        while (fn := self._calls.get()) is not None:
            fn()
            del fn  # it holds a ref, which should not live until the next call

    def close(self) -> None:
        """Make the calls that are left, and end the thread; one that is stuck in a callback is left behind."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._calls.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LAST_CALLBACK_S)
