"""Values that are put, passed and returned: what arrives, what it costs, and when its memory is free again."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray as ray
from aioray.exceptions import GetTimeoutError, InvalidOptionError, ObjectStoreFullError, SerializationError
from tests.api.support import Meeting, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

MIB = 1 << 20
LARGE = 300_000  # bytes: more than travels inside a message


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=2, object_store_memory=64 * MIB, _system_config={"store_full_wait_s": 2.0}):
        yield ray


@pytest.fixture
def baseline(machine: Any) -> Iterator[dict[str, int]]:
    """What the store held before the test; it must hold no more afterwards."""
    gc.collect()
    eventually(lambda: not (store()["used_nbytes"] or store()["known_objects"]), lambda: f"left by others: {store()}")
    before = store()
    yield before
    store_returns_to(before)


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def filled(nbytes: int, value: int = 1) -> Any:
    return np.full(nbytes, value, np.uint8)


@ray.remote
def total(array: Any) -> int:
    return int(array.sum(dtype=np.int64))


@ray.remote
def describe(value: Any) -> tuple[str, Any]:
    return type(value).__name__, getattr(value, "readonly", None)


class Keeping:
    """Keeps what it is given: values or, inside a list, refs."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def keep(self, name: str, value: Any) -> None:
        self.kept[name] = value

    def get(self, name: str) -> Any:
        return ray.get(self.kept[name][0])

    def ref(self, name: str) -> Any:
        return self.kept[name]

    def checksum(self, name: str) -> int:
        return int(np.asarray(self.kept[name]).sum(dtype=np.int64))

    def drop(self, name: str) -> None:
        del self.kept[name]


Keeper = ray.remote(Keeping)


# what comes back is what went in


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        -(10**30),
        1.5,
        "text",
        b"bytes",
        bytearray(b"array"),
        [1, [2, {"three": (4,)}]],
        {1, 2},
        range(10),
        slice(1, 2),
        b"x" * LARGE,
        bytearray(b"y" * LARGE),
        "z" * LARGE,
        list(range(50_000)),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(str(value))}",
)
def test_a_value_survives_put_argument_and_return(baseline: dict[str, int], value: Any) -> None:
    for ref in [ray.put(value), same.remote(value), same.remote(ray.put(value)), same.remote(same.remote(value))]:
        result = ray.get(ref)
        assert result == value
        assert type(result) is type(value)


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "c16", "M8[ns]", "S5", "?", "O"])
@pytest.mark.parametrize("shape", [(0,), (3,), (40_000,), (200, 300), (20, 30, 100)])
def test_arrays_survive_in_every_shape_and_type(machine: Any, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    for ref in [ray.put(array), same.remote(array)]:
        result = ray.get(ref)
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        assert (result == array).all()


def test_arrays_that_are_not_contiguous_survive(machine: Any) -> None:
    base = np.arange(400_000).reshape(1000, 400)
    for view in [base[::2], base.T, base[:, ::-3], np.asfortranarray(base)]:
        assert (ray.get(same.remote(view)) == view).all()
        assert (ray.get(ray.put(view)) == view).all()


def test_memoryviews_arrive_as_memoryviews(machine: Any) -> None:
    for view in [memoryview(b"small"), memoryview(bytearray(LARGE)), memoryview(b"ab" * LARGE)[::2]]:
        result = ray.get(ray.put(view))
        assert type(result) is memoryview
        assert bytes(result) == bytes(view)
        assert ray.get(describe.remote(view))[0] == "memoryview"


def test_dataframes_and_arrow_tables_travel_without_their_bytes_being_copied_on_arrival(
    baseline: dict[str, int],
) -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": np.arange(100_000), "b": np.arange(100_000) / 3, "c": ["x", "y"] * 50_000})
    table = pyarrow.table({"a": np.arange(100_000), "b": [f"row {n}" for n in range(100_000)]})
    assert ray.get(same.remote(frame)).equals(frame)
    assert ray.get(ray.put(frame)).equals(frame)
    assert ray.get(same.remote(table)).equals(table)
    ref = ray.put(frame)
    one, other = ray.get(ref)["a"].to_numpy(), ray.get(ref)["a"].to_numpy()
    assert np.shares_memory(one, other)
    del one, other, ref


def test_one_object_is_one_object_however_often_it_is_in_the_value(machine: Any) -> None:
    inner = [1]
    cycle: list[Any] = [inner, inner]
    cycle.append(cycle)
    result = ray.get(ray.put(cycle))
    assert result[0] is result[1]
    assert result[2] is result


def test_changing_what_was_put_or_passed_does_not_change_the_object(machine: Any) -> None:
    values: list[Any] = [[1], bytearray(b"a" * LARGE), np.zeros(LARGE)]
    refs = [ray.put(value) for value in values] + [same.remote(value) for value in values]
    for value in values:
        value[0] = 77
    for ref in refs:
        assert ray.get(ref)[0] != 77


# large values: shared memory


def test_large_arrays_are_read_only_views_of_the_same_memory(baseline: dict[str, int]) -> None:
    ref = ray.put(np.arange(100_000))
    one, other = ray.get(ref), ray.get(ref)
    assert np.shares_memory(one, other)
    assert not one.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1
    del one, other


def test_a_task_reads_a_large_argument_in_place(baseline: dict[str, int]) -> None:
    @ray.remote
    def look(array: Any) -> tuple[bool, bool]:
        return array.flags.owndata, array.flags.writeable

    ref = ray.put(np.zeros(MIB))
    used = store()["used_nbytes"]
    assert ray.get([look.remote(ref) for _ in range(10)]) == [(False, False)] * 10
    assert store()["used_nbytes"] == used


def test_buffers_lie_where_arrays_like_them(machine: Any) -> None:
    result = ray.get(ray.put([np.ones(LARGE + n) for n in range(3)]))
    assert [array.ctypes.data % 64 for array in result] == [0, 0, 0]


def test_results_larger_than_a_message_come_through_shared_memory(baseline: dict[str, int]) -> None:
    refs = [filled.remote(size, 3) for size in (100 * 1024 - 200, 100 * 1024, 100 * 1024 + 1, 5 * MIB)]
    for ref in refs:
        array = ray.get(ref)
        assert (array == 3).all()
        del array


def test_large_results_are_given_on_to_other_tasks_and_other_processes_of_theirs(baseline: dict[str, int]) -> None:
    @ray.remote
    def through(refs: list[Any]) -> Any:
        return ray.get(total.remote(refs[0]))

    ref = filled.remote(2 * MIB)
    assert ray.get([total.remote(ref), through.remote([ref]), total.remote(ref)]) == [2 * MIB] * 3


def test_a_live_view_keeps_its_bytes_although_refs_are_gone_and_the_store_is_reused(
    baseline: dict[str, int],
) -> None:
    kept = {n: ray.get(ray.put(np.full(MIB, n, np.uint8))) for n in range(5)}
    returned = {n: ray.get(filled.remote(MIB, n)) for n in range(5, 10)}
    sliced = ray.get(ray.put(np.full(MIB, 99, np.uint8)))[1000:2000:7]
    for n in range(200):  # the store has room for 64 of these
        ray.put(np.full(MIB, 255 - n % 100, np.uint8))
    for _ in range(50):
        ray.get(filled.remote(MIB, 201))
    for n, array in {**kept, **returned}.items():
        assert (array == n).all()
    assert (sliced == 99).all()
    del kept, returned, sliced, array


def test_a_view_in_an_actor_keeps_its_bytes_although_the_caller_let_go(baseline: dict[str, int]) -> None:
    keeper = Keeper.remote()
    for n in range(5):
        ray.get(keeper.keep.remote(str(n), ray.put(np.full(MIB, n, np.uint8))))
    for _ in range(150):
        ray.put(np.full(MIB, 200, np.uint8))
    assert ray.get([keeper.checksum.remote(str(n)) for n in range(5)]) == [n * MIB for n in range(5)]
    assert store()["used_nbytes"] >= 5 * MIB
    with_nothing_kept = store()["known_objects"] - 5
    for n in range(5):
        ray.get(keeper.drop.remote(str(n)))
    eventually(lambda: store()["known_objects"] == with_nothing_kept)
    eventually(lambda: store()["used_nbytes"] == 0)


# refs inside values


def test_refs_in_values_in_refs_stay_alive_as_long_as_the_outermost(baseline: dict[str, int]) -> None:
    nested = ray.put([ray.put([ray.put(np.full(LARGE, 7, np.uint8))])])
    for _ in range(3):
        ray.put(np.zeros(MIB))
    middle = ray.get(nested)[0]
    del nested
    inner = ray.get(middle)[0]
    del middle
    assert (ray.get(inner) == 7).all()
    del inner


def test_a_ref_borrowed_by_an_actor_lives_on_when_the_caller_drops_it(baseline: dict[str, int]) -> None:
    keeper = Keeper.remote()
    small, large, pending = ray.put("small"), ray.put(np.full(MIB, 5, np.uint8)), filled.remote(MIB, 6)
    ray.get([keeper.keep.remote("small", [small]), keeper.keep.remote("large", [large])])
    ray.get(keeper.keep.remote("pending", [pending]))
    del small, large, pending
    for _ in range(100):
        ray.put(np.zeros(MIB))
    assert ray.get(keeper.get.remote("small")) == "small"
    assert (ray.get(keeper.get.remote("large")) == 5).all()
    assert (ray.get(keeper.get.remote("pending")) == 6).all()
    back = ray.get(keeper.ref.remote("large"))
    ray.get(keeper.drop.remote("large"))
    assert (ray.get(back[0]) == 5).all()
    del back
    ray.get([keeper.drop.remote("small"), keeper.drop.remote("pending")])
    eventually(lambda: store()["used_nbytes"] == 0)


def test_refs_and_views_go_with_the_actor_that_held_them(baseline: dict[str, int]) -> None:
    keeper = Keeper.remote()
    ray.get(keeper.keep.remote("ref", [ray.put(np.zeros(MIB))]))
    ray.get(keeper.keep.remote("view", ray.put(np.zeros(MIB))))
    assert store()["used_nbytes"] >= 2 * MIB
    ray.kill(keeper)
    eventually(lambda: store()["used_nbytes"] == 0)


def test_a_ref_that_is_passed_on_through_many_tasks_is_freed_at_the_end(baseline: dict[str, int]) -> None:
    @ray.remote
    def relay(refs: list[Any], hops: int) -> Any:
        return refs if hops == 0 else ray.get(relay.remote(refs, hops - 1))

    result = ray.get(relay.remote([ray.put(np.full(LARGE, 9, np.uint8))], 4))
    assert (ray.get(result[0]) == 9).all()
    del result


def test_a_ref_comes_back_as_the_same_object(machine: Any) -> None:
    ref = ray.put(1)
    assert ray.get(same.remote([ref]))[0] is ref
    assert ray.get(ray.put({"r": ref}))["r"] is ref


# counting


def test_small_objects_are_never_told_to_the_node(baseline: dict[str, int]) -> None:
    refs = [ray.put(n) for n in range(100)] + [same.remote(n) for n in range(100)]
    ray.get(refs)
    assert store() == baseline


def test_memory_is_free_again_when_the_last_ref_goes(baseline: dict[str, int]) -> None:
    refs = [ray.put(np.zeros(MIB)) for _ in range(4)]
    assert store()["used_nbytes"] >= 32 * MIB
    ray.get([total.remote(ref) for ref in refs])
    assert store()["known_objects"] == baseline["known_objects"] + 4
    del refs
    store_returns_to(baseline)


def test_arguments_that_were_too_large_to_send_are_freed_after_the_call(baseline: dict[str, int]) -> None:
    array = np.ones(MIB, np.uint8)
    assert ray.get([total.remote(array) for _ in range(100)]) == [MIB] * 100


def test_results_that_nobody_looks_at_are_freed(baseline: dict[str, int]) -> None:
    for _ in range(5):
        refs = [filled.remote(MIB) for _ in range(10)]
        ray.wait(refs, num_returns=10)
        del refs
    [filled.remote(MIB) for _ in range(10)]  # dropped before they ran
    ray.get(same.remote(None))


def test_errors_hold_no_arguments(baseline: dict[str, int]) -> None:
    @ray.remote
    def fail(array: Any, refs: list[Any]) -> None:
        local = array[:10]
        raise ValueError(f"{local.sum()}")

    for _ in range(5):
        with pytest.raises(ValueError, match="0"):
            ray.get(fail.remote(ray.put(np.zeros(MIB)), [ray.put(np.zeros(LARGE))]))


def test_threads_that_put_get_and_drop_leave_nothing(baseline: dict[str, int]) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in range(40):
                value = (seed * 40 + n) % 250
                ref = ray.put(np.full(LARGE, value, np.uint8))
                result = same.remote([ref, ref])
                assert ray.get(total.remote(ref)) == value * LARGE
                assert (ray.get(ray.get(result)[0]) == value).all()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_chain_of_large_results_recycles_the_store(baseline: dict[str, int]) -> None:
    ref: Any = filled.remote(6 * MIB)
    for _ in range(60):
        ref = same.remote(ref)
    assert (ray.get(ref) == 1).all()


def test_puts_and_results_take_turns_in_a_store_that_holds_one_of_each(baseline: dict[str, int]) -> None:
    """What one process lets go is there for the other one without a wait."""
    for n in range(20):
        ref = ray.put(np.full(28 * MIB, n, np.uint8))
        assert ray.get(total.remote(ref)) == n * 28 * MIB
        del ref
        result = filled.remote(28 * MIB, n)
        assert int(ray.get(result)[5]) == n
        del result


# a full store


def test_what_can_never_fit_is_refused_at_once_with_the_figures(machine: Any) -> None:
    with pytest.raises(ObjectStoreFullError, match="no room for") as caught:
        ray.put(np.zeros(65 * MIB, np.uint8))
    assert caught.value.nbytes_asked >= 65 * MIB
    assert caught.value.nbytes_capacity == 64 * MIB


def test_a_full_store_refuses_put_and_results_and_recovers() -> None:
    ray.shutdown()
    with started(num_cpus=1, object_store_memory=16 * MIB, _system_config={"store_full_wait_s": 0.1}):
        before = store()
        refs: list[Any] = []

        def fill() -> None:
            while True:
                refs.append(ray.put(np.zeros(3 * MIB, np.uint8)))

        with pytest.raises(ObjectStoreFullError):
            fill()
        assert len(refs) >= 4
        with pytest.raises(ObjectStoreFullError):
            ray.get(filled.remote(8 * MIB))
        with pytest.raises(ObjectStoreFullError):
            total.remote(np.zeros(8 * MIB, np.uint8))
        assert ray.get(total.remote(refs[0])) == 0
        refs.clear()
        assert ray.get(total.remote(np.ones(8 * MIB, np.uint8))) == 8 * MIB
        store_returns_to(before)


def test_a_put_into_a_full_store_waits_for_room(tmp_path: pathlib.Path) -> None:
    ray.shutdown()
    with started(num_cpus=1, object_store_memory=16 * MIB, _system_config={"store_full_wait_s": 20.0}):
        held = [ray.put(np.zeros(10 * MIB, np.uint8))]
        asked = threading.Event()
        done: list[Any] = []

        def put() -> None:
            asked.set()
            done.append(ray.put(np.zeros(10 * MIB, np.uint8)))

        thread = threading.Thread(target=put)
        thread.start()
        asked.wait()
        assert ray.get(total.remote(held[0])) == 0  # the others go on meanwhile
        held.clear()
        thread.join(10)
        assert len(done) == 1
        done.clear()


def test_several_results_that_do_not_fit_together_leave_nothing_behind() -> None:
    ray.shutdown()
    with started(num_cpus=1, object_store_memory=16 * MIB, _system_config={"store_full_wait_s": 0.0}):
        before = store()

        @ray.remote(num_returns=3)
        def three() -> list[Any]:
            return [np.zeros(7 * MIB, np.uint8) for _ in range(3)]

        for ref in three.remote():
            with pytest.raises(ObjectStoreFullError):
                ray.get(ref)
        del ref
        store_returns_to(before)
        assert ray.get(total.remote(np.ones(14 * MIB, np.uint8))) == 14 * MIB


# get and wait


def test_get_takes_a_ref_or_a_list_of_refs_and_nothing_else(machine: Any) -> None:
    ref = ray.put(1)
    assert ray.get(ref) == 1
    assert ray.get([ref, ref]) == [1, 1]
    assert ray.get([]) == []
    bad: list[Any] = [1, None, "ref", [1], [ref, 2], {"a": ref}, b"0" * 16]
    for wrong in bad:
        with pytest.raises(TypeError, match="ref"):
            ray.get(wrong)


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_a_timeout_is_none_or_seconds(machine: Any, timeout: Any) -> None:
    ref = ray.put(1)
    with pytest.raises(InvalidOptionError, match="timeout"):
        ray.get(ref, timeout=timeout)
    with pytest.raises(InvalidOptionError, match="timeout"):
        ray.wait([ref], timeout=timeout)


def test_get_gives_up_after_its_timeout_and_the_value_can_still_be_had(machine: Any, tmp_path: pathlib.Path) -> None:
    go = Meeting(tmp_path / "go")
    ref = ray.remote(go.wait).remote()
    for timeout in (0, 0.01, 0.1):
        with pytest.raises(GetTimeoutError) as caught:
            ray.get([ray.put(1), ref], timeout=timeout)
        assert caught.value.timeout_s == timeout
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0)
    go.here()
    assert ray.get(ref, timeout=10) is None
    assert ray.get(ref, timeout=0) is None


def test_wait_returns_what_is_done_in_the_order_given_and_at_most_as_many_as_asked(
    machine: Any, tmp_path: pathlib.Path
) -> None:
    go = Meeting(tmp_path / "go")
    slow = ray.remote(go.wait).remote()
    ready = [ray.put(n) for n in range(4)]
    assert ray.wait([slow, *ready]) == ([ready[0]], [slow, *ready[1:]])
    assert ray.wait([ready[3], slow, ready[1]], num_returns=2) == ([ready[3], ready[1]], [slow])
    assert ray.wait([slow, *ready], num_returns=5, timeout=0) == (ready, [slow])
    assert ray.wait([slow, *ready], num_returns=5, timeout=0.02) == (ready, [slow])
    assert ray.wait([slow], timeout=0) == ([], [slow])
    go.here()
    assert ray.wait([slow, *ready], num_returns=5) == ([slow, *ready], [])


def test_wait_counts_errors_as_done(machine: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("counted")

    refs = [fail.remote() for _ in range(3)]
    assert ray.wait(refs, num_returns=3) == (refs, [])


def test_wait_refuses_what_makes_no_sense(machine: Any) -> None:
    ref = ray.put(1)
    with pytest.raises(ValueError, match="more than once"):
        ray.wait([ref, ref])
    for num_returns in (0, -1, 2, 1.5, True, "1"):
        with pytest.raises(InvalidOptionError, match="num_returns"):
            ray.wait([ref], num_returns=num_returns)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"wait\(\[ref\]\)"):
        ray.wait(ref)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="item 1"):
        ray.wait([ref, 5])  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="fetch_local"):
        ray.wait([ref], fetch_local=None)  # type: ignore[arg-type]


def test_who_waits_for_nothing_has_it_at_once(machine: Any) -> None:
    assert ray.wait([]) == ([], [])
    assert ray.wait([], num_returns=3, timeout=0) == ([], [])

    async def in_a_loop() -> Any:
        return await ray.wait([])

    assert asyncio.run(in_a_loop()) == ([], [])


def test_as_completed_yields_refs_as_they_get_done_and_keeps_its_timeout(machine: Any, tmp_path: pathlib.Path) -> None:
    go = Meeting(tmp_path / "go")
    slow = ray.remote(go.wait).remote()
    quick = [same.remote(n) for n in range(5)]
    arriving = iter(ray.as_completed([slow, *quick], timeout=0.3))
    assert sorted(ray.get(next(arriving)) for _ in quick) == [0, 1, 2, 3, 4]
    with pytest.raises(TimeoutError, match="1 of 6"):
        next(arriving)
    go.here()
    assert list(ray.as_completed([slow])) == [slow]


def test_put_refuses_refs_and_names_what_it_cannot_pickle(machine: Any) -> None:
    with pytest.raises(TypeError, match="ref to a ref"):
        ray.put(ray.put(1))
    with pytest.raises(SerializationError, match=r"value\['model'\]\.lock|value\['model'\]\[0\]"):
        ray.put({"model": [threading.Lock()]})


def test_refs_compare_copy_and_serve_as_keys(machine: Any) -> None:
    import copy

    one, other = ray.put(1), ray.put(1)
    assert one == one
    assert one != other
    assert {one: "a", other: "b"}[one] == "a"
    assert copy.copy(one) is one
    assert copy.deepcopy([one])[0] is one
    assert len(one.hex()) == 32
    assert bytes.fromhex(one.hex()) == one.binary()
    assert one.hex() in repr(one)


def test_a_ref_as_a_concurrent_future(machine: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise KeyError("k")

    assert same.remote(5).future().result(10) == 5
    assert isinstance(fail.remote().future().exception(10), KeyError)


def test_a_callback_of_a_future_may_wait_for_a_lock_whose_owner_waits_for_the_cluster(machine: Any) -> None:
    gate = threading.Lock()
    begun, done = threading.Event(), threading.Event()

    def wait_for_the_gate(_: Any) -> None:
        begun.set()
        with gate:
            done.set()

    with gate:
        same.remote(1).future().add_done_callback(wait_for_the_gate)
        assert begun.wait(10)
        assert ray.get([same.remote(number) for number in range(200)], timeout=10) == list(range(200))
    assert done.wait(10)
