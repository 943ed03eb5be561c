"""What `init` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.cluster import SyncCluster


class InitContext:
    """A started cluster: `with aioray.init() as context`, or let it be until `aioray.shutdown()`."""

    dashboard_url: str | None = None

    def __init__(self, cluster: SyncCluster, shutdown: Callable[[], None]) -> None:
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
