"""Copies of exceptions whose classes we know nothing about, made without running their code where that can be."""

from __future__ import annotations

import contextlib
import copyreg
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from aioray.exceptions.errors import RayError, UnserializableException

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


def pack(exc: Any) -> Any:
    """`exc` as a _Packed where it pickles the default way, else `exc` as it is."""
    if exc is None or isinstance(exc, RayError):
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
        args = (exc.message, [pack(each) for each in exc.exceptions], *args[2:])
    return _Packed(cls, args, {**state, **dict(members(exc, builtin=False))})


def unpack(packed: Any) -> Any:
    if not isinstance(packed, _Packed):
        return packed
    cls, args, state = packed
    try:
        return _remake(cls, args, state)
    except Exception as exc:
        return UnserializableException(f"{cls.__module__}.{cls.__qualname__}", f"it could not be rebuilt: {exc!r}")


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    group = None
    if issubclass(cls, BaseExceptionGroup):
        args = (args[0], [unpack(each) for each in args[1]], *args[2:])
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
