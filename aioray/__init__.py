"""aioray: Ray's programming model the asyncio way. `import aioray as ray` runs a program written for Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray import exceptions, runtime_env
from aioray.actors import ActorClass, ActorHandle, method
from aioray.api import (
    available_resources,
    cancel,
    cluster_resources,
    connect,
    disconnect,
    explain,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
)
from aioray.cluster import Cluster
from aioray.refs import ObjectRef
from aioray.waiting import as_completed, wait

if TYPE_CHECKING:
    from aioray import dag

__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "Cluster",
    "ObjectRef",
    "__version__",
    "as_completed",
    "available_resources",
    "cancel",
    "cluster_resources",
    "connect",
    "dag",
    "disconnect",
    "exceptions",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_env",
    "shutdown",
    "wait",
]


def __getattr__(name: str) -> Any:
    """What a program may never need is imported when it does: starting is short."""
    if name == "dag":
        import aioray.dag

        return aioray.dag
    raise AttributeError(f"module 'aioray' has no attribute {name!r}")
