"""Packages from the GCS's store into this node's session: carries out what `fetching.py` decides."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from typing import TYPE_CHECKING, Any

from aioray.runtime_env.environment import resources_dir
from aioray.wire.state import PACKAGE_PIECE_NBYTES
from aioray_node.environments import fetching
from aioray_node.environments.child import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import Answer, PackageFound
    from aioray_node.environments.head_line import HeadLine


class PackageFetcher:
    """`complete(environment)`, `give_up(environment, names, reason)`: how it ends. The reactor's lock is held."""

    def __init__(
        self,
        reactor: Reactor,
        session_dir: str,
        ask_head: HeadLine,
        complete: Callable[[str], None],
        give_up: Callable[[str, tuple[str, ...], str], None],
    ) -> None:
        self._reactor = reactor
        self._dir = resources_dir(session_dir)
        self._ask_head = ask_head
        self._complete = complete
        self._give_up = give_up
        self._state = fetching.State()
        self._unpacking: dict[int, ChildProcess] = {}  # by attempt
        self._closed = False

    def feed(self, event: fetching.Event) -> None:
        """Decide, and carry it out."""
        if self._closed:
            return
        for command in fetching.handle(self._state, event):
            match command:
                case fetching.Ask(name):
                    self._ask_head("need_package", functools.partial(self._asked, name), name=name)
                case fetching.AskPiece(name, upload, attempt, index):
                    came = functools.partial(self._came, name, attempt, index)
                    self._ask_head("package_piece", came, name=name, upload=upload, index=index)
                case fetching.Unpack(name, attempt):
                    self._unpack(name, attempt)
                case fetching.Complete(environment):
                    self._complete(environment)
                case fetching.GiveUp(environment, names, reason):
                    self._give_up(environment, names, reason)

    def found(self, message: PackageFound) -> None:
        """The head's word."""
        self.feed(fetching.Found(message.name, message.upload, message.pieces, message.error))

    def _asked(self, name: str, answer: Answer) -> None:
        if answer.error:
            self.feed(fetching.Found(name, error=answer.error))

    def _archive(self, attempt: int) -> str:
        return os.path.join(self._dir, f"fetching-{attempt}")

    def _came(self, name: str, attempt: int, index: int, answer: Answer) -> None:
        if self._closed or not fetching.is_under_way(self._state, name, attempt):
            return
        if answer.error:
            self._remove_archive(attempt)
            self.feed(fetching.PieceLost(name, attempt, answer.error))
            return
        try:
            self._write(attempt, index, answer.data)
        except OSError as exc:
            self._remove_archive(attempt)
            self.feed(fetching.Ended(name, attempt, f"it cannot be written: {exc}"))
        else:
            self.feed(fetching.PieceCame(name, attempt))

    def _write(self, attempt: int, index: int, data: Any) -> None:
        os.makedirs(self._dir, mode=0o700, exist_ok=True)
        fd = os.open(self._archive(attempt), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(fd, data, index * PACKAGE_PIECE_NBYTES) < len(data):
                raise OSError("the disk is full")
        finally:
            os.close(fd)

    def _unpack(self, name: str, attempt: int) -> None:
        archive = self._archive(attempt)
        done = functools.partial(self._unpacked, name, attempt)
        try:
            self._unpacking[attempt] = ChildProcess(
                self._reactor,
                "aioray_node.environments.package_process",
                ["unpack", os.path.join(self._dir, name), archive],
                title="unpacking it",
                log=f"{archive}-log",
                directory=self._dir,
                done=done,
            )
        except OSError as exc:
            done(f"it cannot be unpacked: {exc}")

    def _unpacked(self, name: str, attempt: int, error: str) -> None:
        self._unpacking.pop(attempt, None)
        shutil.rmtree(f"{self._archive(attempt)}-files", ignore_errors=True)
        self._remove_archive(attempt)
        self.feed(fetching.Ended(name, attempt, error))

    def _remove_archive(self, attempt: int) -> None:
        for path in (self._archive(attempt), f"{self._archive(attempt)}-log"):
            with contextlib.suppress(OSError):  # else it goes with the session
                os.unlink(path)

    def close(self) -> None:
        """End what still runs. Blocks until it has ended: for milliseconds."""
        self._closed = True
        for process in self._unpacking.values():
            process.kill()
        self._unpacking.clear()
