"""Options as they are used: final values, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from aioray import placement
from aioray.exceptions import InvalidOptionError
from aioray.labels import selector_of
from aioray.options.checks import AS_STRATEGY, UNIT
from aioray.runtime_env import RuntimeEnv
from aioray.wire.calls import DYNAMIC, STREAMING
from aioray.wire.strategies import InGroup, Strategy

ACCELERATOR_AMOUNT = 0.001  # of what a node with that kind of GPU has one of: so small that it never runs out


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Final values for one remote function, made by `task_options`. Do not change the dicts, they are shared."""

    num_cpus: float
    num_gpus: float
    memory: int  # bytes
    object_store_memory: int  # bytes of it that are reserved, for whatever the call makes
    resources: Mapping[str, float]
    scheduling_strategy: Any  # a text, or an object of aioray.util.scheduling_strategies
    placement_group: Any  # "default", None, or a PlacementGroup
    placement_group_bundle_index: int  # -1: any
    placement_group_capture_child_tasks: bool | None  # None: as the call that makes it
    label_selector: Mapping[str, str]
    fallback_strategy: list[dict[str, Any]]
    name: str | None
    enable_task_events: bool  # False: it is left out of what the cluster tells of tasks
    accelerator_type: str | None
    runtime_env: RuntimeEnv
    num_returns: int | str | None  # see `returns_of`
    _generator_backpressure_num_objects: int  # -1: without limit
    max_retries: int  # -1: without end
    retry_exceptions: bool | tuple[type[Exception], ...]  # what of user code counts as worth another try
    speculative: bool  # it may run twice: a copy is made of one that takes much longer than others
    max_calls: int  # after which a worker is replaced; 0: never
    timeout: float | None  # s, from the call on
    deadline: float | None  # as time.time()
    _labels: dict[str, str]  # to find it by in listings
    # These follow from the others.
    _demand: dict[str, int] = {}
    _strategy: Strategy | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "_demand", _demand_of(self, self.num_cpus))
        force_setattr(self, "_strategy", _strategy_of(self))
        if (group := _group_given(self)) is not None:
            placement.check_fits(group, _bundles_given(self), self._demand)

    def demand(self) -> dict[str, int]:
        """What the task holds while it runs: resource name to ten-thousandths, without zeros; bytes x 10,000.

        Computed once, the same dict each time.
        """
        return self._demand

    def strategy(self) -> Strategy | None:
        """On which nodes it may run, and would rather; None: on any."""
        return self._strategy


class ActorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Final values for one actor class, made by `actor_options`. Do not change the dicts, they are shared."""

    num_cpus: float | None  # None: 1 to be placed, 0 to run
    num_gpus: float
    memory: int  # bytes
    object_store_memory: int  # bytes of it that are reserved, for whatever the call makes
    resources: Mapping[str, float]
    scheduling_strategy: Any  # a text, or an object of aioray.util.scheduling_strategies
    placement_group: Any  # "default", None, or a PlacementGroup
    placement_group_bundle_index: int  # -1: any
    placement_group_capture_child_tasks: bool | None  # None: as the call that makes it
    label_selector: Mapping[str, str]
    fallback_strategy: list[dict[str, Any]]
    name: str | None
    enable_task_events: bool  # False: all calls of its methods are left out
    accelerator_type: str | None
    runtime_env: RuntimeEnv
    max_concurrency: int | None  # None: 1, or 1000 if the class has async methods
    namespace: str | None
    get_if_exists: bool
    lifetime: str | None
    max_restarts: int  # -1: without end
    max_task_retries: int  # -1: without end
    max_pending_calls: int  # -1: without limit
    allow_out_of_order_execution: bool | None  # None: True for async and threaded actors
    concurrency_groups: Mapping[str, int]
    isolation: str
    _labels: Mapping[str, str]  # to find it by in listings
    # These follow from the others.
    _placement: dict[str, int] = {}
    _running: dict[str, int] = {}
    _strategy: Strategy | None = None

    def __post_init__(self) -> None:
        default = (
            0.0 if self.isolation == "shared" else 1.0,
            0.0,
        )  # light ones take no process, and so no CPU to start it
        to_place, to_run = default if self.num_cpus is None else (self.num_cpus, self.num_cpus)
        force_setattr(self, "_placement", _demand_of(self, to_place))
        force_setattr(self, "_running", _demand_of(self, to_run))
        force_setattr(self, "_strategy", _strategy_of(self))
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


class MethodOptions(msgspec.Struct, frozen=True, kw_only=True):
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

    Raises InvalidOptionError for back-pressure on what does not stream, and for speculation without results.
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
    if isinstance(options, TaskOptions) and options.speculative and (isinstance(given, str) or not given):
        raise InvalidOptionError(
            "speculative",
            True,
            "False unless num_returns is a number >= 1",
            f"with num_returns={given!r} there is no result by which one of two attempts is the first",
        )
    return {"streaming": STREAMING, "dynamic": DYNAMIC}[given] if isinstance(given, str) else given


def _strategy_of(options: TaskOptions | ActorOptions) -> Strategy | None:
    """All that says on which nodes, in one; None when nothing does."""
    given = options.scheduling_strategy
    plain = given is None or isinstance(given, str)
    strategy = Strategy(spread=given == "SPREAD") if plain else getattr(given, AS_STRATEGY)()
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


def _demand_of(options: TaskOptions | ActorOptions, num_cpus: float) -> dict[str, int]:
    amounts = {
        "CPU": num_cpus,
        "GPU": options.num_gpus,
        "memory": options.memory,
        "object_store_memory": options.object_store_memory,
        **options.resources,
    }
    if options.accelerator_type is not None:
        amounts[f"accelerator_type:{options.accelerator_type}"] = ACCELERATOR_AMOUNT
    demand = {}
    for name, amount in amounts.items():
        # Integers apart: a count of bytes has more digits than a float times 10,000 keeps.
        units = amount * UNIT if isinstance(amount, int) else round(amount * UNIT)
        if units:
            demand[name] = units
    return demand
