"""Refs in the order in which they get done."""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.refs import ObjectRef


class Arrivals:
    """`done` has the refs that are done and not yet taken out; `then` is called, in any thread, when one comes."""

    __slots__ = ("_refs", "_then", "done")

    def __init__(self, refs: list[ObjectRef[Any]], then: Callable[[], object] | None = None) -> None:
        self.done: collections.deque[ObjectRef[Any]] = collections.deque()
        self._refs = refs
        self._then = then
        for ref in refs:
            ref._when_done(self._one)

    def _one(self, ref: ObjectRef[Any]) -> None:
        self.done.append(ref)
        if self._then is not None:
            with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                self._then()

    def any(self) -> bool:
        """Whether there is one to take."""
        return bool(self.done)

    def close(self) -> None:
        """Nobody waits any more: take the callbacks out, or a loop of waits would pile them up."""
        for ref in self._refs:
            ref._drop_callback(self._one)
