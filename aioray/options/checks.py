"""What options may be: a check takes the value given and returns the value to keep, or raises ValueError saying why."""

from __future__ import annotations

import datetime
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from aioray.exceptions import InvalidOptionError
from aioray.labels import selector_of
from aioray.runtime_env import RuntimeEnv, checked_env

UNIT = 10_000  # amounts of resources are counted in whole ten-thousandths
MAX_UNITS = 2**63 - 1  # what an integer on the wire holds
OWN_OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory", "object_store_memory": "object_store_memory"}
PLACE = "node:"  # begins the names of resources that are a node's because of where it is, as "node:10.0.0.5"
AS_STRATEGY = "__aioray_strategy__"  # what objects for `scheduling_strategy` have: these are imported by who uses them


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("too much to count") from None
    if not math.isfinite(number):
        raise ValueError("not finite")
    if number < 0:
        raise ValueError("negative")
    if number * UNIT > MAX_UNITS:
        raise ValueError("too much to count")
    return number


def check_amount(value: Any) -> float:
    amount = _number(value)
    rounded = round(amount, 4)
    # Not ==, since 0.1 + 0.2 is a fair way to say 0.3: above the noise of floats, far below one unit.
    if abs(amount - rounded) > min(1e-12 * amount, 1e-6):
        raise ValueError("finer than 0.0001")
    return rounded


def check_num_gpus(value: Any) -> float:
    amount = check_amount(value)
    if amount > 1 and not amount.is_integer():
        raise ValueError("more than one GPU, but not a whole number of them")
    return amount


def check_memory(value: Any) -> int:
    """Bytes, rounded up: 0.1 * 1024**3 is a fair way to say 0.1 GiB, as in Ray. But 1.5 is 1.5 GiB gone wrong."""
    nbytes = _number(value)
    if nbytes < 1024 and not nbytes.is_integer():
        raise ValueError("not a whole number of bytes")
    return math.ceil(nbytes)  # exact: what passes _number has fewer digits than a float keeps


def check_resources(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError("not a dict")
    amounts = {}
    for name, amount in value.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is not the name of a resource")
        if name in OWN_OPTION:
            raise ValueError(f"{name} has an option of its own, {OWN_OPTION[name]}")
        try:
            amounts[name] = check_amount(amount)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return amounts


def bundle_amount(name: Any, value: Any) -> float:
    """How much of a resource a bundle has. Raises ValueError saying what is wrong."""
    if not isinstance(name, str) or not name:
        raise ValueError("not the name of a resource")
    if name == "bundle" or "_group_" in name:
        raise ValueError("the name of what a bundle gives, and not for bundles to ask for")
    if name in ("memory", "object_store_memory"):
        return check_memory(value)
    return check_num_gpus(value) if name == "GPU" else check_amount(value)


def whole(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError("not a whole number")
        if value < least:
            raise ValueError(f"less than {least}")
        return int(value)

    return check


MOST_RETURNS = 1 << 15  # each has a number in its id, of 16 bits; half of these are for speculative calls' own


def check_num_returns(value: Any) -> int | str:
    if value in ("dynamic", "streaming"):
        return str(value)
    count = whole(0)(value)
    if count > MOST_RETURNS:
        raise ValueError(f"more than {MOST_RETURNS}: so many values are better streamed")
    return count


def check_ahead(value: Any) -> int:
    count = whole(-1)(value)
    if count == 0:
        raise ValueError("nothing could ever be made")
    return count


def only(*supported: Any) -> Callable[[Any], Any]:
    """Just the values `supported`."""

    def check(value: Any) -> Any:
        for each in supported:
            if type(value) is type(each) and value == each:
                return value
        raise ValueError("no such value")

    return check


def check_at_least_one(value: Any) -> int:
    count = whole(-1)(value)
    if count == 0:
        raise ValueError("no call could ever be made")
    return count


def check_retry_exceptions(value: Any) -> bool | tuple[type[Exception], ...]:
    """No types are none to retry. What ends a process, or a call that was cancelled, is no error to try again after."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError("neither a bool nor a list of exception types")
    for each in value:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise ValueError(f"{each!r} is no type of exceptions, that is, no subclass of Exception")
    return tuple(value) or False


def check_exceptions_by_name(value: Any) -> bool | tuple[str, ...]:
    """Types go by name: a method's options travel with its handle, and whoever calls need not have the classes."""
    types = check_retry_exceptions(value)
    return types if isinstance(types, bool) else tuple(map(type_name, types))


def type_name(cls: type) -> str:
    """How `MethodOptions.retry_exceptions` names a type."""
    return f"{cls.__module__}.{cls.__qualname__}"


def check_groups(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError("not a dict")
    limits = {}
    for name, limit in value.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is not the name of a group")
        try:
            limits[name] = whole(1)(limit)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return limits


def check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a bool")
    return value


def check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a str")
    if not value:
        raise ValueError("empty")
    return value


def check_seconds(value: Any) -> float:
    seconds = _number(value)
    if not seconds:
        raise ValueError("not above 0")
    return seconds


def check_moment(value: Any) -> float:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.timestamp()
    return _number(value)


def check_runtime_env(value: Any) -> RuntimeEnv:
    try:
        return checked_env(value)
    except InvalidOptionError as exc:
        raise ValueError(exc.reason) from None


def check_scheduling_strategy(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value in ("DEFAULT", "SPREAD"):
        return value
    if isinstance(value, type) or not hasattr(value, AS_STRATEGY):
        raise ValueError("no such strategy")
    return value


def check_label_selector(value: Any) -> dict[str, str]:
    selector_of(value)
    return dict(value)


def check_fallback_strategy(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("not a list")
    for at, each in enumerate(value):
        if not isinstance(each, Mapping) or set(each) != {"label_selector"}:
            raise ValueError(f"{each!r} is not a dict with just 'label_selector'")
        try:
            selector_of(each["label_selector"])
        except ValueError as exc:
            raise ValueError(f"[{at}]: {exc}") from None
    return [{"label_selector": dict(each["label_selector"])} for each in value]
