"""What `aioray list`, `get` and `summary` print; tests/cli/test_nodes.py has them run."""

from __future__ import annotations

from typing import Any

from aioray.cli.listing import listed, summed_up
from aioray.cli.status import rendered
from aioray.wire.gcs import ClusterStatus

TASK = {"task_id": "01", "name": "f", "state": "FAILED", "type": "NORMAL_TASK", "node_id": "0a", "error_type": None}


def test_a_list_has_columns_and_says_what_is_missing() -> None:
    found: dict[str, Any] = {"rows": [TASK, {**TASK, "error_type": "KeyError"}], "total": 5, "left_out": 7}
    assert list(listed("tasks", found)) == [
        "TASK_ID  NAME  STATE   TYPE         NODE_ID  ERROR_TYPE",
        "01       f     FAILED  NORMAL_TASK  0a       -",
        "01       f     FAILED  NORMAL_TASK  0a       KeyError",
        "2 of 5 shown",
        "7 more tasks were only counted: `aioray summary tasks` has their numbers",
    ]
    assert list(listed("tasks", {"rows": [TASK], "total": 1, "left_out": 0}))[2:] == ["1 in all"]


def test_a_summary_has_a_line_for_each_name() -> None:
    line = {
        "name": "f", "type": "NORMAL_TASK", "pending": 1, "running": 2, "finished": 3, "failed": 4, "job_id": "07",
        "left_out": 5,
    }  # fmt: skip
    assert list(summed_up("tasks", [line])) == [
        "NAME  TYPE         PENDING  RUNNING  FINISHED  FAILED  JOB_ID",
        "f     NORMAL_TASK  1        2        3         4       07",
        "Of those that have ended, 5 were only counted; `aioray list tasks` cannot show them.",
    ]
    assert list(summed_up("actors", {"A": {"ALIVE": 2, "DEAD": 1}})) == [
        "CLASS_NAME  STATE  COUNT",
        "A           ALIVE  2",
        "A           DEAD   1",
    ]


def test_the_status_tells_of_placement_groups_that_wait() -> None:
    status = ClusterStatus(epoch="e", version=1, members=(), groups=("placement group ab (PACK) waits",))
    assert list(rendered("host:1", status, 0.0))[-2:] == ["Waiting:", "  placement group ab (PACK) waits"]


def test_the_status_says_how_many_tasks_were_only_counted() -> None:
    status = ClusterStatus(epoch="e", version=1, members=())
    assert not any("Task events" in line for line in rendered("host:1", status, 0.0))
    status = ClusterStatus(epoch="e", version=1, members=(), tasks_left_out=12)
    assert list(rendered("host:1", status, 0.0))[-1] == (
        "Task events: 12 tasks were only counted, not told one by one."
    )
