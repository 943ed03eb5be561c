"""JobConfig: what is for all of a job, in one object: `init(job_config=JobConfig(...))`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError
from aioray.logging_config import checked_logging
from aioray.runtime_env import checked_env

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.logging_config import LoggingConfig
    from aioray.runtime_env import RuntimeEnv

__all__ = ["JobConfig"]


class JobConfig:
    """runtime_env, ray_namespace and what `set_py_logging_config` takes are those of `init`, and may be given in one of
    the two places.

    Raises InvalidOptionError for a bad value. The others are here because Ray has them, and may only be left as they
    are: Java's options, metadata, which nothing shows yet, and actors that are detached unless they say otherwise.
    """

    def __init__(
        self,
        jvm_options: Sequence[str] | None = None,
        code_search_path: Sequence[str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        _client_job: bool = False,
        metadata: Mapping[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
    ) -> None:
        for name, value in (
            ("jvm_options", jvm_options),
            ("code_search_path", code_search_path),
            ("_client_job", _client_job),
            ("metadata", metadata),
        ):
            if value:
                raise InvalidOptionError(name, value, "leaving it out", "it is not there yet")
        if default_actor_lifetime != "non_detached":
            raise InvalidOptionError("default_actor_lifetime", default_actor_lifetime, "'non_detached'", "no other yet")
        self.set_runtime_env(runtime_env)
        self.set_ray_namespace(ray_namespace)
        self.set_py_logging_config(None)

    def set_runtime_env(self, runtime_env: Mapping[str, Any] | None) -> None:
        """What `init(runtime_env=...)` takes. Raises InvalidOptionError."""
        self.runtime_env: RuntimeEnv | None = None if runtime_env is None else checked_env(runtime_env)

    def set_ray_namespace(self, ray_namespace: str | None) -> None:
        """What `init(namespace=...)` takes. Raises InvalidOptionError."""
        if ray_namespace is not None and (not isinstance(ray_namespace, str) or not ray_namespace):
            raise InvalidOptionError("ray_namespace", ray_namespace, "None, or a text that is not empty")
        self.ray_namespace = ray_namespace

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """What `init(logging_config=...)` takes. Raises InvalidOptionError."""
        self.py_logging_config = checked_logging(logging_config)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> JobConfig:
        """From a dict with the names of the parameters. Raises InvalidOptionError for other names."""
        names = (
            "jvm_options",
            "code_search_path",
            "runtime_env",
            "metadata",
            "ray_namespace",
            "default_actor_lifetime",
        )
        for name, value in given.items():
            if name not in names:
                raise InvalidOptionError(name, value, ", ".join(names), "JobConfig has no such option")
        return cls(**given)

    def __repr__(self) -> str:
        return f"JobConfig(runtime_env={self.runtime_env!r}, ray_namespace={self.ray_namespace!r})"
