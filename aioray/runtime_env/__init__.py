"""What tasks and actors find around them: environment variables, files, modules, packages."""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aioray import did_you_mean
from aioray.exceptions import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RuntimeEnv"]

_LATER = (
    "uv", "conda", "container", "image_uri", "py_executable", "nsight", "rocprof_sys", "worker_process_setup_hook",
    "mpi", "java_jars",
)  # fmt: skip
_DEFAULT_TIMEOUT_S = 600.0
NOT_YET = "not there yet"


def _env_vars(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("not a dict")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{name} is {text!r}, not a text")
    return dict(value)


def _working_dir(value: Any) -> str:
    path = _path(value)
    if not os.path.isdir(path) and not (os.path.isfile(path) and path.endswith(".zip")):
        raise ValueError("no such directory, nor a .zip file")
    return path


def _py_modules(value: Any) -> list[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError("not a list")
    return [_module(each) for each in value]


def _module(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        where = getattr(value, "__path__", None)
        file = next(iter(where)) if where is not None else getattr(value, "__file__", None)
        if not isinstance(file, str) or not os.path.exists(file):
            raise ValueError(f"{value.__name__} is a module without files")
        return os.path.abspath(file)
    path = _path(value)
    if path.endswith(".whl"):
        raise ValueError(f"{path} is a wheel: that is for pip")
    if not os.path.isdir(path) and not (os.path.isfile(path) and path.endswith(".py")):
        raise ValueError(f"{path} is no directory, nor a .py file")
    return path


def _path(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ValueError(f"{value!r} is not a path")
    path = os.fspath(value)
    if not isinstance(path, str):
        raise ValueError("not a text")
    if "://" in path:
        raise ValueError("fetching it from elsewhere is not there yet")
    return os.path.abspath(os.path.expanduser(path))


def _texts(value: Any) -> list[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError("not a list")
    texts = list(value)
    for text in texts:
        if not isinstance(text, str) or not text.strip() or "\n" in text:
            raise ValueError(f"{text!r} is not a line of text")
    return texts


def _pip(value: Any) -> dict[str, list[str]]:
    options: list[str] = []
    if isinstance(value, Mapping):
        if unknown := value.keys() - {"packages", "pip_install_options"}:
            raise ValueError(f"{', '.join(map(repr, sorted(unknown, key=str)))}: no such part, or not there yet")
        options = _texts(value.get("pip_install_options", []))
        value = value.get("packages", [])
    lines = _requirements(_path(value)) if isinstance(value, (str, os.PathLike)) else _texts(value)
    for line in lines:
        if line.split("=")[0].split()[0] in ("-r", "--requirement", "-c", "--constraint", "-e", "--editable"):
            raise ValueError(
                f"{line!r}: a file of requirements is read here, and cannot refer to others or be editable"
            )
    return {"packages": lines, "pip_install_options": options} if options else {"packages": lines}


def _requirements(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().replace("\\\n", " ")
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"{path} is no file of requirements: {exc}") from None
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _config(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or value.keys() - {"setup_timeout_seconds"}:
        raise ValueError("only setup_timeout_seconds is there")
    limit = value.get("setup_timeout_seconds", _DEFAULT_TIMEOUT_S)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < 1e9:
        raise ValueError("setup_timeout_seconds is not a number of seconds above 0")
    return {"setup_timeout_seconds": float(limit)}


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "env_vars": (_env_vars, "a dict of texts"),
    "working_dir": (_working_dir, "the path of a directory, or of a .zip file"),
    "py_modules": (_py_modules, "a list of modules, or of paths of packages and .py files"),
    "excludes": (_texts, "a list of patterns as in .gitignore"),
    "pip": (_pip, "a list of requirements, the path of a file of them, or a dict with packages, pip_install_options"),
    "config": (_config, "a dict with setup_timeout_seconds"),
}

ALLOWED = f"a dict with {', '.join(_FIELDS)}"


class RuntimeEnv(dict[str, Any]):
    """A checked runtime environment: `init(runtime_env=...)`, `@remote(runtime_env=...)`; a plain dict does as well.

    env_vars: variables, as texts; `${NAME}` stands for what NAME is on the node, or for nothing. working_dir: a
    directory or .zip whose copy is the working directory, and first on sys.path. py_modules: modules, or packages and
    .py files by path, to be imported. excludes: files to leave out of both, in patterns as in .gitignore (which is
    heeded, too). pip: what to install, once per content and node. config: setup_timeout_seconds (600).

    A task or actor has its parent's environment (the job's, for those of the driver): `env_vars` given for it are added
    to those, other fields replace theirs. Raises InvalidOptionError, a ValueError, that names the field.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, **fields: Any) -> None:
        super().__init__()
        if given is not None and not isinstance(given, Mapping):
            raise InvalidOptionError("runtime_env", given, ALLOWED, "not a dict")
        for name, value in {**(given or {}), **fields}.items():
            if value is not None:
                self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, _checked(name, value))

    def update(self, *args: Any, **fields: Any) -> None:
        for name, value in dict(*args, **fields).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as a plain dict."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return RuntimeEnv.restored, (dict(self),)

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> RuntimeEnv:
        """From fields that were checked already, where it was made: paths may be another machine's."""
        env = cls()
        dict.update(env, fields)
        return env


def checked_env(value: Any) -> RuntimeEnv:
    """What a user gave as a runtime environment. Raises InvalidOptionError."""
    env = RuntimeEnv(value)
    if "excludes" in env and not env.keys() & {"working_dir", "py_modules"}:
        allowed = "only together with working_dir or py_modules"
        raise InvalidOptionError("runtime_env", dict(env), ALLOWED, f"excludes: {allowed}")
    return env


def _checked(name: str, value: Any) -> Any:
    field = _FIELDS.get(name)
    if field is None:
        why = NOT_YET if name in _LATER else "no such field" + did_you_mean.hint(str(name), _FIELDS)
        raise InvalidOptionError("runtime_env", {name: value}, ALLOWED, f"{name}: {why}")
    check, wanted = field
    try:
        return check(value)
    except ValueError as exc:
        raise InvalidOptionError("runtime_env", {name: value}, ALLOWED, f"{name}: {exc}; it is {wanted}") from None
