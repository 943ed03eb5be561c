"""Ray's figures of clusters of several nodes on this machine; `peer_ray.py` runs them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.measure import FAN_OUT, FAN_OUT_NODES, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

_STORE_NBYTES = 100 << 20


def where() -> str:
    ray: Any = import_module("ray")
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def nothing() -> None:
    """As in `ours_cluster.py`."""


@contextmanager
def _cluster(nodes: int) -> Iterator[list[str]]:
    """The ids of its nodes, of one CPU each."""
    ray: Any = import_module("ray")
    utils: Any = import_module("ray.cluster_utils")
    options = {"num_cpus": 1, "object_store_memory": _STORE_NBYTES}
    cluster = utils.Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(wait=False, **options)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()


def cluster_of_processes(_seconds: float) -> Figure:
    ray: Any = import_module("ray")
    strategies: Any = import_module("ray.util.scheduling_strategies")
    start = time.perf_counter()
    with _cluster(3) as ids:
        at = ray.remote(where)
        affinities = [strategies.NodeAffinitySchedulingStrategy(each, soft=False) for each in ids]
        found = ray.get([at.options(scheduling_strategy=each).remote() for each in affinities])
        assert found == ids, found
        return Figure(time.perf_counter() - start)


def fan_out(_seconds: float) -> Figure:
    """Once to warm up, once measured."""
    ray: Any = import_module("ray")
    with _cluster(FAN_OUT_NODES):
        call = ray.remote(nothing)
        for _ in range(2):
            start = time.perf_counter()
            ray.get([call.remote() for _ in range(FAN_OUT)])
            taken_s = time.perf_counter() - start
    return Figure(FAN_OUT / taken_s)
