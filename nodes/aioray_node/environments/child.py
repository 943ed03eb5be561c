"""A process that sets something up for a node, and ends with it; the reactor watches it, the loop goes on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from aioray.runtime import child_python

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor

_LAST_LINES = 15


class ChildProcess:
    """`module.main()` with arguments. The reactor's lock is held in every call. Raises OSError when it cannot start.

    done(error): it has ended, "" when all went well. log: the path of a file that gets what it prints. limit_s: how
    long it may take, None for as long as it wants; `limit` is what that is called.
    """

    def __init__(
        self,
        reactor: Reactor,
        module: str,
        arguments: list[str],
        *,
        title: str,
        log: str,
        directory: str,
        done: Callable[[str], None],
        environ: Mapping[str, str] | None = None,
        limit_s: float | None = None,
        limit: str = "",
    ) -> None:
        self._reactor = reactor
        self._done = done
        self._title = title
        self._log = log
        self._limit_s, self._limit = limit_s, limit
        self._timed_out = False
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                child_python.command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                cwd=directory,
                start_new_session=True,  # one group: what it starts is killed with it
            )
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor is free
            self._kill_group()
            self._process.wait()
            raise
        reactor.register(self._pidfd, self)
        self._timer: Timer | None = None
        if limit_s is not None:
            self._timer = reactor.call_later(limit_s, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._kill_group()

    def on_readable(self) -> None:
        """It has ended."""
        self._unwatch()
        status = self._process.wait()
        if self._timed_out:
            self._done(f"{self._title} took longer than {self._limit_s:g} s ({self._limit})\n{self._last_lines()}")
        elif status:
            self._done(f"{self._title} failed (status {status}):\n{self._last_lines()}")
        else:
            self._done("")

    def on_writable(self) -> None:
        """Never asked for."""

    def _last_lines(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                return "\n".join(log.read().splitlines()[-_LAST_LINES:])
        except OSError as exc:
            return str(exc)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._reactor.unregister(self._pidfd)
        os.close(self._pidfd)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it without a word. Blocks until it has ended: for milliseconds."""
        self._unwatch()
        self._kill_group()
        self._process.wait()
