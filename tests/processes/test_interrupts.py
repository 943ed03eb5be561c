"""Ctrl-C in the middle of aioray's own work: it is raised a moment later, and nothing that had come is lost."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from aioray.runtime.tasks import TaskSubmitter

if TYPE_CHECKING:
    from collections.abc import Callable


def double(n: int) -> int:
    return 2 * n


@pytest.mark.parametrize("blocking", ["get", "wait"])
def test_ctrl_c_while_replies_are_handled_loses_none_of_them(
    ray: Any, monkeypatch: pytest.MonkeyPatch, blocking: str
) -> None:
    handle = TaskSubmitter.heard_from_worker
    batches = 0

    def interrupted(self: TaskSubmitter, *args: Any) -> None:
        nonlocal batches
        batches += 1
        if batches % 3 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        handle(self, *args)

    monkeypatch.setattr(TaskSubmitter, "heard_from_worker", interrupted)
    task = ray.remote(double)
    refs = [task.remote(n) for n in range(2000)]
    wait: Callable[[], Any] = (
        (lambda: ray.get(refs)) if blocking == "get" else (lambda: ray.wait(refs, num_returns=len(refs), timeout=20))
    )
    interrupts = 0
    while True:
        try:
            wait()
            break
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts
    assert ray.get(refs, timeout=20) == [2 * n for n in range(2000)]
