"""Which actor classes run on an event loop."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from aioray.checkpoints import RESTORE, SAVE

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_async(member: Any) -> bool:
    """Whether it is a coroutine function, or an asynchronous generator function."""
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


def is_async_class(cls: type, methods: Mapping[str, str]) -> bool:
    """Whether its actors have async methods."""
    return any(is_async(getattr(cls, name)) for name in methods if name)


def needs_loop(cls: type) -> bool:
    """Whether its actors need an event loop even if their methods do not."""
    return any(is_async(getattr(cls, name, None)) for name in ("__init__", SAVE, RESTORE))
