"""LoggingConfig: what root loggers write, in the driver and in the workers of its job."""

from __future__ import annotations

import logging

import msgspec

from aioray.exceptions import InvalidOptionError

__all__ = ["LoggingConfig"]

_ENCODINGS = ("TEXT", "JSON")
_LEVELS = ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET")
_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message"}


class LoggingConfig(msgspec.Struct, frozen=True):
    """Add a handler to the root logger of the driver, and of the workers of its tasks and actors.

    encoding: "TEXT", or "JSON", an object a line, and then lines of workers are shown without a prefix. log_level: of
    the handler and of the root logger, by name. additional_log_standard_attrs: more attributes of `logging.LogRecord`,
    such as "name"; asctime, levelname, message, filename and lineno are always there, in JSON process, too.

    Each record also says whose it is: job_id, worker_id, node_id; in a call task_id, task_name and task_func_name, in
    an actor actor_id, and actor_name if it has one; what `extra=` gave, and timestamp_ns. Raises InvalidOptionError.
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = []

    def __post_init__(self) -> None:
        if self.encoding not in _ENCODINGS:
            raise InvalidOptionError("encoding", self.encoding, " or ".join(map(repr, _ENCODINGS)))
        if self.log_level not in _LEVELS:
            raise InvalidOptionError("log_level", self.log_level, f"one of {', '.join(_LEVELS)}")
        names = self.additional_log_standard_attrs
        if not isinstance(names, list) or not all(isinstance(name, str) and name in _ATTRIBUTES for name in names):
            allowed = f"a list of attributes of logging.LogRecord: {', '.join(sorted(_ATTRIBUTES))}"
            raise InvalidOptionError("additional_log_standard_attrs", names, allowed)


def checked_logging(given: object) -> LoggingConfig | None:
    """What a user gave as `logging_config`. Raises InvalidOptionError."""
    if given is not None and not isinstance(given, LoggingConfig):
        raise InvalidOptionError("logging_config", given, "None, or an aioray.LoggingConfig")
    return given
