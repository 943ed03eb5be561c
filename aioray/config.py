"""Every tunable: its name with the unit in it, its default and its range.

Each can be set for one process and its children by the environment (`AIORAY_<name>`, as it stands here or in
capitals), and for one cluster by `init(_system_config={name: value})`, which wins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from aioray import did_you_mean
from aioray.exceptions import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

Nbytes = Annotated[int, Meta(ge=0, le=2**62)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Milliseconds = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Fields may be added, with defaults; the names are public."""

    # Values up to this size travel inside messages; larger ones go to shared memory.
    inline_max_nbytes: Nbytes = 100 * 1024
    # A lease without work is given back after this long. Short: someone else's task may be waiting for the worker.
    lease_idle_ms: Milliseconds = 10.0
    # As many tasks are in flight to one worker as it gets done in this time, one at least.
    pipeline_target_ms: Milliseconds = 5.0
    # But never more than this many.
    pipeline_max_depth: Count = 1000
    # An idle worker beyond those kept ready ends after this long.
    worker_idle_reap_s: Seconds = 60.0
    # Workers a node starts before anyone asks; -1: one per CPU.
    prestart_workers: Annotated[int, Meta(ge=-1)] = -1
    # Functions that a worker keeps unpickled; one more, and that which was not called for longest is unpickled again.
    worker_functions_kept: Count = 1000
    # Modules the zygote imports once for all workers it forks, separated by commas; "" for none.
    zygote_preload: str = "numpy"
    # Lines that workers print appear at the driver as "(name pid=...) line".
    log_prefix: bool = True
    # Share of the machine's memory for the object store, where object_store_memory is not given.
    object_store_fraction: Fraction = 0.3
    # Before a thread that waits for an answer sleeps, it looks for it this long, if that has paid lately; 0: never. In
    # compiled graphs this is longer, and a task that awaits an output, or an actor's thread the next pass, looks, too.
    spin_us: Annotated[float, Meta(ge=0, le=10_000)] = 60.0
    # How long an actor whose last handle is gone may take to finish its calls and to leave, before it is killed.
    actor_exit_grace_s: Seconds = 30.0
    # How long the zygote may take to end its workers and itself before it is killed.
    shutdown_grace_s: Seconds = 1.0
    # What a working_dir, or each of py_modules, may have at most.
    runtime_env_max_nbytes: Nbytes = 500 * 1024 * 1024
    # Workers of tasks and actors without a GPU get an empty CUDA_VISIBLE_DEVICES.
    hide_gpus_at_zero: bool = True
    # How long a put waits for room before it raises ObjectStoreFullError.
    store_full_wait_s: Seconds = 5.0
    # Freed shared memory a process keeps for its next puts instead of giving it back: it is warm.
    local_arena_cache_nbytes: Nbytes = 256 * 1024 * 1024
    # What a node has to spare is told to the others at most this often; less often in clusters of many nodes.
    resource_report_interval_ms: Annotated[float, Meta(ge=1)] = 100.0
    # A node of which nothing was heard for so long is dead. Five times in it, a node says that it lives.
    heartbeat_timeout_ms: Annotated[float, Meta(ge=100)] = 10_000.0
    # A node whose connection to the GCS is gone is dead, unless it has another one after this long.
    node_reconnect_grace_ms: Milliseconds = 100.0
    # How long a node tries to reach a GCS that does not answer, before it ends.
    gcs_reconnect_timeout_s: Seconds = 60.0
    # What became of tasks is told by each process to its node, and by nodes to the GCS, this often; 0: never. Where the
    # GCS has too much to do, less often.
    task_events_reporting_interval_ms: Milliseconds = 1000.0
    # So many tasks a node tells of one by one in a report; of more than that, only how many there were.
    task_events_report_max: Count = 1000
    # The GCS forgets the oldest tasks, beyond those that it keeps, this often;
    task_events_cleaning_interval_ms: Annotated[float, Meta(ge=1)] = 10_000.0
    # it keeps so many of each job.
    task_events_max_per_job: Count = 5_000
    # What has changed of metrics is told by each process to its node, and by nodes to the GCS, this often; 0: never.
    # Where the GCS has too much to do, less often.
    metrics_report_interval_ms: Milliseconds = 10_000.0
    # So many metrics, each with certain tags, a node keeps, and the GCS; the rest is added up together.
    metrics_max_series: Count = 10_000
    # What the key-value store of the GCS may hold, keys and values together.
    gcs_kv_max_nbytes: Nbytes = 256 * 1024 * 1024
    # The piece of arena a process asks its node for at a time, to fill with small puts.
    extent_nbytes: Annotated[int, Meta(ge=4096, le=2**62)] = 8 * 1024 * 1024
    # Objects go from node to node in chunks of this size,
    transfer_chunk_nbytes: Annotated[int, Meta(ge=4096, le=2**30)] = 1024 * 1024
    # of which so many are asked of one node at a time.
    transfer_window: Count = 8
    # How many objects come to a node at a time, of those that are equally urgent.
    transfer_active: Count = 16
    # To how many nodes at a time a node sends an object of its own; others get it from those.
    transfer_fan_out: Count = 2
    # How long an object that comes from another node waits for room in shared memory.
    transfer_full_wait_s: Seconds = 60.0
    # Processes read what lies in the memory of other nodes of their machine in place; else its bytes are sent.
    transfer_share_memory: bool = True
    # What chunks are compressed with that this node asks for: lz4, zstd (extras of these names), or "" for none.
    transfer_codec: str = ""


_FIELDS = {field.name: field for field in msgspec.structs.fields(Config)}


def load(overrides: Mapping[str, Any] | None, environ: Mapping[str, str]) -> Config:
    """The defaults, over them AIORAY_<name> from `environ`, over that `overrides`.

    Texts are converted ("5", "true"). Raises InvalidOptionError for a name in `overrides` that is no tunable and for a
    value of the wrong type or out of range. Other AIORAY_ variables in `environ` are not ours to judge.
    """
    values = {}
    for name in _FIELDS:
        for variable in (f"AIORAY_{name}", f"AIORAY_{name.upper()}"):
            if variable in environ:
                values[name] = _converted(name, environ[variable], shown_as=variable)
                break
    for name, value in (overrides or {}).items():
        if name not in _FIELDS:
            raise _unknown(name, value)
        values[name] = _converted(name, value, shown_as=name)
    return Config(**values)


def _converted(name: str, value: Any, shown_as: str) -> Any:
    kind = _FIELDS[name].type
    try:
        converted = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidOptionError(shown_as, value, _allowed(kind), str(exc)) from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise InvalidOptionError(shown_as, value, _allowed(kind), "not finite")
    return converted


def _allowed(kind: Any) -> str:
    if kind is bool:
        return "true, false"
    if kind is str:
        return "a text"
    noun, meta = kind.__origin__.__name__, kind.__metadata__[0]
    limits = {">=": meta.ge, ">": meta.gt, "<=": meta.le}
    bounds = " and ".join(f"{sign} {limit}" for sign, limit in limits.items() if limit is not None)
    return f"{'a whole number' if noun == 'int' else 'a number'} {bounds}"


def _unknown(name: str, value: Any) -> InvalidOptionError:
    reason = "no such tunable" + did_you_mean.hint(name, _FIELDS)
    return InvalidOptionError(name, value, ", ".join(_FIELDS), reason)
