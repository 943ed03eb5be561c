"""Values that lie on other nodes, on their way to where this process can read them.

What lies in the memory of a node of this machine is read there, once our node has said of a first value how.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aioray.wire.control import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.runtime import Runtime
    from aioray.wire.control import Fetched
    from aioray.wire.values import Value


class Bringing:
    """Each is asked for once at our node, however many wait for it. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: dict[bytes, list[Callable[[Value], None]]] = {}
        self._for_later: set[bytes] = set()  # of these, what nobody waits for yet

    def is_here(self, value: Value) -> bool:
        """Whether this process can read it as it is."""
        node_id = value.node_id
        if not value.nbytes or not node_id or node_id == self._runtime.node_id:
            return True
        return self._runtime.memory.neighbours.knows(node_id)

    def is_downloading(self, message: Fetched) -> bool:
        """Whether what our node has told of is still to be brought from it: then it is told of again."""
        return False

    def ask(self, value: Value, then: Callable[[Value], None] | None = None) -> None:
        """Have `then` called with the value as it is here, or with the error that it has become."""
        oid = value.oid
        waiting = self._waiting.get(oid)
        if waiting is None or oid in self._for_later:
            waiting = self._waiting.setdefault(oid, [])
            self._for_later.discard(oid)
            self._runtime.link.send(Fetch(oid, value))
        if then is not None:
            waiting.append(then)

    def prefetch(self, values: list[Value]) -> None:
        """Have our node bring those of these that lie elsewhere, after what somebody waits for.

        They are in its memory then, for a reader who comes soon; nobody here holds them.
        """
        for value in values:
            if value.oid not in self._waiting and not self.is_here(value):
                self._waiting[value.oid] = []
                self._for_later.add(value.oid)
                self._runtime.link.send(Fetch(value.oid, value, is_urgent=False))

    def all(self, values: list[Value], then: Callable[[dict[bytes, Value]], None]) -> None:
        """The same of those of these that lie elsewhere, of which there is at least one: `then` gets them by id."""
        there = {value.oid: value for value in values if not self.is_here(value)}
        brought: dict[bytes, Value] = {}

        def one(value: Value, oid: bytes) -> None:
            brought[oid] = value
            if len(brought) == len(there):
                then(brought)

        for oid, value in there.items():
            self.ask(value, functools.partial(one, oid=oid))

    def take(self, oid: bytes) -> list[Callable[[Value], None]] | None:
        """It has come: who waits for it; None when it was not asked for here."""
        self._for_later.discard(oid)
        return self._waiting.pop(oid, None)

    def close(self, error: Value) -> None:
        """No more will come."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            for then in each:
                then(error)
