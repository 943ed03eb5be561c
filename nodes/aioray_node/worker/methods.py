"""What can be called on an actor: the methods of its class, and those that every actor has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

READY = "__ray_ready__"


def method_of(instance: Any, name: str) -> Callable[..., Any]:
    """The bound method that a call names. Raises AttributeError when there is none."""
    found: Callable[..., Any] = _is_ready if name == READY else getattr(instance, name)
    return found


def _is_ready() -> bool:
    """A call is answered when the constructor is through: that is all there is to say."""
    return True
