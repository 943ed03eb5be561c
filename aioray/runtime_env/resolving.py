"""From what users write to what workers are started with: parents' fields, and packages that nodes can have."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import InvalidOptionError
from aioray.runtime_env import ALLOWED
from aioray.runtime_env.environment import Environment
from aioray.runtime_env.package_error import PackageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioray.runtime_env import RuntimeEnv
    from aioray.runtime_env.packages import Package, Packages
    from aioray.runtime_env.register import Register

_MAX_TEXT_NBYTES = 48 * 1024  # it travels in one packet to the zygote


class Environments:
    """Resolves environments for one process. `own` is what its tasks and actors have if nothing is said.

    session_dir: of its node, "" if that is on another machine. ask, user: see `Register`.
    """

    def __init__(
        self, own: str, session_dir: str, max_nbytes: int, ask: Callable[..., Any], user: Callable[[], bytes]
    ) -> None:
        self.own = own
        self._session_dir = session_dir
        self._max_nbytes = max_nbytes
        self._ask = ask
        self._user = user

    @functools.cached_property
    def _packages(self) -> Packages:
        from aioray.runtime_env.packages import Packages  # takes some milliseconds, and few need it

        return Packages(self._session_dir, self._max_nbytes)

    @functools.cached_property
    def _register(self) -> Register:
        from aioray.runtime_env.register import Register  # as above

        return Register(self._ask, self._user)

    def resolve(self, given: RuntimeEnv) -> str:
        """An environment's text. Copies or sends files that are not there yet, blocking; raises InvalidOptionError."""
        if not given:
            return self.own
        parent = Environment.of(self.own)
        excludes = given.get("excludes", [])
        fields: dict[str, object] = {}
        if "env_vars" in given:
            fields["env_vars"] = {**parent.env_vars, **given["env_vars"]}
        if "working_dir" in given:
            fields["working_dir"] = self._directory(given["working_dir"], excludes)
        if "py_modules" in given:
            modules = [self._module(each, given["py_modules"], excludes) for each in given["py_modules"]]
            fields["py_modules"] = list(dict.fromkeys(modules))
        if "pip" in given:
            fields |= self._pip(given["pip"])
        if "config" in given:
            fields["setup_timeout_s"] = given["config"]["setup_timeout_seconds"]
        text = msgspec.structs.replace(parent, **fields).text()
        if len(text.encode()) > _MAX_TEXT_NBYTES:
            reason = f"more than {_MAX_TEXT_NBYTES:,} bytes of names and texts"
            raise InvalidOptionError("runtime_env", dict(given), ALLOWED, reason)
        return text

    def _directory(self, source: str, excludes: list[str]) -> str:
        try:
            return self._had_by_nodes(self._packages.directory(source, excludes))
        except PackageError as exc:
            raise _refused("working_dir", source, exc) from None

    def _module(self, source: str, sources: list[str], excludes: list[str]) -> str:
        try:
            return self._had_by_nodes(self._packages.module(source, excludes))
        except PackageError as exc:
            raise _refused("py_modules", sources, exc) from None

    def _had_by_nodes(self, package: Package) -> str:
        """As an Environment has it, now that nodes can have it. Raises PackageError."""
        if not self._session_dir:
            self._register.send(package)
            return package.name
        copy = self._packages.copied(package)
        self._register.offer(package.name)
        return copy

    def _pip(self, given: Mapping[str, list[str]]) -> dict[str, object]:
        lines, options = given["packages"], given.get("pip_install_options", [])
        if not lines:
            return {"pip": [], "pip_options": [], "pip_digest": ""}
        whole = hashlib.blake2b(repr((lines, options)).encode(), digest_size=16)
        absolute = []
        for line in lines:
            path = os.path.abspath(line)
            is_local = not line.startswith("-") and os.path.exists(path) and (os.sep in line or line.endswith(".whl"))
            if is_local:
                whole.update(self._packages.digest_of(path).encode())
            absolute.append(path if is_local else line)
        return {"pip": absolute, "pip_options": options, "pip_digest": whole.hexdigest()}


def _refused(name: str, value: object, why: PackageError) -> InvalidOptionError:
    return InvalidOptionError("runtime_env", {name: value}, ALLOWED, f"{name}: {why}")
