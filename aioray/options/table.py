"""Every option of tasks, actors and methods in one table: its default, its check, and which of these take it.

To add an option: write its row, and a field where it is to arrive, in `final.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from aioray import placement, runtime_env
from aioray.labels import LABELS_ALLOWED, SELECTOR_ALLOWED, checked_labels
from aioray.options.checks import (
    MOST_RETURNS,
    OWN_OPTION,
    check_ahead,
    check_amount,
    check_at_least_one,
    check_exceptions_by_name,
    check_fallback_strategy,
    check_flag,
    check_groups,
    check_label_selector,
    check_memory,
    check_moment,
    check_num_gpus,
    check_num_returns,
    check_resources,
    check_retry_exceptions,
    check_runtime_env,
    check_scheduling_strategy,
    check_seconds,
    check_text,
    only,
    whole,
)
from aioray.runtime_env import RuntimeEnv

Kind = Literal["task", "actor", "method"]


class Option(msgspec.Struct, frozen=True):
    """A row of the table. None always means the default: `.options(name=None)` takes a name back."""

    name: str
    kinds: tuple[Kind, ...]
    default: Any
    check: Callable[[Any], Any]
    allowed: str
    takes_none: bool = False  # None is a value like others


BOTH: tuple[Kind, ...] = ("task", "actor")
TASK: tuple[Kind, ...] = ("task",)
ACTOR: tuple[Kind, ...] = ("actor",)
METHOD: tuple[Kind, ...] = ("method",)
CALLS: tuple[Kind, ...] = ("task", "method")
ALL: tuple[Kind, ...] = ("task", "actor", "method")


AMOUNT = "a number >= 0, in steps of 0.0001"

_ROWS = [
    Option("num_cpus", TASK, 1.0, check_amount, AMOUNT),
    Option("num_cpus", ACTOR, None, check_amount, AMOUNT),
    Option("num_gpus", BOTH, 0.0, check_num_gpus, AMOUNT + ", and whole above 1"),
    Option("memory", BOTH, 0, check_memory, "a whole number of bytes >= 0"),
    Option(
        "resources",
        BOTH,
        {},
        check_resources,
        f"a dict of names to amounts, each {AMOUNT}; not {', '.join(OWN_OPTION)}",
    ),
    Option(
        "scheduling_strategy",
        BOTH,
        None,  # 'DEFAULT', but in the placement group of whoever makes the call, if that captures
        check_scheduling_strategy,
        "None, 'DEFAULT', 'SPREAD', NodeAffinitySchedulingStrategy(...), NodeLabelSchedulingStrategy(...), "
        "PlacementGroupSchedulingStrategy(...)",
    ),
    Option("name", ALL, None, check_text, "a str that is not empty"),
    Option("enable_task_events", ALL, True, check_flag, "True, False"),
    Option("object_store_memory", BOTH, 0, check_memory, "a whole number of bytes >= 0"),
    Option("accelerator_type", BOTH, None, check_text, "the name of a kind of GPU, such as 'A100'"),
    Option("label_selector", BOTH, {}, check_label_selector, SELECTOR_ALLOWED),
    Option(
        "fallback_strategy",
        BOTH,
        [],
        check_fallback_strategy,
        f"a list of {{'label_selector': ...}}, each {SELECTOR_ALLOWED}",
    ),
    Option("_labels", BOTH, {}, checked_labels, LABELS_ALLOWED),
    Option(
        "placement_group",
        BOTH,
        "default",
        placement.placement_group,
        "'default', None (in none), a PlacementGroup",
        takes_none=True,
    ),
    Option("placement_group_bundle_index", BOTH, -1, whole(-1), "a whole number >= -1 (-1: any bundle)"),
    Option("placement_group_capture_child_tasks", BOTH, None, check_flag, "None, True, False"),
    Option("runtime_env", BOTH, RuntimeEnv(), check_runtime_env, runtime_env.ALLOWED),
    Option("timeout", CALLS, None, check_seconds, "None, or seconds from the call on, above 0"),  # (ours)
    Option(  # (ours)
        "deadline", CALLS, None, check_moment, "None, a datetime with a time zone, a time as of time.time()"
    ),
    Option(
        "num_returns",
        CALLS,
        None,
        check_num_returns,
        f"a whole number from 0 to {MOST_RETURNS}, 'streaming', 'dynamic', "
        "None (1, or 'streaming' for a generator function)",
    ),
    Option(
        "_generator_backpressure_num_objects",
        CALLS,
        -1,
        check_ahead,
        "a whole number >= 1, or -1 (without limit); with num_returns='streaming' only",
    ),
    Option("max_retries", TASK, 3, whole(-1), "a whole number >= -1 (-1: without end)"),
    Option(
        "retry_exceptions",
        TASK,
        False,
        check_retry_exceptions,
        "True, False, a list of exception types, each a subclass of Exception",
    ),
    Option("max_calls", TASK, 0, whole(0), "a whole number >= 0 (0: without limit)"),
    Option("speculative", TASK, False, check_flag, "True, False"),  # (ours)
    Option("max_concurrency", ACTOR, None, whole(1), "a whole number >= 1"),
    Option("namespace", ACTOR, None, check_text, "a str that is not empty"),
    Option("get_if_exists", ACTOR, False, check_flag, "True, False"),
    Option("lifetime", ACTOR, None, only("detached", "non_detached"), "None, 'detached', 'non_detached'"),
    Option("max_restarts", ACTOR, 0, whole(-1), "a whole number >= -1 (-1: without end)"),
    Option("max_task_retries", ACTOR, 0, whole(-1), "a whole number >= -1 (-1: without end)"),
    Option("max_task_retries", METHOD, None, whole(-1), "a whole number >= -1 (-1: without end)"),
    Option(
        "retry_exceptions",
        METHOD,
        False,
        check_exceptions_by_name,
        "True, False, a list of exception types, each a subclass of Exception",
    ),
    Option("max_pending_calls", ACTOR, -1, check_at_least_one, "a whole number >= 1, -1 (without limit)"),
    Option("concurrency_groups", ACTOR, {}, check_groups, "a dict of names to how many calls at once, each >= 1"),
    Option("concurrency_group", METHOD, None, check_text, "the name of one of the actor's concurrency_groups"),
    Option("allow_out_of_order_execution", ACTOR, None, check_flag, "True, False"),
    Option("isolation", ACTOR, "process", only("process", "shared"), "'process', 'shared'"),  # (ours)
]

TABLE: Mapping[Kind, Mapping[str, Option]] = {
    "task": {row.name: row for row in _ROWS if "task" in row.kinds},
    "actor": {row.name: row for row in _ROWS if "actor" in row.kinds},
    "method": {row.name: row for row in _ROWS if "method" in row.kinds},
}
