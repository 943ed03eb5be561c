"""What became of tasks: what processes tell their node, and nodes the GCS.

Counts are exact. Of single tasks a sample is told when there are too many: what `finished` and `failed` count beyond
the records is what was left out. Field order is the format: append fields with defaults, never reorder.
"""

from __future__ import annotations

import msgspec

NORMAL_TASK, ACTOR_TASK, ACTOR_CREATION_TASK = "NORMAL_TASK", "ACTOR_TASK", "ACTOR_CREATION_TASK"
# The states of a task, under the names that Ray's state API has for them.
WAITS_FOR_ARGUMENTS, WAITS_FOR_WORKER = "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT"
RUNNING, FINISHED, FAILED = "RUNNING", "FINISHED", "FAILED"
MAX_NAME = 200  # characters that are told of a name
OTHERS = ""  # the name under which tasks are counted when there are too many names
PENDING_STATES = (WAITS_FOR_ARGUMENTS, WAITS_FOR_WORKER)
ENDED_STATES = (FINISHED, FAILED)


class TaskRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One task, as it was at some time. Times are Unix times (s)."""

    task_id: bytes
    state: str
    at: float  # when it came into that state; of one that waits, when it was seen
    started_at: float = 0.0
    worker_id: bytes = b""
    error_type: str = ""
    actor_id: bytes = b""
    labels: dict[str, str] = {}


class TaskGroup(msgspec.Struct, array_like=True, frozen=True):
    """Tasks of one name and one job: how many, and some of them."""

    job_id: bytes
    name: str
    kind: str
    finished: int = 0
    failed: int = 0
    pending: int = 0
    running: int = 0
    records: tuple[TaskRecord, ...] = ()

    @property
    def key(self) -> tuple[bytes, str, str]:
        return self.job_id, self.name, self.kind
