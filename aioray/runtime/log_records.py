"""Log records as lines, in text or JSON, that say which job, process and call they are from."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from aioray.runtime_context import RuntimeContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.logging_config import LoggingConfig
    from aioray.runtime.runtime import Runtime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message"}
_IN_JSON = ("asctime", "levelname", "message", "filename", "lineno", "process")


class _Formatter(logging.Formatter):
    """`runtime` knows who logs: a record is formatted where it is made."""

    def __init__(self, runtime: Runtime, attributes: list[str]) -> None:
        super().__init__()
        self._context = RuntimeContext(runtime)
        self._attributes = attributes

    def _whose(self) -> dict[str, str]:
        context = self._context
        found = {
            "job_id": context.get_job_id(),
            "worker_id": context.get_worker_id(),
            "node_id": context.get_node_id(),
            "actor_id": context.get_actor_id(),
            "actor_name": context.get_actor_name(),
            "task_id": context.get_task_id(),
            "task_name": context.get_task_name(),
            "task_func_name": context.get_task_function_name(),
        }
        return {name: value for name, value in found.items() if value}

    def _more(self, record: logging.LogRecord) -> dict[str, Any]:
        """What both encodings have beside the message and where it comes from."""
        fields = {name: getattr(record, name, None) for name in self._attributes}
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {**fields, **self._whose(), "timestamp_ns": int(record.created * 1e9)}

    def _trace(self, record: logging.LogRecord) -> str:
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return record.exc_text or ""


class JSONFormatter(_Formatter):
    """One object a line. What JSON has no words for is written as its `str`."""

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        fields = {name: getattr(record, name) for name in _IN_JSON}
        if trace := self._trace(record):
            fields["exc_text"] = trace
        if record.stack_info:
            fields["stack_info"] = self.formatStack(record.stack_info)
        return json.dumps({**fields, **self._more(record)}, default=str)


class TextFormatter(_Formatter):
    """`2026-11-21 11:31:36,672 INFO program.py:16 -- the message name=value ...`, and tracebacks after it."""

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        more = " ".join(f"{name}={value}" for name, value in self._more(record).items())
        line = f"{record.asctime} {record.levelname} {record.filename}:{record.lineno} -- {record.message} {more}"
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(filter(None, (line, self._trace(record), stack)))


def install(runtime: Runtime, config: LoggingConfig) -> Callable[[], None]:
    """Have the root logger write what `config` says to stderr. Returns what undoes it."""
    encoder = JSONFormatter if config.encoding == "JSON" else TextFormatter
    handler = logging.StreamHandler()
    handler.setLevel(config.log_level)
    handler.setFormatter(encoder(runtime, config.additional_log_standard_attrs))
    root = logging.getLogger()
    before = root.level
    root.setLevel(config.log_level)
    ours = root.level
    root.addHandler(handler)

    def undo() -> None:
        root.removeHandler(handler)
        handler.close()
        if root.level == ours:  # else the program has set another since
            root.setLevel(before)

    return undo
