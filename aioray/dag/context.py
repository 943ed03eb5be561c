"""What compiled graphs have that say nothing else."""

from __future__ import annotations

from aioray.record import Record

_current: list[DAGContext] = []  # one at most: Ray's programs set their defaults for the whole process


class DAGContext(Record):
    """Defaults of `experimental_compile`, for this process: `DAGContext.get_current().submit_timeout = 5`.

    submit_timeout: seconds that `execute` waits for room. buffer_size_bytes: what a link between two processes takes
    before its sender keeps the rest. max_inflight_executions: passes under way at a time.
    """

    submit_timeout: float = 10.0
    buffer_size_bytes: int = 1_000_000
    max_inflight_executions: int = 10

    @staticmethod
    def get_current() -> DAGContext:
        """The one of this process."""
        if not _current:
            _current.append(DAGContext())
        return _current[0]
