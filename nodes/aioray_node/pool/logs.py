"""What workers print, line by line, on its way to the drivers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aioray.wire.control import LogLines

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor

LABEL_MARK = "\x1e"  # a line that starts with it names what prints from here on: a function or an actor class
_READ_NBYTES = 65536
_MAX_LINE_NBYTES = 1 << 20  # a longer line is cut, so that a worker cannot fill the node's memory


class LogPipe:
    """The read end of one worker's stdout (stream 1) or stderr (2)."""

    def __init__(self, reactor: Reactor, fd: int, pid: int, stream: int, on_lines: Callable[[LogLines], None]) -> None:
        os.set_blocking(fd, False)
        self._reactor = reactor
        self._fd = fd
        self.pid = pid
        self._stream = stream
        self._on_lines = on_lines
        self._label = ""
        self.tenant = ""  # whom the worker serves: for what is printed before any label was (C code has none)
        self._rest = b""
        reactor.register(fd, self)

    def on_readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_NBYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_NBYTES:
            lines.append(self._rest)
            self._rest = b""
        self._pass_on(lines)

    def on_writable(self) -> None:
        """Never asked for."""

    def _pass_on(self, lines: list[bytes]) -> None:
        batch: list[str] = []
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.startswith(LABEL_MARK):
                self._send(batch)
                batch = []
                self._label = text[1:]
            else:
                batch.append(text)
        self._send(batch)

    def _send(self, lines: list[str]) -> None:
        if lines:
            self._on_lines(LogLines(self._label or self.tenant, self.pid, self._stream, lines))

    def relabel(self, label: str) -> None:
        """What comes from here on was printed by `label`, also where the worker does not say so (C code does not)."""
        self.on_readable()
        self._label = label

    def close(self) -> None:
        """Pass on what is left, and let go."""
        if self._fd >= 0:
            if self._rest:
                self._pass_on([self._rest])
                self._rest = b""
            self._reactor.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1

    def drain(self) -> None:
        """The worker is dead: read what it still said, then close."""
        while self._fd >= 0:
            before = self._fd
            try:
                data = os.read(before, _READ_NBYTES)
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._pass_on(lines)
