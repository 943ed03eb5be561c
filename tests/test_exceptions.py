"""The error tree: what is caught as what, and that every fact survives the trip between processes."""

import asyncio
import copy
import copyreg
import dataclasses
import json
import pickle
import threading
import traceback
import urllib.error
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray import exceptions
from aioray.exceptions import (
    ActorConstructorError,
    ActorDiedError,
    BlockingCallError,
    GetTimeoutError,
    InvalidOptionError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    SerializationError,
    TaskUnschedulableError,
    UnserializableException,
)

TREE = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and issubclass(each, RayError) and not each.__name__.startswith("_")
]

FACTS: dict[type[RayError], tuple[Any, ...]] = {
    RayTaskError: ("f", "Traceback ...", None, 17),
    ActorConstructorError: ("Counter", "Traceback ...", None, 17, "ab12", "its constructor raised"),
    ObjectStoreFullError: (3, 2, 1),
    UnserializableException: ("m.E", "Traceback ..."),
    SerializationError: ("args[0]", "lock", "cannot pickle"),
    BlockingCallError: ("get(ref)", "await ref"),
    InvalidOptionError: ("num_cpus", -1, "a number >= 0", "negative"),
    TaskUnschedulableError: ("no", {"CPU": 2.0}, {"CPU": 1.0}),
}


def made(cls: type[RayError]) -> RayError:
    if cls in FACTS:
        return cls(*FACTS[cls])
    return cls("ab12", "because") if issubclass(cls, ObjectLostError | RayActorError) else cls("because")


def sent(error: Any) -> Any:
    return pickle.loads(pickle.dumps(error))


def failed(cause: BaseException, function_name: str = "f") -> RayTaskError:
    return RayTaskError(function_name, f"Traceback ...\n{cause!r}", cause, 17)


class Code(Exception):
    """Takes other arguments than it keeps: the usual way to be unpicklable."""

    code = 0

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint

    @property
    def doubled(self) -> int:
        return self.code * 2

    def shout(self) -> str:
        return self.hint.upper()


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Sealed(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("sealed")


class SealedMeta(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "SealedMeta":
        if any(isinstance(base, SealedMeta) for base in bases):
            raise RuntimeError("no subclasses")
        return super().__new__(mcs, name, bases, namespace)


class ReallySealed(Exception, metaclass=SealedMeta):
    pass


class UnhashableMeta(type):
    __hash__ = None  # type: ignore[assignment]


class UnhashableClass(Exception, metaclass=UnhashableMeta):
    pass


class BadNew(Exception):
    def __new__(cls, number: int) -> "BadNew":
        return super().__new__(cls, number)


class OwnWay(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("text")
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnWay, (self.code,)


class WithState(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        self.restored = state


class OddOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "nothing there", path)


class OddGroup(ExceptionGroup[Exception]):
    pass


@pytest.mark.parametrize("cls", TREE)
def test_every_error_survives_pickle_and_copy_with_its_facts(cls: type[RayError]) -> None:
    error = made(cls)
    for again in (sent(error), copy.copy(error)):
        assert type(again) is cls
        assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))


@pytest.mark.parametrize("cls", TREE)
def test_every_error_has_something_to_say_and_is_drawn_in_the_tree(cls: type[RayError]) -> None:
    assert str(made(cls))
    assert cls.__name__ in (exceptions.__doc__ or "")
    if cls not in FACTS and cls is not RayError:
        bare = cls("ab12") if issubclass(cls, ObjectLostError | RayActorError) else cls()
        assert str(bare)
        assert "because" in str(made(cls))


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (GetTimeoutError, TimeoutError),
        (exceptions.ReferenceCountingAssertionError, AssertionError),
        (exceptions.ActorAlreadyExistsError, ValueError),
        (SerializationError, TypeError),
        (BlockingCallError, RuntimeError),
        (InvalidOptionError, ValueError),
        (InvalidOptionError, TypeError),
        (OwnerDiedError, ObjectLostError),
        (ActorDiedError, RayActorError),
    ],
)
def test_code_that_knows_only_the_builtin_error_catches_ours(cls: type[RayError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin) as caught:
        raise made(cls)
    assert type(caught.value) is cls


def test_a_timeout_does_not_take_its_facts_for_an_errno() -> None:
    error = GetTimeoutError("too slow", 1.5)
    assert (error.errno, error.reason, error.timeout_s) == (None, "too slow", 1.5)
    assert sent(error).timeout_s == 1.5


def test_an_invalid_option_is_picklable_whatever_the_value_was() -> None:
    error = InvalidOptionError("name", threading.Lock(), "a str")
    assert "lock" in sent(error).value
    assert str(error).startswith("name=<unlocked")
    assert str(sent(error)) == str(error)


def test_an_invalid_option_shows_a_value_that_has_no_repr() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Silent" in str(InvalidOptionError("name", Silent(), "a str"))


def test_the_text_of_a_task_error_names_function_process_and_remote_traceback() -> None:
    text = str(failed(ValueError("boom"), "train"))
    assert "train" in text
    assert "pid=17" in text
    assert "ValueError('boom')" in text


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("boom"),
        KeyError("k"),
        Code(3, hint="h"),
        Slotted(3),
        Frozen(3),
        Sealed("s"),
        BadNew(3),
        OwnWay(3),
        WithState(3),
        FileNotFoundError(2, "nothing there", "/x"),
        OddOSError("/x"),
        MemoryError("m"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("f.py", 1, 2, "x =", 1, 3)),
        ImportError("no", name="n", path="p"),
        urllib.error.URLError("down"),
        json.JSONDecodeError("bad", "{", 1),
        ActorDiedError("ab12", "killed"),
        GetTimeoutError("slow", 1.0),
        TimeoutError(),
        ExceptionGroup("many", [ValueError(1), KeyError(2)]),
        OddGroup("many", [Code(1, hint="a")]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_task_error_is_caught_as_the_users_type_too_here_and_after_pickle(cause: Exception) -> None:
    """
    1. as_instanceof_cause gives an instance of both classes, caused by the cause
    2. the facts and args are those of RayTaskError
    3. every attribute of the cause is there, as is its whole state after pickling, though __init__ was not called
    """
    error = failed(cause).as_instanceof_cause()
    for each in (error, sent(error), copy.copy(error), sent(sent(error))):
        assert isinstance(each, RayTaskError)
        assert isinstance(each, type(cause))
        assert type(each) is type(error)
        assert type(each.cause) is type(cause)
        assert each.__cause__ is each.cause
        assert each.args == ("f", error.traceback_str, each.cause, 17)
        assert (each.function_name, each.pid, str(each)) == ("f", 17, str(error))
        assert repr(each.cause.args) == repr(cause.args)
        assert type(each).__name__ == f"RayTaskError({type(cause).__name__})"
        for name in ("code", "hint", "doubled", "errno", "filename", "object", "lineno", "name", "pos", "actor_id"):
            assert getattr(each, name, "absent") == getattr(cause, name, "absent"), name
        assert getattr(each, "reason", "absent") == getattr(cause, "reason", "")


@pytest.mark.parametrize(
    "cause", [ValueError("boom"), Code(3, hint="h"), ImportError("no", name="n"), GetTimeoutError("slow", 1.0)]
)
def test_a_constructors_error_is_the_users_type_a_task_error_and_the_death_of_the_actor(cause: Exception) -> None:
    plain = ActorConstructorError("Counter", "Traceback ...", cause, 17, "ab12")
    error = plain.as_instanceof_cause()
    for each in (error, sent(error), copy.copy(error), sent(sent(error)), sent(plain).as_instanceof_cause()):
        for cls in (type(cause), RayTaskError, ActorDiedError, RayActorError, ActorConstructorError):
            assert isinstance(each, cls)
        assert type(each) is type(error)
        assert isinstance(each, ActorDiedError)
        assert each.actor_id == "ab12"
        assert getattr(each, "code", "absent") == getattr(cause, "code", "absent")
        assert each.name == getattr(cause, "name", "Counter")
        assert "Counter" in str(each)
        assert "its constructor raised" in str(each)
    assert type(sent(plain)) is ActorConstructorError


def test_methods_of_the_cause_work_on_the_task_error() -> None:
    error = failed(Code(3, hint="h")).as_instanceof_cause()
    assert isinstance(error, Code)
    assert error.shout() == "H"


def test_a_missing_attribute_is_missing() -> None:
    error = failed(ValueError("boom")).as_instanceof_cause()
    with pytest.raises(AttributeError):
        error.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_one_class_is_made_per_class_of_cause() -> None:
    classes = {type(failed(ValueError(text)).as_instanceof_cause()) for text in "abc"}
    assert len(classes) == 1


@pytest.mark.parametrize(
    "cause",
    [
        ReallySealed("no"),
        asyncio.CancelledError("c"),
        KeyboardInterrupt(),
        SystemExit(3),
        StopIteration(3),
        StopAsyncIteration(),
        BaseExceptionGroup("many", [KeyboardInterrupt()]),
        Exception("plain"),
        RayError("ours"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_cause_with_which_there_can_be_no_class_of_both_leaves_the_plain_error(cause: BaseException) -> None:
    error = failed(cause)
    assert error.as_instanceof_cause() is error
    again = sent(error)
    assert type(again) is RayTaskError
    assert type(again.cause) is type(cause)
    assert again.__cause__ is again.cause


def test_without_a_cause_the_plain_error_is_all_there_is() -> None:
    error = RayTaskError("f", "Traceback ...")
    assert error.as_instanceof_cause() is error
    assert sent(error).cause is None


def test_a_class_of_both_is_not_wrapped_again() -> None:
    error = failed(ValueError("boom")).as_instanceof_cause()
    assert error.as_instanceof_cause() is error


def test_a_task_that_failed_by_another_ones_failure_shows_the_first() -> None:
    cause = ValueError("boom")
    inner = failed(cause, "inner").as_instanceof_cause()
    outer = failed(inner, "outer").as_instanceof_cause()
    assert outer.function_name == "outer"
    assert outer.cause is cause
    assert type(outer) is type(inner)


def test_notes_come_along() -> None:
    cause = ValueError("boom")
    cause.add_note("while loading")
    error = failed(cause).as_instanceof_cause()
    error.add_note("at home")
    assert sent(error).__notes__ == ["while loading", "at home"]
    assert cause.__notes__ == ["while loading"]
    plain = sent(failed(cause))
    assert plain.__notes__ == plain.cause.__notes__ == ["while loading"]


def test_a_group_of_remote_failures_is_taken_apart_by_except_star() -> None:
    error = failed(ExceptionGroup("many", [ValueError(1), KeyError(2)])).as_instanceof_cause()
    caught: list[Any] = []
    try:
        raise sent(error)
    except* ValueError as group:
        caught += group.exceptions
    except* KeyError as group:
        caught += group.exceptions
    assert [type(each) for each in caught] == [ValueError, KeyError]


def test_except_star_catches_a_single_remote_failure() -> None:
    caught: list[Any] = []
    try:
        raise failed(ValueError("boom")).as_instanceof_cause()
    except* ValueError as group:
        caught += group.exceptions
    assert [isinstance(each, RayTaskError) for each in caught] == [True]


async def test_a_task_error_of_any_kind_travels_through_a_future() -> None:
    for cause in (ValueError("boom"), StopIteration(3), TimeoutError(), Frozen(3)):
        future = asyncio.get_running_loop().create_future()
        future.set_exception(failed(cause).as_instanceof_cause())
        with pytest.raises(RayTaskError):
            await future


def test_the_printed_traceback_shows_the_remote_one_and_the_cause() -> None:
    printed = "".join(traceback.format_exception(failed(ValueError("boom")).as_instanceof_cause()))
    assert "direct cause" in printed
    assert "f() failed in its worker (pid=17)" in printed


def test_the_users_subclass_hooks_do_not_see_our_class() -> None:
    registry: list[type] = []

    class Registered(Exception):
        def __init_subclass__(cls, *, code: int) -> None:
            registry.append(cls)

    assert isinstance(failed(Registered("x")).as_instanceof_cause(), Registered)
    assert registry == []


def test_a_way_of_pickling_registered_for_the_class_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Slotted, lambda cause: (Code, (cause.code,), {"hint": "registered"}))
    monkeypatch.setattr(Code, "__init__", lambda self, code: setattr(self, "code", code))
    assert sent(failed(Slotted(3))).cause.hint == "registered"


def test_attributes_called_like_our_facts_stay_ours_and_the_users_are_on_the_cause() -> None:
    cause = ValueError("boom")
    cause.pid = 99  # type: ignore[attr-defined]
    error = sent(failed(cause).as_instanceof_cause())
    assert (error.pid, error.cause.pid) == (17, 99)


def test_a_cause_that_cannot_be_rebuilt_is_replaced_and_the_rest_arrives() -> None:
    cause = UnicodeDecodeError("utf-8", b"", 0, 1, "bad")
    cause.args = ("the constructor does not take just this",)
    error = sent(failed(cause).as_instanceof_cause())
    assert isinstance(error, RayTaskError)
    assert isinstance(error.cause, UnserializableException)
    assert error.cause.type_name.endswith("UnicodeDecodeError")
    assert error.function_name == "f"


args = st.lists(st.none() | st.integers() | st.text() | st.binary(), max_size=4).map(tuple)
kinds = st.sampled_from(
    [ValueError, KeyError, OSError, ImportError, AttributeError, TimeoutError, SyntaxError, MemoryError, UnicodeError]
)


@given(kinds, args, st.dictionaries(st.from_regex(r"x_[a-z]+", fullmatch=True), st.integers() | st.text(), max_size=3))
def test_builtin_causes_keep_args_and_attributes(
    kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]
) -> None:
    try:
        cause = kind(*args)
    except (TypeError, ValueError):
        return  # SyntaxError wants its second argument just so
    vars(cause).update(attributes)
    error = sent(failed(cause).as_instanceof_cause())
    assert issubclass(type(error), kind)
    assert type(error.cause) is type(cause)
    assert error.cause.args == cause.args
    assert str(error.cause) == str(cause)
    assert attributes.items() <= vars(error).items()
    assert attributes.items() <= vars(error.cause).items()


@given(st.text(), st.text(), st.integers(0, 2**22))
def test_a_task_error_keeps_any_text(function_name: str, traceback_str: str, pid: int) -> None:
    again = sent(RayTaskError(function_name, traceback_str, None, pid))
    assert again.args == (function_name, traceback_str, None, pid)


def test_a_class_that_cannot_be_hashed_leaves_the_plain_error() -> None:
    error = failed(UnhashableClass("x"))
    assert error.as_instanceof_cause() is error
