"""Environments set up: pip in a process of its own, into the session; the loop goes on meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from aioray.runtime import child_python
from aioray.runtime_env.environment import Environment, pip_dir, resources_dir
from aioray_node.environments import core

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor

_LAST_LINES = 15


class EnvironmentDesk:
    """Tells leases when their environment is there, or why it cannot be had. The reactor's lock is held."""

    def __init__(
        self,
        reactor: Reactor,
        session_dir: str,
        go_on: Callable[[int], None],
        refuse: Callable[[int, str], None],
    ) -> None:
        self._reactor = reactor
        self._session_dir = session_dir
        self._go_on = go_on
        self._refuse = refuse
        self._state = core.State()
        self._installs: dict[str, _Install] = {}

    def feed(self, event: core.Event) -> None:
        """Decide, and carry it out."""
        for command in core.handle(self._state, event):
            match command:
                case core.SetUp(environment):
                    self._set_up(environment)
                case core.GoOn(lease_id):
                    self._go_on(lease_id)
                case core.Refuse(lease_id, reason):
                    self._refuse(lease_id, reason)

    def is_awaited_by(self, lease_id: int) -> bool:
        """Whether a lease waits for its environment."""
        return lease_id in self._state.where

    def _set_up(self, text: str) -> None:
        environment = Environment.of(text)
        if not environment.pip or os.path.isdir(pip_dir(self._session_dir, environment.pip_digest)):
            self.feed(core.Ready(text))
            return

        def done(error: str) -> None:
            del self._installs[text]
            self.feed(core.Failed(text, error) if error else core.Ready(text))

        try:
            self._installs[text] = _Install(self._reactor, environment, self._session_dir, done)
        except OSError as exc:
            self.feed(core.Failed(text, f"pip could not be started: {exc}"))

    def close(self) -> None:
        """End what still runs. Blocks until it has ended: for milliseconds."""
        for install in self._installs.values():
            install.kill()
        self._installs.clear()


class _Install:
    """One pip: its process, watched by the reactor, and what it said."""

    def __init__(
        self, reactor: Reactor, environment: Environment, session_dir: str, done: Callable[[str], None]
    ) -> None:
        self._reactor = reactor
        self._done = done
        self._final = pip_dir(session_dir, environment.pip_digest)
        self._timeout_s = environment.setup_timeout_s
        self._timed_out = False
        # More than one environment may have the same packages: each installs, and the first to end has its way.
        self._making = f"{self._final}-{os.urandom(4).hex()}"
        os.makedirs(resources_dir(session_dir), mode=0o700, exist_ok=True)
        temporary = os.path.join(self._making, "tmp")
        os.makedirs(temporary, 0o700)
        requirements = os.path.join(self._making, "requirements.txt")
        with open(requirements, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in environment.pip)
        self._target = os.path.join(self._making, "packages")
        command = ["install", "--disable-pip-version-check", "--no-input", "--target", self._target]
        command += [*environment.pip_options, "-r", requirements]
        self._log = os.path.join(self._making, "log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                child_python.command("aioray_node.environments.pip_process", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": temporary},  # where nothing of a pip that was killed stays
                cwd=self._making,
                start_new_session=True,  # one group: what pip starts is killed with it
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        reactor.register(self._pidfd, self)
        self._limit: Timer = reactor.call_later(self._timeout_s, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._kill_group()

    def on_readable(self) -> None:
        """It has ended."""
        self._unwatch()
        status = self._process.wait()
        error = self._finish(status)
        shutil.rmtree(self._making, ignore_errors=True)
        self._done(error)

    def on_writable(self) -> None:
        """Never asked for."""

    def _finish(self, status: int) -> str:
        if self._timed_out:
            return f"pip install took longer than {self._timeout_s:g} s (setup_timeout_seconds)\n{self._last_lines()}"
        if status:
            return f"pip install failed (status {status}):\n{self._last_lines()}"
        try:
            os.rename(self._target, self._final)
        except OSError as exc:
            if not os.path.isdir(self._final):
                return f"what pip installed is not there: {exc}"
        return ""

    def _last_lines(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                return "\n".join(log.read().splitlines()[-_LAST_LINES:])
        except OSError as exc:
            return str(exc)

    def _unwatch(self) -> None:
        self._limit.cancel()
        self._reactor.unregister(self._pidfd)
        os.close(self._pidfd)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        self._unwatch()
        self._kill_group()
        self._process.wait()
