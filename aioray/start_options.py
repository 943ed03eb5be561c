"""The options of `init` and `connect`, checked."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import aioray.config
from aioray import did_you_mean
from aioray.config import Config  # msgspec looks it up
from aioray.exceptions import InvalidOptionError
from aioray.labels import LABELS_ALLOWED, checked_labels
from aioray.logging_config import LoggingConfig, checked_logging  # msgspec looks it up, too
from aioray.options import AMOUNT, MAX_UNITS, OWN_OPTION, UNIT
from aioray.runtime_env import checked_env

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.job_config import JobConfig

_NO_DASHBOARD = "the dashboard is not there yet"
_NOT_YET: Mapping[str, tuple[tuple[Any, ...], str]] = {  # what asks for nothing, and why nothing else may be given
    "include_dashboard": ((None, False), _NO_DASHBOARD),
    "dashboard_host": ((None,), _NO_DASHBOARD),
    "dashboard_port": ((None,), _NO_DASHBOARD),
}
_OF_INIT_ONLY = {"inline": "the node of `connect` is always in this process: it runs in the event loop that is there"}
_MAX_GPUS = 1024
ADDRESS_VARIABLE = "AIORAY_ADDRESS"  # which cluster to join where none is named


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` and `connect` were told, checked."""

    config: Config
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: dict[str, float] = {}
    object_store_memory: int | None = None
    temp_dir: str | None = None
    namespace: str = ""
    log_to_driver: bool = True
    runtime_env: dict[str, Any] = {}
    labels: dict[str, str] = {}
    logging_config: LoggingConfig | None = None
    node_ip_address: str = ""  # "": it is for this machine only, and nobody joins it
    inline: bool = False  # of `init`: the node is in this process


def check_options(
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    labels: Mapping[str, str] | None,
    object_store_memory: int | None,
    temp_dir: str | None,
    namespace: str | None,
    log_to_driver: bool,
    runtime_env: Mapping[str, Any] | None,
    job_config: JobConfig | Mapping[str, Any] | None,
    system_config: Mapping[str, Any] | None,
    memory: int | None = None,
    logging_config: LoggingConfig | None = None,
    node_ip_address: str | None = None,
    inline: bool = False,
) -> ClusterOptions:
    """Raises InvalidOptionError that names the option, its value, and what is allowed."""
    namespace, runtime_env, logging_config = _with_job_config(job_config, namespace, runtime_env, logging_config)
    for name, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if amount is not None and not _is_amount(amount):
            raise InvalidOptionError(name, amount, AMOUNT)
    if num_gpus is not None and (num_gpus != int(num_gpus) or num_gpus > _MAX_GPUS):
        raise InvalidOptionError("num_gpus", num_gpus, f"a whole number from 0 to {_MAX_GPUS}")
    if not isinstance(resources or {}, Mapping):
        raise InvalidOptionError("resources", resources, f"a dict from names to amounts, each {AMOUNT}")
    for name, amount in (resources or {}).items():
        if name in OWN_OPTION:
            raise InvalidOptionError("resources", resources, f"names other than {name}: that has an option of its own")
        if not isinstance(name, str) or not name or not _is_amount(amount):
            raise InvalidOptionError("resources", resources, f"a dict from names to amounts, each {AMOUNT}")
    if object_store_memory is not None and (
        isinstance(object_store_memory, bool)
        or not isinstance(object_store_memory, int)
        or object_store_memory < 1 << 20
    ):
        raise InvalidOptionError("object_store_memory", object_store_memory, "a whole number of bytes, 1 MiB or more")
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 0):
        raise InvalidOptionError("memory", memory, "a whole number of bytes")
    for name, text in (("namespace", namespace), ("_temp_dir", temp_dir)):
        if text is not None and not isinstance(text, str):
            raise InvalidOptionError(name, text, "None, or a text")
    for name, flag in (("log_to_driver", log_to_driver), ("inline", inline)):
        if not isinstance(flag, bool):
            raise InvalidOptionError(name, flag, "True or False")
    if object_store_memory is not None:
        free = os.statvfs("/dev/shm")
        room = free.f_bavail * free.f_frsize
        if object_store_memory > room:
            raise InvalidOptionError(
                "object_store_memory", object_store_memory, f"at most {room}, what /dev/shm has free"
            )
    return ClusterOptions(
        config=aioray.config.load(system_config, os.environ),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=memory,
        resources={name: float(amount) for name, amount in (resources or {}).items()},
        object_store_memory=object_store_memory,
        temp_dir=temp_dir,
        namespace=namespace or "",
        log_to_driver=log_to_driver,
        runtime_env=checked_env(runtime_env),
        labels=_node_labels(labels),
        logging_config=checked_logging(logging_config),
        node_ip_address="" if node_ip_address is None else _own_ip(node_ip_address),
        inline=inline,
    )


def _with_job_config(
    given: JobConfig | Mapping[str, Any] | None,
    namespace: str | None,
    runtime_env: Mapping[str, Any] | None,
    logging_config: LoggingConfig | None,
) -> tuple[str | None, Mapping[str, Any] | None, LoggingConfig | None]:
    """What is for the whole job, from the one place or the other."""
    if given is None:
        return namespace, runtime_env, logging_config
    from aioray.job_config import JobConfig

    if isinstance(given, Mapping):
        given = JobConfig.from_json(given)
    if not isinstance(given, JobConfig):
        raise InvalidOptionError("job_config", given, "an aioray.job_config.JobConfig, or a dict of what that takes")
    for name, here, there in (
        ("namespace", namespace, given.ray_namespace),
        ("runtime_env", runtime_env, given.runtime_env),
        ("logging_config", logging_config, given.py_logging_config),
    ):
        if here is not None and there is not None:
            raise InvalidOptionError(name, here, "the one of `init`, or the one in job_config, not both")
    return (
        namespace or given.ray_namespace,
        given.runtime_env if runtime_env is None else runtime_env,
        logging_config or given.py_logging_config,
    )


def _node_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    try:
        return checked_labels(labels or {})
    except ValueError as exc:
        raise InvalidOptionError("labels", labels, LABELS_ALLOWED, str(exc)) from None


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return False
    return abs(value * UNIT - round(value * UNIT)) < 1e-6 and value * UNIT <= MAX_UNITS


def check_joining(address: str, **given: Any) -> None:
    """What says how to start a node means nothing where one is joined. Raises InvalidOptionError."""
    for name, value in given.items():
        if value is not None:
            raise InvalidOptionError(name, value, f"leaving it out: the cluster at {address} runs already")


def check_later_options(call: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """What is yet to come may be given the value that asks for nothing; what `call` does not know may not be given.

    Raises InvalidOptionError.
    """
    for name, value in given.items():
        if name not in _NOT_YET:
            raise _unknown(call, name, value)
        allowed, reason = _NOT_YET[name]
        if not any(value is each for each in allowed):
            raise InvalidOptionError(name, value, ", ".join(map(repr, allowed)), reason)


def _unknown(call: Callable[..., Any], name: str, value: Any) -> InvalidOptionError:
    parameters = inspect.signature(call).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    why = f": {_OF_INIT_ONLY[name]}" if name in _OF_INIT_ONLY else did_you_mean.hint(name, names)
    reason = f"{call.__name__} has no such option{why}"
    return InvalidOptionError(name, value, ", ".join(sorted(names)), reason)


def _own_ip(text: object) -> str:
    from aioray.own_address import checked_ip  # late: hardly anybody says it

    return checked_ip("_node_ip_address", text)
