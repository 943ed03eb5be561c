"""Which cluster a call is for, when a process may have several.

The innermost `async with connect()` or `with cluster.use()` around the call decides (a context variable, so that each
asyncio task has its own answer). Where there is none: the cluster that runs in this event loop; else the one that
`init` started; else the only one of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from typing import TYPE_CHECKING

from aioray.exceptions import RaySystemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.runtime import Runtime

_chosen: contextvars.ContextVar[Runtime | None] = contextvars.ContextVar("aioray_runtime", default=None)
_starter: Callable[[], object] | None = None
_open: list[Runtime] = []  # of this process: each entry is put in and taken out by the cluster that it belongs to


def choose(runtime: Runtime) -> contextvars.Token[Runtime | None]:
    """Make `runtime` the one that calls in this context are for."""
    return _chosen.set(runtime)


def unchoose(runtime: Runtime, token: contextvars.Token[Runtime | None]) -> None:
    """Undo `choose`; where the context is another one by now, it may have made a choice of its own."""
    try:
        _chosen.reset(token)
    except ValueError:
        if _chosen.get() is runtime:
            _chosen.set(None)


def add(runtime: Runtime) -> None:
    """A cluster is there."""
    _open.append(runtime)


def remove(runtime: Runtime) -> None:
    """A cluster is gone."""
    if runtime in _open:
        _open.remove(runtime)


def start_with(starter: Callable[[], object]) -> None:
    """How a cluster is started where one is missing; `api`, which knows, imports this module and not the reverse."""
    global _starter  # set once, when the package is imported
    _starter = starter


def get() -> Runtime:
    """The runtime that calls here are for; started with defaults when there is none, as in Ray.

    Raises RaySystemError in an event loop without a cluster: there, starting one must be awaited.
    """
    runtime = find()
    if runtime is not None:
        return runtime
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        assert _starter is not None, "aioray.starting is imported with the package"
        _starter()
        return get()
    raise RaySystemError("there is no cluster here: write `async with aioray.connect():` around the calls")


def find() -> Runtime | None:
    """The runtime that calls here are for; None when the process has no cluster. Raises RaySystemError if unclear."""
    runtime = _chosen.get()
    if runtime is not None and not runtime.closed:
        return runtime
    if len(_open) == 1 and not _open[0].orphaned:
        return _open[0]
    return _find_among(_open_now())


def _find_among(runtimes: list[Runtime]) -> Runtime | None:
    here = [runtime for runtime in runtimes if runtime.reactor.in_loop()]
    without_loop = [runtime for runtime in runtimes if runtime.reactor.loop is None]
    for some in (here, without_loop, runtimes):
        if len(some) == 1:
            return some[0]
    if not runtimes:
        return None
    raise RaySystemError(
        f"this process has {len(runtimes)} clusters, and none was chosen here: write `with cluster.use():` around the"
        " call"
    )


def find_in_this_loop() -> Runtime | None:
    """A runtime whose event loop this is, if there is one."""
    return next((runtime for runtime in _open_now() if runtime.reactor.in_loop()), None)


def find_as_worker() -> Runtime | None:
    """The runtime of the cluster to which this process belongs as a worker; None in a program."""
    return next((runtime for runtime in _open if runtime.is_worker), None)


def find_connected() -> Runtime | None:
    """A runtime of `connect` that calls here could mean: chosen around them, or of this event loop."""
    chosen = _chosen.get()
    if chosen is not None and chosen.shutdown is not None and not chosen.closed:
        return chosen
    here = find_in_this_loop()
    return here if here is not None and here.shutdown is not None else None


def _open_now() -> list[Runtime]:
    end_orphans()
    return list(_open)


def end_orphans() -> None:
    """End clusters whose event loop was closed under them: nobody else will."""
    for runtime in [runtime for runtime in _open if runtime.orphaned]:
        if runtime.end is not None:
            runtime.end()


def _forget_all() -> None:
    """In a forked child: the clusters are its parent's."""
    for runtime in _open:
        runtime.disown()
    _open.clear()


os.register_at_fork(after_in_child=_forget_all)
