"""The node's own window on its shared memory: mapped when it is first needed."""

from __future__ import annotations

import mmap

import posix_ipc


class Segment:
    """Bytes by offset."""

    def __init__(self, name: str, capacity_nbytes: int) -> None:
        self._name = name
        self._capacity_nbytes = capacity_nbytes
        self._map: mmap.mmap | None = None

    def view(self, offset: int, nbytes: int) -> memoryview:
        """These bytes, to read or to fill. Release it before `close`."""
        if self._map is None:
            handle = posix_ipc.SharedMemory(self._name)
            try:
                self._map = mmap.mmap(handle.fd, self._capacity_nbytes)
            finally:
                handle.close_fd()
        return memoryview(self._map)[offset : offset + nbytes]

    def close(self) -> None:
        """Safe to call twice."""
        mapped, self._map = self._map, None
        if mapped is not None:
            mapped.close()
