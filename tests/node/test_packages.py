"""Packages that a node does not have: from a driver's pieces in the store to a worker that is ordered."""

from __future__ import annotations

import os
import pathlib
import random
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioray.runtime.errors import error_value
from aioray.runtime_env import RuntimeEnv, archives
from aioray.runtime_env.environment import Environment, package_name, resources_dir
from aioray.runtime_env.resolving import Environments
from aioray.wire.calls import Call
from aioray.wire.control import ActorSpec, Answer, Hold, LeaseLost, LeaseRequest, Query
from aioray.wire.one_call import encode_call
from aioray.wire.state import PACKAGE_PIECE_NBYTES
from aioray.wire.values import object_id
from aioray_node.gcs.package_desk import NAMESPACE
from tests.node.stage import Peer, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE_CPU = {"CPU": 10_000}
NAME = f"dir-{'0' * 32}"
DATA = random.Random(5).randbytes(PACKAGE_PIECE_NBYTES + 5)
DRIVER, OTHER_DRIVER = b"stagdriv", b"stagothr"  # of this node


@pytest.fixture
def stage(nothing_left: None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory), num_cpus=2)
        yield stage
        stage.close()


def ask(stage: Stage, what: str, process: bytes = DRIVER, /, **args: Any) -> Answer:
    with stage.reactor.lock:
        answer = stage.node.exchange(process, Query(0, what, args))
    assert isinstance(answer, Answer)
    return answer


def wait_until(stage: Stage, is_true: Callable[[], Any]) -> None:
    """As processes have to end, which take their time."""
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        stage.reactor.poll_once(0.05)


def pieces(directory: pathlib.Path) -> list[bytes]:
    """Two of them."""
    (directory / "source").mkdir()
    (directory / "source/data.bin").write_bytes(DATA)
    archives.pack(str(directory / "source"), ["data.bin"], str(directory / "archive"))
    archive = (directory / "archive").read_bytes()
    return [archive[:PACKAGE_PIECE_NBYTES], archive[PACKAGE_PIECE_NBYTES:]]


def send(stage: Stage, parts: list[bytes], **sent: Any) -> None:
    """As a driver does that has no node on its machine."""
    upload = ask(stage, "begin_package", name=NAME, user=DRIVER).data
    for index, data in enumerate(parts):
        assert not ask(stage, "put_package", name=NAME, upload=upload, index=index, data=data).error
    assert not ask(stage, "package_sent", name=NAME, upload=upload, **{"pieces": len(parts), "error": "", **sent}).error


def stored(stage: Stage) -> list[bytes]:
    keys: list[bytes] = ask(stage, "kv_keys", namespace=NAMESPACE).data
    return keys


def request(number: int) -> LeaseRequest:
    """In an environment of its own, with the package."""
    environment = Environment(working_dir=NAME, env_vars={"NUMBER": str(number)}, setup_timeout_s=10.0)
    return LeaseRequest(number, ONE_CPU, "f", environment.text())


def lost(stage: Stage, driver: Peer) -> str:
    """Why a lease was, when it is."""
    wait_until(stage, lambda: any(isinstance(message, LeaseLost) for message in driver.heard))
    (message,) = driver.take(LeaseLost)
    assert message.setup_failed
    return message.reason


def test_a_package_of_a_driver_without_a_node_is_fetched_once_for_all_leases(
    stage: Stage, tmp_path: pathlib.Path
) -> None:
    """
    1. two environments with one package are asked for before the driver has sent it: they wait, and hold nothing
    2. it is sent: a worker is ordered for each; the files are in the node's session, and no others
    3. the driver goes: the store is empty; the session has it still
    """
    driver = stage.join(DRIVER)
    assert ask(stage, "begin_package", name=NAME, user=DRIVER).data == "1"
    driver.say(request(1), request(2))
    stage.settle()
    assert stage.zygote.ordered == []
    assert ask(stage, "explain", lease_id=1).data == "its runtime environment is being set up"
    send(stage, pieces(tmp_path))
    wait_until(stage, lambda: len(stage.zygote.ordered) == 2 or driver.take(LeaseLost))
    resources = pathlib.Path(resources_dir(str(stage.session.dir)))
    assert (resources / NAME / "data.bin").read_bytes() == DATA
    assert sorted(os.listdir(resources)) == [NAME, f"{NAME}.list"]
    assert len(stored(stage)) == 2
    driver.connection.close()
    stage.settle()
    assert stored(stage) == []
    other = stage.join(OTHER_DRIVER)
    other.say(request(3))
    stage.settle()
    assert len(stage.zygote.ordered) == 3


def test_what_cannot_be_had_is_named_with_the_reason(stage: Stage, tmp_path: pathlib.Path) -> None:
    """
    1. a package of which nobody knows: the lease is lost, which says what is missing
    2. it was not stored because there was no room: it says so
    3. what was sent is no archive: it says so, and nothing of it stays in the session
    """
    driver = stage.join(DRIVER)
    driver.say(request(1))
    assert lost(stage, driver) == (
        f"working_dir ({NAME}) cannot be had on this node: nobody who uses it is there any more"
    )
    upload = ask(stage, "begin_package", name=NAME, user=DRIVER).data
    driver.say(request(2))
    stage.settle()
    ask(stage, "package_sent", name=NAME, upload=upload, pieces=0, error="no room")
    assert lost(stage, driver).endswith("cannot be had on this node: no room")
    send(stage, [b"rubbish"])
    driver.say(request(3))
    assert "unpacking it failed (status 1):\nunpack: not a gzip file" in lost(stage, driver)
    assert os.listdir(resources_dir(str(stage.session.dir))) == []


@pytest.mark.parametrize("is_dead_at_once", [True, False])
def test_a_detached_actor_has_its_package_kept_when_its_job_has_ended(
    stage: Stage, tmp_path: pathlib.Path, is_dead_at_once: bool
) -> None:
    """
    1. a driver sends a package, makes a detached actor with it, and goes: the store has it still
    2. the actor ends: it is removed; at once where the actor was never alive
    """
    driver = stage.join(DRIVER)
    send(stage, pieces(tmp_path))
    actor_id = object_id(DRIVER, 1)
    environment = Environment(working_dir=NAME).text()
    call = encode_call(Call(0, "__init__", b""))
    spec = ActorSpec(actor_id, "A", b"", call, {}, {}, DRIVER, detached=True, environment=environment)
    if is_dead_at_once:
        spec.error = error_value(ValueError("an argument"))
    driver.say(Hold(DRIVER, [actor_id]), spec)
    stage.settle()
    driver.connection.close()
    stage.settle()
    assert len(stored(stage)) == (0 if is_dead_at_once else 2)
    ask(stage, "kill_actor", actor_id=actor_id, reason="", no_restart=True)
    assert stored(stage) == []


def test_a_lease_that_waits_too_long_is_told_what_for(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    ask(stage, "begin_package", name=NAME, user=DRIVER)
    driver.say(request(1))
    stage.settle()
    stage.advance(9.9)
    assert driver.take(LeaseLost) == []
    stage.advance(0.2)
    assert lost(stage, driver).endswith("it did not come in time (setup_timeout_seconds)")


def test_a_directory_that_is_gone_is_fetched_when_it_is_needed_again(stage: Stage, tmp_path: pathlib.Path) -> None:
    """
    1. an environment is ready, by a directory of another node's session
    2. that session is removed: the next lease has its package from the store
    """
    theirs = tmp_path / "theirs" / NAME
    theirs.mkdir(parents=True)
    environment = Environment(working_dir=str(theirs)).text()
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f", environment))
    stage.settle()
    assert len(stage.zygote.ordered) == 1
    theirs.rmdir()
    send(stage, pieces(tmp_path))
    driver.say(LeaseRequest(2, ONE_CPU, "f", environment))
    stage.settle()
    assert len(stage.zygote.ordered) == 1
    wait_until(stage, lambda: len(stage.zygote.ordered) == 2 or driver.take(LeaseLost))


def test_a_node_that_ends_in_the_middle_leaves_nothing_running(stage: Stage, tmp_path: pathlib.Path) -> None:
    driver = stage.join(DRIVER)
    send(stage, pieces(tmp_path))
    driver.say(request(1))
    archive = pathlib.Path(resources_dir(str(stage.session.dir))) / "fetching-1-log"
    wait_until(stage, archive.exists)


def test_what_another_node_asks_for_is_packed_and_stored(stage: Stage, tmp_path: pathlib.Path) -> None:
    """
    1. a driver has a package in the session, into which a task has written since
    2. another node asks for it: it lies in the store, as it was made
    3. the driver ends while a second one is packed: nothing of that stays
    """
    driver = stage.join(DRIVER)
    resources = pathlib.Path(resources_dir(str(stage.session.dir)))
    made = {}
    for number in (1, 2):
        (tmp_path / f"{number}.py").write_text(f"NUMBER = {number}")
        environments = Environments("", str(stage.session.dir), 1000, partial(answer, stage), lambda: DRIVER)
        text = environments.resolve(RuntimeEnv(py_modules=[tmp_path / f"{number}.py"]))
        made[number] = package_name(*Environment.of(text).py_modules)
    (resources / made[1] / "written_by_a_task").touch()
    assert stored(stage) == []
    other_node = bytes.fromhex("0b0b0b0b") + bytes(4)
    ask(stage, "need_package", other_node, name=made[1])
    wait_until(stage, lambda: stored(stage))
    (key,) = stored(stage)
    (tmp_path / "archive").write_bytes(ask(stage, "kv_get", namespace=NAMESPACE, key=key).data)
    (tmp_path / "target").mkdir()
    archives.unpack(str(tmp_path / "archive"), str(tmp_path / "target"))
    assert archives.files_in(str(tmp_path / "target")) == ["1.py"]
    ask(stage, "need_package", other_node, name=made[2])
    stage.settle()
    assert list(resources.glob("sending-*"))
    driver.connection.close()
    wait_until(stage, lambda: not list(resources.glob("sending-*")))
    stage.settle()
    assert stored(stage) == []


def answer(stage: Stage, what: str, **args: Any) -> Any:
    """As a process has it."""
    return ask(stage, what, **args).data


def test_a_package_must_be_one(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f", Environment(py_modules=["/somewhere/../../else"]).text()))
    assert "is no package of files" in lost(stage, driver)
    assert "is too large" in ask(stage, "put_package", **begun(stage), index=0, data=bytes(2 << 20)).error
    assert "nobody uses it" in ask(stage, "put_package", name=NAME, upload="9", index=0, data=b"").error


def begun(stage: Stage) -> dict[str, str]:
    return {"name": NAME, "upload": ask(stage, "begin_package", name=NAME, user=DRIVER).data}
