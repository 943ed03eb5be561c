"""Functions and classes as the cluster knows them."""

from __future__ import annotations

import hashlib
import weakref
from typing import TYPE_CHECKING, Any

from aioray.runtime.calls import check_cluster
from aioray.runtime.pipeline import Duration
from aioray.runtime.serialization import serialize_code

if TYPE_CHECKING:
    from aioray.runtime.runtime import Runtime


class Function:
    """A function as the cluster knows it: exported once to each worker that runs it."""

    __slots__ = ("data", "duration", "fn_id", "name", "pins")

    def __init__(self, fn_id: str, name: str, data: bytes, pins: list[Any]) -> None:
        self.fn_id = fn_id
        self.name = name
        self.data = data
        self.pins = pins  # refs that the function captured
        self.duration = Duration()

    def renamed(self, name: str) -> Function:
        """The same code under another name."""
        other = Function(self.fn_id, name, self.data, self.pins)
        other.duration = self.duration
        return other


class Exports:
    """What one process has exported: each function is pickled once, whatever name it goes by."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._functions: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
        self._functions_by_id: dict[int, tuple[Any, Function]] = {}

    def function(self, fn: Any, name: str) -> Function:
        """A function as the cluster knows it; pickled once per runtime."""
        try:
            function = self._functions.get(fn)
        except TypeError:  # it cannot be hashed, or not be referenced weakly
            return self._function_by_id(fn, name)
        if function is None:
            function = self._functions[fn] = self.pickled(fn, name)
        return function if function.name == name else function.renamed(name)

    def _function_by_id(self, fn: Any, name: str) -> Function:
        """Kept until shutdown, or its id could become another's."""
        entry = self._functions_by_id.get(id(fn))
        if entry is None:
            entry = self._functions_by_id[id(fn)] = fn, self.pickled(fn, name)
        function = entry[1]
        return function if function.name == name else function.renamed(name)

    def pickled(self, fn: Any, name: str) -> Function:
        """The same, kept by whoever asks. Raises SerializationError, and RaySystemError for refs of another cluster."""
        data, refs = serialize_code(fn, name)
        check_cluster(self._runtime, refs)
        return Function(hashlib.blake2b(data, digest_size=12).hexdigest(), name, data, refs)
