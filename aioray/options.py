"""Every option of tasks and actors in one table: its default, its check, and which of the two takes it.

`task_options`, `actor_options` and `method_options` turn what a user gave into final values, or raise
InvalidOptionError. Nothing is accepted and then ignored: an option, or a value of one, that Ray has and this release
has not is refused with the values that do work. (`enable_task_events` is fine: there are none yet, so nothing would
be left out.) To add an option: write its row, and a field where it is to arrive.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from aioray import did_you_mean, placement, runtime_env
from aioray.exceptions import InvalidOptionError
from aioray.labels import SELECTOR_ALLOWED, selector_of
from aioray.runtime_env import RuntimeEnv, checked_env
from aioray.wire.calls import DYNAMIC, STREAMING
from aioray.wire.strategies import InGroup, Strategy

Kind = Literal["task", "actor", "method"]

UNIT = 10_000  # amounts of resources are counted in whole ten-thousandths
MAX_UNITS = 2**63 - 1  # what an integer on the wire holds
NOT_YET = "not there yet"
ACCELERATOR_AMOUNT = 0.001  # of what a node with that kind of GPU has one of: so small that it never runs out


# Checks: each takes the value given and returns the value to keep, or raises ValueError saying what is wrong.


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


def _amount(value: Any) -> float:
    amount = _number(value)
    rounded = round(amount, 4)
    # Not ==, since 0.1 + 0.2 is a fair way to say 0.3: above the noise of floats, far below one unit.
    if abs(amount - rounded) > min(1e-12 * amount, 1e-6):
        raise ValueError("finer than 0.0001")
    return rounded


def _num_gpus(value: Any) -> float:
    amount = _amount(value)
    if amount > 1 and not amount.is_integer():
        raise ValueError("more than one GPU, but not a whole number of them")
    return amount


def _memory(value: Any) -> int:
    nbytes = _number(value)
    if not nbytes.is_integer():
        raise ValueError("not a whole number of bytes")
    return int(nbytes)  # exact: what passes _number has fewer digits than a float keeps


def _resources(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError("not a dict")
    amounts = {}
    for name, amount in value.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is not the name of a resource")
        if name in OWN_OPTION:
            raise ValueError(f"{name} has an option of its own, {OWN_OPTION[name]}")
        try:
            amounts[name] = _amount(amount)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return amounts


def bundle_amount(name: Any, value: Any) -> float:
    """How much of a resource a bundle has. Raises ValueError saying what is wrong."""
    if not isinstance(name, str) or not name:
        raise ValueError("not the name of a resource")
    if name == "object_store_memory":
        raise ValueError(NOT_YET)
    if name == "bundle" or "_group_" in name:
        raise ValueError("the name of what a bundle gives, and not for bundles to ask for")
    if name == "memory":
        return _memory(value)
    return _num_gpus(value) if name == "GPU" else _amount(value)


OWN_OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory", "object_store_memory": "object_store_memory"}


def _whole(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError("not a whole number")
        if value < least:
            raise ValueError(f"less than {least}")
        return int(value)

    return check


def _num_returns(value: Any) -> int | str:
    return value if value in ("dynamic", "streaming") else _whole(0)(value)


def _ahead(value: Any) -> int:
    count = _whole(-1)(value)
    if count == 0:
        raise ValueError("nothing could ever be made")
    return count


def _only(*supported: Any, later: Callable[[Any], bool] = lambda value: False) -> Callable[[Any], Any]:
    """Just the values `supported`; those for which `later` is true get the answer that they are not there yet."""

    def check(value: Any) -> Any:
        for each in supported:
            if type(value) is type(each) and value == each:
                return value
        raise ValueError(NOT_YET if later(value) else "no such value")

    return check


def _at_least_one(value: Any) -> int:
    count = _whole(-1)(value)
    if count == 0:
        raise ValueError("no call could ever be made")
    return count


def _retry_exceptions(value: Any) -> bool | tuple[type[Exception], ...]:
    """No types are none to retry. What ends a process, or a call that was cancelled, is no error to try again after."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError("neither a bool nor a list of exception types")
    for each in value:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise ValueError(f"{each!r} is no type of exceptions, that is, no subclass of Exception")
    return tuple(value) or False


def _exceptions_by_name(value: Any) -> bool | tuple[str, ...]:
    """Types go by name: a method's options travel with its handle, and whoever calls need not have the classes."""
    types = _retry_exceptions(value)
    return types if isinstance(types, bool) else tuple(map(type_name, types))


def type_name(cls: type) -> str:
    """How `MethodOptions.retry_exceptions` names a type."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _groups(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError("not a dict")
    limits = {}
    for name, limit in value.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is not the name of a group")
        try:
            limits[name] = _whole(1)(limit)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    return limits


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a bool")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a str")
    if not value:
        raise ValueError("empty")
    return value


def _seconds(value: Any) -> float:
    seconds = _number(value)
    if not seconds:
        raise ValueError("not above 0")
    return seconds


def _moment(value: Any) -> float:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.timestamp()
    return _number(value)


def _runtime_env(value: Any) -> RuntimeEnv:
    try:
        return checked_env(value)
    except InvalidOptionError as exc:
        raise ValueError(exc.reason) from None


def _scheduling_strategy(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value in ("DEFAULT", "SPREAD"):
        return value
    if isinstance(value, type) or not hasattr(value, _AS_STRATEGY):
        raise ValueError("no such strategy")
    return value


_AS_STRATEGY = "__aioray_strategy__"  # what objects for `scheduling_strategy` have: these are imported by who uses them


def _label_selector(value: Any) -> dict[str, str]:
    selector_of(value)
    return dict(value)


def _fallback_strategy(value: Any) -> list[dict[str, Any]]:
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


class Option(msgspec.Struct, frozen=True):
    """A row of the table. None always means the default: `.options(name=None)` takes a name back."""

    name: str
    kinds: tuple[Kind, ...]
    default: Any
    check: Callable[[Any], Any]
    allowed: str
    implemented: bool = True
    takes_none: bool = False  # None is a value like others


BOTH: tuple[Kind, ...] = ("task", "actor")
TASK: tuple[Kind, ...] = ("task",)
ACTOR: tuple[Kind, ...] = ("actor",)
METHOD: tuple[Kind, ...] = ("method",)
CALLS: tuple[Kind, ...] = ("task", "method")
ALL: tuple[Kind, ...] = ("task", "actor", "method")


def _planned(name: str, kinds: tuple[Kind, ...], *defaults: Any) -> Option:
    """An option of Ray's, or of ours, that is yet to come. Its default may be given, since that asks for nothing."""
    allowed = ", ".join(repr(value) for value in (None, *defaults))
    later = _only(*defaults, later=lambda value: True)
    return Option(name, kinds, defaults[0] if defaults else None, later, allowed, implemented=False)


AMOUNT = "a number >= 0, in steps of 0.0001"

_ROWS = [
    Option("num_cpus", TASK, 1.0, _amount, AMOUNT),
    Option("num_cpus", ACTOR, None, _amount, AMOUNT),
    Option("num_gpus", BOTH, 0.0, _num_gpus, AMOUNT + ", and whole above 1"),
    Option("memory", BOTH, 0, _memory, "a whole number of bytes >= 0"),
    Option(
        "resources", BOTH, {}, _resources, f"a dict of names to amounts, each {AMOUNT}; not {', '.join(OWN_OPTION)}"
    ),
    Option(
        "scheduling_strategy",
        BOTH,
        None,  # 'DEFAULT', but in the placement group of whoever makes the call, if that captures
        _scheduling_strategy,
        "None, 'DEFAULT', 'SPREAD', NodeAffinitySchedulingStrategy(...), NodeLabelSchedulingStrategy(...), "
        "PlacementGroupSchedulingStrategy(...)",
    ),
    Option("name", ALL, None, _text, "a str that is not empty"),
    Option("enable_task_events", ALL, True, _flag, "True, False"),  # no effect as long as there are no task events
    _planned("object_store_memory", BOTH, 0),
    Option("accelerator_type", BOTH, None, _text, "the name of a kind of GPU, such as 'A100'"),
    Option("label_selector", BOTH, {}, _label_selector, SELECTOR_ALLOWED),
    Option(
        "fallback_strategy",
        BOTH,
        [],
        _fallback_strategy,
        f"a list of {{'label_selector': ...}}, each {SELECTOR_ALLOWED}",
    ),
    _planned("_labels", BOTH, {}),
    Option(
        "placement_group",
        BOTH,
        "default",
        placement.placement_group,
        "'default', None (in none), a PlacementGroup",
        takes_none=True,
    ),
    Option("placement_group_bundle_index", BOTH, -1, _whole(-1), "a whole number >= -1 (-1: any bundle)"),
    Option("placement_group_capture_child_tasks", BOTH, None, _flag, "None, True, False"),
    Option("runtime_env", BOTH, RuntimeEnv(), _runtime_env, runtime_env.ALLOWED),
    Option("timeout", CALLS, None, _seconds, "None, or seconds from the call on, above 0"),  # (ours)
    Option("deadline", CALLS, None, _moment, "None, a datetime with a time zone, a time as of time.time()"),  # (ours)
    Option(
        "num_returns",
        CALLS,
        None,
        _num_returns,
        "a whole number >= 0, 'streaming', 'dynamic', None (1, or 'streaming' for a generator function)",
    ),
    Option(
        "_generator_backpressure_num_objects",
        CALLS,
        -1,
        _ahead,
        "a whole number >= 1, or -1 (without limit); with num_returns='streaming' only",
    ),
    Option("max_retries", TASK, 3, _whole(-1), "a whole number >= -1 (-1: without end)"),
    Option(
        "retry_exceptions",
        TASK,
        False,
        _retry_exceptions,
        "True, False, a list of exception types, each a subclass of Exception",
    ),
    Option("max_calls", TASK, 0, _whole(0), "a whole number >= 0 (0: without limit)"),
    _planned("speculative", TASK, False),  # (ours)
    Option("max_concurrency", ACTOR, None, _whole(1), "a whole number >= 1"),
    Option("namespace", ACTOR, None, _text, "a str that is not empty"),
    Option("get_if_exists", ACTOR, False, _flag, "True, False"),
    Option("lifetime", ACTOR, None, _only("detached", "non_detached"), "None, 'detached', 'non_detached'"),
    Option("max_restarts", ACTOR, 0, _whole(-1), "a whole number >= -1 (-1: without end)"),
    Option("max_task_retries", ACTOR, 0, _whole(-1), "a whole number >= -1 (-1: without end)"),
    Option("max_task_retries", METHOD, None, _whole(-1), "a whole number >= -1 (-1: without end)"),
    Option(
        "retry_exceptions",
        METHOD,
        False,
        _exceptions_by_name,
        "True, False, a list of exception types, each a subclass of Exception",
    ),
    Option("max_pending_calls", ACTOR, -1, _at_least_one, "a whole number >= 1, -1 (without limit)"),
    Option("concurrency_groups", ACTOR, {}, _groups, "a dict of names to how many calls at once, each >= 1"),
    Option("concurrency_group", METHOD, None, _text, "the name of one of the actor's concurrency_groups"),
    Option("allow_out_of_order_execution", ACTOR, None, _flag, "True, False"),
    Option("isolation", ACTOR, "process", _only("process", "shared"), "'process', 'shared'"),  # (ours)
]

TABLE: Mapping[Kind, Mapping[str, Option]] = {
    "task": {row.name: row for row in _ROWS if "task" in row.kinds},
    "actor": {row.name: row for row in _ROWS if "actor" in row.kinds},
    "method": {row.name: row for row in _ROWS if "method" in row.kinds},
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Final values for one remote function, made by `task_options`. Do not change the dicts, they are shared."""

    num_cpus: float
    num_gpus: float
    memory: int  # bytes
    resources: Mapping[str, float] = dataclasses.field(hash=False)
    scheduling_strategy: Any  # a text, or an object of aioray.util.scheduling_strategies
    placement_group: Any = dataclasses.field(hash=False)  # "default", None, or a PlacementGroup
    placement_group_bundle_index: int  # -1: any
    placement_group_capture_child_tasks: bool | None  # None: as the call that makes it
    label_selector: Mapping[str, str] = dataclasses.field(hash=False)
    fallback_strategy: list[dict[str, Any]] = dataclasses.field(hash=False)
    name: str | None
    enable_task_events: bool  # makes no difference yet: there are no task events to leave out
    accelerator_type: str | None
    runtime_env: RuntimeEnv = dataclasses.field(hash=False)
    num_returns: int | str | None  # see `returns_of`
    _generator_backpressure_num_objects: int  # -1: without limit
    max_retries: int  # -1: without end
    retry_exceptions: bool | tuple[type[Exception], ...]  # what of user code counts as worth another try
    max_calls: int  # after which a worker is replaced; 0: never
    timeout: float | None  # s, from the call on
    deadline: float | None  # as time.time()
    _demand: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)
    _strategy: Strategy | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_demand", _demand_of(self, self.num_cpus))
        object.__setattr__(self, "_strategy", _strategy_of(self))
        if (group := _group_given(self)) is not None:
            placement.check_fits(group, _bundles_given(self), self._demand)

    def demand(self) -> dict[str, int]:
        """What the task holds while it runs: resource name to ten-thousandths, without zeros; memory in bytes x 10,000.

        Computed once, the same dict each time.
        """
        return self._demand

    def strategy(self) -> Strategy | None:
        """On which nodes it may run, and would rather; None: on any."""
        return self._strategy


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """Final values for one actor class, made by `actor_options`. Do not change the dicts, they are shared."""

    num_cpus: float | None  # None: 1 to be placed, 0 to run
    num_gpus: float
    memory: int  # bytes
    resources: Mapping[str, float] = dataclasses.field(hash=False)
    scheduling_strategy: Any  # a text, or an object of aioray.util.scheduling_strategies
    placement_group: Any = dataclasses.field(hash=False)  # "default", None, or a PlacementGroup
    placement_group_bundle_index: int  # -1: any
    placement_group_capture_child_tasks: bool | None  # None: as the call that makes it
    label_selector: Mapping[str, str] = dataclasses.field(hash=False)
    fallback_strategy: list[dict[str, Any]] = dataclasses.field(hash=False)
    name: str | None
    enable_task_events: bool
    accelerator_type: str | None
    runtime_env: RuntimeEnv = dataclasses.field(hash=False)
    max_concurrency: int | None  # None: 1, or 1000 if the class has async methods
    namespace: str | None
    get_if_exists: bool
    lifetime: str | None
    max_restarts: int  # -1: without end
    max_task_retries: int  # -1: without end
    max_pending_calls: int  # -1: without limit
    allow_out_of_order_execution: bool | None  # None: True for async and threaded actors
    concurrency_groups: Mapping[str, int] = dataclasses.field(hash=False)
    isolation: str
    _placement: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)
    _running: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)
    _strategy: Strategy | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        default = (
            0.0 if self.isolation == "shared" else 1.0,
            0.0,
        )  # light ones take no process, and so no CPU to start it
        to_place, to_run = default if self.num_cpus is None else (self.num_cpus, self.num_cpus)
        object.__setattr__(self, "_placement", _demand_of(self, to_place))
        object.__setattr__(self, "_running", _demand_of(self, to_run))
        object.__setattr__(self, "_strategy", _strategy_of(self))
        if (group := _group_given(self)) is not None:
            to_be_placed = self.num_cpus is None and bool(self._placement)
            placement.check_fits(group, _bundles_given(self), self._placement, to_be_placed=to_be_placed)

    def placement_demand(self) -> dict[str, int]:
        """What must be free on a node for the actor to be started there, as in `TaskOptions.demand`."""
        return self._placement

    def running_demand(self) -> dict[str, int]:
        """What the actor holds as long as it lives, as in `TaskOptions.demand`."""
        return self._running

    def strategy(self) -> Strategy | None:
        """On which nodes it may live, and would rather; None: on any."""
        return self._strategy

    def demand(self) -> dict[str, int]:
        """The same as `running_demand`, for code that takes tasks and actors alike."""
        return self._running


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """Final values for one method of an actor, made by `method_options`."""

    name: str | None  # of its calls, in messages and for `get_task_name`; None: class and method
    enable_task_events: bool  # as in TaskOptions
    num_returns: int | str | None  # see `returns_of`
    _generator_backpressure_num_objects: int  # -1: without limit
    concurrency_group: str | None
    timeout: float | None  # s, from the call on
    deadline: float | None  # as time.time()
    max_task_retries: int | None  # None: as the actor's
    retry_exceptions: bool | tuple[str, ...]  # names as `type_name` gives them


def returns_of(options: TaskOptions | MethodOptions, *, generates: bool) -> int:
    """How many values a call has, as Call.num_returns says it; `generates`: it is of a generator function.

    Raises InvalidOptionError for back-pressure on what does not stream.
    """
    given, ahead = options.num_returns, options._generator_backpressure_num_objects
    if given is None:
        given = "streaming" if generates else 1
    if ahead != -1 and given != "streaming":
        raise InvalidOptionError(
            "_generator_backpressure_num_objects",
            ahead,
            "-1 unless num_returns is 'streaming'",
            f"with num_returns={given!r} nothing is taken while values are made",
        )
    return {"streaming": STREAMING, "dynamic": DYNAMIC}[given] if isinstance(given, str) else given


def _strategy_of(options: TaskOptions | ActorOptions) -> Strategy | None:
    """All that says on which nodes, in one; None when nothing does."""
    given = options.scheduling_strategy
    plain = given is None or isinstance(given, str)
    strategy = Strategy(spread=given == "SPREAD") if plain else getattr(given, _AS_STRATEGY)()
    if group := placement.explicit_group(options):
        strategy = msgspec.structs.replace(strategy, group=group)
    if options.label_selector or options.fallback_strategy:
        given_selectors = [options.label_selector, *(each["label_selector"] for each in options.fallback_strategy)]
        strategy = msgspec.structs.replace(strategy, selectors=tuple(map(selector_of, given_selectors)))
    return None if strategy == Strategy() else strategy


def _group_given(options: TaskOptions | ActorOptions) -> InGroup | None:
    strategy = options.strategy()
    return None if strategy is None else strategy.group


def _bundles_given(options: TaskOptions | ActorOptions) -> list[dict[str, float]]:
    """Of the placement group that the options name."""
    given = options.placement_group
    if given == "default":
        given = options.scheduling_strategy.placement_group
    bundles: list[dict[str, float]] = given.bundle_specs
    return bundles


AnyOptions = TypeVar("AnyOptions", TaskOptions, ActorOptions, MethodOptions)


def _demand_of(options: TaskOptions | ActorOptions, num_cpus: float) -> dict[str, int]:
    amounts = {"CPU": num_cpus, "GPU": options.num_gpus, "memory": options.memory, **options.resources}
    if options.accelerator_type is not None:
        amounts[f"accelerator_type:{options.accelerator_type}"] = ACCELERATOR_AMOUNT
    demand = {}
    for name, amount in amounts.items():
        # Integers apart: a count of bytes has more digits than a float times 10,000 keeps.
        units = amount * UNIT if isinstance(amount, int) else round(amount * UNIT)
        if units:
            demand[name] = units
    return demand


def _defaults(kind: Kind) -> dict[str, Any]:
    return {row.name: row.default for row in TABLE[kind].values() if row.implemented}


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
            checked = row.default if value is None and not row.takes_none else row.check(value)
        except ValueError as exc:
            raise InvalidOptionError(name, value, row.allowed, str(exc)) from None
        if row.implemented:
            values[name] = checked
    return dataclasses.replace(base, **values) if values else base


def _unknown(kind: Kind, name: str, value: Any) -> InvalidOptionError:
    names = sorted(TABLE[kind])
    reason = f"{kind}s have no such option"
    if others := [f"{other}s" for other in TABLE if name in TABLE[other]]:
        reason += f", only {' and '.join(others)} do"
    else:
        reason += did_you_mean.hint(name, names)
    return InvalidOptionError(name, value, ", ".join(names), reason)
