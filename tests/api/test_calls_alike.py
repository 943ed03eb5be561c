"""What tasks and methods have in common is the same for both, and what is sent along runs on any kind of actor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError, TaskCancelledError
from tests.api.support import Meeting, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator


class PlainKeeper:
    def __init__(self) -> None:
        self.value = 3

    def fail(self) -> None:
        raise ValueError("as ever")

    def task_name(self) -> str | None:
        return aioray.get_runtime_context().get_task_name()


Keeper = aioray.remote(PlainKeeper)


@aioray.remote
def fail() -> None:
    raise ValueError("as ever")


@aioray.remote
def one() -> int:
    return 1


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=2):
        yield aioray


@pytest.fixture(params=["sync", "threaded", "light"])
def keeper(machine: Any, request: pytest.FixtureRequest) -> Any:
    options: dict[str, Any] = {"sync": {}, "threaded": {"max_concurrency": 4}, "light": {"isolation": "shared"}}
    return Keeper.options(**options[request.param]).remote()


async def value_of(self: PlainKeeper, more: int) -> int:
    await asyncio.sleep(0)
    return self.value + more + await one.remote()


async def values_of(self: PlainKeeper, count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield self.value + number + await one.remote()


async def exit_in_a_coroutine(self: PlainKeeper) -> None:
    await asyncio.sleep(0)
    aioray.actor.exit_actor()


async def never_ends(self: PlainKeeper, meeting: Meeting) -> None:
    meeting.here()
    await asyncio.Event().wait()


def test_a_coroutine_that_is_sent_along_runs_on_any_actor(keeper: Any) -> None:
    assert aioray.get([keeper.__ray_call__.remote(value_of, number) for number in range(8)]) == list(range(4, 12))


def test_so_does_an_asynchronous_generator(keeper: Any) -> None:
    refs = keeper.__ray_call__.options(num_returns="streaming").remote(values_of, 3)
    assert [aioray.get(ref) for ref in refs] == [4, 5, 6]


def test_it_may_end_the_actor(keeper: Any) -> None:
    with pytest.raises(aioray.exceptions.ActorDiedError, match="exit_actor"):
        aioray.get(keeper.__ray_call__.remote(exit_in_a_coroutine))


def test_it_is_cancelled_where_it_awaits(keeper: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "begun")
    ref = keeper.__ray_call__.remote(never_ends, meeting)
    meeting.wait()
    aioray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        aioray.get(ref, timeout=10)
    assert aioray.get(keeper.__ray_call__.remote(value_of, 0)) == 4


def test_no_types_are_none_to_retry_of_tasks_as_of_methods(machine: Any) -> None:
    for call in (fail.options(retry_exceptions=[]), Keeper.remote().fail.options(retry_exceptions=())):
        with pytest.raises(ValueError, match="as ever"):
            aioray.get(call.remote())


def test_a_method_call_may_have_a_name(machine: Any) -> None:
    keeper = Keeper.remote()
    named = keeper.task_name.options(name="the one", enable_task_events=False)
    assert aioray.get([named.remote(), keeper.task_name.remote()]) == ["the one", "PlainKeeper.task_name"]
    assert aioray.get(named.options(name=None).remote()) == "PlainKeeper.task_name"
    held = keeper.fail.options(name="the other").remote()
    with pytest.raises(ValueError, match="as ever") as it:
        aioray.get(held)
    assert str(it.value).startswith("the other() failed")
    with pytest.raises(ValueError, match=r"^PlainKeeper\.fail\(\) failed"):
        aioray.get(keeper.fail.remote())


@pytest.mark.parametrize("option", ["memory", "num_cpus", "resources", "runtime_env", "max_restarts", "lifetime"])
def test_what_is_of_the_whole_actor_is_no_option_of_a_method(machine: Any, option: str) -> None:
    method = Keeper.remote().fail
    with pytest.raises(InvalidOptionError, match=r"methods have no such option, only .*actors do"):
        method.options(**{option: 1})
