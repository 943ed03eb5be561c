"""Copies of calls that take much longer than others: the first of two attempts that succeeds gives the result."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import (
    InvalidOptionError,
    RayError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from tests.api.support import PATIENCE_S, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

LARGE = 300_000  # numbers, 2.4 MB
CPUS = 3


class Stage:
    """Files by which two attempts of one call, and the test, tell each other where they are."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory

    def is_first(self) -> bool:
        """Who asks first is the first attempt."""
        with open(self.directory / "runs", "a") as runs:
            runs.write("x")
        try:
            os.close(os.open(self.directory / "first", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            (self.directory / "second").touch()
            return False
        return True

    def allow(self, *steps: str) -> None:
        for step in steps:
            (self.directory / step).touch()

    def runs(self) -> int:
        """How often the function was begun."""
        return (self.directory / "runs").stat().st_size

    def has(self, *steps: str) -> bool:
        return all((self.directory / step).exists() for step in steps)


def act(stage: Stage | None, first: str, second: str) -> Any:
    """Do, one after the other, what the words for this attempt say."""
    if stage is None:
        return first
    is_first = stage.is_first()
    me = "first" if is_first else "second"
    for word in (first if is_first else second).split():
        try:
            if word == "wait":  # for ever
                threading.Event().wait()
            elif word == "allowed":  # until the test lets it
                eventually(lambda: stage.has(f"{me} may"))
            elif word == "stubborn":
                try:
                    stage.allow(f"{me} begun")
                    threading.Event().wait()
                except KeyboardInterrupt:
                    pass
            elif word == "raise":
                stage.allow(f"{me} raises")
                raise ValueError(f"of the {me}")
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "large":
                return np.full(LARGE, 1.0 if is_first else 2.0)
            elif word == "refs":
                return [aioray.put(np.full(LARGE, 2.0)), "beside"]
            elif word == "two":
                return np.full(LARGE, 2.0), "small"
        except KeyboardInterrupt:
            stage.allow(f"{me} interrupted")
            raise
    stage.allow(f"{me} ended")
    return me


def total(array: Any) -> float:
    return float(array.sum())


def total_inside(refs: list[Any]) -> float:
    return float(aioray.get(refs[0]).sum())


class KeeperActor:
    def __init__(self) -> None:
        self.refs: list[Any] = []

    def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    def total(self) -> float:
        return total_inside(self.refs)

    def cancel(self) -> None:
        aioray.cancel(self.refs[0])

    def let_go(self) -> None:
        self.refs.clear()


class TotalActor:
    def __init__(self, array: Any) -> None:
        self._total = float(array.sum())

    def total(self) -> float:
        return self._total


Total: Any = aioray.remote(num_cpus=0)(TotalActor)
Keeper: Any = aioray.remote(num_cpus=0)(KeeperActor)
run: Any = aioray.remote(speculative=True, max_retries=0)(act)
two_values: Any = aioray.remote(speculative=True, num_returns=2)(act)


@aioray.remote(num_cpus=0)
def call_it(stage: Stage) -> Any:
    aioray.get([run.remote(None, "x", "x") for _ in range(3)])
    return aioray.get(run.remote(stage, "wait", "wait"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with started(num_cpus=CPUS) as ray:
        ray.get([run.remote(None, "x", "x") for _ in range(3)])
        yield ray


@pytest.fixture
def ray(shared: Any) -> Iterator[Any]:
    """Each test ends with what it began with: all CPUs free, nothing in the store."""
    before = store()
    yield shared
    store_returns_to(before)
    eventually(lambda: shared.available_resources().get("CPU") == CPUS, lambda: str(shared.available_resources()))
    assert shared.get(run.remote(None, "x", "x"), timeout=PATIENCE_S) == "x"


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Stage:
    return Stage(tmp_path)


def until_explained(ray: Any, ref: Any, *words: str) -> None:
    eventually(lambda: all(word in ray.explain(ref) for word in words), lambda: ray.explain(ref))


def until_without_copy(ray: Any, ref: Any) -> None:
    eventually(lambda: "copy" not in ray.explain(ref), lambda: ray.explain(ref))


def test_the_copy_of_a_straggler_gives_the_result_and_the_straggler_is_cancelled(ray: Any, stage: Stage) -> None:
    straggler = aioray.remote(speculative=True)(act)
    ray.get([straggler.remote(None, "x", "x") for _ in range(3)])
    assert ray.get(straggler.remote(stage, "wait", ""), timeout=PATIENCE_S) == "second"
    eventually(lambda: stage.has("first interrupted"))


def test_options_that_are_given_anew_with_each_call_do_not_begin_anew(ray: Any, stage: Stage) -> None:
    plain = aioray.remote(act)
    for _ in range(3):
        ray.get(plain.options(speculative=True, name="anew").remote(None, "x", "x"))
    assert (
        ray.get(plain.options(speculative=True, name="anew").remote(stage, "wait", ""), timeout=PATIENCE_S) == "second"
    )


def test_it_can_be_awaited(ray: Any, stage: Stage) -> None:
    async def both() -> list[Any]:
        return [*await asyncio.gather(run.remote(stage, "wait", ""), run.remote(None, "quick", ""))]

    assert asyncio.run(both()) == ["second", "quick"]


def test_explain_tells_of_the_copy(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "wait", "allowed")
    until_explained(ray, ref, "runs on worker", "and a copy of it runs on worker")
    stage.allow("second may")
    assert ray.get(ref, timeout=PATIENCE_S) == "second"


def test_the_first_may_win_after_all_and_the_copy_is_cancelled(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed", "wait")
    eventually(lambda: stage.has("second"))
    stage.allow("first may")
    assert ray.get(ref, timeout=PATIENCE_S) == "first"
    eventually(lambda: stage.has("second interrupted"))


def test_a_copy_that_waits_for_a_worker_never_runs_when_the_first_is_through(ray: Any, stage: Stage) -> None:
    """On a cluster whose CPUs the first attempt holds, explain says what the copy waits for."""
    all_cpus = run.options(num_cpus=CPUS)
    ray.get([all_cpus.remote(None, "x", "x") for _ in range(3)])
    ref = all_cpus.remote(stage, "allowed", "")
    until_explained(ray, ref, "and a copy of it waits for a worker")
    stage.allow("first may")
    assert ray.get(ref, timeout=PATIENCE_S) == "first"
    assert not stage.has("second")


def test_a_copy_that_waits_for_a_worker_is_cancelled_with_the_first(ray: Any, stage: Stage) -> None:
    all_cpus = run.options(num_cpus=CPUS)
    ray.get([all_cpus.remote(None, "x", "x") for _ in range(3)])
    ref = all_cpus.remote(stage, "wait", "")
    until_explained(ray, ref, "and a copy of it waits for a worker")
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=PATIENCE_S)
    assert not stage.has("second")


# failures


def test_when_the_first_raises_the_copy_goes_on(ray: Any, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    ref = run.remote(stage, "allowed raise", "allowed")
    eventually(lambda: stage.has("second"))
    stage.allow("first may")
    until_explained(ray, ref, "has failed, and a copy of it runs on worker")
    stage.allow("second may")
    assert ray.get(ref, timeout=PATIENCE_S) == "second"
    del ref
    assert "nobody looked" not in caplog.text


def test_when_the_copy_raises_the_first_goes_on(ray: Any, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    ref = run.remote(stage, "allowed", "raise")
    until_explained(ray, ref, "runs on worker")
    eventually(lambda: stage.has("second raises"))
    until_without_copy(ray, ref)
    stage.allow("first may")
    assert ray.get(ref, timeout=PATIENCE_S) == "first"
    del ref
    assert "nobody looked" not in caplog.text


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_when_both_raise_the_error_of_the_first_attempt_is_told(ray: Any, stage: Stage, order: tuple[str, str]) -> None:
    ref = run.remote(stage, "allowed raise", "allowed raise")
    eventually(lambda: stage.has("second"))
    stage.allow(f"{order[0]} may")
    if order[0] == "first":
        until_explained(ray, ref, "has failed, and a copy")
    else:
        until_without_copy(ray, ref)
    stage.allow(f"{order[1]} may")
    with pytest.raises(ValueError, match="of the first"):
        ray.get(ref, timeout=PATIENCE_S)


def test_when_the_worker_of_the_first_dies_the_copy_goes_on(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed die", "allowed")
    eventually(lambda: stage.has("second"))
    stage.allow("first may")
    until_explained(ray, ref, "has failed, and a copy of it runs on worker")
    stage.allow("second may")
    assert ray.get(ref, timeout=PATIENCE_S) == "second"


def test_when_the_worker_of_the_copy_dies_the_first_goes_on(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed", "allowed die")
    until_explained(ray, ref, "and a copy of it runs on worker")
    stage.allow("second may")
    until_without_copy(ray, ref)
    stage.allow("first may")
    assert ray.get(ref, timeout=PATIENCE_S) == "first"


def test_when_both_workers_die_the_error_says_so(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed die", "allowed die")
    eventually(lambda: stage.has("second"))
    stage.allow("first may", "second may")
    with pytest.raises(WorkerCrashedError):
        ray.get(ref, timeout=PATIENCE_S)


def test_the_first_attempt_is_retried_while_the_copy_goes_on(ray: Any, stage: Stage) -> None:
    """As max_retries says; so the function runs three times, and twice at once."""
    ref = run.options(max_retries=1).remote(stage, "allowed die", "allowed")
    eventually(lambda: stage.has("second"))
    stage.allow("first may")
    eventually(lambda: stage.runs() == 3)
    until_explained(ray, ref, "and a copy of it runs on worker")
    stage.allow("second may")
    assert ray.get(ref, timeout=PATIENCE_S) == "second"


def test_an_argument_that_fails_fails_it_at_once(ray: Any, stage: Stage) -> None:
    broken = run.remote(stage, "raise", "")
    with pytest.raises(ValueError, match="of the first"):
        ray.get(run.remote(None, broken, ""), timeout=PATIENCE_S)


# cancelling


def test_cancel_cancels_both(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "wait", "wait")
    eventually(lambda: stage.has("second"))
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError) as it:
        ray.get(ref, timeout=PATIENCE_S)
    assert it.value.task_id == ref.task_id().hex()
    eventually(lambda: stage.has("first interrupted", "second interrupted"))


def test_cancel_by_force_ends_the_workers_of_both(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "stubborn wait", "stubborn wait")
    eventually(lambda: stage.has("first begun", "second begun"))
    ray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=PATIENCE_S)


def test_the_copy_that_is_left_is_cancelled(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed raise", "wait")
    eventually(lambda: stage.has("second"))
    stage.allow("first may")
    until_explained(ray, ref, "has failed, and a copy of it runs on worker")
    ray.cancel(ref)
    with pytest.raises(ValueError, match="of the first"):
        ray.get(ref, timeout=PATIENCE_S)
    eventually(lambda: stage.has("second interrupted"))


def test_somebody_else_who_has_the_ref_cancels_both(ray: Any, stage: Stage) -> None:
    keeper = Keeper.remote()
    ref = run.remote(stage, "wait", "wait")
    ray.get(keeper.keep.remote([ref]))
    eventually(lambda: stage.has("second"))
    ray.get(keeper.cancel.remote())
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=PATIENCE_S)
    eventually(lambda: stage.has("first interrupted", "second interrupted"))


def test_an_await_that_is_cancelled_cancels_both(ray: Any, stage: Stage) -> None:
    async def give_up() -> None:
        awaiting = asyncio.ensure_future(run.remote(stage, "wait", "wait"))
        while not stage.has("second"):  # noqa: ASYNC110 - another process makes it, and tells nobody
            await asyncio.sleep(0.005)
        awaiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting

    asyncio.run(give_up())
    eventually(lambda: stage.has("first interrupted", "second interrupted"))


def test_cancelling_the_call_that_made_it_cancels_both(ray: Any, stage: Stage) -> None:
    """The caller is a worker: copies are made there, too."""
    ref = call_it.remote(stage)
    eventually(lambda: stage.has("second"))
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=PATIENCE_S)
    eventually(lambda: stage.has("first interrupted", "second interrupted"))


def test_a_deadline_holds_for_both(ray: Any, stage: Stage) -> None:
    ref = run.options(timeout=1.0).remote(stage, "wait", "wait")
    eventually(lambda: stage.has("second"))
    with pytest.raises(TaskTimeoutError):
        ray.get(ref, timeout=PATIENCE_S)
    eventually(lambda: stage.has("first interrupted", "second interrupted"))


# results


def test_a_large_result_of_the_copy_is_read_passed_on_and_kept(ray: Any, stage: Stage) -> None:
    """
    1. an actor has the ref, and waits for its value, while nobody knows which attempt will win
    2. the copy does: driver, actor and tasks read it, given directly or inside
    3. the driver lets go; the actor has it still
    """
    keeper = Keeper.remote()
    ref = run.remote(stage, "wait", "large")
    ray.get(keeper.keep.remote([ref]))
    waits = keeper.total.remote()
    assert ray.get(ref, timeout=PATIENCE_S)[0] == 2.0
    expected = 2.0 * LARGE
    assert ray.get(waits) == expected
    assert ray.get(aioray.remote(total).remote(ref)) == expected
    assert ray.get(aioray.remote(total_inside).remote([ref])) == expected
    constructed = Total.remote(ref)
    del ref
    assert ray.get(constructed.total.remote()) == expected
    assert ray.get(keeper.total.remote()) == expected
    ray.get(keeper.let_go.remote())


def test_a_large_result_that_is_shared_later_is_the_same(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "wait", "large")
    array = ray.get(ref, timeout=PATIENCE_S)
    keeper = Keeper.remote()
    ray.get(keeper.keep.remote([ref]))
    del ref
    assert ray.get(keeper.total.remote()) == 2.0 * LARGE
    ray.get(keeper.let_go.remote())
    assert array[-1] == 2.0


def test_a_result_of_the_first_attempt_is_as_good(ray: Any) -> None:
    large = aioray.remote(speculative=True)(make_large)
    ref = large.remote()
    assert ray.get(aioray.remote(total_inside).remote([ref])) == 2.0 * LARGE
    assert ray.get(ref).sum() == 2.0 * LARGE


def make_large() -> Any:
    return np.full(LARGE, 2.0)


def test_refs_in_the_result_of_the_copy_live_as_long_as_it(ray: Any, stage: Stage) -> None:
    keeper = Keeper.remote()
    ref = run.remote(stage, "wait", "refs")
    inner, beside = ray.get(ref, timeout=PATIENCE_S)
    assert beside == "beside"
    del inner
    ray.get(keeper.keep.remote([ref]))
    del ref
    assert ray.get(aioray.remote(total_of_inner).remote(keeper)) == 2.0 * LARGE
    ray.get(keeper.let_go.remote())


def total_of_inner(keeper: Any) -> float:
    return float(aioray.get(keeper.__ray_call__.remote(inner_total)))


def inner_total(keeper: Any) -> float:
    return total_inside(aioray.get(keeper.refs[0]))


def test_several_values_are_all_of_the_same_attempt(ray: Any, stage: Stage) -> None:
    ray.get([ref for _ in range(3) for ref in two_values.remote(None, "xy", "xy")])
    large, small = two_values.remote(stage, "wait", "two")
    assert ray.get(small, timeout=PATIENCE_S) == "small"
    assert ray.get(large).sum() == 2.0 * LARGE


def test_a_late_result_of_the_loser_is_let_go_of(ray: Any, stage: Stage) -> None:
    """The first does not let itself be cancelled, and makes 2.4 MB when the copy has won."""
    ref = run.remote(stage, "stubborn large", "")
    assert ray.get(ref, timeout=PATIENCE_S) == "second"
    eventually(lambda: stage.has("first begun"))


def test_a_ref_that_is_dropped_while_both_run_cancels_nothing(ray: Any, stage: Stage) -> None:
    ref = run.remote(stage, "allowed large", "allowed large")
    eventually(lambda: stage.has("second"))
    del ref
    stage.allow("first may", "second may")


def test_results_of_both_at_once_are_counted_once(ray: Any, tmp_path: pathlib.Path) -> None:
    """Both attempts of several calls are let go at the same time: whichever is first, nothing is left of the others."""
    for number in range(4):
        stage = Stage(tmp_path / str(number))
        stage.directory.mkdir()
        ref = run.remote(stage, "allowed large", "allowed large")
        eventually(functools.partial(stage.has, "second"))
        stage.allow("first may", "second may")
        assert ray.get(ref, timeout=PATIENCE_S)[0] in (1.0, 2.0)
        assert ray.get(aioray.remote(total_inside).remote([ref])) in (1.0 * LARGE, 2.0 * LARGE)


def test_its_id_is_that_of_the_first_attempt(ray: Any) -> None:
    ref = aioray.remote(speculative=True)(own_task_id).remote()
    assert ray.get(ref) == ref.task_id().hex()


def own_task_id() -> str:
    return aioray.get_runtime_context().get_task_id() or ""


# the ends


@pytest.mark.parametrize("num_returns", [0, "streaming", "dynamic"])
def test_what_has_no_result_to_wait_for_is_refused(num_returns: Any) -> None:
    with pytest.raises(InvalidOptionError, match="num_returns") as it:
        run.options(num_returns=num_returns)
    assert it.value.option == "speculative"


def test_generator_functions_are_refused() -> None:
    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidOptionError, match="streaming"):
        aioray.remote(speculative=True)(generate)


async def test_the_end_of_the_cluster_ends_both(stage: Stage) -> None:
    async with aioray.connect(num_cpus=2):
        await asyncio.gather(*(run.remote(None, "x", "x") for _ in range(3)))
        ref = run.remote(stage, "wait", "wait")
        while not stage.has("second"):  # noqa: ASYNC110 - another process makes it, and tells nobody
            await asyncio.sleep(0.005)
    with pytest.raises(RayError):
        ref.result()
