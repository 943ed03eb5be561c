"""Sync methods of actors that live on an event loop run in threads of a pool."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable


async def in_thread(threads: concurrent.futures.Executor, fn: Callable[[], Any]) -> Any:
    """Run `fn` in a thread. Once begun it cannot be interrupted, and what it returns counts."""
    begun = threads.submit(contextvars.copy_context().run, fn)
    future = asyncio.wrap_future(begun)
    while True:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if begun.cancelled() or begun.cancel():
                raise
