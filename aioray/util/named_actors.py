"""Questions about named actors."""

from __future__ import annotations

from typing import Any

from aioray import current
from aioray.util.waiting import check_flag


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of the actors of this namespace that are alive or on their way.

    all_namespaces: of all of them, as dicts with "name" and "namespace". Works in an event loop, too.
    """
    check_flag(all_namespaces, "all_namespaces")
    runtime = current.get()
    found = runtime.ask("list_named_actors", namespace=None if all_namespaces else runtime.namespace)
    return list(found) if all_namespaces else [entry["name"] for entry in found]
