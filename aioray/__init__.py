"""aioray: Ray's programming model the asyncio way. `import aioray as ray` runs a program written for Ray."""

from typing import TYPE_CHECKING, Any

from aioray import actor, exceptions, later, runtime_context, runtime_env
from aioray.actors import ActorClass, ActorHandle, method
from aioray.api import (
    available_resources,
    cancel,
    cluster_resources,
    explain,
    get,
    get_actor,
    get_gpu_ids,
    kill,
    nodes,
    put,
    remote,
)
from aioray.checkpoints import checkpoint
from aioray.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from aioray.ids import ActorID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID
from aioray.logging_config import LoggingConfig
from aioray.refs import ObjectRef
from aioray.runtime_context import get_runtime_context
from aioray.starting import connect, disconnect, init, is_initialized, shutdown
from aioray.typed_actors import Actor
from aioray.waiting import as_completed, wait

if TYPE_CHECKING:
    from aioray import cloudpickle, cluster_utils, dag, experimental, job_config, testing, util
    from aioray.cluster import Cluster
    from aioray.task_trace import timeline

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "ActorClass",
    "ActorHandle",
    "ActorID",
    "Cluster",
    "DynamicObjectRefGenerator",
    "JobID",
    "LoggingConfig",
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
    "cloudpickle",
    "cluster_resources",
    "cluster_utils",
    "connect",
    "dag",
    "disconnect",
    "exceptions",
    "experimental",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "job_config",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "testing",
    "timeline",
    "util",
    "wait",
]


_MODULES = {"cloudpickle", "cluster_utils", "dag", "experimental", "job_config", "testing", "util"}


def __getattr__(name: str) -> Any:
    """What a program may never need is imported when it does: starting is short."""
    if name in _MODULES:
        import importlib

        return importlib.import_module(f"aioray.{name}")
    if name == "Cluster":
        from aioray.cluster import Cluster

        return Cluster
    if name == "timeline":
        from aioray.task_trace import timeline

        return timeline
    raise later.missing(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "Cluster", "timeline"})
