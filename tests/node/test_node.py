"""A node, from the sockets of its peers to the orders to its zygote, without a process and without waiting."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING

import pytest

from aioray.runtime_env.environment import Environment
from aioray.wire.calls import Call
from aioray.wire.control import (
    Ack,
    ActorSpec,
    ActorStarted,
    ActorUpdate,
    Blocked,
    Checkpoint,
    Exit,
    Exited,
    Fetch,
    Fetched,
    Hold,
    LeaseGrant,
    LeaseLost,
    LeaseRecall,
    LeaseRequest,
    LeaseReturn,
    Notice,
    Release,
    Reserve,
    Seal,
    Share,
    WatchActor,
)
from aioray.wire.one_call import encode_call
from aioray.wire.values import Value, object_id
from aioray_node.gpus import Gpu, accelerator_label
from tests.node.stage import DRIVER, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_CPU = {"CPU": 10_000}


@pytest.fixture
def stage(nothing_left: None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory))
        yield stage
        stage.close()
        assert not stage.zygote.is_open
        assert stage.session.closed


def test_a_worker_goes_from_lease_to_lease(stage: Stage) -> None:
    """
    1. two leases are asked for on one CPU: one worker is ordered, for the first
    2. it comes up: the first lease is granted, the second waits
    3. the first comes back: the same worker serves the second, and no other is ordered
    """
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"), LeaseRequest(2, ONE_CPU, "f"))
    stage.settle()
    assert len(stage.zygote.ordered) == 1
    assert driver.take(LeaseGrant) == []
    stage.worker_starts()
    worker_id = stage.zygote.ordered[0]
    assert driver.take(LeaseGrant) == [LeaseGrant(1, worker_id, f"at-{worker_id}")]
    driver.say(LeaseReturn(1))
    stage.settle()
    assert driver.take(LeaseGrant) == [LeaseGrant(2, worker_id, f"at-{worker_id}")]
    assert len(stage.zygote.ordered) == 1


def test_a_lease_of_an_environment_gets_a_worker_of_its_own(stage: Stage) -> None:
    """
    1. a worker is idle; a lease of an environment has another one ordered, with that environment
    2. both come back, and each serves its kind again
    """
    text = Environment(env_vars={"A": "1"}).text()
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    stage.worker_starts()
    driver.say(LeaseReturn(1), LeaseRequest(2, ONE_CPU, "f", text))
    stage.settle()
    plain, odd = stage.zygote.ordered
    assert [stage.zygote.orders[each].environment for each in (plain, odd)] == ["", text]
    stage.worker_starts(odd)
    driver.say(LeaseReturn(2), LeaseRequest(3, ONE_CPU, "f"))
    stage.settle()
    driver.say(LeaseReturn(3), LeaseRequest(4, ONE_CPU, "f", text))
    stage.settle()
    assert [grant.worker_id for grant in driver.take(LeaseGrant)] == [plain, odd, plain, odd]


def test_what_a_worker_wrote_before_it_died_counts_though_its_death_was_told_first(stage: Stage) -> None:
    """
    1. an actor that may be restarted is up
    2. it writes a checkpoint and dies: the zygote's word of that is handled before the checkpoint is read
    3. its next life is given the checkpoint
    4. it writes that it goes on purpose, and dies: it is not restarted
    """
    actor_id = object_id(DRIVER, 1)
    driver = stage.join(DRIVER)
    spec = ActorSpec(actor_id, "A", b"", encode_call(Call(0, "__init__", b"")), {}, {}, DRIVER, max_restarts=-1)
    driver.say(Hold(DRIVER, [actor_id]), WatchActor(actor_id), spec)
    stage.settle()
    first = stage.zygote.ordered[0]
    worker = stage.worker_starts(first)
    worker.say(ActorStarted(actor_id))
    stage.settle()
    saved = Value(b"state")
    oid = object_id(bytes.fromhex(first), 1)
    with stage.reactor.lock:
        worker.say(Share(oid, saved), Checkpoint(actor_id, oid, saved, 0))
        worker.connection.flush()
    stage.worker_dies(first)
    assert [update.state for update in driver.take(ActorUpdate)] == ["alive", "restarting"]
    second = stage.zygote.ordered[-1]
    assert second != first
    worker = stage.worker_starts(second)
    given = worker.take(ActorSpec)
    assert [(each.restarts, each.checkpoint) for each in given] == [(1, saved)]
    worker.say(ActorStarted(actor_id, restarts=1))
    stage.settle()
    with stage.reactor.lock:
        worker.say(Exit("it exited on purpose"))
        worker.connection.flush()
    stage.worker_dies(second, 0)
    told = driver.take(ActorUpdate)
    assert [(update.state, update.reason) for update in told[1:]] == [("dead", "it exited on purpose")]


def test_a_lease_that_is_asked_for_or_given_back_twice_counts_once(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"), LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    stage.worker_starts()
    assert len(driver.take(LeaseGrant)) == 1
    driver.say(LeaseReturn(1), LeaseReturn(1))
    stage.settle()
    assert stage.ask("available_resources")["CPU"] == 1.0


def test_a_lease_that_is_asked_back_before_it_has_a_worker_is_asked_back_when_it_has_one(stage: Stage) -> None:
    """Its owner would not know which one is meant; and nothing else is asked back while this one is said to come."""
    one, other = stage.join(DRIVER), stage.join(b"another-")
    one.say(LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    other.say(LeaseRequest(1, ONE_CPU, "g"))
    stage.settle()
    stage.advance(1)
    assert one.take(LeaseRecall) == []
    stage.worker_starts()
    stage.settle()
    assert [type(message) for message in one.heard] == [LeaseGrant, LeaseRecall]


def test_a_worker_that_waits_lends_its_cpu_to_another(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "outer"), LeaseRequest(2, ONE_CPU, "inner"))
    stage.settle()
    outer = stage.worker_starts()
    outer.say(Blocked(True))
    stage.settle()
    assert len(stage.zygote.ordered) == 2
    stage.worker_starts()
    assert [grant.lease_id for grant in driver.take(LeaseGrant)] == [1, 2]
    outer.say(Blocked(False))  # it goes on at once, though the CPU is taken
    driver.say(LeaseReturn(2))
    stage.settle()
    assert stage.ask("available_resources")["CPU"] == 0.0


def test_the_owner_of_a_lease_hears_why_its_worker_died(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    stage.worker_starts()
    stage.worker_dies(stage.zygote.ordered[0], -9)
    (lost,) = driver.take(LeaseLost)
    assert lost.lease_id == 1
    assert "SIGKILL" in lost.reason
    assert stage.ask("available_resources")["CPU"] == 1.0


def test_idle_workers_are_sent_home_when_their_time_is_up_and_not_before(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    worker = stage.worker_starts()
    driver.say(LeaseReturn(1))
    stage.settle()
    stage.advance(59)
    assert worker.take(Exit) == []
    stage.advance(2)
    assert len(worker.take(Exit)) == 1


def test_more_than_the_node_has_is_said_once_and_stays_queued(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, {"CPU": 80_000}, "huge"))
    stage.settle()
    (notice,) = driver.take(Notice)
    assert "huge needs 8 CPU, this node has 1" in notice.text
    assert "needs 8 CPU" in stage.ask("explain", lease_id=1)


def test_the_kind_of_its_gpus_is_a_label_where_it_can_be_one() -> None:
    assert accelerator_label([]) == accelerator_label([Gpu("0")]) == {}
    assert accelerator_label([Gpu("0"), Gpu("1", "NVIDIA A100-SXM4-40GB")]) == {"ray.io/accelerator-type": "A100"}
    assert accelerator_label([Gpu("0", "of (some) kind")]) == {}


def test_what_a_driver_had_ends_with_it(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(LeaseRequest(1, ONE_CPU, "f"), LeaseRequest(2, ONE_CPU, "f"))
    stage.settle()
    stage.worker_starts()
    assert stage.node.exchange(DRIVER, Reserve(64 * 1024)).offset == 0  # type: ignore[attr-defined] # a Reserved
    with stage.reactor.lock:
        driver.connection.close()
    stage.settle()
    assert stage.ask("available_resources")["CPU"] == 1.0
    assert stage.ask("store")["used_nbytes"] == 0


def test_a_reader_hears_what_an_owner_shares_whichever_comes_first(stage: Stage) -> None:
    owner, reader = stage.join(DRIVER), stage.join(b"reader--")
    early, late = object_id(DRIVER, 1), object_id(DRIVER, 2)
    reader.say(Hold(b"reader--", [early]), Fetch(early))
    stage.settle()
    owner.say(Share(early, Value(b"1")), Share(late, Value(b"2")))
    stage.settle()
    reader.say(Fetch(late))
    stage.settle()
    assert reader.take(Fetched) == [Fetched(early, Value(b"1")), Fetched(late, Value(b"2"))]
    owner.say(Release(DRIVER, [early, late]))
    reader.say(Release(b"reader--", [early]))
    stage.settle()
    assert stage.ask("store")["known_objects"] == 0


def test_a_reader_hears_at_once_when_an_owner_dies_before_the_value_is_there(stage: Stage) -> None:
    owner, reader = stage.join(DRIVER), stage.join(b"reader--")
    owner.say(Share(object_id(DRIVER, 1)))
    reader.say(Fetch(object_id(DRIVER, 1)))
    stage.settle()
    with stage.reactor.lock:
        owner.connection.close()
    stage.settle()
    (fetched,) = reader.take(Fetched)
    assert fetched.value.is_error


def test_what_a_worker_wrote_before_it_died_counts_and_what_a_killed_one_still_says_does_not(stage: Stage) -> None:
    """
    1. a worker registers a result, and dies: the node reads it before it says so, or the owner could not let go of it
    2. another is killed on the owner's word: the result that it registers all the same is nobody's, and goes with it
    """
    driver = stage.join(DRIVER)
    for number, dies in ((1, True), (2, False)):
        driver.say(LeaseRequest(number, ONE_CPU, "f"))
        stage.settle()
        worker = stage.worker_starts()
        worker_id = stage.zygote.ordered[-1]
        process = bytes.fromhex(worker_id)
        reserved = stage.node.exchange(process, Reserve(64 * 1024))
        sealed = Seal(Value(nbytes=640, offset=reserved.offset, oid=object_id(DRIVER, number)), req=1)  # type: ignore[attr-defined] # a Reserved
        with stage.reactor.lock:
            if dies:
                worker.connection.send_now(sealed)
                stage.zygote.report(Exited(worker_id, -9))
            else:
                driver.connection.send_now(LeaseReturn(number, kill=True))
                stage.settle()
                worker.connection.send_now(sealed)
        stage.settle()
        assert bool(worker.take(Ack)) == dies
        if dies:
            assert stage.ask("store")["known_objects"] == 1
            assert len(driver.take(LeaseLost)) == 1
            driver.say(Release(DRIVER, [object_id(DRIVER, number)]))
        with stage.reactor.lock:
            worker.connection.close()
        stage.settle()
        assert stage.ask("store") == {"used_nbytes": 0, "capacity_nbytes": 1 << 20, "known_objects": 0}


def test_an_actor_is_placed_started_watched_and_mourned(stage: Stage) -> None:
    """
    1. the driver asks for an actor and watches it
    2. its worker comes up, is told what the actor is made of, and reports that the constructor is through
    3. the CPU is free again: by default an actor needs one to be placed, none to run
    4. the worker dies: the watcher hears the reason, and the name is free
    """
    driver = stage.join(DRIVER)
    actor_id = object_id(DRIVER, 1)
    call = encode_call(Call(0, "__init__", b""))
    spec = ActorSpec(
        actor_id, "Counter", b"", call, ONE_CPU, {}, creator=DRIVER, name="counter", methods={"add": "1 n="}
    )
    assert stage.ask("reserve_name", namespace="", name="counter", actor_id=actor_id, cls="Counter", methods={}) is None
    driver.say(Hold(DRIVER, [actor_id]), WatchActor(actor_id), spec)
    stage.settle()
    worker = stage.worker_starts()
    (told,) = worker.take(ActorSpec)
    assert told.actor_id == actor_id
    worker.say(ActorStarted(actor_id))
    stage.settle()
    assert [update.state for update in driver.take(ActorUpdate)] == ["alive"]
    assert stage.ask("available_resources")["CPU"] == 1.0
    assert stage.ask("get_actor", namespace="", name="counter")["actor_id"] == actor_id
    stage.worker_dies(stage.zygote.ordered[0], 3)
    (update,) = driver.take(ActorUpdate)
    assert update.state == "dead"
    assert "status 3" in update.reason
    assert stage.ask("get_actor", namespace="", name="counter") is None


def test_a_stranger_who_talks_rubbish_is_shown_out_and_nobody_else_notices(stage: Stage) -> None:
    driver, stranger, unfit = stage.join(DRIVER), stage.connect(), stage.connect()
    stranger.connection._sock.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
    unfit.say(Release(DRIVER, []))  # no Hello first
    driver.say(LeaseRequest(1, ONE_CPU, "f"))
    stage.settle()
    stage.worker_starts()
    assert unfit.connection.closed
    assert len(driver.take(LeaseGrant)) == 1
