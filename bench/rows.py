"""What is measured: one Row a line of the table, in the table's order.

A goal is held either against the limit of the same run ("ratio": absolute figures drift up to threefold with the
machine, the ratio does not) or, where no simple program does the same, against a figure ("value").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["limit", "ours", "ray", "dask", "xoscar"]
SIDES: tuple[Side, ...] = ("limit", "ours", "ray", "dask", "xoscar")  # the order within a round
PEERS: tuple[Side, ...] = ("ray", "dask", "xoscar")


@dataclass(frozen=True)
class Goal:
    """`bound` is the least (or, where lower is better, the most) that `ours`, or ours / limit, may be."""

    against: Literal["ratio", "value"]
    bound: float


@dataclass(frozen=True)
class Row:
    key: str
    name: str
    unit: Literal["/s", "GB/s", "s", "MB", "x", "times"]  # x: times as fast; times: as long
    goal: Goal
    beside: tuple[Side, ...] = ()  # who measures it besides us
    timeout_s: float = 120.0  # for one measurement, its start and shutdown included
    most_rounds: int | None = None  # None: as many as asked for
    slow: bool = False  # left out of --quick unless it is asked for by name

    @property
    def lower_is_better(self) -> bool:
        return self.unit in ("s", "MB", "times")

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(side for side in SIDES if side == "ours" or side in self.beside)


ONE_AT_A_TIME = Goal("ratio", 0.6)
IN_FLIGHT = Goal("ratio", 0.4)

ROWS: tuple[Row, ...] = (
    Row("task_sync", "task, one at a time, sync", "/s", ONE_AT_A_TIME, ("limit", "ray", "dask")),
    Row("task_async", "task, one at a time, `await`", "/s", ONE_AT_A_TIME, ("limit", "ray")),
    Row("actor_sync", "actor call, one at a time, sync", "/s", ONE_AT_A_TIME, ("limit", "ray")),
    Row("actor_async", "actor call, one at a time, `await`", "/s", ONE_AT_A_TIME, ("limit", "ray", "xoscar")),
    Row("tasks_sync_1000", "tasks, 1,000 in flight, sync", "/s", IN_FLIGHT, ("limit", "ray", "dask")),
    Row("tasks_async_1000", "tasks, 1,000 in `gather`", "/s", IN_FLIGHT, ("limit", "ray")),
    Row("actor_async_1000", "async actor calls, 1,000 in `gather`", "/s", IN_FLIGHT, ("limit", "ray", "xoscar")),
    Row("light_call", "call of a light actor, one at a time, `await`", "/s", ONE_AT_A_TIME, ("limit",)),
    Row("group_call", "call in a concurrency group, one at a time, `await`", "/s", ONE_AT_A_TIME, ("limit",)),
    Row("compiled_pass", "pass of a compiled chain of 3 actors, sync: times uncompiled", "x", Goal("value", 3)),
    Row("compiled_pass_async", "the same, of async actors, `await`", "x", Goal("value", 3)),
    Row("stream_items", "small values of a generator task, sync", "/s", Goal("value", 20_000), ("limit", "ray")),
    Row("stream_items_async", "the same, `async for`", "/s", Goal("value", 20_000), ("limit", "ray")),
    Row("put_100b", "put 100 B", "/s", Goal("value", 150_000), ("ray",)),
    Row("get_100b", "get 100 B", "/s", Goal("value", 500_000), ("ray",)),
    Row("put_100mib", "put a 100 MiB array, over 100 puts", "GB/s", Goal("ratio", 0.8), ("limit", "ray", "dask")),
    Row("put_get_100mib", "the same, each read (`get`) and let go", "GB/s", Goal("ratio", 0.8), ("limit", "ray")),
    Row("task_100mib_arg", "task with a 100 MiB ref as argument", "/s", Goal("value", 3_000), ("ray",)),
    Row("transfer_tcp", "256 MiB to another node, TCP on loopback", "GB/s", Goal("ratio", 0.7), ("limit",)),
    Row(
        "broadcast_8",
        "1 GiB to 8 local nodes, in transfers of its bytes to one",
        "times",
        Goal("value", 3),
        timeout_s=300,
        most_rounds=1,
    ),
    Row("wait_sync", "1,000 tasks, `wait` for 100 at a time, rounds", "/s", Goal("value", 30), ("ray",)),
    Row("wait_async", "the same, `await wait`", "/s", Goal("value", 30)),
    Row("actors", "actors created and answering", "/s", Goal("value", 100), ("limit", "ray", "xoscar")),
    Row("light_actors", "light actors created and answering", "/s", Goal("value", 5_000)),
    Row(
        "light_actors_pss",
        "memory of 100,000 light actors (PSS)",
        "MB",
        Goal("value", 1_500),
        timeout_s=300,
        most_rounds=1,
        slow=True,
    ),
    Row("groups_sync", "placement group created, ready, removed", "/s", Goal("value", 1_000), ("ray",)),
    Row("groups_async", "the same, `await`", "/s", Goal("value", 1_000)),
    Row("groups_at_once", "1,000 placement groups of two bundles at once, ready", "/s", Goal("value", 1_000)),
    Row("groups_on_nodes", "one created, ready, removed, its bundles on two of 10 nodes", "/s", Goal("value", 1_000)),
    Row("groups_at_once_on_nodes", "1,000 of such groups at once, ready", "/s", Goal("value", 1_000)),
    Row("start_sync", "start to first result, `init`", "s", Goal("ratio", 2.0), ("limit", "ray", "dask")),
    Row("start_inline", "the same, `init(inline=True)`", "s", Goal("ratio", 2.0), ("limit",)),
    Row("start_async", "start to first result, `connect`", "s", Goal("ratio", 2.0), ("limit", "xoscar")),
    Row("cluster_in_loop", "3 local nodes in one loop, up and answering", "s", Goal("value", 1.5)),
    Row("cluster_of_processes", "the same, a process each", "s", Goal("value", 2.5), ("ray",)),
    Row("fan_out", "10,000 tasks at once over 10 local nodes, in one loop", "/s", Goal("value", 10_000), ("ray",)),
    Row("shutdown_sync", "`shutdown`, all processes gone", "s", Goal("value", 0.3), ("ray", "dask")),
    Row("shutdown_async", "leaving `connect`, all processes gone", "s", Goal("value", 0.3), ("xoscar",)),
    Row("pss_20_actors", "memory of a cluster with 20 actors (PSS)", "MB", Goal("value", 250), ("ray",)),
    Row("pss_20_actors_inline", "the same, `init(inline=True)`", "MB", Goal("value", 250)),
    # A leak of one small object a task would be 50 MB and more; one put in a hundred left behind would be 100 MB.
    Row("flat_puts", "growth over 10,000 puts of 1 MiB (PSS)", "MB", Goal("value", 50), timeout_s=300, most_rounds=1),
    Row("flat_gets", "the same, each read (`get`) and let go", "MB", Goal("value", 50), timeout_s=300, most_rounds=1),
    Row(
        "flat_tasks",
        "growth over 1,000,000 tasks (PSS)",
        "MB",
        Goal("value", 10),
        timeout_s=900,
        most_rounds=1,
        slow=True,
    ),
)
BY_KEY: dict[str, Row] = {row.key: row for row in ROWS}


def choose(keys: str | None, *, quick: bool) -> list[Row]:
    """The rows for `--rows a,b` (None: all, less the slow ones when `quick`). Raises ValueError on a wrong name."""
    if keys is None:
        return [row for row in ROWS if not (quick and row.slow)]
    wanted = [key.strip() for key in keys.split(",") if key.strip()]
    if unknown := [key for key in wanted if key not in BY_KEY]:
        raise ValueError(f"no such row: {', '.join(unknown)}; there are {', '.join(BY_KEY)}")
    if not wanted:
        raise ValueError(f"--rows names no row; there are {', '.join(BY_KEY)}")
    return [row for row in ROWS if row.key in wanted]
