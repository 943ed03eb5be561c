"""The search for the one part that pickle refuses."""

import collections
import dataclasses
import functools
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cloudpickle
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests
from aioray.runtime.unserializable import MAX_LOOKS, find_unserializable


@pytest.fixture(autouse=True, scope="module")
def by_name() -> Iterator[None]:
    """Classes of this module are found by name, as those of most modules are; other tests send theirs whole."""
    cloudpickle.unregister_pickle_by_value(tests)
    yield
    cloudpickle.register_pickle_by_value(tests)


LOCK = threading.Lock()
GLOBAL_LOCK = threading.Lock()


def found(value: Any, **kwargs: Any) -> tuple[str, object] | None:
    answer = find_unserializable(value, "args[0]", cloudpickle.dumps, **kwargs)
    if answer is None:
        return None
    path, culprit, error = answer
    assert "cannot pickle" in error
    return path, culprit


class Box:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Slots:
    __slots__ = ("a", "lock")

    def __init__(self) -> None:
        self.a, self.lock = 1, LOCK


@dataclasses.dataclass
class Data:
    lock: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenData:
    a: int
    lock: Any


class Struct(msgspec.Struct):
    a: int
    lock: Any


class Pair(NamedTuple):
    a: int
    lock: Any


class LeavesOut:
    """Its own lock is no trouble; the other one is."""

    def __init__(self) -> None:
        self.mine, self.other = threading.Lock(), LOCK

    def __getstate__(self) -> dict[str, Any]:
        return {"other": self.other}


class OwnReduce:
    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, (1, LOCK)


class ListPlus(list[Any]):
    pass


class Failing(Exception):
    pass


def closing_over(lock: Any) -> Callable[[], Any]:
    return lambda: lock


def using_global() -> Callable[[], Any]:
    def outer() -> Any:
        def inner() -> Any:
            return GLOBAL_LOCK

        return inner

    outer.__module__ = "__main__"  # so that cloudpickle takes it by value, as it does a script's functions
    return outer


def local_class() -> type:
    class Local:
        lock = LOCK

    return Local


def with_default() -> Callable[..., Any]:
    return lambda a, lock=LOCK: lock


def with_keyword() -> Callable[..., Any]:
    return lambda *, lock=LOCK: lock


CASES: list[tuple[Any, str]] = [
    (LOCK, ""),
    ({"a": 1, "lock": LOCK}, "['lock']"),
    ({LOCK: 1}, f".<key {repr(LOCK)[:37]}...>"),
    ([1, (2, LOCK)], "[1][1]"),
    ({LOCK}, "[0]"),
    (Box(model=Box(a=1, lock=LOCK)), ".model.lock"),
    (Slots(), ".lock"),
    (Data(LOCK), ".lock"),
    (FrozenData(1, LOCK), ".lock"),
    (Struct(1, LOCK), ".lock"),
    (Pair(1, LOCK), ".lock"),
    (LeavesOut(), ".other"),
    (OwnReduce(), ".<state>[1]"),
    (ListPlus([1, LOCK]), "[1]"),
    (collections.deque([1, LOCK]), "[1]"),
    (collections.OrderedDict(a=1, b=LOCK), "['b']"),
    (functools.partial(print, LOCK), ".args[0]"),
    (Failing(1, LOCK), ".args[1]"),
    (closing_over(LOCK), ".<closure>.lock"),
    (closing_over({"a": [LOCK]}), ".<closure>.lock['a'][0]"),
    (using_global(), ".<globals>.GLOBAL_LOCK"),
    (with_default(), ".__defaults__[0]"),
    (with_keyword(), ".__kwdefaults__['lock']"),
    (Box(lock=LOCK).__init__, ".__self__.lock"),  # type: ignore[misc]
    (local_class(), ".lock"),
    (local_class()(), ".__class__.lock"),
]


@pytest.mark.parametrize(
    ("value", "path"), CASES, ids=[re.sub("0x[0-9a-f]+", "0x", path) or "itself" for _, path in CASES]
)
def test_the_path_leads_to_the_part_at_fault(value: Any, path: str) -> None:
    answer = found(value)
    assert answer is not None
    assert answer[0] == f"args[0]{path}"
    assert answer[1] is (GLOBAL_LOCK if "GLOBAL" in path else LOCK)


def test_a_value_that_can_be_pickled_has_no_such_part() -> None:
    assert found({"a": [1, Box(b=2)], "f": closing_over(3)}) is None


def test_a_circle_is_walked_once() -> None:
    circle: list[Any] = [1]
    circle += [circle, {"again": circle, "lock": LOCK}]
    assert found(circle) == ("args[0][2]['lock']", LOCK)


def test_a_part_that_only_leads_back_is_not_blamed() -> None:
    """child cannot be pickled, because its parent cannot, because of the parent's lock: that one is to blame."""
    root = Box()
    root.child = Box(parent=root, deeper=Box(root=root))  # type: ignore[attr-defined]
    root.lock = LOCK  # type: ignore[attr-defined]
    assert found(root) == ("args[0].lock", LOCK)


def test_the_search_goes_no_deeper_than_asked() -> None:
    value = Box(a=Box(b=Box(lock=LOCK)))
    assert found(value, max_depth=1) == ("args[0].a", value.a)  # type: ignore[attr-defined]
    assert found(value, max_depth=0) == ("args[0]", value)


def test_a_huge_value_takes_a_bounded_number_of_looks() -> None:
    looks = 0

    def dumps(value: Any) -> bytes:
        nonlocal looks
        looks += 1
        if type(value) is not int:
            raise TypeError("cannot pickle")
        return b""

    rows = [[[[object()] for _ in range(9)] for _ in range(9)] for _ in range(9)]
    value = [[list(range(i, i + 400)) for i in range(0, 40_000, 400)], rows]
    answer = find_unserializable(value, "x", dumps)
    assert answer is not None
    assert looks <= MAX_LOOKS


def test_an_object_that_fails_in_every_way_is_named_itself() -> None:
    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("cannot pickle me")

        def __repr__(self) -> str:
            raise RuntimeError

    value = {"a": Hostile()}
    assert found(value) == ("args[0]['a']", value["a"])


def test_an_object_that_refuses_for_what_it_holds_is_looked_into() -> None:
    class Refuses:
        def __init__(self) -> None:
            self.lock = LOCK

        def __reduce__(self) -> str | tuple[Any, ...]:
            raise TypeError("cannot pickle this")

    assert found(Refuses()) == ("args[0].lock", LOCK)


trees = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(trees, st.lists(st.integers(0, 2) | st.text(max_size=3), max_size=6), trees)
def test_a_lock_put_anywhere_is_found_where_it_was_put(beside: Any, steps: list[Any], also: Any) -> None:
    value: Any = LOCK
    path = ""
    for step in steps:
        value = [beside] * step + [value, also] if isinstance(step, int) else {"a": beside, step + "!": value}
        path = (f"[{step}]" if isinstance(step, int) else f"[{step + '!'!r}]") + path
    answer = find_unserializable(value, "v", pickle.dumps)
    assert answer is not None
    assert answer[:2] == (f"v{path}", LOCK)
