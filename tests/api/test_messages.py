"""What errors and questions say: which function or method it was, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import (
    ActorConstructorError,
    ActorDiedError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from tests.api.classes import Async, Counter, identity
from tests.api.support import Meeting, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, namespace="tests") as ray:
        yield ray


@aioray.remote
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class PlainBroken:
    def __init__(self, number: int = 0) -> None:
        raise KeyError("missing")

    def ping(self) -> None: ...


Broken = aioray.remote(PlainBroken)


class Unloadable:
    """Can be pickled anywhere, and unpickled in workers only."""

    def __init__(self) -> None:
        self.made_by = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise RuntimeError("not here")


@aioray.remote
def unloadable() -> Any:
    return Unloadable()


@aioray.remote
def wait_here(begun: Meeting, go: pathlib.Path) -> None:
    """Does not end when it is told to, whenever that is. (A meeting could be interrupted when one side has left.)"""
    here = False
    while not go.exists():
        with contextlib.suppress(KeyboardInterrupt):
            if not here:
                here = True
                begun.here()
            time.sleep(0.01)


# crashes, deaths, cancellations


@pytest.mark.parametrize(("max_retries", "said"), [(0, "not retried"), (1, "retried once"), (2, "retried 2 times")])
def test_a_crash_names_the_function_and_how_often_it_was_retried(ray: Any, max_retries: int, said: str) -> None:
    with pytest.raises(WorkerCrashedError, match=rf"crash\(\): .*SIGKILL.*\({said}\)") as caught:
        ray.get(crash.options(max_retries=max_retries).remote())
    assert (caught.value.name, caught.value.retries) == ("crash", max_retries)


def test_the_death_of_an_actor_names_class_and_method(ray: Any) -> None:
    counter = Counter.remote()
    ray.get(counter.add.remote())
    ray.kill(counter)
    with pytest.raises(ActorDiedError, match=r"PlainCounter\.pid\(\): actor .*: it was killed") as caught:
        ray.get(counter.pid.remote())
    assert caught.value.name == "PlainCounter.pid"


@pytest.mark.parametrize("running", [True, False])
def test_a_cancellation_names_the_function(ray: Any, running: bool, tmp_path: pathlib.Path) -> None:
    begun = Meeting(tmp_path / "begun")

    @aioray.remote(num_cpus=2)
    def long() -> None:
        begun.here()
        begun.wait()

    holder = long.remote()
    begun.wait()
    ref = holder if running else identity.remote(1)
    ray.cancel(ref)
    name = "long" if running else "identity"
    with pytest.raises(
        TaskCancelledError, match=rf"{name}\(\): task {ref.task_id().hex()}: it was cancelled"
    ) as caught:
        ray.get(ref)
    assert caught.value.name == name
    ray.cancel(holder)


def test_a_cancelled_call_of_an_actor_names_class_and_method(ray: Any) -> None:
    actor = Async.remote()
    ref = actor.wait.remote()
    ray.get(actor.running.remote())
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError, match=rf"PlainAsync\.wait\(\): task {ref.task_id().hex()}") as caught:
        ray.get(ref)
    assert caught.value.task_id == ref.task_id().hex()


# constructors


@pytest.mark.parametrize("as_what", [KeyError, ActorDiedError, RayTaskError, ActorConstructorError])
def test_the_error_of_a_constructor_is_caught_as_each_of_what_it_is(ray: Any, as_what: type[Exception]) -> None:
    broken = Broken.remote()
    with pytest.raises(as_what, match="no actor PlainBroken: its constructor raised") as caught:
        ray.get(broken.ping.remote())
    error: Any = caught.value
    assert error.actor_id == broken._actor_id
    assert "KeyError: 'missing'" in str(error)


def test_a_constructor_whose_argument_has_failed_says_so(ray: Any) -> None:
    broken = Broken.remote(Counter.remote().fail.remote("lost"))
    with pytest.raises(
        LookupError, match=r"(?s)no actor PlainBroken: an argument of its constructor failed.*lost"
    ) as it:
        ray.get(broken.ping.remote())
    assert isinstance(it.value, ActorDiedError)


def test_an_actor_says_when_it_is_ready(ray: Any) -> None:
    for actor in (Counter.remote(), Async.remote(), Counter.options(max_concurrency=3).remote()):
        assert ray.get(actor.__ray_ready__.remote()) is True
    with pytest.raises(KeyError):
        ray.get(Broken.remote().__ray_ready__.remote())


async def test_readiness_can_be_awaited(ray: Any) -> None:
    assert await Counter.remote().__ray_ready__.remote() is True


# wrong arguments


def test_wrong_arguments_fail_at_the_call_and_name_what_was_called(ray: Any) -> None:
    counter = Counter.options(name="known").remote()
    for handle in (counter, ray.get(identity.remote(counter)), ray.get_actor("known")):
        with pytest.raises(TypeError, match=r"PlainCounter\.add\(\): too many positional arguments"):
            handle.add.remote(1, 2)
        with pytest.raises(TypeError, match=r"PlainCounter\.add\(\): got an unexpected keyword argument 'much'"):
            handle.add.remote(much=1)
        with pytest.raises(TypeError, match=r"PlainCounter\.note\(\): missing a required argument: 'thing'"):
            handle.note.options(num_returns=0).remote()
        assert ray.get([handle.double.remote(4), handle.class_name.remote()]) == [8, "PlainCounter"]
    with pytest.raises(TypeError, match=r"identity\(\): missing a required argument: 'value'"):
        identity.remote()
    with pytest.raises(TypeError, match=r"PlainCounter\(\): got an unexpected keyword argument 'begin'"):
        Counter.remote(begin=3)
    with pytest.raises(TypeError, match=r"Bare\(\): too many positional arguments"):
        ray.remote(type("Bare", (), {})).remote(1)


@pytest.mark.parametrize(
    ("returned", "error", "said"),
    [
        (5, TypeError, r"give\(\) announced num_returns=2, but returned an object of type int, which has no parts"),
        ([1, 2, 3], ValueError, r"give\(\) announced num_returns=2, but returned 3 values"),
    ],
)
def test_what_does_not_fit_num_returns_is_a_plain_error(
    ray: Any, returned: Any, error: type[Exception], said: str
) -> None:
    @aioray.remote(num_returns=2)
    def give() -> Any:
        return returned

    with pytest.raises(error, match=said) as caught:
        ray.get(give.remote()[0])
    assert type(caught.value.cause) is error  # type: ignore[attr-defined]


# values that cannot be loaded


def test_what_cannot_be_loaded_here_says_whose_result_it_is(ray: Any) -> None:
    ref = unloadable.remote()
    with pytest.raises(RuntimeError, match="not here") as caught:
        ray.get(ref)
    (note,) = caught.value.__notes__
    assert "the result of unloadable" in note
    assert ref.hex() in note
    with pytest.raises(RuntimeError) as caught:
        ray.get(ray.put(Unloadable()))
    assert "the value of ObjectRef" in caught.value.__notes__[0]


def only_in(pid: int, text: str) -> Exception:
    if os.getpid() != pid:
        raise RuntimeError("not here")
    return Homebound(text)


class Homebound(Exception):
    """Can be unpickled only in the process that raised it."""

    def __reduce__(self) -> Any:
        return only_in, (os.getpid(), str(self))


def test_an_error_that_cannot_be_loaded_here_is_told_all_the_same(ray: Any) -> None:
    @aioray.remote
    def fail() -> None:
        raise Homebound("far away")

    ref = fail.remote()
    for look in (lambda: ray.get(ref), ref.exception):
        with pytest.raises(RuntimeError, match="not here") as caught:
            look()
        (note,) = caught.value.__notes__
        assert "the error of fail" in note
        assert note.endswith("was unpickled: Homebound: far away")


# explain


def test_explain_tells_that_code_has_not_ended_after_a_cancel(ray: Any, tmp_path: pathlib.Path) -> None:
    begun, go = Meeting(tmp_path / "begun"), tmp_path / "go"
    ref = wait_here.remote(begun, go)
    begun.wait()
    assert "asked to stop" not in ray.explain(ref)
    ray.cancel(ref)
    assert "asked to stop, and its code has not ended yet" in ray.explain(ref)
    go.touch()
    with contextlib.suppress(TaskCancelledError):
        ray.get(ref)
    assert "asked to stop" not in ray.explain(ref)


async def test_explain_tells_that_code_outlives_an_await_that_was_cancelled(ray: Any, tmp_path: pathlib.Path) -> None:
    begun, go = Meeting(tmp_path / "begun"), tmp_path / "go"
    ref = wait_here.remote(begun, go)
    await asyncio.to_thread(begun.wait)
    ref.cancel()
    assert "was cancelled, and still runs on worker" in ray.explain(ref)
    go.touch()


def test_explain_tells_what_an_error_was(ray: Any) -> None:
    ref = Counter.remote().fail.remote("lost")
    ray.wait([ref])
    assert "has failed: LookupError: lost" in ray.explain(ref)
    ref.exception()
