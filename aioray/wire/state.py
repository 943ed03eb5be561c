"""What can be asked about the state of a cluster, by name: of the GCS over HTTP, and of any node.

Each question is a struct: its name is the tag, its fields are the arguments. Rows are answered as dicts, made of the
structs here.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

MAX_LIMIT = 10_000  # rows of an answer
MAX_KEY_NBYTES, MAX_VALUE_NBYTES = 4096, 8 << 20
PACKAGE_PIECE_NBYTES = 1 << 20  # of the pieces in which packages of files lie in the store; the last may be smaller
Key = Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_NBYTES)]
RequestId = Annotated[bytes, Meta(min_length=8, max_length=64)]
FILTERS = ("=", "!=")


def split_field(name: str) -> tuple[str, str]:
    """Of the name of what is filtered: the field, and which key of it ("labels.team"), or "" for all of it."""
    field, _, key = name.partition(".")
    return (field, key) if field == "labels" else (name, "")


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question."""


class _List(Ask, frozen=True):
    """Rows whose fields are, or are not ("=", "!="), what `filters` say; at most `limit` of them."""

    filters: tuple[tuple[str, str, str | int | float | bool | None], ...] = ()
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = 100


class ListNodes(_List, frozen=True, tag="list_nodes"):
    pass


class ListActors(_List, frozen=True, tag="list_actors"):
    pass


class ListPlacementGroups(_List, frozen=True, tag="list_placement_groups"):
    pass


class ListJobs(_List, frozen=True, tag="list_jobs"):
    pass


class ListTasks(_List, frozen=True, tag="list_tasks"):
    """The newest first."""


class SummarizeTasks(Ask, frozen=True, tag="summarize_tasks"):
    """How many there are and were, by job and name."""


class SummarizeActors(Ask, frozen=True, tag="summarize_actors"):
    """How many there are, by class and state."""


class AllMetrics(Ask, frozen=True, tag="metrics"):
    """Answered by a list of wire.metrics.Metric."""


class KvPut(Ask, frozen=True, tag="kv_put"):
    """Answered by whether the key is new. Safe to send twice with the same `request_id`."""

    key: Key
    value: Annotated[bytes, Meta(max_length=MAX_VALUE_NBYTES)]
    request_id: RequestId
    namespace: str = ""
    overwrite: bool = True


class KvGet(Ask, frozen=True, tag="kv_get"):
    """Answered by the value, or None."""

    key: Key
    namespace: str = ""


class KvDelete(Ask, frozen=True, tag="kv_delete"):
    """Answered by whether it was there. Safe to send twice with the same `request_id`."""

    key: Key
    request_id: RequestId
    namespace: str = ""


class KvKeys(Ask, frozen=True, tag="kv_keys"):
    """Answered by a list of keys that begin so."""

    prefix: Annotated[bytes, Meta(max_length=MAX_KEY_NBYTES)] = b""
    namespace: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = MAX_LIMIT


AnyAsk = (
    ListNodes
    | ListActors
    | ListPlacementGroups
    | ListJobs
    | ListTasks
    | SummarizeTasks
    | SummarizeActors
    | AllMetrics
    | KvPut
    | KvGet
    | KvDelete
    | KvKeys
)
ASKS: dict[str, type[Ask]] = {str(each.__struct_config__.tag): each for each in AnyAsk.__args__}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix times in milliseconds; None: not yet. Ids are hexadecimal."""

    # What a field may be compared with, in any case: what it can be, and what only Ray's can be.
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}


_TASK_STATES = """NIL PENDING_ARGS_AVAIL PENDING_NODE_ASSIGNMENT PENDING_OBJ_STORE_MEM_AVAIL PENDING_ARGS_FETCH
SUBMITTED_TO_WORKER PENDING_ACTOR_TASK_ARGS_FETCH PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY RUNNING
RUNNING_IN_RAY_GET RUNNING_IN_RAY_WAIT FINISHED FAILED"""
_TASK_TYPES = ("NORMAL_TASK", "ACTOR_TASK", "ACTOR_CREATION_TASK", "DRIVER_TASK")


class TaskRow(Row, frozen=True, kw_only=True):
    CHOICES = {"state": tuple(_TASK_STATES.split()), "type": _TASK_TYPES}

    task_id: str
    name: str
    state: str  # PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, RUNNING, FINISHED, FAILED
    type: str  # NORMAL_TASK, ACTOR_TASK
    job_id: str
    actor_id: str | None
    node_id: str
    worker_id: str | None
    error_type: str | None
    start_time_ms: int | None
    end_time_ms: int | None
    labels: dict[str, str] = {}


class ActorRow(Row, frozen=True, kw_only=True):
    CHOICES = {"state": ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD")}

    actor_id: str
    class_name: str
    state: str  # PENDING_CREATION, ALIVE, RESTARTING, DEAD
    name: str
    ray_namespace: str
    job_id: str
    node_id: str
    is_detached: bool
    num_restarts: int
    death_cause: str | None
    labels: dict[str, str] = {}


class NodeRow(Row, frozen=True, kw_only=True):
    CHOICES = {"state": ("ALIVE", "DEAD")}

    node_id: str
    node_ip: str
    node_name: str  # of its machine
    is_head_node: bool
    state: str  # ALIVE, DEAD
    state_message: str | None
    resources_total: dict[str, float]
    labels: dict[str, str]
    start_time_ms: int


class PlacementGroupRow(Row, frozen=True, kw_only=True):
    CHOICES = {"state": ("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING")}

    placement_group_id: str
    name: str
    state: str
    strategy: str
    bundles: dict[str, dict[str, float]]


class JobRow(Row, frozen=True, kw_only=True):
    CHOICES = {"status": ("PENDING", "RUNNING", "FINISHED", "STOPPED", "SUCCEEDED", "FAILED")}

    job_id: str
    type: str  # DRIVER
    status: str  # RUNNING, FINISHED
    entrypoint: str
    namespace: str
    node_id: str
    pid: int
    start_time: int
    end_time: int | None


def unknown_choice(row: type[Row], name: str, value: object) -> str:
    """What a filter may name instead of `value`; "" where it may name that."""
    choices = row.CHOICES.get(name)
    if choices is None or (isinstance(value, str) and value.upper() in choices):
        return ""
    return ", ".join(choices)


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and what is missing among them."""

    rows: list[dict[str, Any]]
    total: int  # rows there would be without `limit`
    left_out: int = 0  # that nothing is known of one by one, whatever the filters


class TaskSummaryRow(msgspec.Struct, frozen=True, kw_only=True):
    """All tasks of a name. `left_out`: of those that have ended, how many are known by their number only."""

    job_id: str
    name: str
    type: str
    pending: int
    running: int
    finished: int
    failed: int
    left_out: int
