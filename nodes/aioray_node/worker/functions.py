"""The functions that a worker keeps unpickled (pure)."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FunctionCache:
    """As many as `limit`, those that were called last. One that was let go is made again when it is called.

    What it is made from stays with the connection over which it came: a caller sends a function once, before the first
    call of it. So letting go loses nothing but the time to unpickle it again; a call that runs holds its function
    itself. A function that came from several callers is here once, since its id is a hash of what it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._functions: collections.OrderedDict[str, Any] = collections.OrderedDict()

    def get(self, fn_id: str, exports: Mapping[str, bytes], load: Callable[[bytes], Any]) -> Any:
        """The function, unpickled by `load` from what its caller has exported if it is not here.

        Raises what `load` raises; then it is tried anew with the next call.
        """
        functions = self._functions
        try:
            functions.move_to_end(fn_id)
        except KeyError:
            function = functions[fn_id] = load(exports[fn_id])
            if len(functions) > self._limit:
                functions.popitem(last=False)
            return function
        return functions[fn_id]

    def __len__(self) -> int:
        return len(self._functions)
