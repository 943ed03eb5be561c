"""What led to an exception comes along: causes, contexts, notes, groups; and text for what cannot be pickled."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from aioray.exceptions import RayTaskError, UnserializableException
from tests.api.support import started

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10.0
E = TypeVar("E", bound=BaseException)


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OwnWay(Exception):
    def __reduce__(self) -> Any:
        return OwnWay, self.args


def noted(exc: E, *notes: str) -> E:
    for note in notes:
        exc.add_note(note)
    return exc


def cause_of(machine: Any, fn: Any) -> Any:
    with pytest.raises(RayTaskError) as caught:
        machine.get(machine.remote(fn).remote(), timeout=PATIENCE_S)
    text = "".join(traceback.format_exception(caught.value))  # whatever it is, it can be printed
    assert "failed in its worker" in text
    return caught.value.cause


def test_causes_contexts_and_notes_come_along_to_the_first(machine: Any) -> None:
    def fail() -> None:
        try:
            try:
                raise noted(KeyError("first"), "note 1")
            except KeyError as exc:
                raise noted(OwnWay("second"), "note 2") from exc
        except OwnWay:
            raise noted(ValueError("third"), "note 3", "note 4")  # noqa: B904 # that is what it is about

    third = cause_of(machine, fail)
    assert (type(third), third.args, third.__notes__) == (ValueError, ("third",), ["note 3", "note 4"])
    second = third.__context__
    assert third.__cause__ is None
    assert (type(second), second.args, second.__notes__) == (OwnWay, ("second",), ["note 2"])
    first = second.__cause__
    assert second.__context__ is first
    assert second.__suppress_context__
    assert (type(first), first.args, first.__notes__) == (KeyError, ("first",), ["note 1"])


def test_a_context_that_was_suppressed_stays_so(machine: Any) -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None

    second = cause_of(machine, fail)
    assert second.__suppress_context__
    assert second.__cause__ is None
    assert isinstance(second.__context__, KeyError)


@pytest.mark.parametrize("at", ["the end", "the cause", "the first"])
def test_only_the_part_of_a_chain_that_cannot_be_pickled_is_replaced(machine: Any, at: str) -> None:
    def fail() -> None:
        kinds = [Locked if at == each else ValueError for each in ("the first", "the cause", "the end")]
        try:
            try:
                raise kinds[0]("the first")
            except Exception as exc:
                raise kinds[1]("the cause") from exc
        except Exception as exc:
            raise kinds[2]("the end") from exc

    end = cause_of(machine, fail)
    chain = [end, end.__cause__, end.__cause__.__cause__]
    for each, text in zip(chain, ["the end", "the cause", "the first"], strict=True):
        if text == at:
            assert isinstance(each, UnserializableException)
            assert each.type_name.endswith("Locked")
            assert text in each.traceback_str
        else:
            assert (type(each), each.args) == (ValueError, (text,))


def test_groups_keep_their_members_and_what_led_to_those(machine: Any) -> None:
    def fail() -> None:
        try:
            raise KeyError("why")
        except KeyError as exc:
            member = ValueError("a member")
            member.__cause__ = exc
        inner = noted(ExceptionGroup("inner", [OSError(2, "gone"), Locked("closed")]), "note")
        raise ExceptionGroup("outer", [member, inner])

    outer = cause_of(machine, fail)
    assert isinstance(outer, ExceptionGroup)
    member, inner = outer.exceptions
    assert isinstance(member.__cause__, KeyError)
    assert isinstance(inner, ExceptionGroup)
    assert inner.__notes__ == ["note"]
    gone, closed = inner.exceptions
    assert isinstance(gone, FileNotFoundError)
    assert isinstance(closed, UnserializableException)
    assert closed.type_name.endswith("Locked")


def test_a_chain_that_leads_to_itself_or_is_endless_arrives(machine: Any) -> None:
    def circle() -> None:
        one, other = ValueError("one"), KeyError("other")
        one.__cause__, other.__cause__ = other, one
        raise one

    def long() -> None:
        exc: Exception | None = None
        for at in range(2000):
            before, exc = exc, ValueError(at)
            exc.__cause__ = exc.__context__ = before
        assert exc is not None
        raise exc

    one = cause_of(machine, circle)
    assert one.args == ("one",)
    assert one.__cause__.args == ("other",)
    last = cause_of(machine, long)
    assert (last.args, last.__cause__.args) == ((1999,), (1998,))


def test_an_exception_whose_text_cannot_be_had_still_prints(machine: Any) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    def fail() -> None:
        raise Mute

    assert cause_of(machine, fail) is not None
