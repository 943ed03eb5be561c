"""This process's window on its node's shared memory: mapped once, filled without asking, looked at without copying.

Layout of a value: count of buffers, length of the pickle stream, lengths of the buffers (8 bytes each, little endian),
the stream, then each buffer at the next multiple of 64, so that arrays are aligned as numpy likes them.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Any

import posix_ipc

from aioray.exceptions import ObjectStoreFullError, RaySystemError
from aioray.runtime.arena import Arena
from aioray.runtime.neighbour_memory import NeighbourMemory
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.serialization import Serialized
    from aioray.wire.control import Reserved

_ALIGN = 64


def _align(nbytes: int) -> int:
    return -(-nbytes // _ALIGN) * _ALIGN


class Layout:
    """Where the parts of a value go that was pickled."""

    __slots__ = ("_header", "_serialized", "_starts", "nbytes")

    def __init__(self, serialized: Serialized) -> None:
        lengths = [buffer.nbytes for buffer in serialized.buffers]
        header = struct.pack(f"<{2 + len(lengths)}Q", len(lengths), len(serialized.data), *lengths)
        at = len(header) + len(serialized.data)
        starts = []
        for length in lengths:
            at = _align(at)
            starts.append(at)
            at += length
        self._serialized = serialized
        self._header = header
        self._starts = starts
        self.nbytes = _align(at)

    def fill(self, view: memoryview, offset: int) -> None:
        """Write it there."""
        header, data = self._header, self._serialized.data
        view[offset : offset + len(header)] = header
        view[offset + len(header) : offset + len(header) + len(data)] = data
        for start, buffer in zip(self._starts, self._serialized.buffers, strict=True):
            view[offset + start : offset + start + buffer.nbytes] = buffer


class SharedMemory:
    """The node's segment, and the extents of it that are ours to fill.

    `reserve(nbytes)` asks the node for an extent; it blocks, and is called with no lock held but ours.
    """

    def __init__(
        self,
        segment: str,
        capacity_nbytes: int,
        reserve: Callable[[int], Reserved],
        give_extent: Callable[[int, int], None],
        *,
        extent_nbytes: int,
        cache_nbytes: int,
    ) -> None:
        self.neighbours = NeighbourMemory()
        self._segment = segment
        self._capacity_nbytes = capacity_nbytes
        self._reserve = reserve
        self._give_extent = give_extent
        self._extent_nbytes = extent_nbytes
        self._cache_nbytes = min(cache_nbytes, capacity_nbytes // 8)
        self._free = Arena.without_memory(capacity_nbytes)
        self._lock = threading.RLock()
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._closed = False
        self._watches: dict[int, weakref.ref[Any]] = {}  # of blocks that are looked at; a dropped watch sees nothing

    def _mapped(self) -> memoryview:
        if self._closed:
            raise RaySystemError("this cluster was shut down, and its shared memory with it")
        if self._view is None:
            handle = posix_ipc.SharedMemory(self._segment)
            try:
                self._map = mmap.mmap(handle.fd, self._capacity_nbytes)
            finally:
                handle.close_fd()
            self._view = memoryview(self._map)
        return self._view

    def write(self, serialized: Serialized) -> Value:
        """Copy a value into shared memory; the caller owns the place until `free` or until it tells the node.

        Raises ObjectStoreFullError.
        """
        layout = Layout(serialized)
        offset = self._allocate(layout.nbytes)
        layout.fill(self._mapped(), offset)
        return Value(nbytes=layout.nbytes, offset=offset)

    def _allocate(self, nbytes: int) -> int:
        with self._lock:
            offset = self._free.alloc(nbytes)
            if offset is not None:
                return offset
            answer = self._reserve(max(nbytes, min(self._extent_nbytes, self._capacity_nbytes // 16)))
            if answer.offset < 0 and nbytes < self._extent_nbytes:
                answer = self._reserve(nbytes)
            if answer.offset < 0:
                raise ObjectStoreFullError(nbytes, self._capacity_nbytes, answer.used_nbytes)
            self._free.free(answer.offset, answer.nbytes)
            offset = self._free.alloc(nbytes)
            assert offset is not None, "the extent that was just granted is large enough"
            return offset

    def free(self, offset: int, nbytes: int) -> None:
        """A place of ours may be filled again."""
        with self._lock:
            self._free.free(offset, nbytes)

    def trim(self, keep_nbytes: int | None = None) -> None:
        """Give free memory above `keep_nbytes` (default: the cache size) back to the node."""
        keep = self._cache_nbytes if keep_nbytes is None else keep_nbytes
        with self._lock:
            for offset, nbytes in self._free.take_above(keep):
                self._give_extent(offset, nbytes)

    def forget(self, oid: bytes) -> None:
        """Nobody here looks at this object any more."""

    @property
    def is_being_changed(self) -> bool:
        """Whether this thread, which a signal has stopped, is in the middle of keeping books here."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def open(self, value: Value, on_gone: Callable[[], None]) -> tuple[memoryview, list[memoryview]]:
        """The pickle stream and the buffers of a value, read-only, without a copy.

        `on_gone` is called, in any thread, when nothing looks at them any more. Raises OSError for what lies in the
        memory of another node, and is not to be had any more.
        """
        # A ctypes array is the lightest exporter of a part of a map whose death can be watched.
        block = self._block(value)
        watch = weakref.ref(block, lambda watch: self._gone(watch, on_gone))
        self._watches[id(watch)] = watch
        view = memoryview(block).cast("B").toreadonly()
        count, stream_nbytes = struct.unpack_from("<2Q", view)
        lengths = struct.unpack_from(f"<{count}Q", view, 16)
        at = 16 + 8 * count
        stream = view[at : at + stream_nbytes]
        at += stream_nbytes
        buffers = []
        for length in lengths:
            at = _align(at)
            buffers.append(view[at : at + length])
            at += length
        return stream, buffers

    def _block(self, value: Value) -> ctypes.Array[ctypes.c_char]:
        self._mapped()
        assert self._map is not None
        if self.neighbours.knows(value.node_id):
            return self.neighbours.block(value.node_id, value.offset, value.nbytes)
        return (ctypes.c_char * value.nbytes).from_buffer(self._map, value.offset)

    def _gone(self, watch: weakref.ref[Any], on_gone: Callable[[], None]) -> None:
        del self._watches[id(watch)]
        on_gone()

    def close(self) -> None:
        """Unmap, unless views are still alive: then the map goes with the last of them."""
        self._closed = True
        self.neighbours.close()
        view, self._view = self._view, None
        if view is not None:
            view.release()
        mapped, self._map = self._map, None
        if mapped is not None:
            try:
                mapped.close()
            except BufferError:
                return
