"""Ctrl-C in the middle of aioray's own work: it is raised a moment later, and nothing that had come is lost."""

from __future__ import annotations

import dis
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from aioray import current
from aioray.runtime.submitting import submit_actor_call, submit_task
from aioray.runtime.tasks import TaskSubmitter

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType


def double(n: int) -> int:
    return 2 * n


@pytest.mark.parametrize("blocking", ["get", "wait"])
def test_ctrl_c_while_replies_are_handled_loses_none_of_them(
    ray: Any, monkeypatch: pytest.MonkeyPatch, blocking: str
) -> None:
    """Replies come at other times, too; then Ctrl-C would end the test."""
    handle = TaskSubmitter.heard_from_worker
    batches = 0
    is_waiting = False

    def on_sigint(*_: Any) -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            raise KeyboardInterrupt

    def interrupted(self: TaskSubmitter, *args: Any) -> None:
        nonlocal batches
        batches += 1
        if batches % 3 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        handle(self, *args)

    monkeypatch.setattr(TaskSubmitter, "heard_from_worker", interrupted)
    before = signal.signal(signal.SIGINT, on_sigint)
    task = ray.remote(double)
    refs = [task.remote(n) for n in range(2000)]
    wait: Callable[[], Any] = (
        (lambda: ray.get(refs)) if blocking == "get" else (lambda: ray.wait(refs, num_returns=len(refs), timeout=20))
    )
    interrupts = 0
    while True:
        try:
            is_waiting = True
            wait()
            is_waiting = False
            break
        except KeyboardInterrupt:
            interrupts += 1
    signal.signal(signal.SIGINT, before)
    assert interrupts
    assert ray.get(refs, timeout=20) == [2 * n for n in range(2000)]


class Doubler:
    def double(self, n: int) -> int:
        return 2 * n


class CtrlC:
    """Raises KeyboardInterrupt where Python does, after a call that some code makes: after the `nth` of them."""

    def __init__(self, code: CodeType, nth: int) -> None:
        self._code = code
        self._left = nth
        self._after_call = False

    def __call__(self, frame: FrameType, event: str, _: object) -> CtrlC | None:
        if frame.f_code is not self._code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self._after_call:
                self._left -= 1
                if not self._left:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            self._after_call = dis.opname[self._code.co_code[frame.f_lasti]] == "CALL"
        return self


@pytest.mark.parametrize("kind", ["task", "actor call"])
def test_ctrl_c_at_any_step_of_making_a_call_leaves_nobody_locked_out(ray: Any, kind: str) -> None:
    """Else the thread that does the I/O would wait for the lock for ever, and so would the end of the program."""
    call: Callable[[int], Any]
    if kind == "task":
        call, code = ray.remote(double).remote, submit_task.__code__
    else:
        call, code = ray.remote(Doubler).remote().double.remote, submit_actor_call.__code__
    assert ray.get(call(1)) == 2
    lock = current.get().reactor.lock
    for nth in itertools.count(1):
        sys.settrace(CtrlC(code, nth))
        try:
            ref = call(nth)
        except KeyboardInterrupt:
            assert not lock._is_owned(), f"after step {nth}"  # type: ignore[attr-defined]
        else:
            break
        finally:
            sys.settrace(None)
    assert nth > 5
    assert ray.get(ref, timeout=20) == 2 * nth
