"""Packages of this node on their way to the GCS's store, when the head wants them there."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, BinaryIO

from aioray.record import Record
from aioray.runtime_env.environment import package_name, resources_dir
from aioray.wire.state import PACKAGE_PIECE_NBYTES
from aioray_node.environments.child import ChildProcess
from aioray_node.environments.window import Window, pieces_of

if TYPE_CHECKING:
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import Answer, SendPackage
    from aioray_node.environments.head_line import HeadLine


class _Upload(Record, eq=False):
    name: str
    number: str
    archive: str
    packing: ChildProcess | None = None
    file: BinaryIO | None = None
    window: Window | None = None


class PackageSender:
    """Every order ends with one `package_sent`, unless the node does. The reactor's lock is held in every call."""

    def __init__(self, reactor: Reactor, session_dir: str, ask_head: HeadLine) -> None:
        self._reactor = reactor
        self._dir = resources_dir(session_dir)
        self._ask_head = ask_head
        self._uploads: set[_Upload] = set()

    def send(self, order: SendPackage) -> None:
        """Begin with it."""
        upload = _Upload(order.name, order.upload, os.path.join(self._dir, f"sending-{order.upload}"))
        self._uploads.add(upload)
        try:
            directory = os.path.join(self._dir, package_name(order.name))
            upload.packing = ChildProcess(
                self._reactor,
                "aioray_node.environments.package_process",
                ["pack", directory, upload.archive],
                title="packing it",
                log=f"{upload.archive}-log",
                directory=self._dir,
                done=functools.partial(self._packed, upload),
            )
        except (OSError, ValueError) as exc:
            self._end(upload, 0, f"it cannot be packed: {exc}")

    def _packed(self, upload: _Upload, error: str) -> None:
        upload.packing = None
        if not error:
            try:
                upload.file = open(upload.archive, "rb")  # noqa: SIM115 # closed in _clear
                upload.window = Window(pieces_of(os.fstat(upload.file.fileno()).st_size))
            except OSError as exc:
                error = str(exc)
        if error:
            self._end(upload, 0, error)
        else:
            self._go_on(upload)

    def _go_on(self, upload: _Upload) -> None:
        assert upload.file is not None, "it is packed"
        assert upload.window is not None, "it is packed"
        for index in upload.window.next():
            try:
                data = os.pread(upload.file.fileno(), PACKAGE_PIECE_NBYTES, index * PACKAGE_PIECE_NBYTES)
            except OSError as exc:
                self._end(upload, 0, str(exc))
                return
            put = functools.partial(self._put, upload)
            self._ask_head("put_package", put, name=upload.name, upload=upload.number, index=index, data=data)

    def _put(self, upload: _Upload, answer: Answer) -> None:
        if upload not in self._uploads:
            return  # another piece has failed
        assert upload.window is not None, "it is on its way"
        upload.window.done += 1
        if answer.error:
            self._end(upload, 0, answer.error)
        elif upload.window.is_over:
            self._end(upload, upload.window.pieces, "")
        else:
            self._go_on(upload)

    def _end(self, upload: _Upload, pieces: int, error: str) -> None:
        self._uploads.discard(upload)
        _clear(upload)
        sent = {"name": upload.name, "upload": upload.number, "pieces": pieces, "error": error}
        self._ask_head("package_sent", lambda _: None, **sent)

    def close(self) -> None:
        """End what still runs. Blocks until it has ended: for milliseconds."""
        for upload in self._uploads:
            if upload.packing is not None:
                upload.packing.kill()
            _clear(upload)
        self._uploads.clear()


def _clear(upload: _Upload) -> None:
    if upload.file is not None:
        upload.file.close()
    for path in (upload.archive, f"{upload.archive}-log"):
        with contextlib.suppress(OSError):  # else it goes with the session
            os.unlink(path)
