"""Actor classes and handles."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, Union, overload

import msgspec

from aioray import current
from aioray.async_classes import is_async_class
from aioray.checkpoints import check_hooks
from aioray.exceptions import ActorAlreadyExistsError, InvalidOptionError
from aioray.generators import is_generator_function, submit_stream
from aioray.options import (
    ACTOR_DEFAULTS,
    METHOD_DEFAULTS,
    ActorOptions,
    MethodOptions,
    actor_options,
    method_options,
    returns_of,
)
from aioray.runtime.actor_lines import CallRules, MethodTarget
from aioray.runtime.serialization import Counted, loading_runtime
from aioray.runtime.submitting import submit_actor_call
from aioray.signatures import Signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence

    from aioray.dag import ClassMethodNode, ClassNode
    from aioray.generators import ObjectRefGenerator
    from aioray.refs import ObjectRef
    from aioray.runtime.actor_lines import RemoteActor
    from aioray.typed_actors import Actor, MarkMethod, MarkMethodOfSeveral, OnlyAny, RemoteMethod


P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
OF_ALL_CALLS = ""  # where a method's name stands, in what a handle is made of: what concerns all calls of the actor
# What every actor has beside the methods of its class, and what arguments it takes.
_OF_EVERY_ACTOR = {"__ray_ready__": "", "__ray_call__": "/fn *args **kwargs", "__ray_terminate__": ""}

_OPTIONS = "__aioray_method_options__"
_GENERATES = "is a generator"  # among the options of a method, on its way: no name of an option


@overload
def method(fn: Callable[Concatenate[Any, P], OnlyAny], /) -> RemoteMethod[P, Any, ObjectRef[Any]]: ...
@overload
def method(
    fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> RemoteMethod[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
@overload
def method(  # type: ignore[overload-overlap]
    fn: Callable[Concatenate[Any, P], Iterator[T]], /
) -> RemoteMethod[P, Iterator[T], ObjectRefGenerator[T]]: ...
@overload
def method(  # type: ignore[overload-overlap]
    fn: Callable[Concatenate[Any, P], AsyncIterator[T]], /
) -> RemoteMethod[P, AsyncIterator[T], ObjectRefGenerator[T]]: ...
@overload
def method(fn: Callable[Concatenate[Any, P], R], /) -> RemoteMethod[P, R, ObjectRef[R]]: ...
@overload
def method(*, num_returns: int | str, **options: Any) -> MarkMethodOfSeveral: ...
@overload
def method(**options: Any) -> MarkMethod: ...


def method(*args: Any, **options: Any) -> Any:
    """Mark a method of an actor class: `@method`, or `@method(num_returns=2, ...)` with options of its own.

    Without options it changes nothing when the program runs. For type checkers, in a class that inherits from
    `aioray.Actor`, the method of a handle then has `.remote` with the types of the method (see `aioray.typed_actors`).

    max_task_retries: how often a call is sent again when the actor died under it and was restarted; default that of the
    actor. retry_exceptions: True, or a list of types: a call that raises one of these is sent again, too, and runs
    after the calls that were sent meanwhile. A call has `max_task_retries` retries in all.

    timeout (ours): seconds from each call on. deadline (ours): until when calls may take, a datetime with a time zone
    or a time as of time.time(). What takes longer is cancelled, and its refs raise TaskTimeoutError; calls that it
    makes have the same deadline, or an earlier one of their own.
    name: of the calls, in messages and for `get_runtime_context().get_task_name()`, in place of class and method.

    `.options(...)` of the bound method overrides them for a call. Raises InvalidOptionError.
    """
    if args and (len(args) > 1 or options or not callable(args[0])):
        raise TypeError("write @method, or @method(option=value, ...): options are given by name")
    checked = method_options(options)
    plain = {name: getattr(checked, name) for name in options}  # a datetime, for example, has become a number

    def mark(fn: Any) -> Any:
        returns_of(checked, generates=is_generator_function(fn))  # checks how they go together
        setattr(fn, _OPTIONS, {**getattr(fn, _OPTIONS, {}), **plain})
        return fn

    return mark(args[0]) if args else mark


def methods_of(cls: type) -> dict[str, str]:
    """The methods of an actor class, inherited ones too: how many values each returns and what arguments it takes.

    As text, since that goes wherever a handle goes: `_parsed` reads it where a method is called for the first time.
    """
    found = {}
    for name, member in inspect.getmembers(cls, callable):
        if name.startswith("__") and name not in ("__call__", "__len__", "__getitem__"):
            continue
        if not inspect.isclass(member):
            generates = {_GENERATES: True} if is_generator_function(member) else {}
            options = msgspec.json.encode({**generates, **getattr(member, _OPTIONS, {})}).decode()
            found[name] = f"{options}\n{_signature_of(cls, name).text()}"
    return found


def groups_of(cls: type) -> dict[str, str]:
    """The methods of a class that name a concurrency group, and which."""
    marked = {name: getattr(member, _OPTIONS, {}) for name, member in inspect.getmembers(cls, callable)}
    return {name: given["concurrency_group"] for name, given in marked.items() if given.get("concurrency_group")}


def _signature_of(cls: type, name: str) -> Signature:
    member = inspect.getattr_static(cls, name)
    if isinstance(member, staticmethod):
        return Signature.of(member.__func__, name)
    if isinstance(member, classmethod):
        return Signature.of(member.__func__, name, bound=True)
    if inspect.isfunction(member):
        return Signature.of(member, name, bound=True)
    return Signature(name, None)  # what it binds, and whether it does, is its own affair


@functools.lru_cache(maxsize=1024)
def _parsed(title: str, text: str) -> tuple[MethodOptions, bool, Signature]:
    """Options, whether it is a generator function, and arguments."""
    before, _, parameters = text.partition("\n")
    given = msgspec.json.decode(before)
    generates = given.pop(_GENERATES, False)
    types = given.pop("retry_exceptions", False)
    base = msgspec.structs.replace(METHOD_DEFAULTS, retry_exceptions=types if isinstance(types, bool) else tuple(types))
    return method_options(given, base), generates, Signature.from_text(title, parameters)


def rules_of_calls(options: ActorOptions, *, is_async: bool) -> str:
    """What callers must know of an actor beside its methods; "" where all is as usual. `CallRules` reads it."""
    any_order = options.allow_out_of_order_execution
    if any_order is None:
        any_order = is_async or (options.max_concurrency or 1) > 1
    groups = tuple(options.concurrency_groups)
    rules = CallRules(options.max_task_retries, options.max_pending_calls, any_order, groups)
    return "" if rules == CallRules() else msgspec.json.encode(msgspec.structs.astuple(rules)).decode()


class ActorMethod:
    """One method of an actor, as its handle sees it."""

    __slots__ = ("_actor", "_options", "_signature", "_target")

    def __init__(self, actor: RemoteActor, target: MethodTarget, options: MethodOptions, signature: Signature) -> None:
        self._actor = actor
        self._target = target
        self._options = options
        self._signature = signature

    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[Any]:
        """Call it. Calls of one process reach the actor in the order in which they were made; those of an async or
        threaded actor (allow_out_of_order_execution) do not wait for others whose arguments are not there yet.

        A method that is a generator gives an ObjectRefGenerator, as a function does.

        While the actor is restarted, calls that were not sent wait for it. A call that was under way when it died is
        sent again, in its place, if it has retries left (max_task_retries); else it fails with ActorUnavailableError,
        or ActorDiedError if the actor does not come back. Raises TypeError when the arguments do not fit,
        SerializationError when one cannot be sent, PendingCallsLimitExceeded (max_pending_calls: of all handles to the
        actor in this process).
        """
        self._signature.check(args, kwargs)
        actor = self._actor
        target = self._target
        runtime = actor.runtime
        if target.num_returns < 0:
            streamed: ObjectRef[Any] = submit_stream(  # mypy cannot know: a handle has no types
                runtime, target, lambda stream: submit_actor_call(runtime, actor, target, args, kwargs, stream)
            )
            return streamed
        refs = submit_actor_call(runtime, actor, target, args, kwargs)
        if target.num_returns == 1:
            return refs[0]
        return list(refs) if refs else None  # type: ignore[return-value] # as in Ray: the count is in the options

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call to be made when a graph runs, see `aioray.dag`. Raises TypeError when the arguments do not fit."""
        from aioray.dag import ClassMethodNode

        self._signature.check(args, kwargs)
        return ClassMethodNode(self, self._target.method, {}, args, kwargs)

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options (see `aioray.method`). Raises InvalidOptionError."""
        target, new = self._target, method_options(options, self._options)
        rules = self._actor.line.rules
        title = f"{self._actor.cls}.{target.method}"
        new_target = MethodTarget(target.method, title, new, rules, generates=target.generates)
        return ActorMethod(self._actor, new_target, new, self._signature)

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> ObjectRef[Any]:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._target.method
        raise TypeError(f"{name} is a method of an actor: call .{name}.remote(...)")


class ActorHandle(Counted):
    """An actor from afar: `handle.method.remote(x)`. May be sent anywhere; the actor ends with its last handle."""

    def __init__(self, actor: RemoteActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> ActorMethod:
        actor = self.__dict__.get("_actor")
        if actor is None:
            raise AttributeError(name)
        text = actor.methods.get(name)
        if text is None and name in _OF_EVERY_ACTOR:
            text = f"{{}}\n{_OF_EVERY_ACTOR[name]}"
        if text is None or name == OF_ALL_CALLS:
            known = ", ".join(sorted(filter(None, actor.methods))) or "none"
            raise AttributeError(f"actor {actor.cls} has no method {name!r}; it has: {known}")
        title = f"{actor.cls}.{name}"
        options, generates, signature = _parsed(title, text)
        target = MethodTarget(name, title, options, actor.line.rules, generates=generates)
        bound = ActorMethod(actor, target, options, signature)
        self.__dict__[name] = bound  # the next look-up does not come here
        return bound

    @property
    def _actor_id(self) -> ActorIdText:
        return ActorIdText(self._actor.actor_id.hex())

    def _counted_id(self) -> bytes:
        return self._actor.actor_id

    def _restore(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        actor = self._actor
        return restore_handle, (actor.actor_id, actor.cls, actor.methods)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Pickled by somebody else's pickler: nobody will tell us when the copy is gone, so it stays until shutdown.
        self._actor.runtime.objects.pin_for_ever(self)
        return self._restore()

    def __copy__(self) -> ActorHandle:
        return self

    def __deepcopy__(self, memo: Any) -> ActorHandle:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor.actor_id == self._actor.actor_id

    def __hash__(self) -> int:
        return hash(self._actor.actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._actor.cls}, {self._actor.actor_id.hex()})"


if TYPE_CHECKING:
    AnyHandle = ActorHandle | Actor  # for checkers, a handle may have the class of its actor as its type


class ActorIdText(str):
    """An actor's id, 32 hexadecimal digits."""

    __slots__ = ()

    def hex(self) -> str:
        return str(self)


def restore_handle(actor_id: bytes, cls: str, methods: dict[str, str]) -> ActorHandle:
    """What a pickled handle calls where it arrives."""
    runtime = loading_runtime()
    if runtime is None:
        runtime = current.get()
    return ActorHandle(runtime.adopt_actor(actor_id, cls, methods))


def _constructor_signature(cls: Any) -> Signature:
    if cls.__init__ is not object.__init__:
        return Signature.of(cls.__init__, cls.__name__, bound=True)
    if cls.__new__ is not object.__new__:
        return Signature.of(cls.__new__, cls.__name__, bound=True)
    return Signature(cls.__name__, [])


class ActorClass(Generic[C]):
    """A class whose instances live in worker processes. Made by `@aioray.remote`."""

    def __init__(self, cls: type[C], options: ActorOptions = ACTOR_DEFAULTS) -> None:
        self._cls = cls
        self._options = options
        self._signature: Signature | None = None
        self._methods: dict[str, str] | None = None
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor. Returns at once; an error of the constructor reaches whoever calls the actor.

        Raises TypeError when the arguments do not fit, or the class has one of the two hooks of checkpoints only, and
        ActorAlreadyExistsError (a ValueError) for a taken name.
        """
        if self._signature is None:
            self._signature = _constructor_signature(self._cls)
        self._signature.check(args, kwargs)
        options = self._options
        if options.get_if_exists and not options.name:
            raise InvalidOptionError("get_if_exists", True, "only together with name")
        from aioray.runtime.actor_creation import create_actor  # late: who only defines classes needs it not

        actor, existed = create_actor(current.get(), self._cls, self.methods(), options, args, kwargs)
        if existed and not options.get_if_exists:
            raise ActorAlreadyExistsError(f"an actor called {options.name!r} exists already")
        return ActorHandle(actor)

    def bind(self, *args: Any, **kwargs: Any) -> ClassNode:
        """An actor to be created when a graph runs, see `aioray.dag`. Raises TypeError, ValueError for an input."""
        from aioray.dag import ClassNode

        _constructor_signature(self._cls).check(args, kwargs)
        return ClassNode(self, args, kwargs)

    def methods(self) -> dict[str, str]:
        """What handles are made of: the methods, as `methods_of` has them, and the rules of all calls."""
        if self._methods is None:
            check_hooks(self._cls)
            methods = self._methods = methods_of(self._cls)
            rules = rules_of_calls(self._options, is_async=is_async_class(self._cls, methods))
            if rules:
                methods[OF_ALL_CALLS] = rules
        return self._methods

    def options(self, **options: Any) -> ActorClass[C]:
        """The same class with other options. Raises InvalidOptionError."""
        return ActorClass(self._cls, actor_options(options, self._options))

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> ActorHandle:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._cls.__name__
        raise TypeError(f"{name} is an actor class: create one with {name}.remote(...)")

    def __or__(self, other: Any) -> Any:
        """`Counter | None` in an annotation that is evaluated: for checkers a handle has the class as its type."""
        return Union[self, other]  # noqa: UP007 # `|` is what this makes possible

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        name = self._cls.__name__
        raise TypeError(f"{name} is an actor class: inherit from the plain class, and make the new class remote")

    def __repr__(self) -> str:
        return f"<actor class {self._cls.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)
