"""The node's own window on its shared memory: mapped when it is first needed."""

from __future__ import annotations

import mmap

import posix_ipc


def can_open(name: str) -> bool:
    """Whether there is such shared memory on this machine, and it may be mapped by who runs this process."""
    try:
        posix_ipc.SharedMemory(name).close_fd()
    except (posix_ipc.Error, ValueError, OSError):
        return False
    return True


class Segment:
    """Bytes by offset."""

    def __init__(self, name: str, capacity_nbytes: int) -> None:
        self._name = name
        self._capacity_nbytes = capacity_nbytes
        self._map: mmap.mmap | None = None

    @property
    def name(self) -> str:
        return self._name

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
