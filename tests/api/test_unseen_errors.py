"""Errors that nobody looked at are told in one line each, once; and nobody is told what needs no telling."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from tests.api.classes import Counter, identity
from tests.api.support import Meeting, eventually, run_script, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """A function that says which lines there have been so far."""
    gc.collect()
    caplog.set_level(logging.WARNING, "aioray")

    def so_far() -> list[str]:
        gc.collect()
        return [record.getMessage() for record in caplog.records if record.name == "aioray"]

    yield so_far
    gc.collect()


@aioray.remote
def fail(text: str) -> None:
    raise ValueError(text)


@aioray.remote
def wait_twice(meeting: Meeting) -> None:
    meeting.here()
    meeting.wait()


def test_a_ref_to_an_error_that_is_dropped_unlooked_at_logs_one_line(ray: Any, lines: Any) -> None:
    ref = fail.remote("bad luck\nand more of it")
    ray.wait([ref])
    assert lines() == []
    del ref
    assert lines() == ["nobody looked at the error of fail: ValueError: bad luck"]


def test_a_call_whose_ref_nobody_kept_logs_when_it_has_failed(ray: Any, lines: Any) -> None:
    fail.remote("one")
    fail.options(num_returns=0).remote("none")
    Counter.remote().fail.remote("lost")
    eventually(lambda: len(lines()) == 3)
    assert sorted(lines()) == [
        "nobody looked at the error of PlainCounter.fail: LookupError: lost",
        "nobody looked at the error of fail: ValueError: none",
        "nobody looked at the error of fail: ValueError: one",
    ]


def is_dead(actor: Any) -> bool:
    return bool(actor._actor.line.state == "dead")


def raises(look: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="seen"):
        look()


@pytest.mark.parametrize(
    "look",
    [
        lambda ref: raises(lambda: aioray.get(ref)),
        lambda ref: raises(ref.result),
        lambda ref: raises(lambda: ref.future().result()),
        lambda ref: ref.exception(),
        lambda ref: raises(lambda: aioray.get(identity.remote(ref))),
        lambda ref: aioray.get(identity.remote([ref])),
    ],
    ids=["get", "result", "future", "exception", "as an argument", "inside an argument"],
)
def test_whoever_has_looked_or_passed_it_on_is_told_nothing(ray: Any, lines: Any, look: Callable[[Any], Any]) -> None:
    ref = fail.remote("seen")
    ray.wait([ref])
    look(ref)
    del ref
    assert lines() == []


def test_several_refs_of_one_call_have_one_error_and_one_look_is_enough(ray: Any, lines: Any) -> None:
    first, second = fail.options(num_returns=2).remote("both")
    with pytest.raises(ValueError, match="both"):
        ray.get(first)
    del first, second
    assert lines() == []
    refs = fail.options(num_returns=2).remote("none")
    ray.wait(refs, num_returns=2)
    del refs
    assert lines() == ["nobody looked at the error of fail: ValueError: none"]


def test_get_of_several_refs_looks_at_all_their_errors_even_at_those_to_come(
    ray: Any, lines: Any, tmp_path: pathlib.Path
) -> None:
    go = Meeting(tmp_path / "go")

    @aioray.remote
    def late() -> None:
        go.wait()
        raise ValueError("late")

    to_come = late.remote()
    refs = [fail.remote(text) for text in "ab"]
    ray.wait(refs, num_returns=2)
    with pytest.raises(ValueError, match="a"):
        ray.get([*refs, to_come])
    go.here()
    ray.wait([to_come])
    del refs, to_come
    assert lines() == []


def test_a_call_with_two_arguments_that_failed_answers_for_both(ray: Any, lines: Any) -> None:
    @aioray.remote
    def both(*values: Any) -> None: ...

    with pytest.raises(ValueError, match="one"):
        ray.get(both.remote(fail.remote("one"), fail.remote("two")))
    assert lines() == []


def test_a_call_that_failed_by_its_argument_answers_for_the_error_from_then_on(ray: Any, lines: Any) -> None:
    ref = identity.remote(fail.remote("first"))
    ray.wait([ref])
    assert lines() == []
    del ref
    assert lines() == ["nobody looked at the error of identity: ValueError: first"]


def test_what_was_cancelled_or_killed_on_purpose_is_no_news(ray: Any, lines: Any, tmp_path: pathlib.Path) -> None:
    begun = [Meeting(tmp_path / f"begun{n}") for n in range(2)]

    @aioray.remote
    def hang(begun: Meeting) -> None:
        begun.here()
        Meeting.wait(begun)

    class Hanging:
        def hang(self, begun: Meeting) -> None:
            begun.here()
            Meeting.wait(begun)

    actor = ray.remote(Hanging).remote()
    task, call = hang.remote(begun[0]), actor.hang.remote(begun[1])
    for meeting in begun:
        meeting.wait()
    ray.cancel(task)
    ray.kill(actor)
    ray.wait([task, call], num_returns=2)
    del task, call
    assert lines() == []


def test_a_constructors_error_is_told_unless_a_caller_hears_of_it(ray: Any, lines: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise OSError("no")

        def ping(self) -> None: ...

    heard, unheard = ray.remote(Broken).remote(), ray.remote(Broken).remote()
    with pytest.raises(OSError, match="no"):
        ray.get(heard.ping.remote())
    eventually(functools.partial(is_dead, unheard))
    assert lines() == []
    del heard, unheard
    eventually(lambda: lines() == ["nobody looked at the error of the constructor of Broken: OSError: no"])


def test_what_the_end_of_the_cluster_takes_along_is_no_news(lines: Any, tmp_path: pathlib.Path) -> None:
    aioray.shutdown()
    begun = Meeting(tmp_path / "begun")

    @aioray.remote
    def hang() -> None:
        begun.here()
        begun.wait()

    with started(num_cpus=1):
        refs = [hang.remote(), hang.remote()]
        begun.wait()
        aioray.shutdown()
        del refs
    assert lines() == []


def test_a_program_that_ends_with_errors_in_its_variables_says_nothing(tmp_path: pathlib.Path) -> None:
    program = """
import aioray

@aioray.remote
def fail():
    raise ValueError("bad")

aioray.init(num_cpus=1)
refs = [fail.remote() for _ in range(3)]
aioray.wait(refs, num_returns=3)
"""
    ended = run_script(tmp_path, program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_worker_says_it_too(tmp_path: pathlib.Path) -> None:
    program = """
import aioray

@aioray.remote
def fail():
    raise ValueError("bad")

@aioray.remote
def careless():
    aioray.wait([fail.remote()])

aioray.init(num_cpus=1)
aioray.get(careless.remote())
"""
    ended = run_script(tmp_path, program)
    assert "nobody looked at the error of fail: ValueError: bad" in ended.stderr


def test_a_forked_child_does_not_answer_for_its_parents_errors(tmp_path: pathlib.Path) -> None:
    program = f"""
import os, sys, aioray

@aioray.remote
def fail():
    raise ValueError("bad")

aioray.init(num_cpus=1)
ref = fail.remote()
aioray.wait([ref])
pid = os.fork()
if pid == 0:
    del ref
    os._exit({os.EX_OK})
os.waitpid(pid, 0)
ref.exception()
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""


async def test_the_end_of_a_block_takes_calls_along_in_silence(
    nothing_left: None, lines: Any, tmp_path: pathlib.Path
) -> None:
    aioray.shutdown()
    begun = Meeting(tmp_path / "begun")
    async with aioray.connect(num_cpus=1):
        refs = [wait_twice.remote(begun), wait_twice.remote(begun), Counter.remote().add.remote()]
        await asyncio.to_thread(begun.wait)
    del refs
    assert lines() == []


async def test_gather_looks_at_the_errors_of_all(nothing_left: None, lines: Any) -> None:
    aioray.shutdown()
    async with aioray.connect(num_cpus=1):
        refs = [fail.remote(text) for text in ("one", "two")]
        with pytest.raises(ValueError, match="one"):
            await asyncio.gather(*refs)
        await aioray.wait(refs, num_returns=2)
        del refs
        assert lines() == []


async def test_an_await_looks_and_a_dropped_ref_in_a_loop_logs(nothing_left: None, lines: Any) -> None:
    aioray.shutdown()
    async with aioray.connect(num_cpus=1):
        with pytest.raises(ValueError, match="seen"):
            await fail.remote("seen")
        await aioray.wait([fail.remote("unseen")])
        assert lines() == ["nobody looked at the error of fail: ValueError: unseen"]
