"""Large results that a worker registers with the node just before it dies: nobody keeps them."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray import current
from tests.api.support import started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

NBYTES = 1 << 20


@pytest.fixture
def ray() -> Iterator[Any]:
    with started(num_cpus=1, _system_config={"extent_nbytes": 64 * 1024}) as ray:
        yield ray


def die_before_the_answer() -> None:
    """The node says that it knows of the result: it is the moment before the answer is sent."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    link: Any = current.get().link
    link._settle = die


def result_of_a_dying_worker(_: object = None) -> Any:
    die_before_the_answer()
    return bytes(NBYTES), [aioray.put(5)]


class Dying:
    def result(self) -> Any:
        return result_of_a_dying_worker()


def test_a_result_whose_worker_died_before_it_answered_is_freed(ray: Any) -> None:
    before = store()
    ref = ray.remote(result_of_a_dying_worker).options(max_retries=0).remote()
    with pytest.raises(aioray.exceptions.WorkerCrashedError):
        ray.get(ref, timeout=10)
    store_returns_to(before)


def test_a_result_whose_actor_died_before_it_answered_is_freed(ray: Any) -> None:
    before = store()
    ref = ray.remote(Dying).remote().result.remote()
    with pytest.raises(aioray.exceptions.ActorDiedError):
        ray.get(ref, timeout=10)
    store_returns_to(before)


@pytest.mark.parametrize("again", ["large", "small", "shared"])
def test_a_result_that_is_made_again_is_there_once_and_goes_with_its_ref(
    ray: Any, tmp_path: pathlib.Path, again: str
) -> None:
    tried = tmp_path / "tried"

    def dies_once() -> Any:
        if not tried.exists():
            tried.touch()
            return result_of_a_dying_worker()
        return bytes(10 if again == "small" else NBYTES)

    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

    before = store()
    ref = ray.remote(dies_once).options(max_retries=1).remote()
    if again == "shared":
        keeper = ray.remote(Keeper).remote()
        ray.get(keeper.keep.remote([ref]))
    assert len(ray.get(ref, timeout=10)) == (10 if again == "small" else NBYTES)
    gc.collect()
    if again == "large":
        store_returns_to({"used_nbytes": NBYTES + 4096, "known_objects": 1})
    elif again == "shared":
        del keeper
    del ref
    store_returns_to(before)
