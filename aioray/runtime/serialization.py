"""Python values to bytes and back: pickle 5 with out-of-band buffers, cloudpickle only where plain pickle cannot do it.

Refs and actor handles that are met on the way are listed, because whoever sends them must keep them alive until the
receiver holds them (see `runtime/objects.py`).
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

from aioray.exceptions import SerializationError
from aioray.runtime.unserializable import find_unserializable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Exact types that pickle the same in every process and hold nothing that could need our care.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_dumps = pickle.dumps
_loads = pickle.loads
load_plain = _loads  # for what has neither buffers nor refs
EMPTY_ARGS = _dumps((), 5)


class Counted:
    """Base of what is reference-counted across processes: ObjectRef and ActorHandle."""

    __slots__ = ()

    def _is_counted(self) -> bool:
        """Whether this one is: not so a ref to what nobody makes."""
        return True

    def _restore(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What rebuilds it in another process; called when it leaves this one."""
        raise NotImplementedError


class _NeedsCloudpickle(Exception):
    """Plain pickle would store a name that means something else, or nothing, in another process."""


class Serialized:
    """A pickled value: the stream, its out-of-band buffers, and the refs inside. Sizes in bytes."""

    __slots__ = ("buffers", "data", "refs")

    def __init__(self, data: bytes, buffers: list[memoryview], refs: list[Any]) -> None:
        self.data = data
        self.buffers = buffers
        self.refs = refs

    @property
    def nbytes(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)


def _view_of(buffer: Any) -> memoryview:
    """What a pickled memoryview becomes."""
    return memoryview(buffer)


def _bytes_of(buffer: Any) -> bytes:
    return bytes(buffer)


def _leave_out(_: pickle.PickleBuffer) -> None:
    """Keep a buffer out of the stream."""


class _Reducer:
    """What both picklers do with our own objects."""

    refs: list[Any]

    def special(self, obj: Any) -> Any:
        if isinstance(obj, Counted):
            if obj._is_counted():
                self.refs.append(obj)
            return obj._restore()
        if type(obj) is memoryview:
            return _view_of, (pickle.PickleBuffer(obj if obj.contiguous else bytes(obj)),)
        return NotImplemented


class _PlainPickler(pickle.Pickler, _Reducer):
    def __init__(self, file: io.BytesIO, buffer_callback: Callable[[Any], Any]) -> None:
        super().__init__(file, 5, buffer_callback=buffer_callback)
        self.refs = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)):
            module = obj.__module__
            if module == "__main__" or module is None or _is_by_value(module):
                raise _NeedsCloudpickle
            return NotImplemented
        return self.special(obj)


def _is_by_value(module: str) -> bool:
    """Whether the user has said `cloudpickle.register_pickle_by_value` of it, or of a package that it is in."""
    cloudpickle = sys.modules.get("cloudpickle")
    registered = () if cloudpickle is None else cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


def _cloud_dump(value: Any, file: io.BytesIO, buffer_callback: Callable[[Any], Any] | None) -> list[Any]:
    import cloudpickle  # late: most programs never need it in the driver's first millisecond

    class CloudPickler(cloudpickle.CloudPickler, _Reducer):  # type: ignore[misc] # cloudpickle is untyped
        def reducer_override(self, obj: Any) -> Any:
            special = self.special(obj)
            return super().reducer_override(obj) if special is NotImplemented else special

    pickler = CloudPickler(file, 5, buffer_callback=buffer_callback)
    pickler.refs = []
    pickler.dump(value)
    return pickler.refs


def serialize_plain(value: Any) -> bytes | None:
    """The pickle stream of a value that needs no care: no buffers, no refs; None for any other. What is most usual."""
    kind = type(value)
    if kind not in _PLAIN or kind is bytes or kind is bytearray:
        return None
    return _dumps(value, 5)


def serialize(value: Any, root: str) -> Serialized:
    """Pickle `value`. Raises SerializationError that names the part, as a path from `root`, that cannot be."""
    if type(value) in _PLAIN:
        if type(value) is bytes and len(value) > 65536:  # else copied once more, into the stream
            return Serialized(_dumps(_BigBytes(value), 5, buffer_callback=_leave_out), [memoryview(value)], [])
        return Serialized(_dumps(value, 5), [], [])
    buffers: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    file = io.BytesIO()
    try:
        pickler = _PlainPickler(file, take)
        pickler.dump(value)
        return Serialized(file.getvalue(), buffers, pickler.refs)
    except BufferError:  # not contiguous: raw() cannot give it flat
        return _serialize_in_band(value, root)
    except Exception:  # whatever plain pickle says, cloudpickle has the last word
        buffers.clear()
    file = io.BytesIO()
    try:
        refs = _cloud_dump(value, file, take)
    except BufferError:
        return _serialize_in_band(value, root)
    except Exception as exc:
        raise _explain(value, root, exc) from exc
    return Serialized(file.getvalue(), buffers, refs)


def _serialize_in_band(value: Any, root: str) -> Serialized:
    file = io.BytesIO()
    try:
        refs = _cloud_dump(value, file, None)
    except Exception as exc:
        raise _explain(value, root, exc) from exc
    return Serialized(file.getvalue(), [], refs)


class _BigBytes:
    """Pickles as the bytes it holds, which lie out of band."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _bytes_of, (pickle.PickleBuffer(self._value),)


def _explain(value: Any, root: str, exc: BaseException) -> SerializationError:
    found = find_unserializable(value, root, lambda part: _cloud_dump(part, io.BytesIO(), None))
    if found is None:
        return SerializationError(root, type(value).__name__, str(exc))
    path, culprit, reason = found
    return SerializationError(path, type(culprit).__name__, reason)


def pickled_plain(values: tuple[Any, ...]) -> bytes | None:
    """Values that need no care, pickled; None when one of them may."""
    for value in values:
        if type(value) not in _PLAIN:
            return None
    return _dumps(values, 5)


def serialize_args(values: tuple[Any, ...], names: Sequence[str]) -> Serialized:
    """Pickle the arguments of a call: the positional ones, then those called `names`."""
    try:
        return serialize(values, "args")
    except SerializationError as exc:
        raise _name_argument(exc, len(values), names) from exc.__cause__


def _name_argument(exc: SerializationError, count: int, names: Sequence[str]) -> SerializationError:
    """`args[3].x` reads better as `kwargs['model'].x` when the fourth value was given by name."""
    for at, name in enumerate(names, count - len(names)):
        prefix = f"args[{at}]"
        if exc.path.startswith(prefix):
            return SerializationError(f"kwargs[{name!r}]{exc.path[len(prefix) :]}", exc.type_name, exc.reason)
    return exc


def serialize_code(value: Any, root: str) -> tuple[bytes, list[Any]]:
    """Pickle a function or class, by value where workers could not import it; with the refs it captured."""
    file = io.BytesIO()
    try:
        refs = _cloud_dump(value, file, None)
    except Exception as exc:
        raise _explain(value, root, exc) from exc
    return file.getvalue(), refs


class _Loading(threading.local):
    """Which runtime the refs belong to that are being unpickled in this thread."""

    runtime: Any = None


_loading = _Loading()


def deserialize(data: Any, buffers: Sequence[Any], runtime: Any) -> Any:
    """The value back. `runtime` adopts the refs inside; None where there are none, which is faster."""
    if runtime is None:
        return _loads(data, buffers=buffers)
    before, _loading.runtime = _loading.runtime, runtime
    try:
        return _loads(data, buffers=buffers)
    finally:
        _loading.runtime = before


def loading_runtime() -> Any:
    """The runtime for which this thread is unpickling, or None."""
    return _loading.runtime
