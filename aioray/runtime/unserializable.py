"""Find the part of a value that keeps it from being pickled: `args[0].model.lock` rather than "cannot pickle"."""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Each look costs a dumps, and this runs while a user waits for an error message.
MAX_LOOKS = 2000
MAX_CHILDREN = 500  # of one object


class StaysHere:
    """Base of what belongs to one process, and says so by itself when it is pickled: no part of it is to blame."""

    __slots__ = ()


Child = tuple[str, Any]  # the path from the root, and what is there


def find_unserializable(
    value: Any, root: str, dumps: Callable[[Any], object], max_depth: int = 8
) -> tuple[str, object, str] | None:
    """The deepest part of `value` that `dumps` refuses: its path (beginning with `root`), itself, and the error text.

    None if `dumps` takes all of `value`. At most `max_depth` steps down and about 2,000 calls of `dumps`; where that
    ends the search, what was found so far is returned. `dumps` may raise any Exception.
    """
    search = _Search(dumps)
    error = search.refusal(value)
    if error is None:
        return None
    return search.culprit(root, value, error, max_depth) or (root, value, error)


class _Search:
    def __init__(self, dumps: Callable[[Any], object]) -> None:
        self._dumps = dumps
        # By id: the object, kept alive so that its id is not used again, and why it was refused (None: it was not).
        self._met: dict[int, tuple[Any, str | None]] = {}

    def refusal(self, value: Any) -> str | None:
        """The text of the error that `dumps` raises for `value`, None if it raises none."""
        error = None
        try:
            self._dumps(value)
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"
        self._met[id(value)] = value, error
        return error

    def culprit(self, path: str, value: Any, error: str, depth: int) -> tuple[str, object, str] | None:
        """The deepest refused part of `value`, which is refused itself with `error`.

        None if the only refused parts are ones met before: `value` is refused then for what it leads back to, and the
        one to blame is still to be found elsewhere.
        """
        if depth == 0:
            return path, value, error
        leads_back = False
        for child_path, child in islice(_children(path, value), MAX_CHILDREN):
            if met := self._met.get(id(child)):
                leads_back = leads_back or met[1] is not None
                continue
            if len(self._met) >= MAX_LOOKS:
                break
            child_error = self.refusal(child)
            if child_error is None:
                continue
            if found := self.culprit(child_path, child, child_error, depth - 1):
                return found
            leads_back = True
        return None if leads_back else (path, value, error)


def _children(path: str, value: Any) -> Iterator[Child]:
    # User code runs in here (__reduce_ex__, __getattr__, iterators) and may fail; then the parts so far must do.
    with contextlib.suppress(Exception):
        yield from _parts(path, value)


def _parts(path: str, value: Any) -> Iterator[Child]:
    """What pickling `value` would pickle next. Objects say so themselves, functions and classes are taken apart."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | StaysHere():
            pass
        case dict() if type(value) is dict:
            yield from _items(path, value.items())
        case list() | tuple() | set() | frozenset() if type(value) in (list, tuple, set, frozenset):
            yield from _elements(path, value)
        case types.FunctionType():
            yield from _function_parts(path, value)
        case types.MethodType():
            yield f"{path}.__self__", value.__self__
            yield f"{path}.__func__", value.__func__
        case functools.partial():
            yield f"{path}.func", value.func
            yield f"{path}.args", value.args
            yield f"{path}.keywords", value.keywords
        case staticmethod() | classmethod():
            yield path, value.__func__
        case property():
            yield from ((path, each) for each in (value.fget, value.fset, value.fdel))
        case type():
            yield from _class_parts(path, value)
        case _:
            yield from _state_parts(path, value)


def _items(path: str, items: Iterable[tuple[Any, Any]]) -> Iterator[Child]:
    for key, value in items:
        yield f"{path}[{_brief(key)}]", value
        yield f"{path}.<key {_brief(key)}>", key


def _elements(path: str, values: Iterable[Any]) -> Iterator[Child]:
    for index, value in enumerate(values):
        yield f"{path}[{index}]", value


def _function_parts(path: str, function: types.FunctionType) -> Iterator[Child]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that has no value yet
            yield f"{path}.<closure>.{name}", cell.cell_contents
    for name in sorted(_globals_used(function.__code__)):
        if name in function.__globals__:
            yield f"{path}.<globals>.{name}", function.__globals__[name]
    yield from _elements(f"{path}.__defaults__", function.__defaults__ or ())
    yield from _items(f"{path}.__kwdefaults__", (function.__kwdefaults__ or {}).items())
    for name, value in vars(function).items():
        yield f"{path}.{name}", value


def _globals_used(code: types.CodeType) -> set[str]:
    """The names of globals that `code` and the functions written inside it look up."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals_used(constant)
    return names


def _class_parts(path: str, cls: type) -> Iterator[Child]:
    for name, value in vars(cls).items():
        if name not in ("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__"):
            yield f"{path}.{name}", value
    for base in cls.__bases__:
        yield f"{path}.<base {base.__name__}>", base


def _state_parts(path: str, value: Any) -> Iterator[Child]:
    """The parts of any other object, as it hands them to pickle: what its __getstate__ leaves out is not to blame."""
    try:
        made = value.__reduce_ex__(4)
    except Exception:  # it refuses itself, as a lock does; or it is a proxy that says so of what it holds
        yield from _attributes(path, value)
        return
    if not isinstance(made, tuple):
        return  # pickled by name
    args, state, elements, items = (*made[1:5], None, None, None)[:4]
    names = {id(child): child_path for child_path, child in _attributes(path, value)}
    listed_as = f"{path}.args" if isinstance(value, BaseException) else f"{path}.<state>"
    for index, arg in enumerate(args or ()):
        if arg is type(value):
            yield f"{path}.__class__", arg
        else:
            yield names.get(id(arg), f"{listed_as}[{index}]"), arg
    yield from _elements(path, elements or ())
    yield from _items(path, items or ())
    is_pair = isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict)  # where there are __slots__
    for part in state if is_pair else (state,):
        if isinstance(part, dict):
            yield from ((f"{path}.{name}", child) for name, child in part.items())
        elif isinstance(part, list):
            # dataclasses with slots send their fields bare
            yield from ((names.get(id(child), f"{path}.<state>[{index}]"), child) for index, child in enumerate(part))
        elif part is not None:
            yield f"{path}.<state>", part


def _attributes(path: str, value: Any) -> Iterator[Child]:
    """Attributes that hold data: of __dict__, __slots__, and the fields of a named tuple or a msgspec Struct."""
    names = dict.fromkeys(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        for kind in ("__slots__", "__struct_fields__", "_fields"):
            listed = getattr(cls, kind, ())
            if isinstance(listed, str):
                listed = (listed,)
            if isinstance(listed, Iterable):  # else a descriptor, on the class that defines the kind
                names.update(dict.fromkeys(listed))
    for name in names:
        if name not in ("__dict__", "__weakref__"):
            with contextlib.suppress(Exception):
                yield f"{path}.{name}", getattr(value, name)


def _brief(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."
