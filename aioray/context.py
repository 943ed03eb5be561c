"""What `init` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.cluster import SyncCluster
    from aioray.runtime.runtime import Runtime


class OfWorker:
    """The cluster of a task or actor, in which `init` may be called without effect."""

    closed = False  # as long as anybody can ask here

    def __init__(self, runtime: Runtime) -> None:
        own = {"node_id": runtime.node_id, "session_dir": runtime.session_dir}
        self.facts: dict[str, Any] = {"address": runtime.node_address, **own}


class InitContext:
    """A started cluster: `with aioray.init() as context`, or let it be until `aioray.shutdown()`."""

    dashboard_url: str | None = None

    def __init__(self, cluster: SyncCluster | OfWorker, shutdown: Callable[[], None]) -> None:
        self._shutdown = shutdown
        self._cluster = cluster
        self.address_info: dict[str, Any] = dict(cluster.facts)

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._shutdown()

    def __repr__(self) -> str:
        if self._cluster.closed:
            return "<aioray.init, ended>"
        return f"<aioray.init, node {self['node_id']} at {self['session_dir']}>"

    def disconnect(self) -> None:
        """The same as `aioray.shutdown()`."""
        self._shutdown()
