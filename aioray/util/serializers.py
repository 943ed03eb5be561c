"""Serializers of one's own for classes that pickle cannot take, or takes badly."""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# copyreg's table is Python's own place for this, one for the process; so every pickle here follows it, not only ours.


class _Reducer:
    """What stands in copyreg's table. It travels with each value, so that who receives one can send one, too."""

    def __init__(self, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any], before: Any) -> None:
        self.serializer = serializer
        self.deserializer = deserializer
        self.before = before

    def __call__(self, obj: Any) -> tuple[Any, ...]:
        return _rebuild, (type(obj), self.serializer, self.deserializer, self.serializer(obj))


def _rebuild(cls: type, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any], state: Any) -> Any:
    if cls not in copyreg.dispatch_table:
        register_serializer(cls, serializer=serializer, deserializer=deserializer)
    return deserializer(state)


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Send objects of exactly `cls` as what `serializer(obj)` returns; `deserializer` makes an object of that again.

    It holds in this process, and in every process from the moment it receives such an object: both functions travel
    with it. It does not reach a worker that makes such objects itself before it was given one; call this there as
    well (in the task, or in the actor's constructor). Objects of subclasses are pickled as before.
    """
    _check_class(cls)
    for name, fn in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(fn):
            raise TypeError(f"{name} must be callable, not a {type(fn).__name__}")
    before = copyreg.dispatch_table.get(cls)
    if isinstance(before, _Reducer):
        before = before.before
    copyreg.dispatch_table[cls] = _Reducer(serializer, deserializer, before)


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer` in this process; does nothing when nothing was registered."""
    _check_class(cls)
    reducer = copyreg.dispatch_table.get(cls)
    if isinstance(reducer, _Reducer):
        if reducer.before is None:
            del copyreg.dispatch_table[cls]
        else:
            copyreg.dispatch_table[cls] = reducer.before


def _check_class(cls: Any) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"a serializer is for a class, not for a {type(cls).__name__}")
    if cls.__module__ == "builtins":
        raise TypeError(f"pickle asks nobody how to send a {cls.__name__}: a serializer for it would never be called")
