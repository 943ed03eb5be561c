"""`init(inline=True)`: the head runs in a thread of the program. What a cluster can do and what it leaves are the same.

How programs with such a cluster end, and are ended, is in tests/processes/test_death.py.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import aioray as ray
from aioray.exceptions import InvalidOptionError, RaySystemError
from aioray.util import state

if TYPE_CHECKING:
    from collections.abc import Iterator


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def total(count: int) -> int:
    return sum(ray.get([same.remote(n) for n in range(count)]))


class Talker:
    def mode(self) -> str:
        print("it is said here")
        return os.environ["MODE"]


@pytest.fixture
def nothing_runs(nothing_left: None) -> Iterator[None]:
    yield
    ray.shutdown()


def test_a_head_in_this_process_does_what_one_beside_it_does(
    nothing_runs: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    1. there is a zygote with its workers, and no other process
    2. options of nodes and of the job do what they say
    3. tasks in tasks, actors and large values
    4. what people may ask; what workers printed
    """
    before = set(psutil.Process().children())
    ray.init(
        num_cpus=2,
        inline=True,
        resources={"disk": 3},
        labels={"region": "us"},
        object_store_memory=64 << 20,
        namespace="here",
        runtime_env={"env_vars": {"MODE": "fast"}},
    )
    (zygote,) = set(psutil.Process().children()) - before
    assert ray.current.get().ask("pids")[0] == zygote.pid

    assert ray.cluster_resources()["disk"] == 3
    assert ray.nodes()[0]["Labels"]["region"] == "us"
    assert ray.get_runtime_context().namespace == "here"

    talker = ray.remote(Talker).options(name="talker").remote()
    assert ray.get_actor("talker", namespace="here") == talker
    assert ray.get(talker.mode.remote()) == "fast"
    assert ray.get(total.remote(20)) == sum(range(20))
    assert ray.get(same.remote(ray.put(bytes(1 << 20)))) == bytes(1 << 20)

    assert [(node.is_head_node, node.labels["region"]) for node in state.list_nodes()] == [(True, "us")]
    assert "needs 5 disk, this node has 3" in ray.explain(same.options(resources={"disk": 5}).remote(1))
    ray.shutdown()
    assert "it is said here" in capfd.readouterr().out


def test_it_comes_and_goes_with_a_cluster_of_an_event_loop_beside_it(nothing_runs: None) -> None:
    """Started by threads that end at once: the kernel would take that for the end of the zygote's parent."""

    async def beside() -> int:
        async with ray.connect(num_cpus=1):
            there: int = await same.remote(2)
            return there

    for _ in range(3):
        starting = threading.Thread(target=lambda: ray.init(num_cpus=1, inline=True))
        starting.start()
        starting.join()
        assert ray.get(same.remote(1)) == 1
        assert asyncio.run(beside()) == 2
        ending = threading.Thread(target=ray.shutdown)
        ending.start()
        ending.join()
        assert not ray.is_initialized()


def test_a_forked_child_has_no_part_in_it(nothing_runs: None) -> None:
    ray.init(num_cpus=1, inline=True)
    assert ray.get(same.remote(1)) == 1
    child = os.fork()
    if child == 0:
        try:
            mine = ray.is_initialized()
            ray.shutdown()
        except BaseException:
            mine = True
        finally:
            os._exit(int(mine))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ray.get(total.remote(3)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"_temp_dir": "/proc/nowhere"}, "FileNotFoundError.*/proc/nowhere"),
        ({"_temp_dir": "/x" * 60}, "_temp_dir"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(nothing_runs: None, options: Any, said: str) -> None:
    with pytest.raises((RaySystemError, InvalidOptionError), match=said):
        ray.init(num_cpus=1, inline=True, **options)
    assert not ray.is_initialized()


@pytest.mark.parametrize("inline", [False, True])
def test_ctrl_c_while_a_cluster_ends_leaves_nothing(
    nothing_runs: None, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    ray.init(num_cpus=1, inline=inline)
    monkeypatch.setattr(ray.current.get().reactor, "run_until", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ray.shutdown()


def test_it_is_not_for_who_joins_a_cluster_nor_for_an_event_loop(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidOptionError, match=r"inline=True.*127\.0\.0\.1:1 runs already"):
        ray.init("127.0.0.1:1", inline=True)
    monkeypatch.setenv("AIORAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(InvalidOptionError, match=r"inline=True.*127\.0\.0\.1:2 runs already"):
        ray.init(inline=True)
    for value in (True, False):
        with pytest.raises(InvalidOptionError, match=r"always in this process"):
            ray.connect(inline=value)
