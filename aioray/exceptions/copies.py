"""Copies of exceptions whose classes we know nothing about, made without running their code where that can be."""

from __future__ import annotations

import contextlib
import copyreg
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from aioray.exceptions.errors import RayError, UnserializableException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


_MOST_LINKS = 30  # from the exception that was raised back to the first one; the text of the traceback has them all


def blank(cls: type[BaseException], group: tuple[str, Sequence[Any]] | None) -> Any:
    """An instance of `cls`, made without user code (__new__, __init__). Raises TypeError if C code forbids that.

    `group` is the message and the exceptions of an exception group: the only fields that cannot be filled in later.
    """
    if group is not None:
        return BaseExceptionGroup.__new__(cls, *group)  # type: ignore[type-var]  # the caller saw that it is a group
    # Python insists on the __new__ of the builtin class that decides the memory layout; only these have their own.
    for builtin in (OSError, MemoryError):
        with contextlib.suppress(TypeError):
            return builtin.__new__(cls)
    return BaseException.__new__(cls)


def members(exc: BaseException, *, builtin: bool = True) -> Iterator[tuple[str, Any]]:
    """What `exc` keeps outside of its __dict__: its __slots__ and, if `builtin`, fields such as `errno`."""
    for cls in type(exc).__mro__:
        if cls in (BaseException, Exception, object) or (cls.__module__ == "builtins" and not builtin):
            continue
        for name, attribute in vars(cls).items():
            if not isinstance(attribute, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            if not name.startswith("__"):
                with contextlib.suppress(Exception):  # a slot without a value
                    yield name, getattr(exc, name)


class _Packed(NamedTuple):
    """An exception on its way: rebuilt without its __init__, which need not take its `args` (many do not)."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]


class _Linked(NamedTuple):
    """An exception, packed, with what led to it, which pickle leaves behind."""

    exc: Any
    cause: Any
    context: Any
    suppress_context: bool
    notes: list[str] | None  # where packing has not taken them along


def pack(exc: BaseException | None, stand_ins: Mapping[int, BaseException] = types.MappingProxyType({})) -> Any:
    """`exc` for the way: with causes, contexts and notes, those of a group's members too; as it is if that is enough.

    stand_ins: what to send instead of exceptions, by their id(), that cannot be pickled.
    """
    return None if exc is None else _pack(exc, stand_ins, {}, 0)


def pack_alone(exc: BaseException, stand_ins: Mapping[int, BaseException]) -> Any:
    """`exc` without what led to it, to find out whether that is the part which cannot be pickled."""
    return _pack(exc, stand_ins, {}, _MOST_LINKS)


def _pack(exc: BaseException, stand_ins: Mapping[int, BaseException], packed: dict[int, Any], depth: int) -> Any:
    if id(exc) in packed:  # a cause is the context, too, as a rule
        return packed[id(exc)]
    packed[id(exc)] = None  # should it lead to itself
    shown = stand_ins.get(id(exc), exc)
    result = _pack_one(shown, stand_ins, packed, depth)
    if depth < _MOST_LINKS:
        cause, context = (
            # A RayTaskError brings its cause itself.
            None
            if other is None or other is getattr(exc, "cause", None)
            else _pack(other, stand_ins, packed, depth + 1)
            for other in (exc.__cause__, exc.__context__)
        )
        notes = None if isinstance(result, _Packed) else getattr(exc, "__notes__", None)
        if notes or cause is not None or context is not None:
            result = _Linked(result, cause, context, exc.__suppress_context__, notes)
    packed[id(exc)] = result
    return result


def _pack_one(exc: Any, stand_ins: Mapping[int, BaseException], packed: dict[int, Any], depth: int) -> Any:
    """`exc` as a _Packed where it pickles the default way, else `exc` as it is."""
    if isinstance(exc, RayError):
        return exc
    cls = type(exc)
    own_way = any(
        isinstance(each, types.FunctionType) for each in (cls.__reduce__, cls.__reduce_ex__, cls.__setstate__)
    )
    if own_way or cls in copyreg.dispatch_table:
        return exc
    made = exc.__reduce_ex__(4)
    args, state = made[1], made[2] if len(made) == 3 else {}
    if isinstance(exc, BaseExceptionGroup):
        args = (exc.message, [_pack(each, stand_ins, packed, depth) for each in exc.exceptions], *args[2:])
    return _Packed(cls, args, {**state, **dict(members(exc, builtin=False))})


def unpack(packed: Any) -> Any:
    """What `pack` was given, or a copy of it."""
    return _unpack(packed, {})


def _unpack(packed: Any, made: dict[int, Any]) -> Any:
    if not isinstance(packed, _Packed | _Linked):
        return packed
    if id(packed) not in made:
        made[id(packed)] = _unpack_linked(packed, made) if isinstance(packed, _Linked) else _unpack_one(packed, made)
    return made[id(packed)]


def _unpack_linked(packed: _Linked, made: dict[int, Any]) -> Any:
    exc = _unpack(packed.exc, made)
    if isinstance(exc, BaseException):
        with contextlib.suppress(Exception):  # a class may forbid all changes
            if packed.cause is not None:
                exc.__cause__ = _unpack(packed.cause, made)
            if packed.context is not None:
                exc.__context__ = _unpack(packed.context, made)
            exc.__suppress_context__ = packed.suppress_context
            if packed.notes and not hasattr(exc, "__notes__"):
                exc.__notes__ = list(packed.notes)
    return exc


def _unpack_one(packed: _Packed, made: dict[int, Any]) -> Any:
    cls, args, state = packed
    try:
        if issubclass(cls, BaseExceptionGroup):
            args = (args[0], [_unpack(each, made) for each in args[1]], *args[2:])
        return _remake(cls, args, state)
    except Exception as exc:
        return UnserializableException(f"{cls.__module__}.{cls.__qualname__}", f"it could not be rebuilt: {exc!r}")


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    group = None
    if issubclass(cls, BaseExceptionGroup):
        group = (args[0], args[1])
    if any(isinstance(each, types.FunctionType) for each in (cls.__init__, cls.__new__)):
        exc: BaseException = blank(cls, group)
        builtin = next(each for each in cls.__mro__ if each.__module__ == "builtins")
        object.__setattr__(exc, "args", args)
        with contextlib.suppress(Exception):
            builtin.__init__(exc, *args)  # type: ignore[misc]  # fills the likes of `errno` where args are made for it
    else:
        exc = cls(*args)
    for name, value in state.items():
        object.__setattr__(exc, name, value)  # not setattr: the class may be a frozen dataclass
    return exc
