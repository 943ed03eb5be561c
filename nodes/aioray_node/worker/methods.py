"""What can be called on an actor: the methods of its class, and those that every actor has."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

READY = "__ray_ready__"
CALL = "__ray_call__"
TERMINATE = "__ray_terminate__"  # the actor's own affair: it knows what else is under way


def method_of(instance: Any, name: str) -> Callable[..., Any]:
    """The bound method that a call names. Raises AttributeError when there is none."""
    if name == READY:
        return _is_ready
    if name == CALL:
        return functools.partial(_call, instance)
    found: Callable[..., Any] = getattr(instance, name)
    return found


def _is_ready() -> bool:
    """A call is answered when the constructor is through: that is all there is to say."""
    return True


def _call(instance: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fn(instance, *args, **kwargs)
