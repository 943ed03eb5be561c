"""Libraries on top of the public API. Each part is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aioray.later import missing

# Not later, as the others: the module has the same name as what is meant by that name here.
from aioray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from aioray.util.actor_group import ActorGroup
    from aioray.util.actor_pool import ActorPool
    from aioray.util.completion import as_completed, map_unordered
    from aioray.util.executor import Executor
    from aioray.util.machine import get_node_ip_address
    from aioray.util.named_actors import list_named_actors
    from aioray.util.once import log_once
    from aioray.util.progress import tqdm
    from aioray.util.serializability import inspect_serializability
    from aioray.util.serializers import deregister_serializer, register_serializer

_WHERE = {
    "ActorGroup": "actor_group",
    "ActorPool": "actor_pool",
    "Executor": "executor",
    "as_completed": "completion",
    "deregister_serializer": "serializers",
    "get_node_ip_address": "machine",
    "inspect_serializability": "serializability",
    "list_named_actors": "named_actors",
    "log_once": "once",
    "map_unordered": "completion",
    "register_serializer": "serializers",
    "tqdm": "progress",
}
_MODULES = {
    "accelerators",
    "actor_group",
    "actor_pool",
    "collective",
    "iter",
    "joblib",
    "metrics",
    "multiprocessing",
    "queue",
    "scheduling_strategies",
    "state",
}

__all__ = [
    "ActorGroup",
    "ActorPool",
    "Executor",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
    "tqdm",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise missing(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODULES})
