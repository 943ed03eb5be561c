"""Arguments are checked as Python would check them, and as well where only the text of a signature is known."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.actors import methods_of
from aioray.signatures import Signature

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTIONS: list[Callable[..., Any]] = [
    lambda: None,
    lambda a: None,
    lambda a, b=1: None,
    lambda a, /, b, c=2: None,
    lambda a, b=1, /: None,
    lambda *a: None,
    lambda a, *b: None,
    lambda *, a: None,
    lambda *, a=1: None,
    lambda a, *, b, c=1: None,
    lambda **a: None,
    lambda a, **b: None,
    lambda a, /, **b: None,
    lambda a, /, b, *c, d, **e: None,
]
names = st.sampled_from("abcdef")


def refuses(check: Callable[[], Any]) -> bool:
    try:
        check()
    except TypeError:
        return True
    return False


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: str(inspect.signature(fn)))
@given(args=st.lists(st.none(), max_size=4).map(tuple), kwargs=st.dictionaries(names, st.none(), max_size=4))
def test_just_what_python_refuses_is_refused(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = Signature.of(fn, "fn")
    for each in (signature, Signature.from_text("fn", signature.text())):
        assert refuses(functools.partial(each.check, args, kwargs)) == refuses(functools.partial(fn, *args, **kwargs))


def test_the_error_names_what_was_called() -> None:
    signature = Signature.of(lambda a: None, "Counter.add")
    with pytest.raises(TypeError, match=r"Counter\.add\(\): missing a required argument: 'a'"):
        signature.check((), {})
    with pytest.raises(TypeError, match=r"Counter\.add\(\): got an unexpected keyword argument 'b'"):
        signature.check((1,), {"b": 2})


def test_where_nothing_is_known_everything_goes() -> None:
    for signature in (Signature("f", None), Signature.from_text("f", Signature("f", None).text())):
        signature.check((1, 2, 3), {"a": 1})


def test_a_decorator_that_gives_an_argument_itself_is_believed() -> None:
    def with_session(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn("session", *args, **kwargs)

        return wrapper

    @with_session
    def query(session: str, text: str) -> str:
        return session + text

    Signature.of(query, "query").check(("text",), {})


def test_methods_of_all_kinds_leave_out_what_python_binds() -> None:
    class Base:
        def inherited(self, a: int, b: int = 1) -> None: ...

    class Kinds(Base):
        def plain(self, a: int, /, *, b: int) -> None: ...

        @staticmethod
        def static(a: int) -> None: ...

        @classmethod
        def of_class(cls, a: int) -> None: ...

        def swallows(*args: Any) -> None: ...

        partial = functools.partialmethod(Base.inherited, 1)

        class Inner:
            pass

    assert methods_of(Kinds) == {
        "inherited": "{}\na b=",
        "of_class": "{}\na",
        "partial": "{}\n...",
        "plain": "{}\n/a !b",
        "static": "{}\na",
        "swallows": "{}\n*args",
    }
