"""The node's own window on its shared memory: mapped when it is first needed."""

from __future__ import annotations

import mmap
import os

import posix_ipc


def can_open(name: str) -> bool:
    """Whether there is such shared memory on this machine, and it may be mapped by who runs this process."""
    try:
        posix_ipc.SharedMemory(name).close_fd()
    except (posix_ipc.Error, ValueError, OSError):
        return False
    return True


class ForeignSegment:
    """The shared memory of another node of this machine, to copy from. Raises OSError when it is not to be had."""

    def __init__(self, name: str) -> None:
        try:
            self._fd = posix_ipc.SharedMemory(name, read_only=True).fd
        except (posix_ipc.Error, ValueError) as exc:
            raise OSError(f"no shared memory {name!r}: {exc}") from exc

    def copy_into(self, target: memoryview, offset: int) -> bool:
        """Fill `target` with what lies there; False when there is less."""
        at = 0
        while at < len(target):
            with target[at:] as rest:
                nbytes = os.preadv(self._fd, [rest], offset + at)
            if not nbytes:
                return False
            at += nbytes
        return True

    def close(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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
