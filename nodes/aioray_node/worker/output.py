"""sys.stdout and sys.stderr of a worker: line by line, each stretch headed by the name of what printed it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from aioray_node.pool.logs import LABEL_MARK

if TYPE_CHECKING:
    from collections.abc import Callable


class _LabelledRaw(io.RawIOBase):
    def __init__(self, fd: int, label: Callable[[], str]) -> None:
        self._fd = fd
        self._label = label
        self._last = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        label = self._label()
        if label != self._last:
            self._last = label
            os.write(self._fd, f"{LABEL_MARK}{label}\n".encode())
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)


def labelled_stream(fd: int, label: Callable[[], str]) -> io.TextIOWrapper:
    """A text stream on `fd` whose lines carry `label()`; it is asked when something is printed, not before."""
    raw = io.BufferedWriter(_LabelledRaw(fd, label))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
