"""What type checkers see of actors whose class inherits from `aioray.Actor`.

A checker cannot be told that each method of a class has a counterpart with `.remote` on its handles. What it can be
told is what a method becomes by its decorator, and what a class has from its base. So for a checker a handle is an
instance of the class itself, on which `@aioray.method` makes a method that can be called (in the class) and has
`.remote` (on handles); and what `@aioray.remote` returns is the class, which has `.remote` from `Actor`: mypy does not
look at what decorators of classes return. None of this is there when the program runs: `Actor` is empty then, and a
method is marked, as ever.

Refs go where values do by position, up to the sixth argument: one overload for each number of arguments. By name
checkers take only values; where a ref goes by name to a function with types, write `x=cast(int, ref)`. There is no
other way to say it: a ParamSpec is passed on whole, its `kwargs` cannot become others, and what Concatenate adds or
takes off goes by position only. What can be said is an overload with `**kwargs: ObjectRef[Any]`. Calls without names
fit that, too, as none of theirs is wrong: so with it both checkers let every wrong type, name and count pass (tried
with mypy and pyright), which is worse than a cast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from aioray.dag import ClassMethodNode, ClassNode
    from aioray.generators import ObjectRefGenerator
    from aioray.refs import ObjectRef

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Given_co = TypeVar("Given_co", covariant=True)  # what the caller of `.remote` is given: a ref, a generator of refs
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")


class OnlyAny:
    """For type checkers: no function returns this, so that only Any, of which nothing is known, goes for it."""


class Actor:
    """Inherit from this, and mark methods with `@aioray.method`, for calls that mypy and pyright check (ours).

    A handle has the class as its type: `def use(counter: Counter)`. Nothing changes in what the program does.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        __ray_ready__: RemoteMethod[[], bool, ObjectRef[bool]]
        __ray_terminate__: RemoteMethod[[], None, ObjectRef[None]]
        __ray_call__: RemoteMethod[..., Any, ObjectRef[Any]]

        @overload
        @classmethod
        def remote(cls: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, Q], T], a: A | ObjectRef[A], /, *args: Q.args, **kwargs: Q.kwargs
        ) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, B, Q], T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, B, C, Q], T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, B, C, D, Q], T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, B, C, D, E, Q], T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A, B, C, D, E, F, Q], T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            f: F | ObjectRef[F],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...
        @classmethod  # type: ignore[misc] # `cls` is any callable above
        def remote(cls, *args: Any, **kwargs: Any) -> Any: ...
        @classmethod
        def options(cls: Callable[P, T], **options: Any) -> Creation[P, T]: ...
        @classmethod
        def bind(cls, *args: Any, **kwargs: Any) -> ClassNode: ...


if TYPE_CHECKING:

    class Remote(Generic[P, R_co, Given_co]):
        """What has `.remote` with the arguments of what it calls: a remote function, a method of a handle."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, Q], Any], a: A | ObjectRef[A], /, *args: Q.args, **kwargs: Q.kwargs
        ) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, B, Q], Any],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, B, C, Q], Any],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, B, C, D, Q], Any],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, B, C, D, E, Q], Any],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> Given_co: ...
        @overload
        def remote(
            self: Callable[Concatenate[A, B, C, D, E, F, Q], Any],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            f: F | ObjectRef[F],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> Given_co: ...
        @overload  # what takes twelve of a kind by position takes any number, as a rule
        def remote(self: Callable[[A, A, A, A, A, A, A, A, A, A, A, A], Any], *args: A | ObjectRef[A]) -> Given_co: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc] # `self` is what is called

    class Creation(Remote[P, R_co, R_co]):
        """An actor class with options."""

        def options(self, **options: Any) -> Creation[P, R_co]: ...
        def bind(self, *args: Any, **kwargs: Any) -> ClassNode: ...

    class BoundMethod(Remote[P, R_co, Given_co]):
        """`self.method` and `handle.method`: the one is called, of the other `.remote`."""

        @overload
        def options(self, *, num_returns: int | str, **options: Any) -> BoundMethod[P, R_co, Any]: ...
        @overload
        def options(self, **options: Any) -> BoundMethod[P, R_co, Given_co]: ...
        def options(self, **options: Any) -> Any: ...
        def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode: ...

    class RemoteMethod(Generic[P, R_co, Given_co]):
        """A method with `@aioray.method`, in its class."""

        @overload
        def __get__(self, instance: None, owner: Any) -> Callable[Concatenate[Any, P], R_co]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> BoundMethod[P, R_co, Given_co]: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class MarkMethod(Protocol):
        """`@aioray.method(...)`, as long as it leaves num_returns alone."""

        @overload
        def __call__(self, fn: Callable[Concatenate[Any, P], OnlyAny], /) -> RemoteMethod[P, Any, ObjectRef[Any]]: ...
        @overload
        def __call__(
            self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
        ) -> RemoteMethod[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, fn: Callable[Concatenate[Any, P], Iterator[T]], /
        ) -> RemoteMethod[P, Iterator[T], ObjectRefGenerator[T]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, fn: Callable[Concatenate[Any, P], AsyncIterator[T]], /
        ) -> RemoteMethod[P, AsyncIterator[T], ObjectRefGenerator[T]]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> RemoteMethod[P, R, ObjectRef[R]]: ...
        def __call__(self, fn: Any, /) -> Any: ...

    class MarkMethodOfSeveral(Protocol):
        """`@aioray.method(num_returns=...)`: what that gives is said by a value."""

        def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> RemoteMethod[P, R, Any]: ...
else:

    class Remote(Generic[P, R_co, Given_co]):
        __slots__ = ()
