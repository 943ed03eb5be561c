"""The shared memory of other nodes of this machine, to read in place what lies there.

Whoever counts holders of an object counts for its bytes wherever they lie, so nothing more is said about reading them.
A segment is mapped when something in it is read, and stays for as long as something looks at it, even when its node is
gone; `unmap_idle` lets go of the others, since a mapping keeps all memory of a dead node.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading

import posix_ipc


class NeighbourMemory:
    """By node. May be called in any thread."""

    def __init__(self) -> None:
        self._segments: dict[str, str] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._lock = threading.RLock()

    def learn(self, node_id: str, segment: str) -> None:
        """Our node says that what lies in the memory of that node can be read there."""
        self._segments[node_id] = segment

    def knows(self, node_id: str) -> bool:
        """Whether that was said."""
        return node_id in self._segments

    def block(self, node_id: str, offset: int, nbytes: int) -> ctypes.Array[ctypes.c_char]:
        """These bytes; the map lives as long as this does. Raises OSError when they are not to be had any more."""
        with self._lock:
            mapped = self._maps.get(node_id)
            if mapped is None:
                mapped = self._maps[node_id] = _map(self._segments[node_id])
            return (ctypes.c_char * nbytes).from_buffer(mapped, offset)

    @property
    def is_mapped(self) -> bool:
        """Whether there is something to unmap."""
        return bool(self._maps)

    def unmap_idle(self) -> None:
        """Let go of segments of which nothing is looked at."""
        with self._lock:
            for node_id, mapped in list(self._maps.items()):
                with contextlib.suppress(BufferError):  # somebody looks at it
                    mapped.close()
                    del self._maps[node_id]

    def close(self) -> None:
        """Let go of all; what is still looked at goes with the last view of it."""
        self.unmap_idle()
        self._maps.clear()


def _map(segment: str) -> mmap.mmap:
    try:
        handle = posix_ipc.SharedMemory(segment)
    except posix_ipc.Error as exc:
        raise OSError(f"its shared memory {segment} is not there: {exc}") from exc
    try:
        return mmap.mmap(handle.fd, os.fstat(handle.fd).st_size)
    finally:
        handle.close_fd()
