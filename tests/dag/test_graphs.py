"""Graphs of calls: written down once, run as often as needed."""

from __future__ import annotations

import os
from typing import Any

import pytest

import aioray
from aioray.dag import (
    ClassMethodNode,
    ClassNode,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)


def add(a: Any, b: Any) -> Any:
    return a + b


def total(values: list[Any]) -> Any:
    return sum(aioray.get(values))


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, n: int) -> int:
        self.count += n
        return self.count

    def two(self) -> tuple[int, int]:
        return self.count, os.getpid()


remote_add = aioray.remote(add)
remote_counter = aioray.remote(Counter)


def test_a_chain_of_functions_runs_with_each_input(ray: Any) -> None:
    with InputNode() as x:
        graph = remote_add.bind(remote_add.bind(x, 1), 10)
    assert isinstance(graph, FunctionNode)
    assert ray.get([graph.execute(i) for i in range(3)]) == [11, 12, 13]


async def test_a_graph_is_awaited(cluster: aioray.Cluster) -> None:
    with InputNode() as x:
        graph = MultiOutputNode([remote_add.bind(x, 1), remote_add.bind(x, 2)])
    assert [await ref for ref in graph.execute(1)] == [2, 3]


def test_a_node_that_two_need_runs_once_for_each_execute(ray: Any) -> None:
    counter = remote_counter.bind(100)
    shared = counter.add.bind(1)
    graph = remote_add.bind(shared, shared)
    assert ray.get(graph.execute()) == 202
    assert ray.get(graph.execute()) == 204


def test_actors_of_a_graph_are_created_once_for_all_graphs_that_have_them(ray: Any) -> None:
    counter = remote_counter.bind(5)
    with InputNode() as x:
        one, other = counter.add.bind(x), remote_add.bind(counter.add.bind(x), 0)
    assert ray.get(one.execute(1)) == 6
    assert ray.get(other.execute(1)) == 7
    assert ray.get(counter.execute().add.remote(1)) == 8


def test_a_graph_of_an_actor_lives_on_in_the_next_cluster(nothing_left: None) -> None:
    graph = remote_counter.bind(5).add.bind(1)
    for _ in range(2):
        with aioray.init(num_cpus=1):
            assert aioray.get(graph.execute()) == 6


def test_methods_of_an_actor_that_is_there_can_be_bound(ray: Any) -> None:
    counter = remote_counter.remote(1)
    with InputNode() as x:
        graph = counter.add.bind(x)
    del counter  # the graph holds it
    assert [ray.get(graph.execute(2)) for _ in range(3)] == [3, 5, 7]


def test_parts_of_the_input_by_position_by_name_and_of_one_value(ray: Any) -> None:
    with InputNode() as x:
        by_position, by_name = remote_add.bind(x[0], x[1]), remote_add.bind(x[0], x.key)
        item, attribute = remote_add.bind(x["a"], 1), remote_add.bind(x.real, x.imag)
    assert ray.get(by_position.execute(1, 2)) == 3
    assert ray.get(by_name.execute(1, key=5)) == 6
    assert ray.get(by_position.execute([1, 2])) == 3
    assert ray.get(item.execute({"a": 1})) == 2
    assert ray.get(attribute.execute(1 + 2j)) == 3


def test_nodes_are_found_in_containers_and_arrive_as_refs(ray: Any) -> None:
    with InputNode() as x:
        graph = aioray.remote(total).bind([remote_add.bind(x, 1), remote_add.bind(x, 2)])
    assert ray.get(graph.execute(1)) == 5


def test_several_outputs_and_several_values_of_one_call(ray: Any) -> None:
    counter = remote_counter.bind(3)
    count, pid = ray.get(MultiOutputNode([counter.two.options(num_returns=2).bind()]).execute()[0])
    assert (count, pid != os.getpid()) == (3, True)


def test_a_long_chain_is_no_deeper_than_a_short_one(ray: Any) -> None:
    with InputNode() as x:
        graph: DAGNode = x
        for _ in range(2000):
            graph = remote_add.bind(graph, 1)
    assert ray.get(graph.execute(0)) == 2000


def test_an_error_goes_through_the_graph(ray: Any) -> None:
    with InputNode() as x:
        graph = remote_add.bind(remote_add.bind(x, "text"), 1)
    with pytest.raises(TypeError):
        ray.get(graph.execute(1))


def test_what_cannot_be_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="add"):
        remote_add.bind(1)
    with pytest.raises(TypeError, match="Counter"):
        remote_counter.bind(1, 2, 3)
    with pytest.raises(AttributeError, match=r"has no method 'no'; it has: .*add"):
        remote_counter.bind().no.bind()
    with pytest.raises(ValueError, match="cannot be an argument of a constructor"), InputNode() as x:
        remote_counter.bind(x)
    with pytest.raises(TypeError, match="takes nodes, not int"):
        MultiOutputNode([3])  # type: ignore[list-item]


def test_arguments_that_the_graph_does_not_take_are_refused() -> None:
    with pytest.raises(TypeError, match="the graph has no InputNode"):
        remote_add.bind(1, 2).execute(3)
    with InputNode() as x:
        whole, part, named = remote_add.bind(x, 1), remote_add.bind(x[0], x[2]), remote_add.bind(x[0], x.key)
    with pytest.raises(TypeError, match="was given 2 positional and 0 named"):
        whole.execute(1, 2)
    with pytest.raises(TypeError, match="execute\\(\\) was not given 2; it was given: 0, 1"):
        part.execute(1, 2)
    with pytest.raises(TypeError, match="execute\\(\\) was not given 'key'; it was given: 0, 1"):
        named.execute(1, 2)
    with InputNode() as y, pytest.raises(ValueError, match="one InputNode, this one has 2"):
        remote_add.bind(x, y).execute(1)


def test_nodes_are_of_the_kinds_that_ray_has() -> None:
    with InputNode() as x:
        assert isinstance(x[0], InputAttributeNode)
        method = remote_counter.bind().add.bind(x)
    assert isinstance(method, ClassMethodNode)
    assert isinstance(method, DAGNode)


def test_a_node_of_an_actor_is_no_method() -> None:
    assert isinstance(remote_counter.bind(), ClassNode)
    assert "Counter" in repr(remote_counter.bind())
