"""Which cluster a call is for, when a process may have several.

The innermost `async with connect()` or `with cluster.use()` around the call decides (a context variable, so that each
asyncio task has its own answer); where there is none, the only cluster of the process does.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from aioray.exceptions import RaySystemError

if TYPE_CHECKING:
    from aioray.runtime.runtime import Runtime

_chosen: contextvars.ContextVar[Runtime | None] = contextvars.ContextVar("aioray_runtime", default=None)
_open: list[Runtime] = []  # of this process: each entry is put in and taken out by the cluster that it belongs to


def choose(runtime: Runtime) -> contextvars.Token[Runtime | None]:
    """Make `runtime` the one that calls in this context are for."""
    return _chosen.set(runtime)


def unchoose(token: contextvars.Token[Runtime | None]) -> None:
    """Undo `choose`; where the context is another one by now, there is nothing to undo."""
    try:
        _chosen.reset(token)
    except ValueError:
        _chosen.set(None)


def add(runtime: Runtime) -> None:
    """A cluster is there."""
    _open.append(runtime)


def remove(runtime: Runtime) -> None:
    """A cluster is gone."""
    if runtime in _open:
        _open.remove(runtime)


def find() -> Runtime | None:
    """The runtime that calls here are for; None when the process has no cluster. Raises RaySystemError if unclear."""
    runtime = _chosen.get()
    if runtime is not None and not runtime.closed:
        return runtime
    if len(_open) == 1:
        return _open[0]
    if not _open:
        return None
    raise RaySystemError(
        f"this process has {len(_open)} clusters, and none was chosen here: write `with cluster.use():` around the call"
    )


def find_in_this_loop() -> Runtime | None:
    """A runtime whose event loop this is, if there is one."""
    return next((runtime for runtime in _open if runtime.reactor.in_loop()), None)
