"""aioray: Ray's programming model the asyncio way. `import aioray as ray` runs a program written for Ray."""

from aioray import dag, exceptions, runtime_env
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
