"""The options of tasks, actors and methods.

`task_options`, `actor_options` and `method_options` turn what a user gave into final values, or raise
InvalidOptionError. Nothing is accepted and then ignored: an option, or a value of one, that Ray has and this release
has not is refused with the values that do work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aioray import did_you_mean
from aioray.exceptions import InvalidOptionError
from aioray.options.checks import MAX_UNITS, OWN_OPTION, PLACE, UNIT, bundle_amount, type_name
from aioray.options.final import ActorOptions, MethodOptions, TaskOptions, returns_of
from aioray.options.table import AMOUNT, TABLE, Kind, Option

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACTOR_DEFAULTS",
    "AMOUNT",
    "MAX_UNITS",
    "METHOD_DEFAULTS",
    "OWN_OPTION",
    "PLACE",
    "TABLE",
    "TASK_DEFAULTS",
    "UNIT",
    "ActorOptions",
    "Kind",
    "MethodOptions",
    "Option",
    "TaskOptions",
    "actor_options",
    "bundle_amount",
    "method_options",
    "returns_of",
    "task_options",
    "type_name",
]

AnyOptions = TypeVar("AnyOptions", TaskOptions, ActorOptions, MethodOptions)


def _defaults(kind: Kind) -> dict[str, Any]:
    return {row.name: row.default for row in TABLE[kind].values()}


TASK_DEFAULTS = TaskOptions(**_defaults("task"))
ACTOR_DEFAULTS = ActorOptions(**_defaults("actor"))
METHOD_DEFAULTS = MethodOptions(**_defaults("method"))


def task_options(given: Mapping[str, Any], base: TaskOptions | None = None) -> TaskOptions:
    """`given` checked and laid over `base` (the defaults if None). Raises InvalidOptionError."""
    return _merged("task", given, base or TASK_DEFAULTS)


def actor_options(given: Mapping[str, Any], base: ActorOptions | None = None) -> ActorOptions:
    """`given` checked and laid over `base` (the defaults if None). Raises InvalidOptionError."""
    options = _merged("actor", given, base or ACTOR_DEFAULTS)
    if options.isolation == "shared" and options.num_gpus:
        raise InvalidOptionError(
            "num_gpus",
            options.num_gpus,
            "0 with isolation='shared'",
            "a GPU is given to a process, and light actors share",
        )
    return options


def method_options(given: Mapping[str, Any], base: MethodOptions | None = None) -> MethodOptions:
    """`given` checked and laid over `base` (the defaults if None). Raises InvalidOptionError."""
    return _merged("method", given, base or METHOD_DEFAULTS)


def _merged(kind: Kind, given: Mapping[str, Any], base: AnyOptions) -> AnyOptions:
    values = {}
    for name, value in given.items():
        row = TABLE[kind].get(name)
        if row is None:
            raise _unknown(kind, name, value)
        try:
            values[name] = row.default if value is None and not row.takes_none else row.check(value)
        except ValueError as exc:
            raise InvalidOptionError(name, value, row.allowed, str(exc)) from None
    return msgspec.structs.replace(base, **values) if values else base


def _unknown(kind: Kind, name: str, value: Any) -> InvalidOptionError:
    names = sorted(TABLE[kind])
    reason = f"{kind}s have no such option"
    if others := [f"{other}s" for other in TABLE if name in TABLE[other]]:
        reason += f", only {' and '.join(others)} do"
    else:
        reason += did_you_mean.hint(name, names)
    return InvalidOptionError(name, value, ", ".join(names), reason)
