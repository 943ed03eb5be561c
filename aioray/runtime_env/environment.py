"""An environment in its final form, as it crosses processes: what a worker is started with."""

from __future__ import annotations

import os
import re
import sys

import msgspec

from aioray.logging_config import LoggingConfig  # msgspec looks it up
from aioray.runtime_env import RuntimeEnv

# What Python, the dynamic loader, malloc and numeric libraries read when they start, and never again.
_READ_AT_START = ("PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "MALLOC_", "GLIBC_")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


_PACKAGE = re.compile(r"(dir|mod|zip)-[0-9a-f]{32}")


class Environment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Packages are directories in the session of the node where they were made, named after what is in them.

    Without a path are those of a driver that has no node on its machine. Other nodes find them by the name.
    """

    env_vars: dict[str, str] = {}
    working_dir: str = ""
    py_modules: list[str] = []  # each has one module or package, and goes on sys.path
    pip: list[str] = []  # lines of a requirements file
    pip_options: list[str] = []  # of `pip install`
    pip_digest: str = ""  # of both, and of local files that they name
    setup_timeout_s: float = 600.0
    logging_config: LoggingConfig | None = None  # of the job

    def text(self) -> str:
        """The same environment is always the same text; "" for the one without anything special."""
        text = msgspec.json.encode(self, order="sorted").decode()
        return "" if text == "{}" else text

    @classmethod
    def of(cls, text: str) -> Environment:
        """The environment that `text` stands for."""
        return msgspec.json.decode(text, type=cls) if text else cls()

    @property
    def needs_fresh_python(self) -> bool:
        """Whether a fork of a process that has imported things already would not do."""
        return bool(self.pip) or any(name.startswith(_READ_AT_START) for name in self.env_vars)

    @property
    def packages(self) -> list[str]:
        """All of them."""
        return [self.working_dir, *self.py_modules] if self.working_dir else self.py_modules

    def sys_path(self, session_dir: str) -> list[str]:
        """What comes before everything else on sys.path."""
        paths = [package_dir(session_dir, package) for package in self.packages]
        if self.pip:
            paths.append(pip_dir(session_dir, self.pip_digest))
        paths += filter(None, self.env_vars.get("PYTHONPATH", "").split(os.pathsep))
        return paths

    def set_variables(self) -> None:
        """Put them into os.environ. `${NAME}` in one stands for what NAME is there before, empty if it is not."""
        before = dict(os.environ)
        for name, value in self.env_vars.items():
            os.environ[name] = _REFERENCE.sub(lambda match: before.get(match[1], ""), value)

    def enter(self, session_dir: str) -> None:
        """Make the rest true for this process. Raises OSError when the working directory is not there."""
        if self.working_dir:
            os.chdir(package_dir(session_dir, self.working_dir))
        sys.path[:0] = self.sys_path(session_dir)

    def as_given(self, session_dir: str) -> RuntimeEnv:
        """In the fields that a user gives; packages are those of this node."""
        fields: dict[str, object] = {"env_vars": self.env_vars}
        if self.working_dir:
            fields["working_dir"] = package_dir(session_dir, self.working_dir)
        fields["py_modules"] = [package_dir(session_dir, package) for package in self.py_modules]
        if self.pip:
            fields["pip"] = {"packages": self.pip, "pip_install_options": self.pip_options}
        return RuntimeEnv.restored({name: value for name, value in fields.items() if value})


def resources_dir(session_dir: str) -> str:
    """Where a node keeps what environments consist of."""
    return os.path.join(session_dir, "environments")


def package_name(package: str) -> str:
    """What says which package it is, wherever it lies. Raises ValueError for what is none."""
    name = os.path.basename(package)
    if not _PACKAGE.fullmatch(name):
        raise ValueError(f"{package!r} is no package of files")
    return name


def package_dir(session_dir: str, package: str) -> str:
    """Where a node has it, if it has it: where it was made, if that is to be seen from here, or else in its session."""
    if os.path.isabs(package) and os.path.isdir(package):
        return package
    return os.path.join(resources_dir(session_dir), os.path.basename(package))


def pip_dir(session_dir: str, digest: str) -> str:
    """Where packages are installed."""
    return os.path.join(resources_dir(session_dir), f"pip-{digest}")
