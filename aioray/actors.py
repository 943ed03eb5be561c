"""Actor classes and handles."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aioray import current
from aioray.exceptions import ActorAlreadyExistsError, InvalidOptionError
from aioray.options import ACTOR_DEFAULTS, ActorOptions, actor_options
from aioray.runtime.serialization import Counted, loading_runtime
from aioray.signatures import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioray.refs import ObjectRef
    from aioray.runtime.actor_calls import RemoteActor

C = TypeVar("C")
F = TypeVar("F", bound="Callable[..., Any]")

_NUM_RETURNS = "__aioray_num_returns__"


def method(*, num_returns: int = 1) -> Callable[[F], F]:
    """Say of a method of an actor how many values it returns: each becomes a ref of its own.

    Raises InvalidOptionError unless `num_returns` is a whole number, 0 or more.
    """
    if isinstance(num_returns, bool) or not isinstance(num_returns, int) or num_returns < 0:
        raise InvalidOptionError("num_returns", num_returns, "a whole number, 0 or more")

    def mark(fn: F) -> F:
        setattr(fn, _NUM_RETURNS, num_returns)
        return fn

    return mark


def methods_of(cls: type) -> dict[str, str]:
    """The methods of an actor class, inherited ones too: how many values each returns and what arguments it takes.

    As text, since that goes wherever a handle goes: `_parsed` reads it where a method is called for the first time.
    """
    found = {}
    for name, member in inspect.getmembers(cls, callable):
        if name.startswith("__") and name not in ("__call__", "__len__", "__getitem__"):
            continue
        if not inspect.isclass(member):
            found[name] = f"{int(getattr(member, _NUM_RETURNS, 1))} {_signature_of(cls, name).text()}"
    return found


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
def _parsed(title: str, text: str) -> tuple[int, Signature]:
    num_returns, _, parameters = text.partition(" ")
    return int(num_returns), Signature.from_text(title, parameters)


class ActorMethod:
    """One method of an actor, as its handle sees it."""

    __slots__ = ("_actor", "_name", "_num_returns", "_signature", "_title")

    def __init__(self, actor: RemoteActor, name: str, title: str, num_returns: int, signature: Signature) -> None:
        self._actor = actor
        self._name = name
        self._title = title  # with the class
        self._num_returns = num_returns
        self._signature = signature

    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[Any]:
        """Call it. Calls of one process reach the actor in the order in which they were made.

        Raises TypeError when the arguments do not fit, SerializationError when one cannot be sent.
        """
        self._signature.check(args, kwargs)
        actor = self._actor
        refs = actor.runtime.submit_actor_call(actor, self._name, self._title, self._num_returns, args, kwargs)
        if self._num_returns == 1:
            return refs[0]
        return list(refs) if refs else None  # type: ignore[return-value] # as in Ray: the count is in the options

    def options(self, **options: Any) -> ActorMethod:
        """The same method with another num_returns. Raises InvalidOptionError."""
        for name, value in options.items():
            if name != "num_returns":
                raise InvalidOptionError(name, value, "num_returns", "a method has no other option yet")
        num_returns = options.get("num_returns", self._num_returns)
        method(num_returns=num_returns)  # checks it
        return ActorMethod(self._actor, self._name, self._title, num_returns, self._signature)

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> ObjectRef[Any]:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._name} is a method of an actor: call .{self._name}.remote(...)")


class ActorHandle(Counted):
    """An actor from afar: `handle.method.remote(x)`. May be sent anywhere; the actor ends with its last handle."""

    def __init__(self, actor: RemoteActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> ActorMethod:
        actor = self.__dict__.get("_actor")
        if actor is None:
            raise AttributeError(name)
        text = actor.methods.get(name)
        if text is None and name == "__ray_ready__":
            text = "1 "  # every actor has it
        if text is None:
            known = ", ".join(sorted(actor.methods)) or "none"
            raise AttributeError(f"actor {actor.cls} has no method {name!r}; it has: {known}")
        title = f"{actor.cls}.{name}"
        bound = ActorMethod(actor, name, title, *_parsed(title, text))
        self.__dict__[name] = bound  # the next look-up does not come here
        return bound

    @property
    def _actor_id(self) -> ActorIdText:
        return ActorIdText(self._actor.actor_id.hex())

    def binary(self) -> bytes:
        """The actor's id, 16 bytes."""
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

        Raises TypeError when the arguments do not fit, and ActorAlreadyExistsError (a ValueError) for a taken name.
        """
        if self._signature is None:
            self._signature = _constructor_signature(self._cls)
            self._methods = methods_of(self._cls)
        self._signature.check(args, kwargs)
        options = self._options
        if options.get_if_exists and not options.name:
            raise InvalidOptionError("get_if_exists", True, "only together with name")
        assert self._methods is not None
        actor, existed = current.get().create_actor(self._cls, self._methods, options, args, kwargs)
        if existed and not options.get_if_exists:
            raise ActorAlreadyExistsError(f"an actor called {options.name!r} exists already")
        return ActorHandle(actor)

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

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        name = self._cls.__name__
        raise TypeError(f"{name} is an actor class: inherit from the plain class, and make the new class remote")

    def __repr__(self) -> str:
        return f"<actor class {self._cls.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)
