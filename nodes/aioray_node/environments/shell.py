"""Environments set up: packages of files fetched, pip in a process of its own, into the session."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from aioray.runtime_env.environment import Environment, package_dir, package_name, pip_dir, resources_dir
from aioray.wire.control import PackageFound, SendPackage
from aioray_node.environments import core, fetching
from aioray_node.environments.child import ChildProcess
from aioray_node.environments.fetcher import PackageFetcher
from aioray_node.environments.sender import PackageSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray_node.environments.head_line import HeadLine


class EnvironmentDesk:
    """Tells leases when their environment is there, or why it cannot be had. The reactor's lock is held."""

    def __init__(
        self,
        reactor: Reactor,
        session_dir: str,
        go_on: Callable[[int], None],
        refuse: Callable[[int, str], None],
        ask_head: HeadLine,
    ) -> None:
        self._reactor = reactor
        self._session_dir = session_dir
        self._go_on = go_on
        self._refuse = refuse
        self._state = core.State()
        self._installs: dict[str, _Install] = {}
        self._fetcher = PackageFetcher(reactor, session_dir, ask_head, self._has_packages, self._lacks_packages)
        self._sender = PackageSender(reactor, session_dir, ask_head)
        self._limits: dict[str, Timer] = {}  # of those that wait for packages

    def feed(self, event: core.Event) -> None:
        """Decide, and carry it out."""
        if isinstance(event, core.Wanted) and event.environment in self._state.ready:
            self._look_again(event.environment)
        for command in core.handle(self._state, event):
            match command:
                case core.SetUp(environment):
                    self._set_up(environment)
                case core.GoOn(lease_id):
                    self._go_on(lease_id)
                case core.Refuse(lease_id, reason):
                    self._refuse(lease_id, reason)

    def heard(self, message: SendPackage | PackageFound) -> None:
        """The head wants a package, or has one."""
        if isinstance(message, SendPackage):
            self._sender.send(message)
        else:
            self._fetcher.found(message)

    def is_awaited_by(self, lease_id: int) -> bool:
        """Whether a lease waits for its environment."""
        return lease_id in self._state.where

    def _missing(self, environment: Environment) -> list[str]:
        """Its packages that this node has not."""
        packages = environment.packages
        return [package for package in packages if not os.path.isdir(package_dir(self._session_dir, package))]

    def _look_again(self, text: str) -> None:
        if self._missing(Environment.of(text)):
            self.feed(core.Gone(text))

    def _set_up(self, text: str) -> None:
        environment = Environment.of(text)
        missing = self._missing(environment)
        if not missing:
            self._has_packages(text)
            return
        try:
            names = tuple(package_name(package) for package in missing)
        except ValueError as exc:
            self.feed(core.Failed(text, str(exc)))
            return
        self._limits[text] = self._reactor.call_later(
            environment.setup_timeout_s, lambda: self._fetcher.feed(fetching.TimeUp(text))
        )
        self._fetcher.feed(fetching.Missing(text, names))

    def _lacks_packages(self, text: str, names: tuple[str, ...], reason: str) -> None:
        self._limits.pop(text).cancel()
        environment = Environment.of(text)
        shown = ", ".join(f"{_field(environment, name)} ({name})" for name in names)
        self.feed(core.Failed(text, f"{shown} cannot be had on this node: {reason}"))

    def _has_packages(self, text: str) -> None:
        """The rest is pip's."""
        if (limit := self._limits.pop(text, None)) is not None:
            limit.cancel()
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
        self._fetcher.close()
        self._sender.close()
        for install in self._installs.values():
            install.kill()
        self._installs.clear()


def _field(environment: Environment, name: str) -> str:
    """What its user calls a package."""
    is_directory = bool(environment.working_dir) and package_name(environment.working_dir) == name
    return "working_dir" if is_directory else "one of py_modules"


class _Install:
    """One pip."""

    def __init__(
        self, reactor: Reactor, environment: Environment, session_dir: str, done: Callable[[str], None]
    ) -> None:
        self._done = done
        self._final = pip_dir(session_dir, environment.pip_digest)
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
        self._process = ChildProcess(
            reactor,
            "aioray_node.environments.pip_process",
            command,
            title="pip install",
            log=os.path.join(self._making, "log"),
            directory=self._making,
            done=self._ended,
            environ={"TMPDIR": temporary},  # where nothing of a pip that was killed stays
            limit_s=environment.setup_timeout_s,
            limit="setup_timeout_seconds",
        )

    def _ended(self, error: str) -> None:
        if not error:
            try:
                os.rename(self._target, self._final)
            except OSError as exc:
                if not os.path.isdir(self._final):
                    error = f"what pip installed is not there: {exc}"
        shutil.rmtree(self._making, ignore_errors=True)
        self._done(error)

    def kill(self) -> None:
        """End it. Blocks until it has ended: for milliseconds."""
        self._process.kill()
