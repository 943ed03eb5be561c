"""Collective calls of actors and tasks, and what becomes of a group when a member fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioray.exceptions import InvalidOptionError
from aioray.util import collective
from aioray.util.collective import CollectiveError, ReduceOp
from aioray.util.collective.hub import NAME, NAMESPACE
from tests.api.support import eventually
from tests.util.members import AsyncMember, LightMember, Member, member_task

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture(scope="module")
def ray(shared_ray: Any) -> Any:
    return shared_ray


def new_group(ray: Any, count: int, **options: Any) -> list[Any]:
    members = [Member.remote() for _ in range(count)]
    ray.get([member.__ray_ready__.remote() for member in members])  # who starts slowly would join too late
    ray.get([member.init.remote(count, rank, **options) for rank, member in enumerate(members)])
    return members


@pytest.fixture(scope="module")
def three(ray: Any) -> Iterator[list[Any]]:
    members = new_group(ray, 3)
    yield members
    ray.get([member.destroy.remote() for member in members])


# calls


def test_each_member_knows_its_place(ray: Any, three: list[Any]) -> None:
    assert ray.get([member.where.remote() for member in three]) == [(True, 0, 3), (True, 1, 3), (True, 2, 3)]
    assert ray.get(three[0].where.remote("another")) == (False, -1, -1)
    assert not collective.is_group_initialized()


@pytest.mark.parametrize(
    ("op", "result"),
    [(ReduceOp.SUM, [6, 9]), (ReduceOp.PRODUCT, [6, 24]), (ReduceOp.MIN, [1, 2]), (ReduceOp.MAX, [3, 4])],
)
def test_allreduce_leaves_the_same_reduction_with_all(ray: Any, three: list[Any], op: ReduceOp, result: Any) -> None:
    results = ray.get([member.allreduce.remote([rank + 1, rank + 2], op) for rank, member in enumerate(three)])
    assert [array.tolist() for array in results] == [result] * 3


def test_large_arrays_are_reduced_in_slices_through_shared_memory(ray: Any, three: list[Any]) -> None:
    results = ray.get([member.allreduce_large.remote(8 * MIB, rank) for rank, member in enumerate(three)])
    assert results == [(6.0, 30.0)] * 3


def test_the_other_calls_do_what_their_names_say(ray: Any, three: list[Any]) -> None:
    results = ray.get([member.broadcast.remote([rank, rank], 1) for rank, member in enumerate(three)])
    assert [array.tolist() for array in results] == [[1, 1]] * 3
    results = ray.get([member.reduce.remote([rank, 1], 2) for rank, member in enumerate(three)])
    assert [array.tolist() for array in results] == [[0, 1], [1, 1], [3, 3]]
    gathered = ray.get([member.allgather.remote([rank], 3) for rank, member in enumerate(three)])
    assert [[array.tolist() for array in arrays] for arrays in gathered] == [[[0], [1], [2]]] * 3
    parts = [np.array([n, n]) for n in range(3)]
    results = ray.get([member.reducescatter.remote(parts) for member in three])
    assert [array.tolist() for array in results] == [[0, 0], [3, 3], [6, 6]]
    ray.get([member.barrier.remote() for member in three])


def test_two_members_send_and_receive_in_order(ray: Any, three: list[Any]) -> None:
    large = np.arange(MIB, dtype=float)
    received = three[2].recv.remote(np.zeros(2), 0)
    three[0].send.remote([1.0, 2.0], 2)
    three[0].send.remote(large, 2)
    assert ray.get(received).tolist() == [1.0, 2.0]
    assert np.array_equal(ray.get(three[2].recv.remote(np.zeros(MIB), 0)), large)


def test_tasks_may_be_members_and_a_name_is_used_again(ray: Any) -> None:
    for _ in range(3):
        assert ray.get([member_task.remote(2, rank) for rank in range(2)]) == [[1.0], [1.0]]


def test_async_actors_await_their_calls(ray: Any) -> None:
    members = [AsyncMember.remote() for _ in range(2)]
    results = ray.get([member.run.remote(2, rank) for rank, member in enumerate(members)])
    assert results == [[[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]], [[1.0, 2.0], [1.0, 2.0], [2.0, 2.0], [5.0]]]
    assert ray.get(members[0].refused.remote()) == "await barrier_async(...)"


def test_actors_that_share_a_process_are_members_each_for_itself(ray: Any) -> None:
    members = [LightMember.remote() for _ in range(3)]
    for no_restart in (False, True):
        processes = ray.get([member.init.remote(3, rank) for rank, member in enumerate(members)])
        assert len(set(processes)) == 1
        assert ray.get([member.where.remote() for member in members]) == [(0, 3), (1, 3), (2, 3)]
        assert ray.get([member.allreduce.remote() for member in members]) == [6.0, 6.0, 6.0]
        # One of them ends, and its process does not: the others hear of it, and its next life is in no group.
        waiting = [member.barrier.remote() for member in members[:2]]
        ray.kill(members[2], no_restart=no_restart)
        for ref in waiting:
            with pytest.raises(CollectiveError, match="rank 2 gave up: its actor is gone"):
                ray.get(ref, timeout=10)
        ray.get([member.destroy.remote() for member in members[:2]])
        if not no_restart:
            assert ray.get(members[2].where.remote()) == (-1, -1)


def test_a_group_can_be_created_for_actors_that_know_nothing_of_it(ray: Any) -> None:
    members = [Member.remote() for _ in range(2)]
    for _ in range(2):  # and again, after it was destroyed
        collective.create_collective_group(members, 2, [1, 0], group_name="created", timeout_s=60)
        with pytest.raises(ValueError, match="exists already"):
            collective.create_collective_group(members, 2, [1, 0], group_name="created")
        refs = [member.allreduce.remote([n], ReduceOp.SUM, "created") for n, member in enumerate(members)]
        assert [array.tolist() for array in ray.get(refs)] == [[1], [1]]
        assert ray.get(members[0].where.remote("created")) == (True, 1, 2)
        collective.destroy_collective_group("created")
    with pytest.raises(RuntimeError, match="not in a group called 'created'"):
        ray.get(members[0].allreduce.remote([1], ReduceOp.SUM, "created"))


# failures


def number_watched(ray: Any, group: str) -> int:
    """How many members of a group that is not complete yet would be missed if they died."""
    try:
        hub = ray.get_actor(NAME, NAMESPACE)
    except ValueError:  # nobody has needed it so far
        return 0

    def count(hub: Any) -> int:
        meeting = hub._meetings.get(group)
        return sum(len(generation.watches) for generation in meeting._generations.values()) if meeting else 0

    found: int = ray.get(hub.__ray_call__.remote(count))
    return found


def test_when_a_member_dies_the_others_hear_of_it_at_once(ray: Any) -> None:
    members = new_group(ray, 3, name="mortal")
    waiting = [member.barrier.remote("mortal") for member in members[:2]]
    members[2].die.remote()
    for ref in (*waiting, members[0].barrier.remote("mortal")):
        with pytest.raises(CollectiveError, match="group 'mortal': rank 2 died"):
            ray.get(ref, timeout=10)
    # The name is free again when the survivors have let go of it.
    ray.get([member.destroy.remote("mortal") for member in members[:2]])
    members[2] = Member.remote()
    ray.get([member.init.remote(3, rank, "mortal") for rank, member in enumerate(members)])
    ray.get([member.barrier.remote("mortal") for member in members])


def test_a_member_that_dies_before_all_are_there_ends_the_wait_of_those_that_are(ray: Any) -> None:
    first, second = Member.remote(), Member.remote()
    joining = [first.init.remote(3, 0, "early"), second.init.remote(3, 1, "early")]
    eventually(lambda: number_watched(ray, "early") == 2)
    ray.kill(second)
    with pytest.raises(CollectiveError, match="rank 1 died"):
        ray.get(joining[0], timeout=10)
    assert ray.get(first.where.remote("early")) == (False, -1, -1)


def test_who_does_not_come_in_time_is_named(ray: Any) -> None:
    members = new_group(ray, 3, name="late", timeout_s=0.2)
    with pytest.raises(CollectiveError, match=r"ranks 1, 2 did not come to barrier\(\) within 0\.2 s"):
        ray.get(members[0].barrier.remote("late"))
    with pytest.raises(CollectiveError, match="did not come"):
        ray.get(members[1].barrier.remote("late"))
    with pytest.raises(CollectiveError, match=r"rank 1 did not join within 0\.2 s"):
        ray.get(Member.remote().init.remote(2, 0, "alone", 0.2))


def test_members_that_make_different_calls_are_told_so(ray: Any) -> None:
    members = new_group(ray, 2, name="confused")
    refs = [
        members[0].allreduce.remote([1], ReduceOp.SUM, "confused"),
        members[1].allreduce.remote([1, 2], ReduceOp.SUM, "confused"),
    ]
    for ref in refs:
        with pytest.raises(CollectiveError, match=r"different calls: .* allreduce\(int64\[.\], SUM\)"):
            ray.get(ref)


def test_a_member_that_leaves_ends_the_calls_of_the_others(ray: Any) -> None:
    members = new_group(ray, 2, name="left")
    ray.get(members[1].destroy.remote("left"))
    with pytest.raises(CollectiveError, match="rank 1 has destroyed its part"):
        ray.get(members[0].barrier.remote("left"))


def test_a_rank_can_be_taken_only_once(ray: Any) -> None:
    members = new_group(ray, 2, name="taken")
    with pytest.raises(RuntimeError, match="in a group called 'taken' already"):
        ray.get(members[0].init.remote(2, 0, "taken"))
    with pytest.raises(ValueError, match="rank 0 of group 'taken' is taken"):
        ray.get(Member.remote().init.remote(2, 0, "taken"))


def test_bad_input_is_refused_where_it_is_given(ray: Any) -> None:
    for options, named in [
        ({"world_size": 0, "rank": 0}, "world_size"),
        ({"world_size": 2, "rank": 2}, "rank"),
        ({"world_size": 2, "rank": 0, "backend": "nccl"}, "backend"),
        ({"world_size": 2, "rank": 0, "group_name": ""}, "group_name"),
        ({"world_size": 2, "rank": 0, "timeout_s": -1}, "timeout_s"),
    ]:
        with pytest.raises(InvalidOptionError, match=named):
            collective.init_collective_group(**options)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not in a group called 'default'"):
        collective.barrier()
    collective.init_collective_group(1, 0, group_name="solo")
    array = np.ones(2)
    with pytest.raises(TypeError, match="numpy arrays, not list"):
        collective.allreduce([1, 2], "solo")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="op"):
        collective.allreduce(array, "solo", "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read-only"):
        collective.allreduce(np.broadcast_to(array, (2, 2)), "solo")
    with pytest.raises(InvalidOptionError, match="src_rank"):
        collective.broadcast(array, 1, "solo")
    with pytest.raises(InvalidOptionError, match="that is this one"):
        collective.send(array, 0, "solo")
    with pytest.raises(InvalidOptionError, match="tensor_list"):
        collective.allgather([array, array], array, "solo")
    collective.allreduce(array, "solo")  # none of that has hurt the group
    collective.destroy_collective_group("solo")
    members = [Member.remote(), Member.remote()]
    with pytest.raises(InvalidOptionError, match="ranks"):
        collective.create_collective_group(members, 2, [0, 0])
    with pytest.raises(InvalidOptionError, match="world_size"):
        collective.create_collective_group(members, 3, [0, 1, 2])
