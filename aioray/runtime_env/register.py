"""What a process tells the cluster of its packages, so that nodes on other machines can have them."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from aioray.runtime_env import archives
from aioray.runtime_env.package_error import PackageError
from aioray.runtime_env.packages import told_as_package_error
from aioray.wire.state import PACKAGE_PIECE_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime_env.packages import Package


class Register:
    """`ask` asks the node, blocking, and raises ValueError with its words; `user` says who has them used here now."""

    def __init__(self, ask: Callable[..., Any], user: Callable[[], bytes]) -> None:
        self._ask = ask
        self._user = user
        self._told: set[tuple[str, bytes]] = set()

    def offer(self, name: str) -> None:
        """This process's node has that package, for whoever needs it."""
        user = self._user()
        if (name, user) not in self._told:
            self._ask("offer_package", name=name, user=user)
            self._told.add((name, user))

    def send(self, package: Package) -> None:
        """No node has that package: bring it to the GCS's store, unless it is there. Raises PackageError."""
        user = self._user()
        if (package.name, user) in self._told:
            return
        upload = self._ask("begin_package", name=package.name, user=user)
        if upload:
            pieces, error = 0, "it was not sent to its end"
            try:
                pieces = self._send(package, upload)
                error = ""
            except ValueError as exc:
                error = str(exc)
                raise PackageError(f"it cannot be sent to the cluster: {error}") from None
            finally:
                self._ask("package_sent", name=package.name, upload=upload, pieces=pieces, error=error)
        self._told.add((package.name, user))

    def _send(self, package: Package, upload: str) -> int:
        """In how many pieces."""
        with told_as_package_error(), tempfile.TemporaryDirectory(prefix="aioray-") as directory:
            copy, archive = os.path.join(directory, "copy"), os.path.join(directory, "archive")
            os.mkdir(copy)
            package.fill(copy)
            archives.pack(copy, archives.files_in(copy), archive)
            pieces = 0
            with open(archive, "rb") as file:
                while piece := file.read(PACKAGE_PIECE_NBYTES):
                    self._ask("put_package", name=package.name, upload=upload, index=pieces, data=piece)
                    pieces += 1
        return pieces
