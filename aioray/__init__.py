"""aioray: Ray's programming model the asyncio way. `import aioray as ray` runs a program written for Ray."""

from aioray import actor, exceptions
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
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
)
from aioray.checkpoints import checkpoint
from aioray.cluster import Cluster
from aioray.refs import ObjectRef
from aioray.waiting import as_completed, wait

__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "Cluster",
    "ObjectRef",
    "__version__",
    "actor",
    "as_completed",
    "available_resources",
    "cancel",
    "checkpoint",
    "cluster_resources",
    "connect",
    "disconnect",
    "exceptions",
    "explain",
    "get",
    "get_actor",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]
