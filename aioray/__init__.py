"""aioray: Ray's programming model the asyncio way. `import aioray as ray` runs a program written for Ray."""

from typing import TYPE_CHECKING, Any

from aioray import actor, exceptions, runtime_context, runtime_env
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
from aioray.checkpoints import checkpoint
from aioray.cluster import Cluster
from aioray.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from aioray.ids import ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID
from aioray.refs import ObjectRef
from aioray.runtime_context import get_runtime_context
from aioray.typed_actors import Actor
from aioray.waiting import as_completed, wait

if TYPE_CHECKING:
    from aioray import dag, util

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "ActorID",
    "Cluster",
    "DynamicObjectRefGenerator",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "WorkerID",
    "__version__",
    "actor",
    "as_completed",
    "available_resources",
    "cancel",
    "checkpoint",
    "cluster_resources",
    "connect",
    "dag",
    "disconnect",
    "exceptions",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "util",
    "wait",
]


def __getattr__(name: str) -> Any:
    """What a program may never need is imported when it does: starting is short."""
    if name in ("dag", "util"):
        import importlib

        return importlib.import_module(f"aioray.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
