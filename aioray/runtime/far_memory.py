"""The memory of a driver on a machine where no node of its cluster is: what it would share goes over the line instead.

What it puts is sent to its node, and lies there, as any value does. What it reads is brought from there in pieces, and
stays for as long as there is a ref to it here, or something looks at it.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

from aioray.exceptions import ObjectLostError, ObjectStoreFullError, RaySystemError
from aioray.runtime.bringing import Bringing
from aioray.runtime.errors import error_value
from aioray.runtime.shared_memory import Layout, SharedMemory
from aioray.wire.control import Answer, Fetched, Read, Reserve, Write
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.link import Reply
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.serialization import Serialized

_PIECE_NBYTES = 1 << 20
_WINDOW = 8  # pieces of one value that are asked for at a time


class FarMemory(SharedMemory):
    """Has no memory in common with anybody. `exchange` asks the node, and blocks."""

    def __init__(
        self, capacity_nbytes: int, exchange: Callable[[Any], Any], give_extent: Callable[[int, int], None]
    ) -> None:
        def reserve(nbytes: int) -> Any:
            return exchange(Reserve(nbytes))

        super().__init__("", capacity_nbytes, reserve, give_extent, extent_nbytes=0, cache_nbytes=0)
        self._exchange = exchange
        self._here: dict[bytes, bytearray] = {}

    def write(self, serialized: Serialized) -> Value:
        """Send a value to the node. Raises ObjectStoreFullError; RaySystemError when the node is gone."""
        layout = Layout(serialized)
        nbytes = layout.nbytes
        place = self._reserve(nbytes)
        if place.offset < 0:
            raise ObjectStoreFullError(nbytes, self._capacity_nbytes, place.used_nbytes)
        with memoryview(bytearray(nbytes)) as view:
            layout.fill(view, 0)
            for at in range(0, nbytes, _PIECE_NBYTES):
                answer = self._exchange(Write(place.offset + at, view[at : at + _PIECE_NBYTES]))  # type: ignore[arg-type] # as good
                if isinstance(answer, Answer):
                    raise RaySystemError(answer.error)
        return Value(nbytes=nbytes, offset=place.offset)

    def free(self, offset: int, nbytes: int) -> None:
        self._give_extent(offset, nbytes)

    def trim(self, keep_nbytes: int | None = None) -> None:
        """Nothing is kept."""

    def has(self, oid: bytes) -> bool:
        """Whether the bytes of an object are here."""
        return oid in self._here

    def keep(self, oid: bytes, content: bytearray) -> None:
        """They are here now."""
        self._here[oid] = content

    def forget(self, oid: bytes) -> None:
        self._here.pop(oid, None)

    def _block(self, value: Value) -> ctypes.Array[ctypes.c_char]:
        if self._closed:
            raise RaySystemError("this cluster was shut down, and what was brought from it is gone")
        return (ctypes.c_char * value.nbytes).from_buffer(self._here[value.oid])

    def close(self) -> None:
        super().close()
        self._here.clear()


class FarBringing(Bringing):
    """Brings the bytes from the node's memory, too, when the node has said that they are there."""

    def __init__(self, runtime: Runtime, memory: FarMemory) -> None:
        super().__init__(runtime)
        self._memory = memory
        self._under_way: dict[bytes, Value] = {}  # as it lies where it is brought from

    def is_here(self, value: Value) -> bool:
        return not value.nbytes or self._memory.has(value.oid)

    def is_downloading(self, message: Fetched) -> bool:
        value = message.value
        if self.is_here(value):
            return False
        if self._under_way.get(value.oid) != value:  # else it is told twice
            self._under_way[value.oid] = value
            _Download(self._runtime, value, functools.partial(self._downloaded, message)).begin()
        return True

    def _downloaded(self, message: Fetched, content: bytearray, why_not: str) -> None:
        value = message.value
        if self._under_way.get(value.oid) is not value:
            return  # it was let go of and asked for again meanwhile, and lies elsewhere by now
        del self._under_way[value.oid]
        if why_not:
            message = Fetched(message.oid, error_value(ObjectLostError(value.oid.hex(), why_not)))
        else:
            self._memory.keep(value.oid, content)
        self._runtime.objects.fetched(message)


class _Download:
    """Asks for the pieces of one value. `then(content, why_not)` is called once, under the lock."""

    def __init__(self, runtime: Runtime, value: Value, then: Callable[[bytearray, str], None]) -> None:
        self._link = runtime.link
        self._value = value
        self._then: Callable[[bytearray, str], None] | None = then
        self._content = bytearray(value.nbytes)
        self._asked_nbytes = 0
        self._missing_nbytes = value.nbytes

    def begin(self) -> None:
        """The lock is held."""
        for _ in range(_WINDOW):
            self._ask()

    def _ask(self) -> None:
        value, start = self._value, self._asked_nbytes
        nbytes = min(_PIECE_NBYTES, value.nbytes - start)
        if not nbytes or self._then is None:
            return
        self._asked_nbytes += nbytes
        req, reply = self._link.expect()
        reply.then = functools.partial(self._came, start)
        if reply.done:  # the node is gone
            self._came(start, reply)
        else:
            self._link.send(Read(req, value.node_id, value.offset + start, nbytes))

    def _came(self, start: int, reply: Reply) -> None:
        then = self._then
        if then is None:
            return
        why_not = reply.error or reply.value.error
        if not why_not:
            data = reply.value.data
            self._content[start : start + len(data)] = data
            self._missing_nbytes -= len(data)
            self._ask()
        if why_not or not self._missing_nbytes:
            self._then = None
            then(self._content, why_not)
