"""One process of a Pool, and what its initializer has left there."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class PoolWorker:
    """The actor that a process of a Pool is."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._module = {} if initializer is None else _globals_of(initializer)
        self._set_here: dict[str, Any] = {}
        if initializer is not None:
            before = dict(self._module)
            initializer(*initargs)
            self._set_here = {
                name: value for name, value in self._module.items() if name not in before or before[name] is not value
            }

    def run(self, fn: Callable[..., Any], kind: str, items: list[Any]) -> list[Any]:
        """The results of a chunk. `kind`: what an item is, "value", "args", or "call" (args and kwargs)."""
        self._share_globals(fn)
        match kind:
            case "value":
                return [fn(item) for item in items]
            case "args":
                return [fn(*item) for item in items]
            case _:
                return [fn(*args, **kwargs) for args, kwargs in items]

    def _share_globals(self, fn: Callable[..., Any]) -> None:
        """Have `fn` see the globals that the initializer has set.

        Functions of a module that can be imported have the same globals anyway; those of a program's `__main__` come
        with a copy each.
        """
        if self._set_here:
            there = _globals_of(fn)
            if there is not self._module and there.get("__name__") == self._module.get("__name__"):
                there.update(self._set_here)


def _globals_of(fn: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    for code in (fn, getattr(fn, "__func__", None), type(fn).__call__):
        found: dict[str, Any] | None = getattr(code, "__globals__", None)
        if found is not None:
            return found
    return {}
