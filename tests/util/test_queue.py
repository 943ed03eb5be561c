"""Queue, as programs without an event loop use it."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import ActorDiedError, InvalidOptionError
from aioray.util.queue import Empty, Full, Queue
from tests.api.support import eventually
from tests.util.classes import Taker, fill, take, take_async

SHORT_S = 0.01


def test_items_come_out_in_the_order_in_which_they_went_in(shared_ray: Any) -> None:
    items = Queue()
    for number in range(5):
        items.put(number)
    assert (items.size(), items.qsize(), len(items), items.empty()) == (5, 5, 5, False)
    assert [items.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert items.empty()
    assert not items.full()


def test_a_queue_is_sent_to_tasks_that_put_and_get(shared_ray: Any) -> None:
    items = Queue(maxsize=1)  # so that they must wait for each other
    taken = [take.remote(items, 5), take_async.remote(items, 5)]
    shared_ray.get(fill.remote(items, list(range(10))))
    assert sorted(item for items in shared_ray.get(taken) for item in items) == list(range(10))


def test_a_full_queue_refuses_or_waits(shared_ray: Any) -> None:
    items = Queue(maxsize=2)
    items.put_nowait(1)
    items.put(2)
    assert items.full()
    with pytest.raises(Full):
        items.put_nowait(3)
    with pytest.raises(queue.Full):  # the standard library's, too
        items.put(3, timeout=SHORT_S)
    filled = fill.remote(items, [3])
    assert [items.get(), items.get(), items.get()] == [1, 2, 3]
    shared_ray.get(filled)


def test_an_empty_queue_refuses_or_waits(shared_ray: Any) -> None:
    items = Queue()
    with pytest.raises(Empty):
        items.get_nowait()
    with pytest.raises(Empty):
        items.get(block=False)
    with pytest.raises(queue.Empty):
        items.get(timeout=SHORT_S)
    taken = take.remote(items, 1)
    items.put("late")
    assert shared_ray.get(taken) == ["late"]


def test_a_wait_that_timed_out_takes_no_later_item(shared_ray: Any) -> None:
    items = Queue(maxsize=1)
    with pytest.raises(Empty):
        items.get(timeout=SHORT_S)
    items.put(1)
    with pytest.raises(Full):
        items.put(2, timeout=SHORT_S)
    assert items.get() == 1
    assert items.empty()


def test_batches_go_in_and_out_as_a_whole_or_not_at_all(shared_ray: Any) -> None:
    items = Queue(maxsize=4)
    items.put_nowait_batch(range(3))
    with pytest.raises(Full, match="no room for 2 items: 3 of 4 are in the queue"):
        items.put_nowait_batch([3, 4])
    with pytest.raises(Empty, match="4 items were asked for, and the queue holds 3"):
        items.get_nowait_batch(4)
    assert items.get_nowait_batch(2) == [0, 1]
    assert items.get_nowait_batch(0) == []
    assert items.size() == 1


def test_large_items_arrive_as_they_were(shared_ray: Any) -> None:
    items = Queue()
    array = np.arange(1_000_000)
    items.put(array)
    assert np.array_equal(items.get(), array)


def test_the_actor_takes_options(shared_ray: Any) -> None:
    items = Queue(actor_options={"name": "the queue", "num_cpus": 0})
    items.put(1)
    assert shared_ray.get(shared_ray.get_actor("the queue").size.remote()) == 1
    with pytest.raises(InvalidOptionError, match="num_cups"):
        Queue(actor_options={"num_cups": 1})


def test_a_task_that_is_cancelled_while_it_waits_takes_no_item(shared_ray: Any) -> None:
    items = Queue()
    reached = Queue()
    waiting = say_and_take.remote(reached, items)
    reached.get()
    shared_ray.cancel(waiting)
    with pytest.raises(aioray.exceptions.TaskCancelledError):
        shared_ray.get(waiting)
    items.put(1)
    assert items.get(timeout=10) == 1


@aioray.remote(num_cpus=0)
def say_and_take(reached: Queue, items: Queue) -> Any:
    reached.put(None)
    return items.get()


def test_a_process_that_dies_while_it_waits_takes_no_item(shared_ray: Any) -> None:
    """
    1. an actor waits for an item, for so long that the queue watches it
    2. it is killed; the queue hears of it, and gives the next item to somebody else
    """
    items = Queue()
    taker = Taker.remote()
    taker.take.remote(items)
    eventually(lambda: shared_ray.get(items.actor.watched.remote()) == 1)  # type: ignore[union-attr]
    shared_ray.kill(taker)
    eventually(lambda: shared_ray.get(items.actor.watched.remote()) == 0)  # type: ignore[union-attr]
    items.put(1)
    assert items.get(timeout=10) == 1


def test_who_waits_long_gets_its_item_all_the_same(shared_ray: Any) -> None:
    items = Queue()
    taken = take.remote(items, 1)
    eventually(lambda: shared_ray.get(items.actor.watched.remote()) == 1)  # type: ignore[union-attr]
    items.put("worth it")
    assert shared_ray.get(taken) == ["worth it"]
    eventually(lambda: shared_ray.get(items.actor.watched.remote()) == 0)  # type: ignore[union-attr]


def test_shutdown_waits_for_those_who_wait_and_not_for_ever(shared_ray: Any) -> None:
    items = Queue(maxsize=1)
    assert items.actor is not None
    waits = items.actor.get.remote(bytes(16), None)  # a task that waits might not have begun to when it is shut down
    items.put(1)
    items.shutdown()
    assert shared_ray.get(waits) == (True, 1)
    items.shutdown()  # once more does nothing
    with pytest.raises(RuntimeError, match="shut down"):
        items.put(1)

    items = Queue()
    waiting = take.remote(items, 1)
    items.shutdown(grace_period_s=SHORT_S)
    with pytest.raises(ActorDiedError):
        shared_ray.get(waiting)


def test_shutdown_by_force_does_not_wait(shared_ray: Any) -> None:
    items = Queue()
    waiting = take.remote(items, 1)
    items.shutdown(force=True, grace_period_s=1000)
    with pytest.raises(ActorDiedError):
        shared_ray.get(waiting)


def test_bad_input_is_refused_where_it_is_given(shared_ray: Any) -> None:
    for maxsize in ("1", 1.5, True, None):
        with pytest.raises(InvalidOptionError, match="maxsize"):
            Queue(maxsize)  # type: ignore[arg-type]
    items = Queue()
    with pytest.raises(ValueError, match="timeout=-1"):
        items.get(timeout=-1)
    with pytest.raises(ValueError, match="timeout=-1"):
        items.put(1, timeout=-1)
    with pytest.raises(InvalidOptionError, match="block"):
        items.get(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a str"):
        items.put_nowait_batch("abc")
    with pytest.raises(InvalidOptionError, match="num_items"):
        items.get_nowait_batch(-1)
    with pytest.raises(InvalidOptionError, match="grace_period_s"):
        items.shutdown(grace_period_s=-1)
    assert items.empty()
