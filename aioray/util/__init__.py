"""Libraries on top of the public API. Each part is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioray.util.actor_pool import ActorPool as ActorPool
    from aioray.util.completion import as_completed as as_completed
    from aioray.util.completion import map_unordered as map_unordered
    from aioray.util.executor import Executor as Executor

_WHERE = {
    "ActorPool": "actor_pool",
    "as_completed": "completion",
    "map_unordered": "completion",
    "Executor": "executor",
}
_MODULES = {"actor_pool", "collective", "joblib", "multiprocessing", "queue"}

__all__ = ["ActorPool", "Executor", "as_completed", "map_unordered"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODULES})
