"""Callbacks that are due together run in one handle of the loop, each as if it had a handle of its own."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from aioray.runtime.loop_callbacks import LoopCallbacks

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="")


def context_with(name: str) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(NAME.set, name)
    return context


async def test_they_run_in_a_later_turn_in_their_order_each_in_its_context() -> None:
    callbacks, seen = LoopCallbacks(), list[tuple[int, str]]()
    for number, name in enumerate("abc"):
        callbacks.soon(
            asyncio.get_running_loop(), lambda who: seen.append((who, NAME.get())), number, context_with(name)
        )
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [(0, "a"), (1, "b"), (2, "c")]
    assert NAME.get() == ""


async def test_what_one_raises_goes_to_the_loops_handler_and_the_others_run() -> None:
    callbacks, seen = LoopCallbacks(), list[Any]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(type(context["exception"])))

    def fail(_: object) -> None:
        raise LookupError

    for fn in (fail, seen.append):
        callbacks.soon(loop, fn, "next", contextvars.copy_context())
    await asyncio.sleep(0)
    assert seen == [LookupError, "next"]


async def test_what_becomes_due_while_they_run_has_its_turn_after_them() -> None:
    callbacks, seen = LoopCallbacks(), list[str]()
    loop = asyncio.get_running_loop()

    def first(_: object) -> None:
        callbacks.soon(loop, seen.append, "later", contextvars.copy_context())
        seen.append("first")

    callbacks.soon(loop, first, None, contextvars.copy_context())
    callbacks.soon(loop, seen.append, "second", contextvars.copy_context())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == ["first", "second", "later"]


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_loop_that_is_stopped_between_them_goes_on_with_the_rest(end: type[BaseException]) -> None:
    callbacks, seen = LoopCallbacks(), list[str]()
    loop = asyncio.new_event_loop()

    def stop(_: object) -> None:
        raise end

    def begin() -> None:
        for fn in (stop, seen.append):
            callbacks.soon(loop, fn, "rest", contextvars.copy_context())

    loop.call_soon(begin)
    with pytest.raises(end):
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert seen == ["rest"]


def test_what_was_due_in_a_loop_that_is_closed_does_not_hold_up_another() -> None:
    callbacks, seen = LoopCallbacks(), list[str]()
    closed = asyncio.new_event_loop()
    callbacks.soon(closed, seen.append, "never", contextvars.copy_context())
    closed.close()

    async def use() -> None:
        for what in ("a", "b"):
            callbacks.soon(asyncio.get_running_loop(), seen.append, what, contextvars.copy_context())
        await asyncio.sleep(0)

    asyncio.run(use())
    assert seen == ["a", "b"]


def test_a_loop_that_is_closed_hears_nothing_and_holds_up_nobody() -> None:
    """Whose program left it without leaving the cluster: what completes its refs must not fail over that."""
    callbacks, seen = LoopCallbacks(), list[str]()
    closed = asyncio.new_event_loop()
    closed.close()
    for _ in range(2):
        callbacks.soon(closed, seen.append, "never", contextvars.copy_context())

    async def use() -> None:
        callbacks.soon(asyncio.get_running_loop(), seen.append, "here", contextvars.copy_context())
        await asyncio.sleep(0)

    asyncio.run(use())
    assert seen == ["here"]


async def test_while_debugging_each_has_a_handle_of_its_own() -> None:
    loop, callbacks, order = asyncio.get_running_loop(), LoopCallbacks(), list[str]()
    loop.set_debug(True)
    callbacks.soon(loop, order.append, "first", contextvars.copy_context())
    loop.call_soon(order.append, "between")
    callbacks.soon(loop, order.append, "second", contextvars.copy_context())
    await asyncio.sleep(0)
    assert order == ["first", "between", "second"]
