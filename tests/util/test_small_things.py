"""Named actors, addresses, things said once, actors in groups, and bars of progress."""

from __future__ import annotations

import importlib
import ipaddress
import re
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import ActorDiedError, InvalidOptionError
from aioray.util import get_node_ip_address, list_named_actors, log_once, tqdm
from aioray.util.actor_group import ActorGroup
from tests.api.support import eventually
from tests.util.classes import Doubler, Gate, PlainDoubler, count_with_tqdm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def test_util_is_there_without_being_imported_with_the_package() -> None:
    program = (
        "import sys, aioray as ray\n"
        "assert 'aioray.util' not in sys.modules\n"
        "ray.util.ActorPool, ray.util.queue.Queue, ray.util.multiprocessing.Pool, ray.util.collective.allreduce\n"
        "assert {'ActorPool', 'queue'} <= set(dir(ray.util))\n"
        "from aioray.util import *\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
    for name in aioray.util.__all__:
        assert getattr(aioray.util, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'ActorPoll'"):
        aioray.util.ActorPoll  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'utill'"):
        aioray.utill  # noqa: B018
    assert importlib.import_module("aioray.util") is aioray.util


def test_named_actors_are_listed(shared_ray: Any) -> None:
    actors = [
        Doubler.options(name="one").remote(),
        Doubler.options(name="two", namespace="elsewhere").remote(),
        Doubler.remote(),
    ]
    assert list_named_actors() == ["one"]
    everywhere = list_named_actors(all_namespaces=True)
    assert {"name": "one", "namespace": "tests"} in everywhere
    assert {"name": "two", "namespace": "elsewhere"} in everywhere
    for actor in actors:
        shared_ray.kill(actor)
    assert list_named_actors() == []
    with pytest.raises(InvalidOptionError, match="all_namespaces"):
        list_named_actors("tests")  # type: ignore[arg-type]


def test_the_address_of_this_machine_is_one() -> None:
    assert ipaddress.ip_address(get_node_ip_address()).version == 4


def test_something_is_said_once() -> None:
    key = uuid.uuid4().hex
    assert [log_once(key), log_once(key), log_once(f"{key}, another")] == [True, False, True]
    with pytest.raises(TypeError, match="a text, not a int"):
        log_once(5)  # type: ignore[arg-type]


# actors in groups


def test_a_group_is_called_as_one(shared_ray: Any) -> None:
    group = ActorGroup(PlainDoubler, num_actors=3, num_cpus_per_actor=0)
    assert shared_ray.get(group.double.remote(4)) == [8, 8, 8]
    assert shared_ray.get(group[1].double.remote(5)) == 10
    assert shared_ray.get([actor.count.remote() for actor in group]) == [1, 2, 1]
    group.add_actors(1)
    group.remove_actors([0, -2])
    assert shared_ray.get(group.count.remote()) == [2, 0]
    assert len(group) == len(group.actors) == len(group[:]) == 2
    with pytest.raises(IndexError):
        group.remove_actors([0, 2])
    with pytest.raises(AttributeError, match="no method 'tripple'"):
        group.tripple.remote(1)
    last = group.double.remote(1)
    group.shutdown()
    assert shared_ray.get(last) == [2, 2]  # calls that were made have time to end
    with pytest.raises(RuntimeError, match="shut down"):
        group.double.remote(1)
    group.start()
    assert shared_ray.get(group.count.remote()) == [0, 0, 0]
    with pytest.raises(RuntimeError, match="run already"):
        group.start()
    group.shutdown(patience_s=0)


def test_actors_that_do_not_end_in_time_are_killed(shared_ray: Any) -> None:
    gate = Gate.remote()
    group = ActorGroup(Doubler, num_cpus_per_actor=0)
    refs = group.double_later.remote(gate, 1)
    group.shutdown(patience_s=0.01)
    with pytest.raises(ActorDiedError):
        shared_ray.get(refs)


def test_bad_groups_are_refused(shared_ray: Any) -> None:
    with pytest.raises(InvalidOptionError, match="num_actors"):
        ActorGroup(PlainDoubler, num_actors=0)
    with pytest.raises(InvalidOptionError, match="num_cpus"):
        ActorGroup(PlainDoubler, num_cpus_per_actor=-1)
    with pytest.raises(TypeError):
        ActorGroup(PlainDoubler, num_cpus_per_actor=0, init_args=[1])


# bars


def test_a_bar_of_a_task_is_shown_at_the_driver(shared_ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shared_ray.get(count_with_tqdm.remote(50))
    seen: list[str] = []

    def shown() -> bool:
        seen.append(capsys.readouterr().err)
        return "50/50" in "".join(seen)

    eventually(shown)
    lines = "".join(seen).splitlines()
    assert len(lines) == 1  # the rest was too soon after it
    assert re.fullmatch(r"\(count_with_tqdm pid=\d+\) counting \[3\]: 100%\|#{20}\| 50/50 \[.* s, .* it/s\]", lines[0])


def test_a_bar_shows_a_line_each_interval_and_a_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tqdm("abc", desc="letters", unit="letter", flush_interval_s=0)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" [")[0] for line in lines] == [
        "letters:  33%|######              | 1/3",
        "letters:  66%|#############       | 2/3",
        "letters: 100%|####################| 3/3",
        "letters: 100%|####################| 3/3",
    ]
    bar = tqdm(unit="page")
    bar.update(5)
    bar.set_description("reading")
    bar.close()
    bar.close()
    bar.refresh()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"reading: 5 page \[.* s, .* page/s\]", line)


async def test_a_bar_goes_over_what_is_async(capsys: pytest.CaptureFixture[str]) -> None:
    async def letters() -> AsyncIterator[str]:
        for letter in "ab":
            yield letter

    assert [letter async for letter in tqdm(letters(), total=2)] == ["a", "b"]
    assert "100%" in capsys.readouterr().err
    with pytest.raises(TypeError, match="with for"):
        list(tqdm(letters()))


def test_a_bar_on_a_terminal_is_redrawn_in_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in tqdm(range(2), flush_interval_s=0):
        pass
    assert terminal.getvalue().count("\r") == 3
    assert terminal.getvalue().count("\n") == 1


def test_bad_bars_are_refused() -> None:
    for options, named in [({"total": -1}, "total"), ({"desc": 5}, "desc"), ({"flush_interval_s": -1}, "flush")]:
        with pytest.raises(InvalidOptionError, match=named):
            tqdm(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a int"):
        tqdm(5)  # type: ignore[arg-type]
