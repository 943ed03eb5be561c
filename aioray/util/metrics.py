"""Metrics of programs, tasks and actors, as Ray's are: counters, gauges and histograms, with tags.

They work wherever code runs, before there is a cluster, too: processes tell their clusters what has changed
(`metrics_report_interval_ms`), and the head shows all of it to Prometheus (`GET /metrics`), to `aioray metrics`, and to
`prometheus_text()`. There a name begins with "aioray_", that of a counter ends with "_total", and tags are labels.
Counters and histograms are sums over all processes that there were; a gauge is that of one process which lives, and
has the labels NodeId and WorkerId.
"""

from __future__ import annotations

import itertools
import math
import numbers
import re
from typing import TYPE_CHECKING, Any, Self

import msgspec

from aioray.exceptions import InvalidOptionError
from aioray.runtime.metric_cells import METRICS
from aioray.wire import metrics as told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.runtime.metric_cells import Cell

__all__ = ["Counter", "Gauge", "Histogram", "prometheus_text"]

_MAX_TEXT_NBYTES = 1000  # of a description, and of all tags of a series together: a report must fit into a frame
_MAX_BOUNDARIES = 100
_MAX_NAME = 200
_NAME, _TAG = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class _Metric:
    """What all metrics have. Two objects with the same name are the same metric."""

    _kind: str

    def __init__(
        self, name: str, description: str, tag_keys: tuple[str, ...] | None, bounds: tuple[float, ...] = ()
    ) -> None:
        self._name = _checked_name(name)
        self._description = _checked_text("description", description)
        self._tag_keys = _checked_keys(tag_keys)
        self._default_tags: dict[str, str] = {}
        exposed = self._name
        if self._kind == told.COUNTER and not exposed.endswith(told.TOTAL):
            exposed += told.TOTAL
        if exposed in told.RESERVED_NAMES:
            raise InvalidOptionError("name", name, "another name", "nodes have a metric that is called so")
        try:
            self._cells = METRICS.cells_of(told.Metric(exposed, self._kind, self._description, bounds))
        except LookupError as exc:
            raise InvalidOptionError("name", name, "a name for each metric", str(exc.args[0])) from None
        self._known: dict[Any, Cell] = {}  # by tags as they were given

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Self:
        """Tags of what is recorded without them. Those given before are forgotten. Returns the metric."""
        self._default_tags = dict(self._checked_tags(default_tags))
        self._known = {}
        return self

    @property
    def info(self) -> dict[str, Any]:
        """name, description, tag_keys, default_tags; of a histogram, boundaries."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def _cell(self, tags: Mapping[str, str] | None) -> Cell | None:
        try:
            key = () if tags is None else tuple(tags.items())
            cell = self._known.get(key)
        except (AttributeError, TypeError):
            key, cell = (), None
        return self._find(tags, key) if cell is None else cell

    def _find(self, tags: Mapping[str, str] | None, key: Any) -> Cell | None:
        known = self._known  # before the default tags are looked at: it is theirs
        given = {**self._default_tags, **(self._checked_tags(tags) if tags is not None else {})}
        missing = [name for name in self._tag_keys if name not in given]
        if missing:
            raise InvalidOptionError("tags", tags, f"a value for each of {_listed(self._tag_keys)}", f"no {missing[0]}")
        labels = tuple(text for name in sorted(given) for text in (name, given[name]))
        _checked_text("tags", "".join(labels))
        cell = self._cells.cell(labels)
        if cell is not None and cell.labels == labels:
            known[key] = cell
        return cell

    def _checked_tags(self, tags: Mapping[str, str]) -> Mapping[str, str]:
        allowed = f"a dict with {_listed(self._tag_keys)}"
        if not isinstance(tags, dict):
            raise InvalidOptionError("tags", tags, allowed)
        for name, value in tags.items():
            if name not in self._tag_keys:
                raise InvalidOptionError("tags", tags, allowed, f"{name!r} is not among the tag_keys of {self._name!r}")
            _checked_text(f"tags[{name!r}]", value)
        return tags

    def __repr__(self) -> str:
        return f"<aioray.util.metrics.{type(self).__name__} {self._name!r}>"


class Counter(_Metric):
    """Something that is counted, and only grows."""

    _kind = told.COUNTER

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        """name: letters, digits, "_" and ":". tag_keys: the tags that go with each count.

        Raises InvalidOptionError, a ValueError and a TypeError; also where the name is that of another metric.
        """
        super().__init__(name, description, tag_keys)

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add `value`, above 0. `tags` go before the default ones. Raises InvalidOptionError."""
        value = _number("value", value)
        if value <= 0:
            raise InvalidOptionError("value", value, "a number above 0: a counter only grows")
        cell = self._cell(tags)
        if cell is not None:
            self._cells.add(cell, value)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), (self._name, self._description, self._tag_keys), self._default_tags)


class Gauge(_Metric):
    """Something that has a value now."""

    _kind = told.GAUGE

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        """As Counter."""
        super().__init__(name, description, tag_keys)

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """It is `value` from now on; None makes no difference, as in Ray. Raises InvalidOptionError."""
        if value is None:
            return
        value = _number("value", value)
        cell = self._cell(tags)
        if cell is None:
            self._cells.leave_out()
        else:
            self._cells.put(cell, value)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), (self._name, self._description, self._tag_keys), self._default_tags)


class Histogram(_Metric):
    """How values are distributed."""

    _kind = told.HISTOGRAM

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        """boundaries: of the buckets, above 0, each greater than the one before. The rest as Counter."""
        self._boundaries = _checked_boundaries(boundaries)
        super().__init__(name, description, tag_keys, self._boundaries)

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """There was such a value. Raises InvalidOptionError."""
        value = _number("value", value)
        cell = self._cell(tags)
        if cell is not None:
            self._cells.observe(cell, value)

    @property
    def info(self) -> dict[str, Any]:
        """name, description, tag_keys, default_tags, boundaries."""
        return {**super().info, "boundaries": list(self._boundaries)}

    def __reduce__(self) -> Any:
        given = self._name, self._description, self._boundaries, self._tag_keys
        return _rebuilt, (type(self), given, self._default_tags)


def _rebuilt(kind: type[_Metric], given: tuple[Any, ...], default_tags: dict[str, str]) -> _Metric:
    """A metric that came from another process counts in this one."""
    metric = kind(*given)
    return metric.set_default_tags(default_tags)


def prometheus_text(address: str | None = None) -> str:
    """All metrics of a cluster, those of its nodes included, in the text format of Prometheus (ours).

    Of the cluster of this process; of another one with `address`, HOST:PORT or "auto", which blocks and is refused in
    an event loop. What is known is as old as the last reports.
    """
    from aioray.prometheus_text import rendered
    from aioray.util.state import ask

    return rendered(msgspec.convert(ask(address, "metrics", "prometheus_text"), list[told.Metric]))


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        allowed = f"a text of letters, digits, '_' and ':', that begins with no digit; {_MAX_NAME} characters at most"
        raise InvalidOptionError("name", name, allowed)
    return name


def _checked_keys(keys: Any) -> tuple[str, ...]:
    if keys is None:
        return ()
    if not isinstance(keys, tuple):
        raise InvalidOptionError("tag_keys", keys, "a tuple of texts, or None")
    for key in keys:
        if not isinstance(key, str) or len(key) > _MAX_NAME or not _TAG.fullmatch(key):
            raise InvalidOptionError(
                "tag_keys", key, "letters, digits and '_', neither a digit nor '__' at the beginning"
            )
        if key in told.RESERVED_LABELS:
            raise InvalidOptionError("tag_keys", key, f"other names than {_listed(sorted(told.RESERVED_LABELS))}")
    if len(set(keys)) < len(keys):
        raise InvalidOptionError("tag_keys", keys, "each name once")
    return keys


def _checked_boundaries(boundaries: Any) -> tuple[float, ...]:
    allowed = f"numbers above 0, each greater than the one before; one at least, {_MAX_BOUNDARIES} at most"
    if not isinstance(boundaries, (list, tuple)) or not 0 < len(boundaries) <= _MAX_BOUNDARIES:
        raise InvalidOptionError("boundaries", boundaries, allowed)
    bounds = tuple(_number("boundaries", boundary) for boundary in boundaries)
    if bounds[0] <= 0 or any(after <= before for before, after in itertools.pairwise(bounds)):
        raise InvalidOptionError("boundaries", boundaries, allowed)
    return bounds


def _checked_text(option: str, text: Any) -> str:
    allowed = f"a text of {_MAX_TEXT_NBYTES} bytes at most, in UTF-8"
    if not isinstance(text, str):
        raise InvalidOptionError(option, text, allowed)
    try:
        nbytes = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidOptionError(option, text, allowed, str(exc)) from None
    if nbytes > _MAX_TEXT_NBYTES:
        raise InvalidOptionError(option, text, allowed, f"it has {nbytes}")
    return text


def _number(option: str, value: Any) -> float:
    if type(value) is float and -math.inf < value < math.inf:  # the usual case, in a tenth of the time
        return value
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InvalidOptionError(option, value, "a number, and a finite one")
    return float(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no tags"
