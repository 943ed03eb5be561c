"""inspect_serializability: which parts of a value keep it from being sent."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import IO, Any

from aioray.runtime.serialization import Counted
from aioray.runtime.unserializable import find_unserializable
from aioray.util.waiting import check_count

_MAX_FAILURES = 20


@dataclass(frozen=True, eq=False)
class FailureTuple:
    """A part that cannot be sent. `name` is the path to it, from the name of the whole; `reason` is pickle's."""

    obj: Any
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} (a {type(self.obj).__name__}): {self.reason}"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: IO[str] | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Say whether `base_obj` can be sent to another process, and which parts of it cannot.

    name: what to call it, default its own name. depth: how many steps down to look, 1 or more; a part below that is
    given as the one that contains it. print_file: where to print what was found, default stdout. At most 20 parts.
    """
    check_count(depth, "depth")
    root = str(name or getattr(base_obj, "__name__", None) or type(base_obj).__name__)
    failures: list[FailureTuple] = []
    while len(failures) < _MAX_FAILURES:
        excused = [failure.obj for failure in failures]
        found = find_unserializable(base_obj, root, lambda value: _dump(value, excused), depth)  # noqa: B023 # at once
        if found is None or any(found[1] is each for each in excused):
            break
        path, culprit, reason = found
        failures.append(FailureTuple(culprit, path, reason))
    print(_report(root, failures), file=print_file or sys.stdout)
    return not failures, set(failures)


def _report(root: str, failures: list[FailureTuple]) -> str:
    if not failures:
        return f"{root} can be sent to another process"
    what = "one part of it cannot" if len(failures) == 1 else f"{len(failures)} parts of it cannot"
    return "\n  ".join([f"{root} cannot be sent to another process, since {what}:", *map(str, failures)])


def _dump(value: Any, excused: list[Any]) -> None:
    """Pickle as for a call, with what is known to fail left out."""
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc] # cloudpickle is untyped
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, Counted) or any(obj is each for each in excused):
                return str, ()
            return super().reducer_override(obj)

    Pickler(io.BytesIO(), 5).dump(value)
