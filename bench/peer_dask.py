"""Dask's figures (distributed): two single-threaded worker processes, no dashboard."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.measure import IN_FLIGHT, MIB, RESULT_AT, Figure, main, put_gb_per_s, rate, start_seconds
from bench.processes import Shutdowns

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}


def echo(x: int) -> int:
    return x


@contextmanager
def connected() -> Iterator[Any]:
    distributed: Any = import_module("distributed")
    with distributed.LocalCluster(**CLUSTER) as cluster, distributed.Client(cluster) as client:
        yield client


def task_sync(seconds: float) -> Figure:
    with connected() as client:

        def step() -> None:
            for _ in range(20):
                client.submit(echo, 1, pure=False).result()

        return rate(step, per_step=20, seconds=seconds)


def tasks_sync_1000(seconds: float) -> Figure:
    with connected() as client:
        return rate(
            lambda: client.gather([client.submit(echo, i, pure=False) for i in range(IN_FLIGHT)]),
            per_step=IN_FLIGHT,
            seconds=seconds,
        )


def put_100mib(_seconds: float) -> Figure:
    import numpy as np

    array = np.ones(100 * MIB, dtype=np.uint8)
    with connected() as client:
        return put_gb_per_s(lambda: client.scatter(array, hash=False), nbytes=array.nbytes)


START = f"""
import time
from distributed import Client, LocalCluster
def echo(x):
    return x
if __name__ == "__main__":
    with LocalCluster(**{CLUSTER}) as cluster, Client(cluster) as client:
        assert client.submit(echo, 1).result() == 1
        {RESULT_AT}
"""


def start_sync(_seconds: float) -> Figure:
    return start_seconds(START, times=1)


def shutdown_sync(_seconds: float) -> Figure:
    shutdowns = Shutdowns()
    with connected() as client:
        client.gather([client.submit(echo, i) for i in range(20)])
        shutdowns.begin(besides="resource_tracker")  # multiprocessing's: it goes with the interpreter
    shutdowns.end()
    return shutdowns.figure()


MEASUREMENTS = {
    "task_sync": task_sync,
    "tasks_sync_1000": tasks_sync_1000,
    "put_100mib": put_100mib,
    "start_sync": start_sync,
    "shutdown_sync": shutdown_sync,
}

if __name__ == "__main__":
    main(MEASUREMENTS)
