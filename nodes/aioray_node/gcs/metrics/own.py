"""What a node says of itself. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.metrics import GAUGE, Metric, Series

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT = 10_000  # of resources, see scheduling/resources.py


def gauges(
    *,
    total: Mapping[str, int],
    available: Mapping[str, int],
    memory: tuple[int, int],
    store: tuple[int, int],
    workers: int,
) -> tuple[Metric, ...]:
    """`memory` of the machine, and `store`, in bytes: how much there is, and how much of it is used."""
    resources = []
    for name, amount in total.items():
        free = available.get(name, 0)
        for state, value in (("AVAILABLE", free), ("USED", amount - free)):
            resources.append(Series(("Name", name, "State", state), value / _UNIT))
    return (
        Metric("resources", GAUGE, "Resources of a node by name and state.", series=tuple(resources)),
        _gauge("node_mem_total", "Memory of a node's machine, in bytes.", memory[0]),
        _gauge("node_mem_used", "What of it is used, by whomever, in bytes.", memory[1]),
        _gauge("object_store_available_memory", "Shared memory of a node that is free, in bytes.", store[0] - store[1]),
        _gauge("object_store_used_memory", "Shared memory of a node that is used, in bytes.", store[1]),
        _gauge("node_workers", "Worker processes of a node.", workers),
    )


def _gauge(name: str, description: str, value: float) -> Metric:
    return Metric(name, GAUGE, description, series=(Series((), float(value)),))
