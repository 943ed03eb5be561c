"""What there is in a cluster, and what becomes of it: lists, single entries and summaries, as Ray's state API has them.

Asked of the cluster of this process; of another one with `address`, HOST:PORT or "auto" (the newest of this machine),
which blocks and is refused in an event loop. `filters` are tuples such as ("state", "=", "FAILED"), or with "!=";
upper and lower case are the same, as in Ray. ("labels.team", "=", "blue") finds what was given that label: tasks and
actors with `_labels`, nodes with `labels`. `detail` makes no difference, for entries have all that is known.

What is told of tasks is as old as the last reports (`task_events_reporting_interval_ms`). Counts are exact; of single
tasks, where there are too many, a sample is known: `left_out` of a list, and of a summary, says how many are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aioray import current
from aioray.cluster_questions import ask_cluster
from aioray.exceptions import BlockingCallError, InvalidOptionError, RaySystemError
from aioray.ids import ActorID, NodeID, PlacementGroupID, TaskID
from aioray.util.waiting import check_count, check_flag
from aioray.wire import state as asked

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ActorState",
    "JobState",
    "NodeState",
    "PlacementGroupState",
    "StateList",
    "TaskState",
    "get_actor",
    "get_node",
    "get_placement_group",
    "get_task",
    "list_actors",
    "list_jobs",
    "list_nodes",
    "list_placement_groups",
    "list_tasks",
    "summarize_actors",
    "summarize_tasks",
]

Filters = Sequence[tuple[str, str, "str | int | float | bool | None"]]


class _Entry:
    """Fields as attributes, and as items: `task.state` is `task["state"]`."""

    __struct_fields__: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name, or `default`."""
        return getattr(self, name) if name in self.__struct_fields__ else default

    def keys(self) -> Iterator[str]:
        """The names of the fields; with items, what `dict(entry)` takes."""
        return iter(self.__struct_fields__)


class TaskState(asked.TaskRow, _Entry, frozen=True, kw_only=True):
    """A task, or a call of an actor.

    `state`: PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, RUNNING, FINISHED, FAILED.
    """


class ActorState(asked.ActorRow, _Entry, frozen=True, kw_only=True):
    """An actor to which there are handles. `state`: PENDING_CREATION, ALIVE, RESTARTING, DEAD."""


class NodeState(asked.NodeRow, _Entry, frozen=True, kw_only=True):
    """A node. `state`: ALIVE, DEAD."""


class PlacementGroupState(asked.PlacementGroupRow, _Entry, frozen=True, kw_only=True):
    """A placement group, one that was removed lately included."""


class JobState(asked.JobRow, _Entry, frozen=True, kw_only=True):
    """A driver. `status`: RUNNING, FINISHED."""


E = TypeVar("E", bound=asked.Row)


class StateList(list[E]):
    """Entries. `total`: how many there are without the limit. `left_out`: tasks that are known by their number only."""

    def __init__(self, entries: Sequence[E], total: int, left_out: int) -> None:
        super().__init__(entries)
        self.total = total
        self.left_out = left_out


def ask(address: str | None, what: str, call: str = "", **args: Any) -> Any:
    """The answer to a question of wire.state. `call`: who asks, if that is not called as the question."""
    runtime = current.find() if address is None else None
    if runtime is not None:
        return runtime.ask(what, **args)
    if _in_loop():
        call = call or what
        raise BlockingCallError(f"{call}(...) of another cluster", f"await asyncio.to_thread({call}, ...)")
    return ask_cluster(address or "auto", None, what, **args)[1]


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _list(
    kind: type[E],
    what: str,
    address: str | None,
    filters: Filters | None,
    limit: int,
    detail: bool,
    raise_on_missing_output: bool = False,
) -> StateList[E]:
    check_count(limit, "limit")
    check_flag(detail, "detail")
    if limit > asked.MAX_LIMIT:
        raise InvalidOptionError("limit", limit, f"a whole number from 1 to {asked.MAX_LIMIT}")
    given = _checked(kind, filters or ())
    listing = msgspec.convert(ask(address, what, filters=given, limit=int(limit)), asked.Listing)
    if raise_on_missing_output and listing.left_out:
        raise RaySystemError(f"{what}: {listing.left_out} tasks were only counted")
    return StateList([msgspec.convert(row, kind) for row in listing.rows], listing.total, listing.left_out)


def _checked(kind: type[E], filters: Filters) -> list[list[Any]]:
    """Raises InvalidOptionError."""
    for each in filters:
        if not isinstance(each, (tuple, list)) or len(each) != 3:
            raise InvalidOptionError("filters", filters, 'tuples such as ("state", "=", "FAILED")')
        name, sign, value = each
        if sign not in asked.FILTERS:
            raise InvalidOptionError(
                "filters", each, f"{' and '.join(map(repr, asked.FILTERS))} between name and value"
            )
        if asked.split_field(name)[0] not in kind.__struct_fields__:
            raise InvalidOptionError("filters", each, f"one of {', '.join(kind.__struct_fields__)}")
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise InvalidOptionError("filters", each, "a text, a number, True, False or None to compare with")
        if allowed := asked.unknown_choice(kind, name, value):
            raise InvalidOptionError("filters", each, f"one of {allowed}")
    return [list(each) for each in filters]


def list_tasks(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    detail: bool = False,
    raise_on_missing_output: bool = False,
) -> StateList[TaskState]:
    """Tasks and calls of actors, the newest first; calls that wait for an actor are not told of.

    raise_on_missing_output: RaySystemError where single tasks were left out, and only counted.
    """
    check_flag(raise_on_missing_output, "raise_on_missing_output")
    return _list(TaskState, "list_tasks", address, filters, limit, detail, raise_on_missing_output)


def list_actors(
    address: str | None = None, filters: Filters | None = None, limit: int = 100, detail: bool = False
) -> StateList[ActorState]:
    """Actors to which there are handles, dead ones included."""
    return _list(ActorState, "list_actors", address, filters, limit, detail)


def list_nodes(
    address: str | None = None, filters: Filters | None = None, limit: int = 100, detail: bool = False
) -> StateList[NodeState]:
    """Nodes, dead ones included."""
    return _list(NodeState, "list_nodes", address, filters, limit, detail)


def list_placement_groups(
    address: str | None = None, filters: Filters | None = None, limit: int = 100, detail: bool = False
) -> StateList[PlacementGroupState]:
    """Placement groups, those that were removed lately included."""
    return _list(PlacementGroupState, "list_placement_groups", address, filters, limit, detail)


def list_jobs(
    address: str | None = None, filters: Filters | None = None, limit: int = 100, detail: bool = False
) -> StateList[JobState]:
    """Drivers, the last thousand of those that have ended included."""
    return _list(JobState, "list_jobs", address, filters, limit, detail)


def get_task(id: str, address: str | None = None) -> TaskState | None:
    """The task of that id, as `ref.task_id().hex()` gives it; None when it is not known.

    Raises InvalidOptionError for what is no such id, as the other `get_...` do.
    """
    return _first(list_tasks(address, [("task_id", "=", _checked_id(TaskID, id))], 1))


def get_actor(id: str, address: str | None = None) -> ActorState | None:
    """The actor of that id; None when it is not known."""
    return _first(list_actors(address, [("actor_id", "=", _checked_id(ActorID, id))], 1))


def get_node(id: str, address: str | None = None) -> NodeState | None:
    """The node of that id; None when it is not known."""
    return _first(list_nodes(address, [("node_id", "=", _checked_id(NodeID, id))], 1))


def get_placement_group(id: str, address: str | None = None) -> PlacementGroupState | None:
    """The placement group of that id; None when it is not known."""
    return _first(list_placement_groups(address, [("placement_group_id", "=", _checked_id(PlacementGroupID, id))], 1))


def _checked_id(kind: type[TaskID | ActorID | NodeID | PlacementGroupID], text: str) -> str:
    """As rows have it."""
    try:
        return kind.from_hex(text).hex()
    except (TypeError, ValueError):
        raise InvalidOptionError("id", text, f"the {2 * kind.NBYTES} hexadecimal digits of a {kind.__name__}") from None


def _first(entries: list[E]) -> E | None:
    return entries[0] if entries else None


def summarize_tasks(address: str | None = None) -> dict[str, Any]:
    """How many tasks there are and were, by name, in the shape of Ray's; each name has its `left_out`, too (ours)."""
    lines = msgspec.convert(ask(address, "summarize_tasks"), list[asked.TaskSummaryRow])
    summary: dict[str, dict[str, Any]] = {}
    for line in lines:
        entry = summary.setdefault(
            line.name, {"func_or_class_name": line.name, "type": line.type, "state_counts": {}, "left_out": 0}
        )
        counts = entry["state_counts"]
        states = {
            "PENDING": line.pending,
            "RUNNING": line.running,
            "FINISHED": line.finished,
            "FAILED": line.failed,
        }
        for state, count in states.items():
            if count:
                counts[state] = counts.get(state, 0) + count
        entry["left_out"] += line.left_out

    def total(kind: str) -> int:
        return sum(sum(each["state_counts"].values()) for each in summary.values() if each["type"] == kind)

    return {
        "cluster": {
            "summary": summary,
            "total_tasks": total("NORMAL_TASK"),
            "total_actor_tasks": total("ACTOR_TASK"),
            "summary_by": "func_name",
        }
    }


def summarize_actors(address: str | None = None) -> dict[str, Any]:
    """How many actors there are, by class and state, in the shape of Ray's."""
    found: dict[str, dict[str, int]] = ask(address, "summarize_actors")
    summary = {cls: {"class_name": cls, "state_counts": counts} for cls, counts in found.items()}
    total = sum(sum(counts.values()) for counts in found.values())
    return {"cluster": {"summary": summary, "total_actors": total, "summary_by": "class"}}
